//! Whether a handshake gets a client in: as whom, into which rooms, and until when.
//!
//! Owns what a token, or its absence, means for a client, and the refusals about tokens. None of them says what was wrong
//! with one: that is for whoever issued it, and in the log. A token in the query is not read, since queries are kept in
//! logs and histories everywhere.

use axum::http::request::Parts;

use super::handshake::{Auth, Given, Handshake, Refusal};
use crate::auth::claims::{Claims, RoomScope};
use crate::auth::verifier::{LEEWAY, TokenVerifier};
use crate::auth::{AuthError, IdentityMode};
use crate::http::access::bearer;

/// A client that is let in.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted {
    pub handshake: Handshake,
    /// The rooms it may be in.
    pub rooms: RoomScope,
    /// The last second, since 1970, that it may stay.
    pub until: Option<u64>,
}

/// A client that is not.
#[derive(Debug, PartialEq, Eq)]
pub enum Turned {
    /// For good: official clients do not try again after a refusal.
    Away(Refusal),
    /// It should try again: tokens cannot be checked now.
    Back,
}

/// Reads the handshake and finds out whose it is.
///
/// # Errors
/// [`Turned`].
pub async fn admit(
    identity: &IdentityMode,
    request: &Parts,
    auth: Option<Auth>,
    rooms_most: usize,
) -> Result<Admitted, Turned> {
    let query = request.uri.query();
    match identity {
        IdentityMode::Query => {
            let handshake = Handshake::read(query, auth, rooms_most)?;
            Ok(Admitted { handshake, rooms: RoomScope::all(), until: None })
        }
        IdentityMode::Jwt { verifier, grace } => {
            let mut auth = auth.ok_or_else(Refusal::token_invalid)?;
            let claims = check(verifier, request, auth.token.take()).await?;
            let handshake = Handshake::of(claims.user, query, auth, rooms_most)?;
            if let Some(room) = handshake.rooms.iter().find(|room| !claims.rooms.covers(room)) {
                return Err(Refusal::room_forbidden(room).into());
            }
            let until = claims.expires.saturating_add(LEEWAY).saturating_add(grace.as_secs());
            Ok(Admitted { handshake, rooms: claims.rooms, until: Some(until) })
        }
    }
}

/// The token of the payload counts, or else that of the header, which browsers cannot set.
async fn check(verifier: &TokenVerifier, request: &Parts, given: Option<Given>) -> Result<Claims, Turned> {
    let given = match given {
        Some(Given::One(token)) => Some(token),
        Some(Given::Many(_) | Given::Other(_)) => return Err(Refusal::token_invalid().into()),
        None => None,
    };
    let presented = bearer(&request.headers);
    let token = given.as_deref().or(presented.as_ref().map(|bearer| bearer.token()));
    let token = token.ok_or_else(Refusal::token_missing)?;
    verifier.verify(token).await.map_err(|denied| match denied {
        AuthError::Invalid(_) => Refusal::token_invalid().into(),
        AuthError::Expired => Refusal::token_expired().into(),
        AuthError::Unavailable => Turned::Back,
    })
}

impl From<Refusal> for Turned {
    fn from(refusal: Refusal) -> Self {
        Self::Away(refusal)
    }
}

impl Refusal {
    fn token_missing() -> Self {
        let advice = "pass the token as token in the auth payload, or in the header Authorization: Bearer; one in the \
                      query is not read";
        Self { code: "token_missing", advice: advice.to_owned() }
    }

    fn token_invalid() -> Self {
        Self { code: "token_invalid", advice: "this token gets nobody in here; get another one".to_owned() }
    }

    fn token_expired() -> Self {
        Self { code: "token_expired", advice: "get a new token and connect again".to_owned() }
    }
}
