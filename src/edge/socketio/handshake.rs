//! What a client says when it connects: who it is and which rooms it wants.
//!
//! Owns the reading of the handshake query and of the `auth` payload, which wins key by key, and the refusals with their
//! stable codes; those about tokens are in [`super::admission`]. Pure: text in, names out.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::names::{NameError, Room, UserId};

/// The `auth` payload, as far as it matters here. One that is not an object says nothing.
#[derive(Default, Deserialize)]
#[serde(from = "Payload")]
pub struct Auth {
    pub(super) token: Option<Given>,
    id_user: Option<Given>,
    room: Option<Given>,
}

/// Any JSON. A key that is repeated counts as in JavaScript: the last one holds.
#[derive(Deserialize)]
#[serde(untagged)]
enum Payload {
    Object(HashMap<String, Option<Given>>),
    Other(IgnoredAny),
}

/// A value that should be a text or a list of texts.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Given {
    One(String),
    Many(Vec<String>),
    Other(IgnoredAny),
}

/// A handshake that makes sense.
#[derive(Debug, PartialEq, Eq)]
pub struct Handshake {
    pub user: UserId,
    /// Without repetitions, in the order given, at least one.
    pub rooms: Vec<Room>,
}

/// Why a client was not let in, or an event not done. Displayed as `<code>: <what to do>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable: programs may depend on it.
    pub code: &'static str,
    /// For people.
    pub advice: String,
}

impl From<Payload> for Auth {
    fn from(payload: Payload) -> Self {
        let Payload::Object(mut given) = payload else {
            return Self::default();
        };
        let mut take = |key| given.remove(key).flatten();
        Self { token: take("token"), id_user: take("id_user"), room: take("room") }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.advice)
    }
}

impl Refusal {
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
        Self { code: "events_too_many", advice: "wait before the next one; who goes on is disconnected".to_owned() }
    }

    /// Never seen by a client: it is gone.
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
    /// Reads a handshake. `query` is still percent-encoded; `auth` is `None` when it is not JSON, so that nobody knows
    /// whom it names.
    ///
    /// # Errors
    /// The [`Refusal`] to send to the client.
    pub fn read(query: Option<&str>, auth: Option<Auth>, rooms_most: usize) -> Result<Self, Refusal> {
        let unreadable = || Refusal::user_invalid(&"cannot be read: the auth payload is not valid JSON");
        let Auth { id_user, room, .. } = auth.ok_or_else(unreadable)?;
        let user = one_user(id_user, query)?.ok_or_else(Refusal::user_missing)?;
        Ok(Self { user, rooms: rooms(room, query, rooms_most)? })
    }

    /// Reads the handshake of a client that is known to be this user, and may say so.
    ///
    /// # Errors
    /// The [`Refusal`] to send to the client.
    pub fn of(user: UserId, query: Option<&str>, auth: Auth, rooms_most: usize) -> Result<Self, Refusal> {
        if one_user(auth.id_user, query)?.is_some_and(|said| said != user) {
            return Err(Refusal::user_forbidden());
        }
        Ok(Self { user, rooms: rooms(auth.room, query, rooms_most)? })
    }
}

/// The room of a `join` or `leave`. `given` is `None` when the event had no argument that could be read.
///
/// # Errors
/// The [`Refusal`] to acknowledge the event with.
pub fn one_room(given: Option<Given>) -> Result<Room, Refusal> {
    match given {
        Some(Given::One(room)) => Room::parse(&room).map_err(|error| Refusal::room_invalid(&error)),
        _ => Err(Refusal::room_invalid(&"must be a string, the first argument of the event")),
    }
}

/// Who a client says it is.
fn one_user(given: Option<Given>, query: Option<&str>) -> Result<Option<UserId>, Refusal> {
    let users = values(given, query, "id_user", Refusal::user_invalid, "must be a string")?;
    match users.as_slice() {
        [] => Ok(None),
        [user] => UserId::parse(user).map(Some).map_err(|error| Refusal::user_invalid(&error)),
        _ => Err(Refusal::user_invalid(&"must be passed once")),
    }
}

fn rooms(given: Option<Given>, query: Option<&str>, most: usize) -> Result<Vec<Room>, Refusal> {
    let named = values(given, query, "room", Refusal::room_invalid, "must be a string or an array of strings")?;
    if named.is_empty() {
        return Err(Refusal::room_missing());
    }
    let mut rooms: Vec<Room> = Vec::new();
    for room in &named {
        let room = Room::parse(room).map_err(|error| Refusal::room_invalid(&error))?;
        if !rooms.contains(&room) {
            rooms.push(room);
        }
        if rooms.len() > most {
            return Err(Refusal::rooms_too_many(most));
        }
    }
    Ok(rooms)
}

/// The values of a key: those of the payload if it has the key, those of the query otherwise.
fn values<'a>(
    given: Option<Given>,
    query: Option<&'a str>,
    key: &str,
    invalid: fn(&dyn fmt::Display) -> Refusal,
    expected: &str,
) -> Result<Vec<Cow<'a, str>>, Refusal> {
    match given {
        Some(Given::One(value)) => Ok(vec![value.into()]),
        Some(Given::Many(values)) => Ok(values.into_iter().map(Cow::Owned).collect()),
        Some(Given::Other(_)) => Err(invalid(&expected)),
        None => query_values(query.unwrap_or_default(), key).map_err(|error| invalid(&error)),
    }
}

/// The values of a key in an `application/x-www-form-urlencoded` query. Unlike the usual parsers it refuses what is
/// not UTF-8 instead of replacing it: two users must not become one.
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
        let Handshake { user, rooms } =
            Handshake::read(Some(query), auth, 3).map_err(|refusal| refusal.code.to_owned())?;
        Ok((user.to_string(), rooms.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn the_query_names_a_user_and_rooms_and_the_payload_wins() {
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
        for says_nothing in ["17", "null", r#""bar""#, r#"["bar","b"]"#] {
            assert_eq!(read("id_user=foo&room=a", says_nothing), ok("foo", &["a"]), "{says_nothing}");
        }
    }

    #[test]
    fn every_refusal_has_its_code() {
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
        fn no_query_makes_the_reader_panic(query in "\\PC{0,200}") {
            let _ = Handshake::read(Some(&query), Some(Auth::default()), 3);
        }

        #[test]
        fn what_a_browser_encodes_is_read_back(user in "\\PC{1,40}", room in "\\PC{1,40}") {
            prop_assume!(UserId::parse(&user).is_ok() && Room::parse(&room).is_ok());
            let query: String = form_urlencoded::Serializer::new(String::new())
                .append_pair("id_user", &user)
                .append_pair("room", &room)
                .finish();
            prop_assert_eq!(read(&query, "{}"), Ok((user, vec![room])));
        }
    }
}
