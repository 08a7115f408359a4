//! The flags of authentication: of clients by their user id, of API callers, and of operators.
//!
//! Owns which flags belong together. Secrets are in files, never in a flag; the node reloads the files when they change.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use reqwest::Url;
use url::Host;

use crate::auth::jwks::{Jwks, JwksIntervals};
use crate::auth::keys::KeySet;
use crate::auth::reload::Reloadable;
use crate::auth::tokens::{NamedTokens, Secret};
use crate::auth::verifier::{KeySource, SUBJECT, TokenRules, TokenVerifier};
use crate::auth::{AccessPolicy, ApiAuth, IdentityMode};
use crate::commands::admin_client::AdminClient;
use crate::commands::args::origin::ImpliedValue;
use crate::commands::args::values;
use crate::commands::args::values::HostPort;

#[derive(Debug, Args)]
pub struct AccessArgs {
    /// Source of user ids. Required, because it decides whether a client can claim any user id.
    /// `query`: the client sends its `id_user` unchecked, and anyone who reaches the port can call the roll: for
    /// development and trusted networks.
    /// `jwt`: a JSON Web Token proves it, verified with --jwt-key or --jwks
    #[arg(long, env = "ROLLCALL_IDENTITY", value_name = "HOW")]
    identity: Option<IdentitySource>,

    /// File with the key that verifies tokens: a public key in PEM, or a secret. The key decides the algorithm: RS, PS, ES or
    /// EdDSA for a public key. A secret needs at least 32 bytes for HS256, 48 for HS384 and 64 for HS512. Reloaded when it
    /// changes
    #[arg(long, env = "ROLLCALL_JWT_KEY", value_name = "FILE")]
    jwt_key: Option<PathBuf>,

    /// Set of public keys (JWKS) that verify tokens: an https URL or a file. A URL is fetched every five minutes, and
    /// earlier when a token names an unknown key. A file is reloaded when it changes
    #[arg(long, env = "ROLLCALL_JWKS", value_name = "URL|FILE", hide_env_values = true)]
    jwks: Option<JwksLocation>,

    /// Accepted issuers (`iss`) of tokens; may be repeated or separated by commas. Default: any issuer whose signature is
    /// valid
    #[arg(long = "jwt-issuer", env = "ROLLCALL_JWT_ISSUER", value_name = "ISSUER", value_delimiter = ',')]
    jwt_issuers: Vec<String>,

    /// Accepted audiences (`aud`) of tokens; may be repeated or separated by commas. Default: only tokens without an
    /// audience
    #[arg(long = "jwt-audience", env = "ROLLCALL_JWT_AUDIENCE", value_name = "AUDIENCE", value_delimiter = ',')]
    jwt_audiences: Vec<String>,

    /// Claim that contains the user id. Default: sub
    #[arg(long, env = "ROLLCALL_JWT_USER_CLAIM", value_name = "CLAIM")]
    jwt_user_claim: Option<String>,

    /// Time that a socket may stay connected after its token expired. Then its connection is closed, and the client
    /// reconnects with a new token. Default: 0s
    #[arg(long, env = "ROLLCALL_JWT_GRACE", value_name = "DURATION", value_parser = values::grace)]
    jwt_grace: Option<Duration>,

    /// Permission to request roll calls. `open`: anyone who reaches the port. `token`: holders of a token of
    /// --api-token-file. `jwt`: holders of a JSON Web Token whose claim `roll_call` covers the room. Default: open with
    /// --identity query, jwt with --identity jwt
    #[arg(long, env = "ROLLCALL_API_ACCESS", value_name = "WHO")]
    api_access: Option<ApiAccessMode>,

    /// File with lines `<name>: <token>`: each token may call the roll of every room. Reloaded when it changes
    #[arg(long, env = "ROLLCALL_API_TOKEN_FILE", value_name = "FILE")]
    api_token_file: Option<PathBuf>,
}

/// The values of --identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IdentitySource {
    Query,
    Jwt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ApiAccessMode {
    Open,
    Token,
    Jwt,
}

/// The text of --jwks. Its `Debug` shows nothing, because the query of a URL may be a secret.
#[derive(Clone)]
struct JwksLocation(String);

/// The parsed --jwks.
enum JwksSource {
    Url(Url),
    File(PathBuf),
}

