//! The flags that say who is let in and who may call the roll.
//!
//! Owns how they fit together, and what they become: keys and tokens are read here once, and again by the node when
//! their files change. The secrets themselves are in files, never in a flag.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use reqwest::Url;
use url::Host;

use super::effective::Implied;
use super::values;
use crate::auth::jwks::{Jwks, Pace};
use crate::auth::keys::KeySet;
use crate::auth::reload::Watched;
use crate::auth::tokens::Tokens;
use crate::auth::verifier::{Keys, Rules, SUBJECT, Verifier};
use crate::auth::{Access, By, Callers};

#[derive(Debug, Args)]
pub struct AccessArgs {
    /// How users are known. Required, since it decides who can be whom.
    /// `query`: a client says who it is (`id_user` in the handshake) and is believed, and anyone who reaches the port
    /// can call the roll. For development, and for networks where everybody is trusted.
    /// `jwt`: a token says it, checked with the keys of --jwt-key or --jwks
    #[arg(long, env = "ROLLCALL_IDENTITY", value_name = "HOW")]
    identity: Option<IdentityBy>,

    /// The key that tokens are checked with: a file with a public key as PEM (RS, PS, ES or EdDSA by what key it is),
    /// or with a secret of 32 bytes or more (HS256, with 48 HS384 too, with 64 HS512 too). Read again when it changes
    #[arg(long, env = "ROLLCALL_JWT_KEY", value_name = "FILE")]
    jwt_key: Option<PathBuf>,

    /// The set of public keys (JWKS) that tokens are checked with: an https URL, or a file. A URL is asked every five
    /// minutes, and early when a token names a key that is not known; a file is read again when it changes
    #[arg(long, env = "ROLLCALL_JWKS", value_name = "URL|FILE", hide_env_values = true)]
    jwks: Option<KeySource>,

    /// Who must have issued a token (`iss`). May be repeated or separated by commas: one of them. Unless told
    /// otherwise: whoever has the key
    #[arg(long = "jwt-issuer", env = "ROLLCALL_JWT_ISSUER", value_name = "ISSUER", value_delimiter = ',')]
    jwt_issuers: Vec<String>,

    /// For whom a token must be meant (`aud`). May be repeated or separated by commas: one of them. Unless told
    /// otherwise a token that is meant for somebody is refused
    #[arg(long = "jwt-audience", env = "ROLLCALL_JWT_AUDIENCE", value_name = "AUDIENCE", value_delimiter = ',')]
    jwt_audiences: Vec<String>,

    /// The claim that is `id_user`. Unless told otherwise `sub`
    #[arg(long, env = "ROLLCALL_JWT_USER_CLAIM", value_name = "CLAIM")]
    jwt_user_claim: Option<String>,

    /// How long a socket may stay after its token has expired; then its connection ends, and its client comes back with
    /// a new one. Unless told otherwise not at all
    #[arg(long, env = "ROLLCALL_JWT_GRACE", value_name = "DURATION", value_parser = values::grace)]
    jwt_grace: Option<Duration>,

    /// Who may call the roll. `open`: whoever reaches the port. `token`: whoever has one of --api-token-file. `jwt`:
    /// whoever has a token whose `roll_call` claim covers the room. Unless told otherwise `open` with --identity query,
    /// and `jwt` with --identity jwt
    #[arg(long, env = "ROLLCALL_API_ACCESS", value_name = "WHO")]
    api_access: Option<ApiAccess>,

    /// A file of lines `<name>: <token>`: each token may call every roll. Read again when it changes
    #[arg(long, env = "ROLLCALL_API_TOKEN_FILE", value_name = "FILE")]
    api_token_file: Option<PathBuf>,
}

/// How users are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IdentityBy {
    /// Clients say who they are.
    Query,
    /// Tokens say it.
    Jwt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ApiAccess {
    Open,
    Token,
    Jwt,
}

/// Where a set of keys is said to be. Its `Debug` shows nothing: the query of a URL may be a secret.
#[derive(Clone)]
struct KeySource(String);

/// Where a set of keys is.
enum Keyring {
    Url(Url),
    File(PathBuf),
}

impl FromStr for KeySource {
    type Err = std::convert::Infallible;

    /// Takes any text: a refusal here would be shown together with the value. It is checked with the flags.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySource(…)")
    }
}

impl Keyring {
    fn parse(KeySource(text): &KeySource) -> Result<Self, &'static str> {
        if !text.contains("://") {
            return if text.is_empty() { Err("must be a URL or a file") } else { Ok(Self::File(text.into())) };
        }
        let url = Url::parse(text).map_err(|_| "is not a URL")?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not hold a name or a password");
        }
        match url.scheme() {
            "https" => Ok(Self::Url(url)),
            "http" if is_loopback(&url) => Ok(Self::Url(url)),
            "http" => Err("must be https, since whoever can change the answer decides who is let in"),
            _ => Err("must be an https URL or a file"),
        }
    }
}

