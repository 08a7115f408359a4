//! Signed session ids: what a polling client gets in place of its plain Engine.IO session id.
//!
//! Owns the form `<process>.<sid>.<mac>` and the key of the MAC. The plain id is no secret, because it appears in roll
//! calls. With the signed one, only the client that opened the session can act for it. The id is signed and not
//! encrypted: any node reads which process holds the session and forwards the request to it.
//!
//! The key is random and lives as long as the process, like its sessions. No other node needs it, because only the
//! process that signed an id verifies it. Pure.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use rand::Rng;
use sha2::Sha256;
use smol_str::SmolStr;

use crate::names::NodeId;

/// Is in the alphabet of none of the parts, and is never escaped in a URL.
const SEPARATOR: char = '.';
/// Characters of an Engine.IO session id.
const SID_LENGTH: usize = 16;
const KEY_BYTES: usize = 32;
const MAC_BYTES: usize = 32;

/// A signed session id of the right form, not verified yet.
///
/// `Debug` shows nothing of it, because the text is enough to act as the client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SignedSessionId<'a> {
    text: &'a str,
    process: &'a str,
    sid: &'a str,
    mac: [u8; MAC_BYTES],
}

/// Signs and verifies the session ids of one process.
pub struct SessionSigner {
    process: SmolStr,
    hmac: Hmac<Sha256>,
}

impl<'a> SignedSessionId<'a> {
    /// `None` for a text that no node can have made. Each session id has exactly one signed form.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (process, rest) = text.split_once(SEPARATOR)?;
        let (sid, mac) = rest.split_once(SEPARATOR)?;
        if !NodeId::is_process(process) || !is_sid(sid) {
            return None;
        }
        let mac = BASE64_URL_SAFE_NO_PAD.decode(mac).ok()?.try_into().ok()?;
        Some(Self { text, process, sid, mac })
    }

    pub fn as_str(&self) -> &'a str {
        self.text
    }

    /// The process that holds the session, according to the id.
    pub fn process(&self) -> &'a str {
        self.process
    }
}

impl fmt::Debug for SignedSessionId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignedSessionId(…)")
    }
}

impl SessionSigner {
    /// Makes a new random key, also for a node that had a signer before.
    pub fn new(node: &NodeId) -> Self {
        let mut key = [0; KEY_BYTES];
        rand::rng().fill(&mut key);
        let hmac = Hmac::new_from_slice(&key).expect("HMAC takes a key of any length");
        Self { process: node.process().into(), hmac }
    }

    /// Whether the id names this process as the holder of the session.
    pub fn is_named_by(&self, id: &SignedSessionId<'_>) -> bool {
        self.process == id.process
    }

    /// `None` if `sid` does not have the form of an Engine.IO session id.
    pub fn sign(&self, sid: &str) -> Option<String> {
        if !is_sid(sid) {
            return None;
        }
        let mac = BASE64_URL_SAFE_NO_PAD.encode(self.mac(sid).finalize().into_bytes());
        Some(format!("{}{SEPARATOR}{sid}{SEPARATOR}{mac}", self.process))
    }

    /// The plain session id; `None` if this process did not sign it. Compares the MAC in constant time.
    pub fn verify<'a>(&self, id: &SignedSessionId<'a>) -> Option<&'a str> {
        let genuine = self.is_named_by(id) && self.mac(id.sid).verify_slice(&id.mac).is_ok();
        genuine.then_some(id.sid)
    }

    fn mac(&self, sid: &str) -> Hmac<Sha256> {
        self.hmac.clone().chain_update(sid)
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

    fn verified(signer: &SessionSigner, text: &str) -> Option<String> {
        signer.verify(&SignedSessionId::parse(text)?).map(ToOwned::to_owned)
    }

    #[test]
    fn only_the_signer_verifies_its_ids() {
        let node = NodeId::new_process();
        let signer = SessionSigner::new(&node);
        let signed = signer.sign(SID).unwrap();
        assert_eq!(SignedSessionId::parse(&signed).unwrap().process(), node.process());
        assert_eq!(verified(&signer, &signed).as_deref(), Some(SID));
        assert_eq!(verified(&SessionSigner::new(&NodeId::new_process()), &signed), None, "another process");
        assert_eq!(verified(&SessionSigner::new(&node), &signed), None, "the same name with another key");
        assert_eq!(signer.sign("short"), None);
        assert_eq!(signer.sign("FWHKDkMSQS.LgF5_"), None);
    }

    #[test]
    fn a_changed_id_is_not_verified() {
        let signer = SessionSigner::new(&NodeId::new_process());
        let signed = signer.sign(SID).unwrap();
        assert_eq!(verified(&signer, SID), None, "the plain id");
        for length in 0..signed.len() {
            assert_eq!(verified(&signer, &signed[..length]), None, "cut after {length}");
        }
        for index in 0..signed.len() {
            // Base64 uses only some bits of the last character; the decoder must refuse the others.
            for byte in 0x20..0x7f_u8 {
                let mut forged = signed.clone().into_bytes();
                forged[index] = byte;
                let forged = String::from_utf8(forged).unwrap();
                assert_eq!(verified(&signer, &forged).is_some(), forged == signed, "{forged}");
            }
        }
        for longer in [format!("{signed}="), format!("{signed}A"), format!(".{signed}"), format!("{signed}.")] {
            assert_eq!(verified(&signer, &longer), None, "{longer}");
        }
        let other = signer.sign("0000000000000000").unwrap();
        let swapped = signed.replace(SID, "0000000000000000");
        assert_ne!(swapped, other);
        assert_eq!(verified(&signer, &swapped), None, "the MAC of another session");
    }

    proptest! {
        #[test]
        fn parse_never_panics(text in "\\PC{0,100}|[0-9a-f]{16}\\.[\\w-]{16}\\.[\\w-]{43}") {
            let signer = SessionSigner::new(&NodeId::new_process());
            prop_assert!(SignedSessionId::parse(&text).is_none_or(|id| signer.verify(&id).is_none()));
        }
    }
}
