//! Parses arbitrary text as a signed session id. An id has exactly one spelling. Only an id that this process signed is
//! verified, and none that differs from it by a single byte.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use rollcall::names::NodeId;
use rollcall::edge::polling::signed_session_id::{SessionSigner, SignedSessionId};

const SID: &str = "FWHKDkMSQS-LgF5_";
const PROCESS: &str = "00000000000000ff";
/// Length of a MAC of 32 bytes in base64 without padding; the last character carries four bits.
const MAC_LENGTH: usize = 43;
const LAST: &str = "AEIMQUYcgkosw048";

struct Genuine {
    signer: SessionSigner,
    text: String,
}

fn genuine() -> &'static Genuine {
    static GENUINE: OnceLock<Genuine> = OnceLock::new();
    GENUINE.get_or_init(|| {
        let signer = SessionSigner::new(&NodeId::parse(&format!("{PROCESS}-1")).expect("a node's id"));
        let text = signer.sign(SID).expect("a session id");
        Genuine { signer, text }
    })
}

/// Whether it is `<process>.<sid>.<mac>`, checked without the parser under test.
fn has_the_form(text: &str) -> bool {
    let base64 = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let [process, sid, mac] = text.split('.').collect::<Vec<_>>()[..] else { return false };
    process.len() == 16
        && process.bytes().all(|byte| b"0123456789abcdef".contains(&byte))
        && (sid.len() == 16 && base64(sid))
        && (mac.len() == MAC_LENGTH && base64(mac) && mac.ends_with(|last| LAST.contains(last)))
}

fn check(text: &str) {
    let Genuine { signer, text: genuine } = genuine();
    let id = SignedSessionId::parse(text);
    assert_eq!(id.is_some(), has_the_form(text), "{text:?}");
    let Some(id) = id else { return };
    assert_eq!(id.as_str(), text);
    assert_eq!(Some(id.process()), text.get(..16));
    assert_eq!(signer.is_named_by(&id), id.process() == PROCESS);
    assert_eq!(signer.verify(&id), Some(SID).filter(|_| text == genuine), "{text:?}");
}

fuzz_target!(|text: &str| {
    check(text);
    let genuine = &genuine().text;
    // The genuine id with a part of it replaced by the input.
    for index in 0..genuine.len() {
        let (before, after) = genuine.split_at(index);
        check(&format!("{before}{text}{}", after.get(text.len()..).unwrap_or_default()));
    }
});
