//! Sealed session ids: what a polling client is given in place of the id that everybody may know.
//!
//! Owns the form `<process>.<sid>.<mac>` and the key behind it. The process says who holds the session, the sid is the
//! session's own and no secret, the MAC is what only this process can have made. The key is random and lives as long as
//! the process does, as its sessions do: no other node needs it, since whoever else is asked asks the owner. Pure.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use rand::Rng;
use sha2::Sha256;
use smol_str::SmolStr;

use crate::names::NodeId;

/// Between the parts; in none of their alphabets, and never escaped in a URL.
const SEPARATOR: char = '.';
/// Characters of an Engine.IO session id.
const SID_LENGTH: usize = 16;
const KEY_BYTES: usize = 32;
const MAC_BYTES: usize = 32;

/// A sealed session id that has the right form. Whether it is genuine only its owner can tell. Its `Debug` shows nothing
/// of it: whoever has it can act as its client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sealed<'a> {
    text: &'a str,
    process: &'a str,
    sid: &'a str,
    mac: [u8; MAC_BYTES],
}

/// The seal of one process.
pub struct Seal {
    process: SmolStr,
    keyed: Hmac<Sha256>,
}

impl<'a> Sealed<'a> {
    /// `None` for what no node can have made. A session id has one sealed form: no other text stands for it.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (process, rest) = text.split_once(SEPARATOR)?;
        let (sid, mac) = rest.split_once(SEPARATOR)?;
        if !NodeId::is_process(process) || !is_sid(sid) {
            return None;
        }
        let mac = BASE64_URL_SAFE_NO_PAD.decode(mac).ok()?.try_into().ok()?;
        Some(Self { text, process, sid, mac })
    }

    /// The text it was read from.
    pub fn as_str(&self) -> &'a str {
        self.text
    }

    /// The process that is said to hold the session.
    pub fn process(&self) -> &'a str {
        self.process
    }
}

impl fmt::Debug for Sealed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(…)")
    }
}

impl Seal {
    /// The seal of this node's process, with a key that nobody else has.
    pub fn new(node: &NodeId) -> Self {
        let mut key = [0; KEY_BYTES];
        rand::rng().fill(&mut key);
        let keyed = Hmac::new_from_slice(&key).expect("HMAC takes a key of any length");
        Self { process: node.process().into(), keyed }
    }

    /// Whether this process is said to hold the session.
    pub fn is_of(&self, sealed: &Sealed<'_>) -> bool {
        self.process == sealed.process
    }

    /// `None` for what is no session id.
    pub fn seal(&self, sid: &str) -> Option<String> {
        if !is_sid(sid) {
            return None;
        }
        let mac = BASE64_URL_SAFE_NO_PAD.encode(self.mac(sid).finalize().into_bytes());
        Some(format!("{}{SEPARATOR}{sid}{SEPARATOR}{mac}", self.process))
    }

    /// The session id; `None` when this process has not sealed it. Takes the same time for every MAC.
    pub fn open<'a>(&self, sealed: &Sealed<'a>) -> Option<&'a str> {
        let genuine = self.is_of(sealed) && self.mac(sealed.sid).verify_slice(&sealed.mac).is_ok();
        genuine.then_some(sealed.sid)
    }

    fn mac(&self, sid: &str) -> Hmac<Sha256> {
        self.keyed.clone().chain_update(sid)
    }
}

fn is_sid(text: &str) -> bool {
    text.len() == SID_LENGTH && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SID: &str = "FWHKDkMSQS-LgF5_";

    fn opened(seal: &Seal, text: &str) -> Option<String> {
        seal.open(&Sealed::parse(text)?).map(ToOwned::to_owned)
    }

    #[test]
    fn what_was_sealed_here_opens_here_and_nowhere_else() {
        let node = NodeId::new_process();
        let seal = Seal::new(&node);
        let sealed = seal.seal(SID).unwrap();
        assert_eq!(Sealed::parse(&sealed).unwrap().process(), node.process());
        assert_eq!(opened(&seal, &sealed).as_deref(), Some(SID));
        assert_eq!(opened(&Seal::new(&NodeId::new_process()), &sealed), None, "another process");
        assert_eq!(opened(&Seal::new(&node), &sealed), None, "the same name with another key");
        assert_eq!(seal.seal("short"), None);
        assert_eq!(seal.seal("FWHKDkMSQS.LgF5_"), None);
    }

    #[test]
    fn no_other_text_opens() {
        let seal = Seal::new(&NodeId::new_process());
        let sealed = seal.seal(SID).unwrap();
        assert_eq!(opened(&seal, SID), None, "the bare id");
        for length in 0..sealed.len() {
            assert_eq!(opened(&seal, &sealed[..length]), None, "cut after {length}");
        }
        for place in 0..sealed.len() {
            // Every other character: of the last one only some bits count, and the others must be as they were.
            for byte in 0x20..0x7f_u8 {
                let mut forged = sealed.clone().into_bytes();
                forged[place] = byte;
                let forged = String::from_utf8(forged).unwrap();
                assert_eq!(opened(&seal, &forged).is_some(), forged == sealed, "{forged}");
            }
        }
        for more in [format!("{sealed}="), format!("{sealed}A"), format!(".{sealed}"), format!("{sealed}.")] {
            assert_eq!(opened(&seal, &more), None, "{more}");
        }
        let other = seal.seal("0000000000000000").unwrap();
        let swapped = sealed.replace(SID, "0000000000000000");
        assert_ne!(swapped, other);
        assert_eq!(opened(&seal, &swapped), None, "the MAC of another session");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,100}|[0-9a-f]{16}\\.[\\w-]{16}\\.[\\w-]{43}") {
            let seal = Seal::new(&NodeId::new_process());
            prop_assert!(Sealed::parse(&text).is_none_or(|sealed| seal.open(&sealed).is_none()));
        }
    }
}
