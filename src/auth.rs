//! Identity: who a client is, which rooms it may enter, and who may call the roll.
//!
//! Owns tokens: the keys they are checked with ([`keys`], [`jwks`], [`signatures`]), what they say ([`claims`]), the
//! checking itself ([`verifier`]), and the named tokens of the API ([`tokens`]). Knows no Socket.IO and no HTTP: a token
//! comes in as text, and what goes out is who that is, or [`AuthError`], which tells nobody why.

pub mod claims;
pub mod crypto;
pub mod error;
pub mod jwks;
pub mod keys;
pub mod pem;
pub mod reload;
pub(crate) mod secret_lines;
pub mod signatures;
pub mod tls;
pub mod tokens;
pub mod verifier;

use std::fmt;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use smol_str::SmolStr;
use tracing::debug;

use crate::auth::reload::{RELOAD_INTERVAL, Reloadable};
use crate::names::Room;
use claims::RoomScope;
pub use error::{AuthError, MAX_TOKEN_BYTES};
use tokens::NamedTokens;
use verifier::TokenVerifier;

/// Who is let in, and who may call the roll. Cheap to clone.
#[derive(Clone, Default)]
pub struct AccessPolicy {
    pub identity: IdentityMode,
    pub callers: ApiAuth,
}

/// How users are known.
#[derive(Clone, Default)]
pub enum IdentityMode {
    /// Clients say who they are.
    #[default]
    Query,
    /// NamedTokens say it.
    Jwt {
        verifier: TokenVerifier,
        /// How long a socket may stay after its token has expired.
        grace: Duration,
    },
}

/// Who may call the roll.
#[derive(Clone, Default)]
pub enum ApiAuth {
    #[default]
    Anyone,
    /// Whoever has one of the named tokens, of every room.
    Named(Reloadable<NamedTokens>),
    /// Whoever has a token whose `roll_call` claim covers the room.
    Jwt(TokenVerifier),
}

/// A caller of the roll that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiCaller {
    name: SmolStr,
    rooms: RoomScope,
}

impl AccessPolicy {
    /// The background tasks that keep keys and tokens up to date, each with its name. They run for ever.
    pub fn reload_tasks(&self) -> Vec<(&'static str, BoxFuture<'static, ()>)> {
        let mut tasks = Vec::new();
        if let Some(verifier) = self.verifier().cloned() {
            tasks.push(("keys", verifier.keep().boxed()));
        }
        if let ApiAuth::Named(tokens) = &self.callers {
            tasks.push(("API tokens", tokens.clone().keep(RELOAD_INTERVAL).boxed()));
        }
        tasks
    }

    /// The one that checks tokens, for whichever purpose. There is one per node at most.
    fn verifier(&self) -> Option<&TokenVerifier> {
        match (&self.identity, &self.callers) {
            (IdentityMode::Jwt { verifier, .. }, _) | (_, ApiAuth::Jwt(verifier)) => Some(verifier),
            (IdentityMode::Query, ApiAuth::Anyone | ApiAuth::Named(_)) => None,
        }
    }
}

impl IdentityMode {
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

impl ApiAuth {
    /// Who presents this token. `None`: nobody need be known.
    ///
    /// # Errors
    /// [`AuthError`], also when anyone but those that are known may not call.
    pub async fn know(&self, token: &str) -> Result<Option<ApiCaller>, AuthError> {
        match self {
            Self::Anyone => Ok(None),
            Self::Named(tokens) => {
                let tokens = tokens.current();
                let Some(name) = tokens.name_of(token) else {
                    debug!("an API token is not known");
                    return Err(AuthError::Invalid("it is none of the API tokens"));
                };
                Ok(Some(ApiCaller { name: name.into(), rooms: RoomScope::all() }))
            }
            Self::Jwt(verifier) => {
                let claims = verifier.verify(token).await?;
                Ok(Some(ApiCaller { name: claims.user.as_str().into(), rooms: claims.roll_call }))
            }
        }
    }
}

impl ApiCaller {
    pub fn may_call(&self, room: &Room) -> bool {
        let may = self.rooms.covers(room);
        debug!(caller = %self.name, %room, may, "a roll is called");
        may
    }
}

impl fmt::Debug for IdentityMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.takes_tokens() { "Jwt" } else { "Query" })
    }
}
