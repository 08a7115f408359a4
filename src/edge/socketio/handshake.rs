//! The handshake of a client: its user and its rooms.
//!
//! Owns parsing the handshake query and the `auth` payload, in which each key overrides that of the query, and the
//! [`ClientError`] with its stable codes. The errors about tokens are in [`super::admission`]. Pure.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::names::{NameError, Room, UserId};

/// The `auth` payload. One that is not an object is taken for an empty one.
#[derive(Default, Deserialize)]
#[serde(from = "RawAuthPayload")]
pub struct AuthPayload {
    pub(super) token: Option<StringOrList>,
    id_user: Option<StringOrList>,
    room: Option<StringOrList>,
}

/// Any JSON. The last value of a repeated key is taken, as in JavaScript; a derived struct would fail.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawAuthPayload {
    Object(HashMap<String, Option<StringOrList>>),
    Other(IgnoredAny),
}

/// A JSON value that should be a string or a list of strings.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum StringOrList {
    String(String),
    List(Vec<String>),
    Other(IgnoredAny),
}

/// A valid handshake.
#[derive(Debug, PartialEq, Eq)]
pub struct Handshake {
    pub user: UserId,
    /// Without duplicates, in the order of the client, at least one.
    pub rooms: Vec<Room>,
}

/// Why a client was refused, or an event failed. Displayed as `<code>: <advice>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientError {
    /// Stable: programs may depend on it.
    pub code: &'static str,
    /// For people: what to do.
    pub advice: String,
}

impl From<RawAuthPayload> for AuthPayload {
    fn from(payload: RawAuthPayload) -> Self {
        let RawAuthPayload::Object(mut object) = payload else {
            return Self::default();
        };
        let mut take = |key| object.remove(key).flatten();
        Self { token: take("token"), id_user: take("id_user"), room: take("room") }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.advice)
    }
}

impl ClientError {
    pub fn rooms_too_many(most: usize) -> Self {
        Self { code: "rooms_too_many", advice: format!("a socket can be in at most {most} rooms; leave one first") }
    }

    pub fn room_forbidden(room: &Room) -> Self {
        Self { code: "room_forbidden", advice: format!("the token does not cover the room {room}; get one that does") }
    }

    pub fn sockets_too_many(most: u32) -> Self {
        Self { code: "sockets_too_many", advice: format!("this user has {most} sockets here already; close one first") }
    }

    pub fn events_too_many() -> Self {
        Self { code: "events_too_many", advice: "rate limit exceeded; slow down or be disconnected".to_owned() }
    }

    /// The client has disconnected, so it never sees this error.
    pub fn gone() -> Self {
        Self { code: "gone", advice: "connect again".to_owned() }
    }

    fn user_missing() -> Self {
        let advice = "pass id_user in the handshake query or in the auth payload".to_owned();
        Self { code: "id_user_missing", advice }
    }

    fn user_invalid(why: &dyn fmt::Display) -> Self {
        Self { code: "id_user_invalid", advice: format!("id_user {why}") }
    }

    fn user_forbidden() -> Self {
        Self { code: "id_user_forbidden", advice: "leave id_user out, or pass that of the token".to_owned() }
    }

    fn room_missing() -> Self {
        let advice = "pass room in the handshake query or in the auth payload, once or more".to_owned();
        Self { code: "room_missing", advice }
    }

    fn room_invalid(why: &dyn fmt::Display) -> Self {
        Self { code: "room_invalid", advice: format!("room {why}") }
    }
}

impl Handshake {
    /// Reads a handshake without a token. `query` is percent-encoded; `auth` is `None` if the payload is not valid JSON.
    pub fn read(query: Option<&str>, auth: Option<AuthPayload>, max_rooms: usize) -> Result<Self, ClientError> {
        let invalid_json = || ClientError::user_invalid(&"cannot be read: the auth payload is not valid JSON");
        let AuthPayload { id_user, room, .. } = auth.ok_or_else(invalid_json)?;
        let user = named_user(id_user, query)?.ok_or_else(ClientError::user_missing)?;
        Ok(Self { user, rooms: rooms(room, query, max_rooms)? })
    }

    /// Reads the handshake of an authenticated user. An `id_user` is optional, and must be that of the token.
    pub fn read_of_user(
        user: UserId,
        query: Option<&str>,
        auth: AuthPayload,
        max_rooms: usize,
    ) -> Result<Self, ClientError> {
        if named_user(auth.id_user, query)?.is_some_and(|named| named != user) {
            return Err(ClientError::user_forbidden());
        }
        Ok(Self { user, rooms: rooms(auth.room, query, max_rooms)? })
    }
}

/// The room of a `join` or `leave`. `given` is `None` if the event has no argument, or it is not valid JSON.
pub fn event_room(given: Option<StringOrList>) -> Result<Room, ClientError> {
    match given {
        Some(StringOrList::String(room)) => Room::parse(&room).map_err(|error| ClientError::room_invalid(&error)),
        _ => Err(ClientError::room_invalid(&"must be a string, the first argument of the event")),
    }
}

/// The user that a client names.
fn named_user(given: Option<StringOrList>, query: Option<&str>) -> Result<Option<UserId>, ClientError> {
    let users = values(given, query, "id_user", ClientError::user_invalid, "must be a string")?;
    match users.as_slice() {
        [] => Ok(None),
        [user] => UserId::parse(user).map(Some).map_err(|error| ClientError::user_invalid(&error)),
        _ => Err(ClientError::user_invalid(&"must be passed once")),
    }
}

