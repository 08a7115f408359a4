//! Verification of a token: signature, times, issuer, audience.
//!
//! Owns the order of the steps: first the length, then the key and its algorithm, then the signature, then the claims. The
//! client learns only the variant of [`AuthError`]; the log has the reason. Owns no key: [`KeySource`] fetches and reloads
//! them.

use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use serde_json::{Map, Value};
use tracing::debug;

use super::claims::Claims;
use super::error::{AuthError, MAX_TOKEN_BYTES};
use super::jwks::Jwks;
use super::keys::{KeyMatch, KeySet, WRONG_ALGORITHM};
use super::signatures;
use crate::auth::reload::{RELOAD_INTERVAL, Reloadable};

/// The tolerated difference between the clocks of this machine and of the token issuer, in seconds. A token is accepted this
/// long after its `exp` and before its `nbf`.
pub const LEEWAY: u64 = 30;
/// The standard claim for the user (RFC 7519).
pub const SUBJECT: &str = "sub";

const UNKNOWN_KEY: &str = "unknown key (kid)";
const WRONG_AUDIENCE: &str = "wrong audience (aud)";

/// The required claims of tokens.
#[derive(Debug, Clone)]
pub struct TokenRules {
    /// `iss` must be one of these. Empty: any issuer.
    pub issuers: Vec<String>,
    /// `aud` must have one of these. Empty: a token with an `aud` is rejected, because it is not for this cluster.
    pub audiences: Vec<String>,
    /// The claim with the user id.
    pub user_claim: String,
}

/// The source of the keys.
#[derive(Clone)]
pub enum KeySource {
    File(Reloadable<KeySet>),
    Url(Jwks),
}

/// Verifies tokens. Cheap to clone.
#[derive(Clone)]
pub struct TokenVerifier {
    keys: KeySource,
    rules: Arc<TokenRules>,
}

impl Default for TokenRules {
    fn default() -> Self {
        Self { issuers: Vec::new(), audiences: Vec::new(), user_claim: SUBJECT.to_owned() }
    }
}

impl TokenVerifier {
    pub fn new(keys: KeySource, rules: TokenRules) -> Self {
        signatures::install();
        Self { keys, rules: Arc::new(rules) }
    }

    /// Whether the verifier has keys.
    pub fn is_ready(&self) -> bool {
        self.keys.current().is_some()
    }

    /// Keeps the keys up to date. Never returns.
    pub async fn refresh_keys(self) {
        match self.keys {
            KeySource::File(keys) => keys.reload_on_change(RELOAD_INTERVAL).await,
            KeySource::Url(keys) => keys.refresh().await,
        }
    }

    /// Verifies a token. Waits only if the key of the token is unknown, and at most [`JwksIntervals::timeout`](super::jwks::JwksIntervals::timeout).
    ///
    /// # Errors
    /// [`AuthError`]. The reason is logged here.
    pub async fn verify(&self, token: &str) -> Result<Claims, AuthError> {
        let result = self.verify_unlogged(token).await;
        if let Err(error) = &result {
            let reason = if let AuthError::Invalid(reason) = error { reason } else { "" };
            debug!(%error, reason, "rejected a token");
        }
        result
    }

    async fn verify_unlogged(&self, token: &str) -> Result<Claims, AuthError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Invalid("the token is too long"));
        }
        let header = decode_header(token).map_err(|error| auth_error(error.kind()))?;
        // RFC 7515 requires to reject extensions that the verifier does not know.
        if header.crit.is_some() {
            return Err(AuthError::Invalid("the token has an unsupported extension (crit)"));
        }
        let keys = self.keys.current().ok_or(AuthError::Unavailable)?;
        if let Some(claims) = self.verify_with(&keys, token, &header)? {
            return Ok(claims);
        }
        let keys = match &self.keys {
            KeySource::Url(keys) => {
                let has_key =
                    |keys: &KeySet| !matches!(keys.find(header.kid.as_deref(), header.alg), KeyMatch::Unknown);
                keys.wait_for_key(has_key).await.ok_or(AuthError::Unavailable)?
            }
            KeySource::File(_) => return Err(AuthError::Invalid(UNKNOWN_KEY)),
        };
        self.verify_with(&keys, token, &header)?.ok_or(AuthError::Invalid(UNKNOWN_KEY))
    }

    /// Returns `None` if the key of the token is not in `keys`.
    fn verify_with(&self, keys: &KeySet, token: &str, header: &Header) -> Result<Option<Claims>, AuthError> {
        let key = match keys.find(header.kid.as_deref(), header.alg) {
            KeyMatch::Key(key) => key,
            KeyMatch::Unknown => return Ok(None),
            KeyMatch::Rejected(reason) => return Err(AuthError::Invalid(reason)),
        };
        let validation = self.rules.validation(&key.algorithms);
        let verified = decode::<Map<String, Value>>(token, &key.key, &validation);
        let claims = verified.map_err(|error| auth_error(error.kind()))?.claims;
        if self.rules.audiences.is_empty() && claims.contains_key("aud") {
            return Err(AuthError::Invalid(WRONG_AUDIENCE));
        }
        Claims::read(&claims, &self.rules.user_claim).map(Some)
    }
}

impl TokenRules {
    fn validation(&self, algorithms: &[Algorithm]) -> Validation {
        let mut validation =
            Validation { algorithms: algorithms.to_vec(), leeway: LEEWAY, validate_nbf: true, ..Validation::default() };
        let mut required = vec!["exp"];
        if !self.issuers.is_empty() {
            validation.set_issuer(&self.issuers);
            required.push("iss");
        }
        if !self.audiences.is_empty() {
            validation.set_audience(&self.audiences);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        validation
    }
}

impl KeySource {
    fn current(&self) -> Option<Arc<KeySet>> {
        match self {
            Self::File(keys) => Some(keys.current()),
            Self::Url(keys) => keys.current(),
        }
    }
}

fn auth_error(error: &ErrorKind) -> AuthError {
    AuthError::Invalid(match error {
        ErrorKind::ExpiredSignature => return AuthError::Expired,
        ErrorKind::ImmatureSignature => "not valid yet (nbf)",
        ErrorKind::InvalidIssuer => "wrong issuer (iss)",
        ErrorKind::InvalidAudience => WRONG_AUDIENCE,
        ErrorKind::InvalidSignature => "wrong signature",
        ErrorKind::InvalidAlgorithm => WRONG_ALGORITHM,
        ErrorKind::MissingRequiredClaim(_) => "missing claim",
        ErrorKind::InvalidClaimFormat(_) => "malformed time claim",
        _ => "not a JWT",
    })
}