impl FromStr for JwksLocation {
    type Err = std::convert::Infallible;

    /// Accepts any text: clap would print an invalid value, and with it a secret. The flags are checked later.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for JwksLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JwksLocation(…)")
    }
}

impl JwksSource {
    fn parse(JwksLocation(text): &JwksLocation) -> Result<Self, &'static str> {
        if !text.contains("://") {
            return if text.is_empty() { Err("must be a URL or a file") } else { Ok(Self::File(text.into())) };
        }
        let url = Url::parse(text).map_err(|_| "is not a URL")?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not contain a user or a password");
        }
        match url.scheme() {
            "https" => Ok(Self::Url(url)),
            "http" if is_loopback(&url) => Ok(Self::Url(url)),
            "http" => Err("must be https: a forged answer would let an attacker sign tokens"),
            _ => Err("must be an https URL or a file"),
        }
    }
}

impl AccessArgs {
    /// # Errors
    /// One line that names the flag to mend.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Some(identity) = self.identity else {
            return Err(
                "--identity is missing: pass `--identity jwt` to verify user ids with tokens, or `--identity query` to trust \
                 every client and to let anyone who reaches the port call the roll (development, trusted networks)"
                    .to_owned(),
            );
        };
        let refuse = |what: &str| Err(what.to_owned());
        match (identity, self.jwt_key.is_some(), self.jwks.is_some()) {
            (IdentitySource::Jwt, false, false) => {
                return refuse("--identity jwt needs a key to verify tokens: pass --jwt-key FILE or --jwks URL");
            }
            (IdentitySource::Jwt, true, true) => {
                return refuse("--jwt-key and --jwks exclude each other: put several keys into one JWKS");
            }
            (IdentitySource::Query, ..) => {
                if let Some(flag) = self.token_flag() {
                    return Err(format!(
                        "{flag} is about tokens, which --identity query does not use: pass --identity jwt"
                    ));
                }
            }
            (IdentitySource::Jwt, ..) => {}
        }
        if self.jwt_issuers.iter().chain(&self.jwt_audiences).chain(&self.jwt_user_claim).any(String::is_empty) {
            return refuse("--jwt-issuer, --jwt-audience and --jwt-user-claim must not be empty");
        }
        if let Some(jwks) = &self.jwks {
            JwksSource::parse(jwks).map_err(|error| format!("--jwks {error}"))?;
        }
        match (self.api(), &self.api_token_file) {
            (ApiAccessMode::Token, None) => refuse("--api-access token needs tokens: pass --api-token-file FILE"),
            (ApiAccessMode::Open | ApiAccessMode::Jwt, Some(_)) => {
                refuse("--api-token-file is unused unless --api-access token is passed")
            }
            (ApiAccessMode::Jwt, None) if identity == IdentitySource::Query => {
                refuse("--api-access jwt verifies the tokens of --identity jwt: pass that, or --api-access token")
            }
            _ => Ok(()),
        }
    }

    /// The first given flag that is about tokens.
    fn token_flag(&self) -> Option<&'static str> {
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

    fn api(&self) -> ApiAccessMode {
        self.api_access.unwrap_or(match self.identity {
            Some(IdentitySource::Query) => ApiAccessMode::Open,
            Some(IdentitySource::Jwt) | None => ApiAccessMode::Jwt,
        })
    }

    fn user_claim(&self) -> &str {
        self.jwt_user_claim.as_deref().unwrap_or(SUBJECT)
    }

    fn grace(&self) -> Duration {
        self.jwt_grace.unwrap_or_default()
    }

    /// The defaults that --identity implies.
    pub(crate) fn implied(&self) -> Vec<ImpliedValue> {
        let by = "identity";
        let who = self.api().to_possible_value().map(|who| who.get_name().to_owned()).unwrap_or_default();
        let mut implied = vec![ImpliedValue { flag: "api-access", value: who, by }];
        if self.identity == Some(IdentitySource::Jwt) {
            let grace = humantime::format_duration(self.grace()).to_string();
            implied.push(ImpliedValue { flag: "jwt-user-claim", value: self.user_claim().to_owned(), by });
            implied.push(ImpliedValue { flag: "jwt-grace", value: grace, by });
        }
        implied
    }

    /// Reads the files.
    ///
    /// # Errors
    /// The flag, and what is wrong with its file.
    pub fn open(&self) -> anyhow::Result<AccessPolicy> {
        let set =
            self.jwks.as_ref().map(JwksSource::parse).transpose().map_err(anyhow::Error::msg).context("--jwks")?;
        let keys = match (&self.jwt_key, set) {
            (Some(file), _) => Some(KeySource::File(open_file("--jwt-key", file, KeySet::of_file)?)),
            (None, Some(JwksSource::File(file))) => Some(KeySource::File(open_file("--jwks", &file, KeySet::of_jwks)?)),
            (None, Some(JwksSource::Url(url))) => Some(KeySource::Url(Jwks::new(url, JwksIntervals::default())?)),
            (None, None) => None,
        };
        let rules = TokenRules {
            issuers: self.jwt_issuers.clone(),
            audiences: self.jwt_audiences.clone(),
            user_claim: self.user_claim().to_owned(),
        };
        let verifier = keys.map(|keys| TokenVerifier::new(keys, rules));
        let identity = match verifier.clone() {
            Some(verifier) => IdentityMode::Jwt { verifier, grace: self.grace() },
            None => IdentityMode::Query,
        };
        let callers = match (self.api(), verifier, &self.api_token_file) {
            (ApiAccessMode::Open, ..) => ApiAuth::Anyone,
            (ApiAccessMode::Token, _, Some(file)) => {
                ApiAuth::Named(open_file("--api-token-file", file, NamedTokens::parse)?)
            }
            (ApiAccessMode::Jwt, Some(verifier), _) => ApiAuth::Jwt(verifier),
            (ApiAccessMode::Token | ApiAccessMode::Jwt, ..) => {
                bail!("--api-access: no tokens and no key are configured")
            }
        };
        Ok(AccessPolicy { identity, callers })
    }
}

