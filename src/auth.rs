//! Identity: who a client is, which rooms it may enter, and who may call the roll.
//!
//! Owns tokens: the keys they are checked with ([`keys`], [`jwks`], [`signatures`]), what they say ([`claims`]), the
//! checking itself ([`verifier`]), and the named tokens of the API ([`tokens`]). Knows no Socket.IO and no HTTP: a token
//! comes in as text, and what goes out is who that is, or [`Denied`], which tells nobody why.

pub mod claims;
pub mod jwks;
pub mod keys;
pub mod pem;
pub mod reload;
pub mod signatures;
pub mod tls;
pub mod tokens;
pub mod verifier;

use std::fmt;
use std::time::Duration;

use smol_str::SmolStr;
use thiserror::Error;
use tracing::debug;

use crate::auth::reload::{LOOK_EVERY, Watched};
use crate::names::Room;
use crate::node::Tasks;
use claims::Rooms;
use tokens::Tokens;
use verifier::Verifier;

/// The longest token that is looked at, in bytes.
pub const TOKEN_MOST: usize = 8 << 10;

/// Who is let in, and who may call the roll. Cheap to clone.
#[derive(Clone, Default)]
pub struct Access {
    pub identity: By,
    pub callers: Callers,
}

/// How users are known.
#[derive(Clone, Default)]
pub enum By {
    /// Clients say who they are.
    #[default]
    Query,
    /// Tokens say it.
    Jwt {
        verifier: Verifier,
        /// How long a socket may stay after its token has expired.
        grace: Duration,
    },
}

/// Who may call the roll.
#[derive(Clone, Default)]
pub enum Callers {
    #[default]
    Anyone,
    /// Whoever has one of the named tokens, of every room.
    Named(Watched<Tokens>),
    /// Whoever has a token whose `roll_call` claim covers the room.
    Jwt(Verifier),
}

/// A caller of the roll that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    name: SmolStr,
    rooms: Rooms,
}

/// Why a token gets nobody in. What exactly is wrong with one is for the log alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Denied {
    /// With the reason, for the log.
    #[error("the token is not valid here")]
    Invalid(&'static str),
    #[error("the token has expired")]
    Expired,
    /// It cannot be known now; it may be later.
    #[error("the keys that tokens are checked with have not come yet")]
    Unavailable,
}

impl Access {
    /// Starts what keeps keys and tokens up to date.
    pub fn start(&self, tasks: &mut Tasks) {
        if let Some(verifier) = self.verifier().cloned() {
            tasks.spawn("keys", verifier.keep());
        }
        if let Callers::Named(tokens) = &self.callers {
            tasks.spawn("API tokens", tokens.clone().keep(LOOK_EVERY));
        }
    }

    /// The one that checks tokens, for whichever purpose. There is one per node at most.
    fn verifier(&self) -> Option<&Verifier> {
        match (&self.identity, &self.callers) {
            (By::Jwt { verifier, .. }, _) | (_, Callers::Jwt(verifier)) => Some(verifier),
            (By::Query, Callers::Anyone | Callers::Named(_)) => None,
        }
    }
}

impl By {
    /// Whether clients can be told apart now. Not while tokens cannot be checked because no key has ever come.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Query => true,
            Self::Jwt { verifier, .. } => verifier.is_ready(),
        }
    }

    /// Whether clients come with tokens.
    pub fn takes_tokens(&self) -> bool {
        matches!(self, Self::Jwt { .. })
    }
}

impl Callers {
    /// Who presents this token. `None`: nobody need be known.
    ///
    /// # Errors
    /// [`Denied`], also when anyone but those that are known may not call.
    pub async fn know(&self, token: &str) -> Result<Option<Caller>, Denied> {
        match self {
            Self::Anyone => Ok(None),
            Self::Named(tokens) => {
                let tokens = tokens.current();
                let Some(name) = tokens.name_of(token) else {
                    debug!("an API token is not known");
                    return Err(Denied::Invalid("it is none of the API tokens"));
                };
                Ok(Some(Caller { name: name.into(), rooms: Rooms::all() }))
            }
            Self::Jwt(verifier) => {
                let claims = verifier.verify(token).await?;
                Ok(Some(Caller { name: claims.user.as_str().into(), rooms: claims.roll_call }))
            }
        }
    }
}

impl Caller {
    pub fn may_call(&self, room: &Room) -> bool {
        let may = self.rooms.covers(room);
        debug!(caller = %self.name, %room, may, "a roll is called");
        may
    }
}

impl fmt::Debug for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.takes_tokens() { "Jwt" } else { "Query" })
    }
}
