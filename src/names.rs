//! Validated names: rooms, users, sockets and nodes.
//!
//! Owns the rules of valid names and the explanation of invalid ones. Text from outside is parsed where it arrives, so
//! every value of these types is valid. Owns no state and knows no wire format.

use std::borrow::Borrow;
use std::fmt;

use rand::Rng;
use serde::{Deserialize, Deserializer, Serialize, de};
use smol_str::SmolStr;
use thiserror::Error;

/// Maximum length of a room or user name, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 256;
/// Maximum length of a socket id from outside, in bytes. Engine.IO ids have 16.
pub const MAX_SOCKET_ID_BYTES: usize = 64;
/// Maximum length of a node name, in bytes.
pub const MAX_NODE_NAME_BYTES: usize = 64;

/// First path segments of URLs that are not rooms.
const RESERVED_ROOMS: [&str; 4] = ["_", ".", "..", "socket.io"];

/// Why a text is not a valid name. The message completes the sentence "the name …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    #[error("must not be empty")]
    Empty,
    #[error("must have at most {0} bytes of UTF-8")]
    TooLong(usize),
    #[error("must not contain control characters")]
    ControlCharacter,
    #[error("must not be `_`, `.`, `..` or `socket.io`")]
    Reserved,
    #[error("must be valid UTF-8")]
    NotUtf8,
    #[error("may contain only letters, digits, `.`, `_` and `-`")]
    Alphabet,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(SmolStr);

        impl $name {
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.as_str())
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }
    };
}

name! {
    /// A Socket.IO room.
    Room
}
name! {
    /// The user of a socket: `id_user` on the wire.
    UserId
}
name! {
    /// A socket id, which the client has in `socket.id`: `id_socket` on the wire.
    SocketId
}
name! {
    /// One incarnation of one process, `<process>-<incarnation>`: 16 random hexadecimal digits, and a counter. So no id is
    /// used twice, and incarnations of the same process can be recognized.
    NodeId
}
name! {
    /// The name of a node for people: `[A-Za-z0-9._-]{1,64}`. Not unique.
    NodeName
}

impl Room {
    /// # Errors
    /// If `text` is empty, longer than [`MAX_NAME_BYTES`], contains control characters, or is a reserved path segment.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if RESERVED_ROOMS.contains(&text) {
            return Err(NameError::Reserved);
        }
        parse_printable(text).map(Self)
    }
}

impl UserId {
    /// # Errors
    /// If `text` is empty, longer than [`MAX_NAME_BYTES`], or contains control characters.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        parse_printable(text).map(Self)
    }
}

impl SocketId {
    /// # Errors
    /// If `text` is empty, longer than [`MAX_SOCKET_ID_BYTES`], or contains control characters.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > MAX_SOCKET_ID_BYTES {
            return Err(NameError::TooLong(MAX_SOCKET_ID_BYTES));
        }
        parse_printable(text).map(Self)
    }
}

impl NodeName {
    /// # Errors
    /// If `text` is not 1 to 64 characters of `[A-Za-z0-9._-]`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NODE_NAME_BYTES {
            return Err(NameError::TooLong(MAX_NODE_NAME_BYTES));
        }
        if !text.bytes().all(is_node_name_byte) {
            return Err(NameError::Alphabet);
        }
        Ok(Self(text.into()))
    }

    /// Makes a valid name of any text: replaces invalid characters by `-` and truncates.
    pub fn from_any(text: &str) -> Self {
        let valid: String = text
            .bytes()
            .take(MAX_NODE_NAME_BYTES)
            .map(|byte| if is_node_name_byte(byte) { char::from(byte) } else { '-' })
            .collect();
        Self(if valid.is_empty() { "node".into() } else { valid.into() })
    }
}

impl<'de> Deserialize<'de> for NodeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = SmolStr::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

impl NodeId {
    const PROCESS_DIGITS: usize = 16;

    /// The first incarnation of a process that has just started.
    pub fn new_process() -> Self {
        Self(smol_str::format_smolstr!("{:016x}-1", rand::rng().random::<u64>()))
    }

