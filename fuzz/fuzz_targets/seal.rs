//! Sealed session ids, as anybody may write them: what has the form is one in its only spelling, and what this process
//! has not sealed does not open, however near it is to what it has.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use rollcall::names::NodeId;
use rollcall::edge::polling::signed_session_id::{Seal, Sealed};

const SID: &str = "FWHKDkMSQS-LgF5_";
const PROCESS: &str = "00000000000000ff";
/// Of a MAC of 32 bytes in base64 without padding. Its last character carries four bits.
const MAC_LENGTH: usize = 43;
const LAST: &str = "AEIMQUYcgkosw048";

struct Genuine {
    seal: Seal,
    text: String,
}

fn genuine() -> &'static Genuine {
    static GENUINE: OnceLock<Genuine> = OnceLock::new();
    GENUINE.get_or_init(|| {
        let seal = Seal::new(&NodeId::parse(&format!("{PROCESS}-1")).expect("a node's id"));
        let text = seal.seal(SID).expect("a session id");
        Genuine { seal, text }
    })
}

/// Whether it is `<process>.<sid>.<mac>`, by a reading of its own.
fn has_the_form(text: &str) -> bool {
    let base64 = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let [process, sid, mac] = text.split('.').collect::<Vec<_>>()[..] else { return false };
    process.len() == 16
        && process.bytes().all(|byte| b"0123456789abcdef".contains(&byte))
        && (sid.len() == 16 && base64(sid))
        && (mac.len() == MAC_LENGTH && base64(mac) && mac.ends_with(|last| LAST.contains(last)))
}

fn check(text: &str) {
    let Genuine { seal, text: genuine } = genuine();
    let sealed = Sealed::parse(text);
    assert_eq!(sealed.is_some(), has_the_form(text), "{text:?}");
    let Some(sealed) = sealed else { return };
    assert_eq!(sealed.as_str(), text);
    assert_eq!(Some(sealed.process()), text.get(..16));
    assert_eq!(seal.is_of(&sealed), sealed.process() == PROCESS);
    assert_eq!(seal.open(&sealed), Some(SID).filter(|_| text == genuine), "{text:?}");
}

fuzz_target!(|text: &str| {
    check(text);
    let genuine = &genuine().text;
    // The genuine one with a piece of the input in it, in place of as much.
    for place in 0..genuine.len() {
        let (before, after) = genuine.split_at(place);
        check(&format!("{before}{text}{}", after.get(text.len()..).unwrap_or_default()));
    }
});
