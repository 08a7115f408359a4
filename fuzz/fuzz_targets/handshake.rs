//! A handshake: its query, and after a NUL byte its `auth` payload.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rollcall::names::{Room, UserId};
use rollcall::socket_edge::handshake::{Handshake, one_room};

const ROOMS_MOST: usize = 4;

fuzz_target!(|bytes: &[u8]| {
    let place = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (query, auth) = bytes.split_at(place);
    let auth = auth.get(1..).unwrap_or_default();
    let query = std::str::from_utf8(query).ok();
    match Handshake::read(query, serde_json::from_slice(auth).ok(), ROOMS_MOST) {
        Ok(Handshake { user, rooms }) => {
            assert_eq!(UserId::parse(user.as_str()), Ok(user.clone()));
            assert!((1..=ROOMS_MOST).contains(&rooms.len()));
            for (place, room) in rooms.iter().enumerate() {
                assert_eq!(Room::parse(room.as_str()).as_ref(), Ok(room));
                assert!(!rooms[..place].contains(room), "a room is named twice");
            }
        }
        Err(refusal) => assert!(refusal.to_string().starts_with(&format!("{}: ", refusal.code))),
    }
    if let Ok(room) = one_room(serde_json::from_slice(auth).ok()) {
        assert_eq!(Room::parse(room.as_str()), Ok(room.clone()));
    }
});
