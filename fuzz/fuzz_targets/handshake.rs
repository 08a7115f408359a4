//! A handshake: its query, and after the first line feed its `auth` payload. What is accepted obeys the limits, is what
//! was said, and is read again from what a browser would make of it.
#![no_main]

use form_urlencoded::Serializer;
use libfuzzer_sys::fuzz_target;
use rollcall::names::{MAX_NAME_BYTES, Room, UserId};
use rollcall::edge::socketio::handshake::{AuthPayload, Handshake, event_room};
use serde_json::Value;

const MAX_ROOMS: usize = 4;
const CODES: [&str; 5] = ["id_user_missing", "id_user_invalid", "room_missing", "room_invalid", "rooms_too_many"];

/// What the payload, or else the query, says of a key, read by other parsers than those under test. `None`: nothing
/// that can be a name.
fn said(query: &str, auth: &Value, key: &str) -> Option<Vec<String>> {
    match auth.get(key) {
        None | Some(Value::Null) => {}
        Some(Value::String(value)) => return Some(vec![value.clone()]),
        Some(Value::Array(values)) => {
            return values.iter().map(|value| value.as_str().map(ToOwned::to_owned)).collect();
        }
        Some(_) => return None,
    }
    // Only the value of a pair is decoded: a key that is written in another way is another key.
    let pairs = query.split('&').filter(|pair| pair.split('=').next() == Some(key));
    let decoded = pairs.flat_map(|pair| form_urlencoded::parse(pair.as_bytes())).map(|(_, value)| value.into_owned());
    Some(decoded.collect())
}

fn check(query: &str, text: &str, Handshake { user, rooms }: &Handshake) {
    for name in rooms.iter().map(Room::as_str).chain([user.as_str()]) {
        assert!((1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control), "{name:?}");
    }
    assert!((1..=MAX_ROOMS).contains(&rooms.len()));
    assert_eq!(UserId::parse(user.as_str()).as_ref(), Ok(user));
    for (place, room) in rooms.iter().enumerate() {
        assert_eq!(Room::parse(room.as_str()).as_ref(), Ok(room));
        assert!(!rooms[..place].contains(room), "a room is named twice");
    }
    let auth: Value = serde_json::from_str(text).expect("what was accepted is JSON");
    assert_eq!(said(query, &auth, "id_user"), Some(vec![user.to_string()]));
    let mut named = said(query, &auth, "room").expect("it names rooms");
    let mut seen = Vec::new();
    named.retain(|room| {
        !seen.contains(room) && {
            seen.push(room.clone());
            true
        }
    });
    assert_eq!(named, rooms.iter().map(ToString::to_string).collect::<Vec<_>>());
}

fuzz_target!(|text: &str| {
    let (query, text) = text.split_once('\n').unwrap_or((text, "{}"));
    let auth = serde_json::from_str::<AuthPayload>(text).ok();
    let readable = auth.is_some();
    match Handshake::read(Some(query), auth, MAX_ROOMS) {
        Ok(handshake) => {
            check(query, text, &handshake);
            let mut again = Serializer::new(String::new());
            again.append_pair("id_user", handshake.user.as_str());
            for room in &handshake.rooms {
                again.append_pair("room", room.as_str());
            }
            assert_eq!(Handshake::read(Some(&again.finish()), Some(AuthPayload::default()), MAX_ROOMS), Ok(handshake));
        }
        Err(refusal) => {
            assert!(CODES.contains(&refusal.code));
            assert!(readable || refusal.code == "id_user_invalid", "nobody knows whom it names");
            assert!(refusal.to_string().starts_with(&format!("{}: ", refusal.code)));
        }
    }
    // The argument of an event: one text, or none.
    match (event_room(serde_json::from_str(text).ok()), serde_json::from_str::<Value>(text)) {
        (Ok(room), Ok(Value::String(given))) => assert_eq!(room.as_str(), given),
        (Ok(room), given) => panic!("{room:?} out of {given:?}"),
        (Err(refusal), Ok(Value::String(given))) => assert!(Room::parse(&given).is_err(), "{refusal}"),
        (Err(refusal), _) => assert_eq!(refusal.code, "room_invalid"),
    }
});
