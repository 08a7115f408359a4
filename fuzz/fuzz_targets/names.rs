//! Names: what is accepted is kept as it was and obeys its limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rollcall::names::{
    MAX_NAME_BYTES, MAX_NODE_NAME_BYTES, MAX_SOCKET_ID_BYTES, NodeId, NodeName, Room, SocketId, UserId,
};

fuzz_target!(|text: &str| {
    let kept = [
        (Room::parse(text).ok().map(|name| name.to_string()), MAX_NAME_BYTES),
        (UserId::parse(text).ok().map(|name| name.to_string()), MAX_NAME_BYTES),
        (SocketId::parse(text).ok().map(|name| name.to_string()), MAX_SOCKET_ID_BYTES),
        (NodeName::parse(text).ok().map(|name| name.to_string()), MAX_NODE_NAME_BYTES),
    ];
    for (name, most) in kept {
        let Some(name) = name else { continue };
        assert_eq!(name, text);
        assert!((1..=most).contains(&name.len()) && !name.chars().any(char::is_control));
    }
    assert!(NodeName::parse(NodeName::from_any(text).as_str()).is_ok());
    if let Ok(node) = NodeId::parse(text)
        && node.incarnation() < u64::MAX
    {
        let next = node.next_incarnation();
        assert_eq!((next.process(), next.incarnation()), (node.process(), node.incarnation() + 1));
        assert_eq!(NodeId::parse(next.as_str()), Ok(next.clone()));
    }
});
