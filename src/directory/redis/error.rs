//! Why there is no usable Redis connection, and what the operator can do about it.
//!
//! Owns the two kinds of cause: a Redis that answers but must be reconfigured ([`Incompatible`]), at which a node refuses
//! to start, and one that may work later ([`ConnectError`]). No error contains a credential.

use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use ::redis::{ErrorKind, RedisError, ServerErrorKind};

/// The longest that any call waits for Redis, connecting included.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// The part of [`CALL_TIMEOUT`] that a TLS handshake may take.
pub(super) const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(700);
/// The requirement that errors name.
pub(super) const REQUIRED: &str = "Redis 6.2 or newer, or Valkey";

/// Why a Redis that answers is not used. The message contains the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    #[error(
        "it may evict keys (maxmemory-policy is {0}), and the index with them; run `redis-cli CONFIG SET \
         maxmemory-policy noeviction` and set it in the configuration file, or pass --redis-allow-eviction"
    )]
    Evicts(String),
    #[error("it is a replica; name its master in --redis, or the Sentinels or the Cluster that know the master")]
    Replica,
    /// Every Redis has this field in `INFO`, but some services hide it.
    #[error("its INFO hides the field {0}; use a Redis that shows it to this user")]
    MissingField(&'static str),
    #[error("it is {0}, but a node needs {REQUIRED}")]
    TooOld(String),
    #[error(
        "it does not know the command {0}, which a node sends; remove it from rename-command in the configuration, or \
         use {REQUIRED}"
    )]
    MissingCommand(&'static str),
    #[error("it is a node of a Redis Cluster; use redis-cluster:// in --redis, and name some of the nodes")]
    Cluster,
    #[error("it is not a node of a Redis Cluster; use redis:// instead of redis-cluster:// in --redis")]
    NoCluster,
    #[error("it is a Sentinel; use redis-sentinel://<host:port>,…/<name of the master> in --redis")]
    Sentinel,
    #[error("it is not a Sentinel; name the ports of the Sentinels in --redis (26379 by default), or use redis://")]
    NoSentinel,
    #[error(
        "the Sentinels know no master by the name of {0}; `redis-cli -p 26379 SENTINEL MASTERS` lists those they know"
    )]
    UnknownMaster(String),
    #[error(
        "a Sentinel does not let this node ask for the master ({0}); check --redis-sentinel-user and \
         --redis-sentinel-password-file, and the ACL in docs/REDIS.md"
    )]
    SentinelLogin(String),
    #[error(
        "its TLS certificate is not trusted ({0}); pass its CA with --redis-ca, and in --redis a host name that is in \
         the certificate"
    )]
    Untrusted(String),
    #[error("it does not speak TLS ({0}); use redis:// instead of rediss://, or its TLS port")]
    NoTls(String),
    #[error(
        "it rejects this node's TLS certificate ({0}); pass one of a CA that it trusts with --redis-cert and --redis-key"
    )]
    ClientCertificate(String),
    #[error(
        "it does not accept the user or the password ({0}); check --redis-user and --redis-password-file, or the URL"
    )]
    Login(String),
    #[error("its user may not do what a node does ({0}); docs/REDIS.md has the ACL that a node needs")]
    Permission(String),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Failed(RedisError),
    #[error("no answer within {CALL_TIMEOUT:?}")]
    Timeout,
    /// A Redis without TLS takes the handshake for the beginning of a command, and waits for the rest.
    #[error("no answer to the TLS handshake within {TLS_HANDSHAKE_TIMEOUT:?}; is this its TLS port?")]
    TlsTimeout,
    /// The Cluster is being created, or has lost a part.
    #[error("no node of the Cluster owns the slot of the keys")]
    UnassignedSlot,
    #[error("malformed answer to the question for the master")]
    MalformedAnswer,
    /// Another node of the Cluster owns the slot, or too many nodes are down.
    #[error("the Cluster does not serve the keys from this node now ({0})")]
    SlotUnavailable(String),
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
}

/// The kind of a [`ConnectError`] without its details, to log each kind once.
pub(super) type ConnectErrorKind = (Discriminant<ConnectError>, Option<Discriminant<Incompatible>>);

impl ConnectError {
    pub(super) fn kind(&self) -> ConnectErrorKind {
        let incompatible = if let Self::Incompatible(cause) = self { Some(discriminant(cause)) } else { None };
        (discriminant(self), incompatible)
    }
}

impl From<RedisError> for ConnectError {
    fn from(error: RedisError) -> Self {
        let text = error.detail().map_or_else(|| error.to_string(), ToOwned::to_owned);
        let io = error.kind() == ErrorKind::Io;
        match error.kind() {
            ErrorKind::AuthenticationFailed => Incompatible::Login(text).into(),
            ErrorKind::Server(ServerErrorKind::NoPerm) => Incompatible::Permission(text).into(),
            _ if matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) => Incompatible::Login(text).into(),
            _ if is_unknown_command(&text) => Incompatible::MissingCommand("INFO").into(),
            // The error of rustls arrives as text only.
            _ if io && text.contains("invalid peer certificate") => Incompatible::Untrusted(text).into(),
            _ if io && text.contains("received fatal alert") => Incompatible::ClientCertificate(text).into(),
            _ if io && text.contains("received corrupt message") => Incompatible::NoTls(text).into(),
            _ => Self::Failed(error),
        }
    }
}

pub(super) fn is_unknown_command(detail: &str) -> bool {
    detail.starts_with("unknown command")
}