/// Reads a file, which is reloaded when it changes. An error names the flag and the file, and repeats no content.
pub(crate) fn open_file<T, E>(
    flag: &'static str,
    file: &Path,
    make: fn(&[u8]) -> Result<T, E>,
) -> anyhow::Result<Reloadable<T>>
where
    T: Send + Sync + 'static,
    E: Error + Send + Sync + 'static,
{
    let name = file.display().to_string();
    let make = move |contents: &[Vec<u8>]| {
        let contents = contents.first().map(Vec::as_slice).unwrap_or_default();
        make(contents).with_context(|| name.clone())
    };
    Reloadable::open(vec![file.to_owned()], make).context(flag)
}

pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The flags of `serve`.
#[derive(Debug, Args)]
pub struct AdminPortArgs {
    /// File with lines `<name>: <token>`. A holder of one of these tokens may read the status of the cluster and the roll
    /// of any room on the admin port, and change the log levels. Without this file the levels cannot be changed, and only
    /// this machine can read. Reloaded when it changes
    #[arg(long, env = "ROLLCALL_ADMIN_TOKEN_FILE", value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
}

/// The node that a subcommand asks.
#[derive(Debug, Args)]
pub struct AdminTarget {
    /// Admin port of the node. An address that means "all interfaces", such as 0.0.0.0, is asked over loopback
    #[arg(long, default_value = "127.0.0.1:9001", env = "ROLLCALL_ADMIN_LISTEN", value_name = "HOST:PORT")]
    admin: HostPort,

    /// The --admin-token-file of the node, or a file with one line of it. The first token is sent
    #[arg(long, env = "ROLLCALL_ADMIN_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl AdminPortArgs {
    /// Reads the token file.
    ///
    /// # Errors
    /// The flag, and what is wrong with its file.
    pub fn open(&self) -> anyhow::Result<Option<Reloadable<NamedTokens>>> {
        self.admin_token_file.as_ref().map(|file| open_file("--admin-token-file", file, NamedTokens::parse)).transpose()
    }
}

impl AdminTarget {
    /// Reads the token file.
    ///
    /// # Errors
    /// The flag, and what is wrong with its file.
    pub fn client(&self) -> Result<AdminClient, String> {
        let file = self.token_file.as_ref();
        let token = file.map(|file| open_file("--token-file", file, Secret::first_of)).transpose();
        let token = token.map_err(|error| format!("{error:#}"))?;
        Ok(AdminClient::new(self.admin.as_str(), token.map(|token| token.current())))
    }
}
