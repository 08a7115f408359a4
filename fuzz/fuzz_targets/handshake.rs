//! Reads an arbitrary handshake: the query, and after the first line feed the `auth` payload. An accepted handshake obeys
//! the limits, has the same values for an independent parser, and survives the encoding of a browser.
#![no_main]

use form_urlencoded::Serializer;
use libfuzzer_sys::fuzz_target;
use rollcall::names::{MAX_NAME_BYTES, Room, UserId};
use rollcall::edge::socketio::handshake::{AuthPayload, Handshake, event_room};
use serde_json::Value;

const MAX_ROOMS: usize = 4;
const CODES: [&str; 5] = ["id_user_missing", "id_user_invalid", "room_missing", "room_invalid", "rooms_too_many"];

/// The values of a key in the payload, or else in the query, by parsers that are not under test. `None` if a value cannot
/// be a name.
fn values_of(query: &str, auth: &Value, key: &str) -> Option<Vec<String>> {
    match auth.get(key) {
        None | Some(Value::Null) => {}
        Some(Value::String(value)) => return Some(vec![value.clone()]),
        Some(Value::Array(values)) => {
            return values.iter().map(|value| value.as_str().map(ToOwned::to_owned)).collect();
        }
        Some(_) => return None,
    }
    // Only the value of a pair is decoded: an encoded key is a different key.
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
    for (index, room) in rooms.iter().enumerate() {
        assert_eq!(Room::parse(room.as_str()).as_ref(), Ok(room));
        assert!(!rooms[..index].contains(room), "a room is listed twice");
    }
    let auth: Value = serde_json::from_str(text).expect("an accepted payload is JSON");
    assert_eq!(values_of(query, &auth, "id_user"), Some(vec![user.to_string()]));
    let mut named = values_of(query, &auth, "room").expect("an accepted handshake has rooms");
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
            let mut encoded = Serializer::new(String::new());
            encoded.append_pair("id_user", handshake.user.as_str());
            for room in &handshake.rooms {
                encoded.append_pair("room", room.as_str());
            }
            assert_eq!(Handshake::read(Some(&encoded.finish()), Some(AuthPayload::default()), MAX_ROOMS), Ok(handshake));
        }
        Err(refusal) => {
            assert!(CODES.contains(&refusal.code));
            assert!(readable || refusal.code == "id_user_invalid", "an unreadable payload has an invalid user");
            assert!(refusal.to_string().starts_with(&format!("{}: ", refusal.code)));
        }
    }
    // The argument of an event: one string, or no argument.
    match (event_room(serde_json::from_str(text).ok()), serde_json::from_str::<Value>(text)) {
        (Ok(room), Ok(Value::String(given))) => assert_eq!(room.as_str(), given),
        (Ok(room), given) => panic!("{given:?} was read as {room:?}"),
        (Err(refusal), Ok(Value::String(given))) => assert!(Room::parse(&given).is_err(), "{refusal}"),
        (Err(refusal), _) => assert_eq!(refusal.code, "room_invalid"),
    }
});