impl AccessArgs {
    /// # Errors
    /// What does not fit together, in one line.
    pub(super) fn check(&self) -> Result<(), String> {
        let Some(identity) = self.identity else {
            return Err(
                "--identity is missing, and it decides who can be whom: `--identity jwt` takes it from tokens, `--identity \
                 query` believes every client and opens the roll to whoever reaches the port (development, trusted networks)"
                    .to_owned(),
            );
        };
        let refuse = |what: &str| Err(what.to_owned());
        match (identity, self.jwt_key.is_some(), self.jwks.is_some()) {
            (IdentityBy::Jwt, false, false) => {
                return refuse("--identity jwt needs a key to check tokens with: pass --jwt-key FILE or --jwks URL");
            }
            (IdentityBy::Jwt, true, true) => {
                return refuse("--jwt-key and --jwks exclude each other: several keys go into one set");
            }
            (IdentityBy::Query, ..) => {
                if let Some(flag) = self.of_tokens() {
                    return Err(format!(
                        "{flag} is about tokens, and with --identity query there are none: pass --identity jwt"
                    ));
                }
            }
            (IdentityBy::Jwt, ..) => {}
        }
        if self.jwt_issuers.iter().chain(&self.jwt_audiences).chain(&self.jwt_user_claim).any(String::is_empty) {
            return refuse("--jwt-issuer, --jwt-audience and --jwt-user-claim must not be empty");
        }
        if let Some(jwks) = &self.jwks {
            Keyring::parse(jwks).map_err(|error| format!("--jwks {error}"))?;
        }
        match (self.api(), &self.api_token_file) {
            (ApiAccess::Token, None) => refuse("--api-access token needs the tokens: pass --api-token-file FILE"),
            (ApiAccess::Open | ApiAccess::Jwt, Some(_)) => {
                refuse("--api-token-file lets nobody in unless --api-access token says so")
            }
            (ApiAccess::Jwt, None) if identity == IdentityBy::Query => {
                refuse("--api-access jwt is about the tokens of --identity jwt: pass that, or --api-access token")
            }
            _ => Ok(()),
        }
    }

    /// The first flag given that is about tokens.
    fn of_tokens(&self) -> Option<&'static str> {
        let given = [
            (self.jwt_key.is_some(), "--jwt-key"),
            (self.jwks.is_some(), "--jwks"),
            (!self.jwt_issuers.is_empty(), "--jwt-issuer"),
            (!self.jwt_audiences.is_empty(), "--jwt-audience"),
            (self.jwt_user_claim.is_some(), "--jwt-user-claim"),
            (self.jwt_grace.is_some(), "--jwt-grace"),
        ];
        given.into_iter().find_map(|(given, flag)| given.then_some(flag))
    }

    fn api(&self) -> ApiAccess {
        self.api_access.unwrap_or(match self.identity {
            Some(IdentityBy::Query) => ApiAccess::Open,
            Some(IdentityBy::Jwt) | None => ApiAccess::Jwt,
        })
    }

    fn user_claim(&self) -> &str {
        self.jwt_user_claim.as_deref().unwrap_or(SUBJECT)
    }

    fn grace(&self) -> Duration {
        self.jwt_grace.unwrap_or_default()
    }

    /// What follows from --identity.
    pub(super) fn implied(&self) -> Vec<Implied> {
        let by = "identity";
        let who = self.api().to_possible_value().map(|who| who.get_name().to_owned()).unwrap_or_default();
        let mut implied = vec![Implied { flag: "api-access", value: who, by }];
        if self.identity == Some(IdentityBy::Jwt) {
            let grace = humantime::format_duration(self.grace()).to_string();
            implied.push(Implied { flag: "jwt-user-claim", value: self.user_claim().to_owned(), by });
            implied.push(Implied { flag: "jwt-grace", value: grace, by });
        }
        implied
    }

    /// Reads the files.
    ///
    /// # Errors
    /// The flag, and what is wrong with its file.
    pub fn open(&self) -> anyhow::Result<Access> {
        let set = self.jwks.as_ref().map(Keyring::parse).transpose().map_err(anyhow::Error::msg).context("--jwks")?;
        let keys = match (&self.jwt_key, set) {
            (Some(file), _) => Some(Keys::File(read("--jwt-key", file, KeySet::of_file)?)),
            (None, Some(Keyring::File(file))) => Some(Keys::File(read("--jwks", &file, KeySet::of_jwks)?)),
            (None, Some(Keyring::Url(url))) => Some(Keys::Url(Jwks::new(url, Pace::default())?)),
            (None, None) => None,
        };
        let rules = Rules {
            issuers: self.jwt_issuers.clone(),
            audiences: self.jwt_audiences.clone(),
            user_claim: self.user_claim().to_owned(),
        };
        let verifier = keys.map(|keys| Verifier::new(keys, rules));
        let identity = match verifier.clone() {
            Some(verifier) => By::Jwt { verifier, grace: self.grace() },
            None => By::Query,
        };
        let callers = match (self.api(), verifier, &self.api_token_file) {
            (ApiAccess::Open, ..) => Callers::Anyone,
            (ApiAccess::Token, _, Some(file)) => Callers::Named(read("--api-token-file", file, Tokens::parse)?),
            (ApiAccess::Jwt, Some(verifier), _) => Callers::Jwt(verifier),
            (ApiAccess::Token | ApiAccess::Jwt, ..) => bail!("--api-access: nothing says whom to let in"),
        };
        Ok(Access { identity, callers })
    }
}

/// Watches a file. What is wrong with it is said with its flag and its name, and without what is in it.
pub(super) fn read<T, E>(flag: &'static str, file: &Path, make: fn(&[u8]) -> Result<T, E>) -> anyhow::Result<Watched<T>>
where
    T: Send + Sync + 'static,
    E: Error + Send + Sync + 'static,
{
    let name = file.display().to_string();
    let make = move |contents: &[Vec<u8>]| {
        let contents = contents.first().map(Vec::as_slice).unwrap_or_default();
        make(contents).with_context(|| name.clone())
    };
    Watched::open(vec![file.to_owned()], make).context(flag)
}

pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