    /// # Errors
    /// [`NameError::Alphabet`] if no Rollcall node can have created the id.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let Some((process, incarnation)) = text.split_once('-') else {
            return Err(NameError::Alphabet);
        };
        // Only one spelling of each number, or one incarnation would have several ids.
        let incarnation_ok = incarnation.bytes().all(|byte| byte.is_ascii_digit())
            && !incarnation.starts_with('0')
            && incarnation.parse::<u64>().is_ok();
        if Self::is_process(process) && incarnation_ok { Ok(Self(text.into())) } else { Err(NameError::Alphabet) }
    }

    /// Whether `text` can be the [`process`](Self::process) part of an id.
    pub fn is_process(text: &str) -> bool {
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        text.len() == Self::PROCESS_DIGITS && text.bytes().all(hexadecimal)
    }

    /// The next id of the same process.
    pub fn next_incarnation(&self) -> Self {
        Self(smol_str::format_smolstr!("{}-{}", self.process(), self.incarnation() + 1))
    }

    /// The part that all incarnations of one process share.
    pub fn process(&self) -> &str {
        &self.0[..Self::PROCESS_DIGITS]
    }

    /// The counter of the id, which grows within one process.
    pub fn incarnation(&self) -> u64 {
        self.0[Self::PROCESS_DIGITS + 1..].parse().expect("every NodeId ends in a number")
    }
}

fn is_node_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

fn parse_printable(text: &str) -> Result<SmolStr, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong(MAX_NAME_BYTES));
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::ControlCharacter);
    }
    Ok(SmolStr::new(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_room_is_any_printable_text_but_a_reserved_path() {
        for good in ["Maths", "café au lait", "a/b", "%", "...", "socket.io-fans", "数学", &"x".repeat(256)] {
            assert_eq!(Room::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(Room::parse(""), Err(NameError::Empty));
        assert_eq!(Room::parse(&"é".repeat(129)), Err(NameError::TooLong(256)));
        assert_eq!(Room::parse("a\nb"), Err(NameError::ControlCharacter));
        assert_eq!(Room::parse("a\u{85}b"), Err(NameError::ControlCharacter));
        for reserved in RESERVED_ROOMS {
            assert_eq!(Room::parse(reserved), Err(NameError::Reserved));
            assert!(UserId::parse(reserved).is_ok(), "only rooms are path segments");
        }
    }

    #[test]
    fn a_node_id_contains_its_process_and_incarnation() {
        let first = NodeId::new_process();
        let second = first.next_incarnation();
        assert_eq!(NodeId::parse(second.as_str()), Ok(second.clone()));
        assert_eq!(first.process(), second.process());
        assert_eq!((first.incarnation(), second.incarnation()), (1, 2));
        assert_ne!(first.process(), NodeId::new_process().process());
    }

    #[test]
    fn an_id_that_no_node_creates_is_invalid() {
        for foreign in
            ["", "-1", "foo", "0123456789abcdef", "0123456789abcdef-", "0123456789abcdef-0", "0123456789ABCDEF-1"]
        {
            assert!(NodeId::parse(foreign).is_err(), "{foreign}");
        }
        assert!(NodeId::parse("0123456789abcdef-99999999999999999999999").is_err());
        assert!(NodeId::parse("0123456789abcdef-+1").is_err());
        assert!(NodeId::parse("0123456789abcdef-01").is_err());
    }

    proptest! {
        #[test]
        fn parsers_never_panic_and_keep_accepted_text(text in "\\PC{0,80}|[\\x00-\\x7f]{0,300}") {
            for kept in [Room::parse(&text).map(|name| name.0), UserId::parse(&text).map(|name| name.0)].into_iter().flatten() {
                prop_assert_eq!(kept.as_str(), text.as_str());
                prop_assert!((1..=MAX_NAME_BYTES).contains(&text.len()));
            }
            let _ = NodeId::parse(&text).map(|id| id.next_incarnation());
            prop_assert!(NodeName::parse(NodeName::from_any(&text).as_str()).is_ok());
        }
    }
}
