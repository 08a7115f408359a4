//! The reasons for rejecting a token, as far as a client may learn them.

use thiserror::Error;

/// The longest token that is parsed, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 << 10;

/// The client learns only the variant. The reason inside is for the log, since it could help an attacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AuthError {
    #[error("invalid token")]
    Invalid(&'static str),
    #[error("token expired")]
    Expired,
    /// No key set has been fetched yet. A later attempt may succeed.
    #[error("the keys that verify tokens are not available yet")]
    Unavailable,
}