fn rooms(given: Option<StringOrList>, query: Option<&str>, most: usize) -> Result<Vec<Room>, ClientError> {
    let named = values(given, query, "room", ClientError::room_invalid, "must be a string or an array of strings")?;
    if named.is_empty() {
        return Err(ClientError::room_missing());
    }
    let mut rooms: Vec<Room> = Vec::new();
    for room in &named {
        let room = Room::parse(room).map_err(|error| ClientError::room_invalid(&error))?;
        if !rooms.contains(&room) {
            rooms.push(room);
        }
        if rooms.len() > most {
            return Err(ClientError::rooms_too_many(most));
        }
    }
    Ok(rooms)
}

/// The values of a key in the payload, or if the payload does not have it, in the query.
fn values<'a>(
    given: Option<StringOrList>,
    query: Option<&'a str>,
    key: &str,
    invalid: fn(&dyn fmt::Display) -> ClientError,
    expected: &str,
) -> Result<Vec<Cow<'a, str>>, ClientError> {
    match given {
        Some(StringOrList::String(value)) => Ok(vec![value.into()]),
        Some(StringOrList::List(values)) => Ok(values.into_iter().map(Cow::Owned).collect()),
        Some(StringOrList::Other(_)) => Err(invalid(&expected)),
        None => query_values(query.unwrap_or_default(), key).map_err(|error| invalid(&error)),
    }
}

/// The values of a key in an `application/x-www-form-urlencoded` query.
///
/// The usual parsers replace invalid UTF-8, so that two users could become one. This one returns an error.
fn query_values<'a>(query: &'a str, key: &str) -> Result<Vec<Cow<'a, str>>, NameError> {
    let mut values = Vec::new();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name == key {
            values.push(decode(value)?);
        }
    }
    Ok(values)
}

fn decode(value: &str) -> Result<Cow<'_, str>, NameError> {
    if value.contains('+') {
        let spaced = value.replace('+', " ");
        let decoded = percent_decode_str(&spaced).decode_utf8().map_err(|_| NameError::NotUtf8)?;
        return Ok(Cow::Owned(decoded.into_owned()));
    }
    percent_decode_str(value).decode_utf8().map_err(|_| NameError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(query: &str, auth: &str) -> Result<(String, Vec<String>), String> {
        let auth = serde_json::from_str(auth).ok();
        let Handshake { user, rooms } = Handshake::read(Some(query), auth, 3).map_err(|error| error.code.to_owned())?;
        Ok((user.to_string(), rooms.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn the_payload_overrides_the_query() {
        let ok =
            |user: &str, rooms: &[&str]| Ok((user.to_owned(), rooms.iter().map(|&room| room.to_owned()).collect()));
        assert_eq!(
            read("EIO=4&id_user=foo&room=Maths&room=caf%C3%A9+au%20lait&room=Maths", "{}"),
            ok("foo", &["Maths", "café au lait"])
        );
        assert_eq!(read("id_user=foo&room=a", r#"{"id_user":"bar"}"#), ok("bar", &["a"]));
        assert_eq!(read("id_user=foo&room=a", r#"{"room":["b","c"]}"#), ok("foo", &["b", "c"]));
        assert_eq!(read("id_user=foo&room=a", r#"{"room":null}"#), ok("foo", &["a"]));
        assert_eq!(read("id_user=foo&room=a", r#"{"id_user":"bar","id_user":"baz"}"#), ok("baz", &["a"]));
        for ignored in ["17", "null", r#""bar""#, r#"["bar","b"]"#] {
            assert_eq!(read("id_user=foo&room=a", ignored), ok("foo", &["a"]), "{ignored}");
        }
    }

    #[test]
    fn every_error_has_its_code() {
        for (query, auth, code) in [
            ("room=a", "{}", "id_user_missing"),
            ("id_user=&room=a", "{}", "id_user_invalid"),
            ("id_user=%FF&room=a", "{}", "id_user_invalid"),
            ("id_user=foo&id_user=bar&room=a", "{}", "id_user_invalid"),
            ("id_user=foo&room=a", r#"{"id_user":17}"#, "id_user_invalid"),
            ("id_user=foo&room=a", r#"{"id_user":"bar""#, "id_user_invalid"),
            ("id_user=foo&room=a", r#"{"id_user":"half a pair: \ud800"}"#, "id_user_invalid"),
            ("id_user=foo", "{}", "room_missing"),
            ("id_user=foo&room=a", r#"{"room":[]}"#, "room_missing"),
            ("id_user=foo&room=%00", "{}", "room_invalid"),
            ("id_user=foo&room=socket.io", "{}", "room_invalid"),
            ("id_user=foo&room=a", r#"{"room":["a",1]}"#, "room_invalid"),
            ("id_user=foo&room=a&room=b&room=c&room=d", "{}", "rooms_too_many"),
        ] {
            assert_eq!(read(query, auth), Err(code.to_owned()), "{query} {auth}");
        }
    }

    proptest! {
        #[test]
        fn read_never_panics(query in "\\PC{0,200}") {
            let _ = Handshake::read(Some(&query), Some(AuthPayload::default()), 3);
        }

        #[test]
        fn a_query_encoded_by_a_browser_is_read(user in "\\PC{1,40}", room in "\\PC{1,40}") {
            prop_assume!(UserId::parse(&user).is_ok() && Room::parse(&room).is_ok());
            let query: String = form_urlencoded::Serializer::new(String::new())
                .append_pair("id_user", &user)
                .append_pair("room", &room)
                .finish();
            prop_assert_eq!(read(&query, "{}"), Ok((user, vec![room])));
        }
    }
}
