//! The claims of a verified token: user, rooms and expiry.
//!
//! Owns the names and the parsing of Rollcall's claims. An invalid claim is an error, and never the same as an absent one.
//! Owns no signature ([`super::verifier`]), and performs no I/O.

use std::sync::Arc;

use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::error::AuthError;
use crate::names::{Room, UserId};

/// The claim with the rooms that a socket may join. Without the claim, it may join all rooms.
const ROOMS: &str = "rooms";
/// The claim with the rooms whose roll calls the caller may request. Without the claim, it may request none.
const ROLL_CALL: &str = "roll_call";
/// The claim with the expiry (RFC 7519).
const EXPIRES: &str = "exp";

/// The claims that Rollcall uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub user: UserId,
    /// The rooms that the user's sockets may join.
    pub rooms: RoomScope,
    /// The rooms whose roll calls the user may request.
    pub roll_call: RoomScope,
    /// The expiry, in seconds since 1970.
    pub expires: u64,
}

/// A set of rooms: all rooms, or those that match a rule. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomScope(Option<Arc<[RoomRule]>>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum RoomRule {
    Named(SmolStr),
    /// Every name with this prefix.
    Prefix(SmolStr),
}

impl Claims {
    /// Parses the claims of a token whose signature is verified. `user_claim`: the name of the claim with the user id.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] when the user claim or the expiry is missing, or any claim is malformed.
    pub fn read(claims: &Map<String, Value>, user_claim: &str) -> Result<Self, AuthError> {
        let user = claims.get(user_claim).ok_or(AuthError::Invalid("missing user claim"))?;
        let user = user.as_str().and_then(|user| UserId::parse(user).ok());
        let user = user.ok_or(AuthError::Invalid("the user claim is not a valid user id"))?;
        let rooms = claims.get(ROOMS).map_or(Ok(RoomScope::all()), RoomScope::read)?;
        let roll_call = claims.get(ROLL_CALL).map_or(Ok(RoomScope::none()), RoomScope::read)?;
        let expires = claims.get(EXPIRES).and_then(seconds).ok_or(AuthError::Invalid("malformed time claim (exp)"))?;
        Ok(Self { user, rooms, roll_call, expires })
    }
}

/// A `NumericDate` (RFC 7519): a number of seconds, which may have a fraction.
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
            RoomRule::Prefix(prefix) => room.as_str().starts_with(prefix.as_str()),
        })
    }

    /// Parses a list of names and of prefixes; a prefix ends with `*`.
    fn read(value: &Value) -> Result<Self, AuthError> {
        let invalid = AuthError::Invalid("the rooms or roll_call claim is not a list of strings");
        let rules = value.as_array().ok_or(invalid)?;
        let rules: Option<Arc<[RoomRule]>> = rules.iter().map(|rule| rule.as_str().map(RoomRule::read)).collect();
        Ok(Self(Some(rules.ok_or(invalid)?)))
    }
}

impl RoomRule {
    fn read(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.into()),
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
    fn a_rule_is_a_name_or_a_prefix() {
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
    fn absent_claims_permit_all_rooms_and_no_roll_calls() {
        let claims = read(&json!({"sub": "foo", "exp": 7})).unwrap();
        let room = Room::parse("any").unwrap();
        assert_eq!((claims.user.as_str(), claims.expires), ("foo", 7));
        assert!(claims.rooms.covers(&room) && !claims.roll_call.covers(&room));
    }

    #[test]
    fn an_invalid_claim_is_not_treated_as_absent() {
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
