//! What a checked token says: who, which rooms, and until when.
//!
//! Owns the reading of the claims that are Rollcall's own. A claim that is there and makes no sense is never taken for
//! one that is not there. Pure.

use std::sync::Arc;

use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::error::AuthError;
use crate::names::{Room, UserId};

/// The rooms that a socket may be in; without it, all.
const ROOMS: &str = "rooms";
/// The rooms whose roll may be called; without it, none.
const ROLL_CALL: &str = "roll_call";
/// When the token expires.
const EXPIRES: &str = "exp";

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub user: UserId,
    /// Which rooms its sockets may be in.
    pub rooms: RoomScope,
    /// Of which rooms it may call the roll.
    pub roll_call: RoomScope,
    /// When it expires, in seconds since 1970.
    pub expires: u64,
}

/// Some rooms: all, or those that one of the rules covers. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomScope(Option<Arc<[RoomRule]>>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum RoomRule {
    Named(SmolStr),
    /// Every name that begins so.
    Beginning(SmolStr),
}

impl Claims {
    /// Reads what a token that is genuine says. `user_claim` names the claim that is `id_user`.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] when one of the claims is missing or makes no sense.
    pub fn read(claims: &Map<String, Value>, user_claim: &str) -> Result<Self, AuthError> {
        let user = claims.get(user_claim).ok_or(AuthError::Invalid("it has no user claim"))?;
        let user = user.as_str().and_then(|user| UserId::parse(user).ok());
        let user = user.ok_or(AuthError::Invalid("its user claim is not a name"))?;
        let rooms = claims.get(ROOMS).map_or(Ok(RoomScope::all()), RoomScope::read)?;
        let roll_call = claims.get(ROLL_CALL).map_or(Ok(RoomScope::none()), RoomScope::read)?;
        let expires = claims.get(EXPIRES).and_then(seconds).ok_or(AuthError::Invalid("its exp is not a time"))?;
        Ok(Self { user, rooms, roll_call, expires })
    }
}

/// A time as tokens have it: a number of seconds, which may have a fraction.
fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64))
}

impl RoomScope {
    pub fn all() -> Self {
        Self(None)
    }

    pub fn none() -> Self {
        Self(Some(Arc::default()))
    }

    pub fn covers(&self, room: &Room) -> bool {
        let Some(rules) = &self.0 else { return true };
        rules.iter().any(|rule| match rule {
            RoomRule::Named(name) => room.as_str() == name,
            RoomRule::Beginning(prefix) => room.as_str().starts_with(prefix.as_str()),
        })
    }

    /// A list of names, or of beginnings of names with a `*` after them.
    fn read(value: &Value) -> Result<Self, AuthError> {
        let invalid = AuthError::Invalid("its rooms or roll_call is not a list of texts");
        let rules = value.as_array().ok_or(invalid)?;
        let rules: Option<Arc<[RoomRule]>> = rules.iter().map(|rule| rule.as_str().map(RoomRule::read)).collect();
        Ok(Self(Some(rules.ok_or(invalid)?)))
    }
}

impl RoomRule {
    fn read(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Beginning(prefix.into()),
            None => Self::Named(text.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(claims: &Value) -> Result<Claims, AuthError> {
        Claims::read(claims.as_object().unwrap(), "sub")
    }

    fn covered(rules: &Value, room: &str) -> bool {
        RoomScope::read(rules).unwrap().covers(&Room::parse(room).unwrap())
    }

    #[test]
    fn a_rule_is_a_name_or_the_beginning_of_names() {
        let rules = json!(["Maths", "team-*", "a*b"]);
        for room in ["Maths", "team-", "team-1", "a*b"] {
            assert!(covered(&rules, room), "{room}");
        }
        for room in ["maths", "Maths 2", "team", "a team-1", "acb", "*"] {
            assert!(!covered(&rules, room), "{room}");
        }
        assert!(covered(&json!(["*"]), "any") && !covered(&json!([]), "any") && !covered(&json!([""]), "any"));
    }

    #[test]
    fn without_rooms_all_may_be_entered_and_without_roll_call_no_roll_is_called() {
        let claims = read(&json!({"sub": "foo", "exp": 7})).unwrap();
        let room = Room::parse("any").unwrap();
        assert_eq!((claims.user.as_str(), claims.expires), ("foo", 7));
        assert!(claims.rooms.covers(&room) && !claims.roll_call.covers(&room));
    }

    #[test]
    fn a_claim_that_makes_no_sense_is_not_taken_for_one_that_is_missing() {
        for wrong in [
            json!({"exp": 7}),
            json!({"sub": 17, "exp": 7}),
            json!({"sub": "", "exp": 7}),
            json!({"sub": "a\u{0}b", "exp": 7}),
            json!({"sub": "x".repeat(257), "exp": 7}),
            json!({"sub": "foo"}),
            json!({"sub": "foo", "exp": "7"}),
            json!({"sub": "foo", "exp": -1}),
            json!({"sub": "foo", "exp": null}),
            json!({"sub": "foo", "exp": 7, "rooms": "Maths"}),
            json!({"sub": "foo", "exp": 7, "rooms": null}),
            json!({"sub": "foo", "exp": 7, "rooms": ["Maths", 7]}),
            json!({"sub": "foo", "exp": 7, "roll_call": true}),
        ] {
            assert!(matches!(read(&wrong), Err(AuthError::Invalid(_))), "{wrong}");
        }
        assert_eq!(read(&json!({"sub": "foo", "exp": 7.9})).unwrap().expires, 7);
        assert_eq!(read(&json!({"sub": "foo", "exp": 1e300})).unwrap().expires, u64::MAX);
    }
}
