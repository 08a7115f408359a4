//! Parses arbitrary text as names. An accepted name is unchanged, obeys its limits, and survives JSON. A refused one has
//! the defect that the error states.
#![no_main]

use std::fmt::Display;

use libfuzzer_sys::fuzz_target;
use rollcall::names::{
    MAX_NAME_BYTES, MAX_NODE_NAME_BYTES, MAX_SOCKET_ID_BYTES, NameError, NodeId, NodeName, Room, SocketId, UserId,
};

/// Checks the result for a name that may contain any printable text.
fn check_printable<T: Display>(text: &str, max: usize, parsed: Result<T, NameError>) {
    match parsed {
        Ok(name) => {
            assert_eq!(name.to_string(), text);
            assert!((1..=max).contains(&text.len()) && !text.chars().any(char::is_control));
        }
        Err(NameError::Empty) => assert!(text.is_empty()),
        Err(NameError::TooLong(limit)) => assert!(text.len() > limit && limit == max),
        Err(NameError::ControlCharacter) => assert!(text.chars().any(char::is_control)),
        Err(NameError::Reserved) => assert!(["_", ".", "..", "socket.io"].contains(&text)),
        Err(error) => panic!("{text:?} was refused without a defect: {error}"),
    }
}

fn node_name(text: &str) {
    let in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let valid = (1..=MAX_NODE_NAME_BYTES).contains(&text.len()) && text.bytes().all(in_alphabet);
    let converted = NodeName::from_any(text);
    assert_eq!(NodeName::parse(converted.as_str()).as_ref(), Ok(&converted));
    assert_eq!(NodeName::parse(text).ok(), Some(converted).filter(|_| valid), "a valid name is not converted");
    let json = serde_json::to_string(text).expect("a string can be serialized");
    assert_eq!(serde_json::from_str::<NodeName>(&json).ok(), NodeName::parse(text).ok());
}

fn node_id(text: &str) {
    let Ok(node) = NodeId::parse(text) else { return };
    assert_eq!(format!("{}-{}", node.process(), node.incarnation()), text, "an id has one spelling");
    assert_eq!(node.as_str(), text);
    assert!(node.process().len() == 16 && node.incarnation() > 0);

    if node.incarnation() < u64::MAX {
        let next = node.next_incarnation();
        assert_eq!(next.process(), node.process());
        assert_eq!(next.incarnation(), node.incarnation() + 1);
        assert_eq!(NodeId::parse(next.as_str()).as_ref(), Ok(&next));
    }
}

fuzz_target!(|text: &str| {
    check_printable(text, MAX_NAME_BYTES, Room::parse(text));
    check_printable(text, MAX_NAME_BYTES, UserId::parse(text));
    check_printable(text, MAX_SOCKET_ID_BYTES, SocketId::parse(text));
    node_name(text);
    node_id(text);
});
