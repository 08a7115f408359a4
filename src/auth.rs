//! Authentication and authorization of users and of API callers, TLS, and files that are reloaded when they change.
//!
//! Owns the tokens: their keys ([`keys`], [`jwks`], [`signatures`]), their [`claims`], their verification ([`verifier`]), and
//! the named tokens of the API ([`tokens`]). Owns neither Socket.IO nor HTTP: the input is the text of a token, the output is
//! an identity or an [`AuthError`], which hides the reason from the client.

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

/// The identity of users, and the authentication of API callers. Cheap to clone.
#[derive(Clone, Default)]
pub struct AccessPolicy {
    pub identity: IdentityMode,
    pub callers: ApiAuth,
}

/// The source of a client's user id.
#[derive(Clone, Default)]
pub enum IdentityMode {
    /// The client sends its user id in the query, unverified.
    #[default]
    Query,
    /// The user id is a claim of a verified token.
    Jwt {
        verifier: TokenVerifier,
        /// The time that a socket may stay connected after its token has expired.
        grace: Duration,
    },
}

/// The authentication of API callers, which may request roll calls.
#[derive(Clone, Default)]
pub enum ApiAuth {
    #[default]
    Anyone,
    /// A named token permits roll calls of every room.
    Named(Reloadable<NamedTokens>),
    /// A JWT permits roll calls of the rooms that its `roll_call` claim covers.
    Jwt(TokenVerifier),
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiCaller {
    name: SmolStr,
    rooms: RoomScope,
}

impl AccessPolicy {
    /// The background tasks that keep keys and tokens up to date, each with its name. They never end.
    pub fn reload_tasks(&self) -> Vec<(&'static str, BoxFuture<'static, ()>)> {
        let mut tasks = Vec::new();
        if let Some(verifier) = self.verifier().cloned() {
            tasks.push(("keys", verifier.refresh_keys().boxed()));
        }
        if let ApiAuth::Named(tokens) = &self.callers {
            tasks.push(("API tokens", tokens.clone().reload_on_change(RELOAD_INTERVAL).boxed()));
        }
        tasks
    }

    /// The verifier of users or of API callers. A node has at most one.
    fn verifier(&self) -> Option<&TokenVerifier> {
        match (&self.identity, &self.callers) {
            (IdentityMode::Jwt { verifier, .. }, _) | (_, ApiAuth::Jwt(verifier)) => Some(verifier),
            (IdentityMode::Query, ApiAuth::Anyone | ApiAuth::Named(_)) => None,
        }
    }
}

impl IdentityMode {
    /// Whether this node can identify clients now. It cannot verify tokens before it has received the first key.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Query => true,
            Self::Jwt { verifier, .. } => verifier.is_ready(),
        }
    }

    /// Whether clients must send tokens.
    pub fn requires_tokens(&self) -> bool {
        matches!(self, Self::Jwt { .. })
    }
}

impl ApiAuth {
    /// Identifies the caller with this token. `None`: callers need no token.
    ///
    /// # Errors
    /// [`AuthError`] when the token is invalid or expired, or cannot be verified yet.
    pub async fn authenticate(&self, token: &str) -> Result<Option<ApiCaller>, AuthError> {
        match self {
            Self::Anyone => Ok(None),
            Self::Named(tokens) => {
                let tokens = tokens.current();
                let Some(name) = tokens.name_of(token) else {
                    debug!("rejected an unknown API token");
                    return Err(AuthError::Invalid("unknown API token"));
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
        let permitted = self.rooms.covers(room);
        debug!(caller = %self.name, %room, permitted, "authorized a roll call request");
        permitted
    }
}

impl fmt::Debug for IdentityMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.requires_tokens() { "Jwt" } else { "Query" })
    }
}
