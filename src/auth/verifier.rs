//! The check of a token: signature, times, issuer, audience.
//!
//! Owns the order of the steps and what is required: a bounded length before anything is read, a key that is found by
//! what the keys say, the signature before any claim counts. Whatever fails, the caller learns one of three words. Where
//! keys come from and when they are read again is [`KeySource`]'.

use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use serde_json::{Map, Value};
use tracing::debug;

use super::claims::Claims;
use super::error::{AuthError, MAX_TOKEN_BYTES};
use super::jwks::Jwks;
use super::keys::{KeyMatch, KeySet};
use super::signatures;
use crate::auth::reload::{RELOAD_INTERVAL, Reloadable};

/// By how much the clocks of this machine and of whoever issues tokens may differ, in seconds: an expired token counts
/// for so long, and one from the future.
pub const LEEWAY: u64 = 30;
/// Who a token is about, in every token.
pub const SUBJECT: &str = "sub";

/// What tokens must say.
#[derive(Debug, Clone)]
pub struct TokenRules {
    /// One of these must have issued it. None: nobody asks.
    pub issuers: Vec<String>,
    /// It must be meant for one of these. None: a token that says whom it is meant for is not meant for this cluster.
    pub audiences: Vec<String>,
    /// The claim that is `id_user`.
    pub user_claim: String,
}

/// Where the keys come from.
#[derive(Clone)]
pub enum KeySource {
    File(Reloadable<KeySet>),
    Url(Jwks),
}

/// Checks tokens. Cheap to clone.
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

    /// Whether there are keys to check anything with.
    pub fn is_ready(&self) -> bool {
        self.keys.current().is_some()
    }

    /// Keeps the keys up to date, for ever.
    pub async fn keep(self) {
        match self.keys {
            KeySource::File(keys) => keys.keep(RELOAD_INTERVAL).await,
            KeySource::Url(keys) => keys.keep().await,
        }
    }

    /// Checks a token. Waits only for a key that is not known yet, and not for long.
    ///
    /// # Errors
    /// [`AuthError`]; the reason is logged here.
    pub async fn verify(&self, token: &str) -> Result<Claims, AuthError> {
        let checked = self.check(token).await;
        if let Err(denied) = &checked {
            let reason = if let AuthError::Invalid(reason) = denied { reason } else { "" };
            debug!(%denied, reason, "a token is not taken");
        }
        checked
    }

    async fn check(&self, token: &str) -> Result<Claims, AuthError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Invalid("it is too long"));
        }
        let head = decode_header(token).map_err(|error| denied(error.kind()))?;
        if head.crit.is_some() {
            return Err(AuthError::Invalid("it demands what is not known here"));
        }
        let keys = self.keys.current().ok_or(AuthError::Unavailable)?;
        if let Some(claims) = self.check_with(&keys, token, &head)? {
            return Ok(claims);
        }
        let keys = match &self.keys {
            KeySource::Url(keys) => {
                let have_it = |keys: &KeySet| !matches!(keys.find(head.kid.as_deref(), head.alg), KeyMatch::Unknown);
                keys.renewed(have_it).await.ok_or(AuthError::Unavailable)?
            }
            KeySource::File(_) => return Err(AuthError::Invalid("its key is not known")),
        };
        self.check_with(&keys, token, &head)?.ok_or(AuthError::Invalid("its key is not known"))
    }

    /// `None`: its key is not one of these.
    fn check_with(&self, keys: &KeySet, token: &str, head: &Header) -> Result<Option<Claims>, AuthError> {
        let key = match keys.find(head.kid.as_deref(), head.alg) {
            KeyMatch::Key(key) => key,
            KeyMatch::Unknown => return Ok(None),
            KeyMatch::Not(why) => return Err(AuthError::Invalid(why)),
        };
        let validation = self.rules.validation(&key.algorithms);
        let genuine = decode::<Map<String, Value>>(token, &key.key, &validation);
        let claims = genuine.map_err(|error| denied(error.kind()))?.claims;
        if self.rules.audiences.is_empty() && claims.contains_key("aud") {
            return Err(AuthError::Invalid("it is for somebody else"));
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

fn denied(error: &ErrorKind) -> AuthError {
    AuthError::Invalid(match error {
        ErrorKind::ExpiredSignature => return AuthError::Expired,
        ErrorKind::ImmatureSignature => "its time has not come",
        ErrorKind::InvalidIssuer => "somebody else issued it",
        ErrorKind::InvalidAudience => "it is for somebody else",
        ErrorKind::InvalidSignature => "its signature is wrong",
        ErrorKind::InvalidAlgorithm => "its key takes no such signatures",
        ErrorKind::MissingRequiredClaim(_) => "a claim is missing",
        ErrorKind::InvalidClaimFormat(_) => "one of its times is none",
        _ => "it is not a token",
    })
}
