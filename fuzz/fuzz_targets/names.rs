//! Names: what is accepted is kept as it was, obeys its limits and passes through JSON; what is refused is refused for
//! the reason given.
#![no_main]

use std::fmt::Display;

use libfuzzer_sys::fuzz_target;
use rollcall::names::{
    MAX_NAME_BYTES, MAX_NODE_NAME_BYTES, MAX_SOCKET_ID_BYTES, NameError, NodeId, NodeName, Room, SocketId, UserId,
};

/// A name of printable text.
fn printable<T: Display>(text: &str, most: usize, parsed: Result<T, NameError>) {
    match parsed {
        Ok(name) => {
            assert_eq!(name.to_string(), text);
            assert!((1..=most).contains(&text.len()) && !text.chars().any(char::is_control));
        }
        Err(NameError::Empty) => assert!(text.is_empty()),
        Err(NameError::TooLong(limit)) => assert!(text.len() > limit && limit == most),
        Err(NameError::ControlCharacter) => assert!(text.chars().any(char::is_control)),
        Err(NameError::Reserved) => assert!(["_", ".", "..", "socket.io"].contains(&text)),
        Err(error) => panic!("no reason to refuse {text:?}: {error}"),
    }
}

fn node_name(text: &str) {
    let in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let valid = (1..=MAX_NODE_NAME_BYTES).contains(&text.len()) && text.bytes().all(in_alphabet);
    let near = NodeName::from_any(text);
    assert_eq!(NodeName::parse(near.as_str()).as_ref(), Ok(&near));
    assert_eq!(NodeName::parse(text).ok(), Some(near).filter(|_| valid), "what is valid is nearest to itself");
    let json = serde_json::to_string(text).expect("a text is JSON");
    assert_eq!(serde_json::from_str::<NodeName>(&json).ok(), NodeName::parse(text).ok());
}

fn node_id(text: &str) {
    let Ok(node) = NodeId::parse(text) else { return };
    assert_eq!(format!("{}-{}", node.process(), node.incarnation()), text, "one incarnation has one id");
    assert_eq!(node.as_str(), text);
    assert!(node.process().len() == 16 && node.incarnation() > 0);
    // A process counts its own incarnations, from 1.
    if node.incarnation() < u64::MAX {
        let next = node.next_incarnation();
        assert_eq!((next.process(), next.incarnation()), (node.process(), node.incarnation() + 1));
        assert_eq!(NodeId::parse(next.as_str()).as_ref(), Ok(&next));
    }
}

fuzz_target!(|text: &str| {
    printable(text, MAX_NAME_BYTES, Room::parse(text));
    printable(text, MAX_NAME_BYTES, UserId::parse(text));
    printable(text, MAX_SOCKET_ID_BYTES, SocketId::parse(text));
    node_name(text);
    node_id(text);
});
