//! Whether a Redis that answers can be used, and what mends it where not ([`Incompatible`]).
//!
//! Owns the judgement of what its `INFO` says of it, and the trial of the commands that a node sends. Valkey and what
//! else speaks the protocol is judged by the version of Redis that it says it is like.

use ::redis::aio::MultiplexedConnection;
use ::redis::{RedisError, ServerErrorKind};
use smol_str::SmolStr;

use super::connect::ConnectError;

/// The oldest Redis whose access control can be told everything that docs/REDIS.md says of a node's user
/// (`resetchannels`). The commands themselves, and scripts that ask for the time before they write, are older.
const OLDEST: (u32, u32) = (6, 2);
const NEEDED: &str = "Redis 6.2 or newer, or Valkey";
/// The commands that a node sends, to be tried on a key of their own.
const PROBED: &[&[&str]] = &[
    &["SADD", "{}", "1"],
    &["EXPIRE", "{}", "1"],
    &["SMEMBERS", "{}"],
    &["SCARD", "{}"],
    &["SREM", "{}", "1"],
    &["SET", "{}", "1", "NX", "PX", "1000"],
    &["GET", "{}"],
    &["EXISTS", "{}"],
    &["UNLINK", "{}"],
    &["DEL", "{}"],
    &["TIME"],
    &["SCRIPT", "LOAD", "return 0"],
    // Of no script: whether it may be called is looked at before.
    &["EVALSHA", "0000000000000000000000000000000000000000", "1", "{}"],
];

/// Why a Redis that answers is not used. `Display` says how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    /// It could drop what this cluster relies on.
    #[error(
        "it may evict keys (maxmemory-policy is {0}), and the index with them; say `redis-cli CONFIG SET \
         maxmemory-policy noeviction` and keep it in its configuration, or pass --redis-allow-eviction"
    )]
    Evicts(String),
    /// It cannot be written to.
    #[error("it is a replica; name its master, or the Sentinels or the Cluster that know it")]
    Replica,
    /// `INFO` lacks what every Redis says of itself.
    #[error("its INFO names no {0}")]
    Unknown(&'static str),
    /// It lacks what a node needs.
    #[error("it is {0}, and a node needs {NEEDED}")]
    TooOld(String),
    /// It was told not to know a command, or is something that has never known it.
    #[error(
        "it does not know the command {0}, which a node sends; take it out of rename-command in its configuration, or \
         use {NEEDED}"
    )]
    Missing(&'static str),
    /// Its keys are spread over several nodes.
    #[error("it is a node of a Redis Cluster; say redis-cluster:// in --redis, and name a few of its nodes")]
    Cluster,
    /// It is no node of a Cluster.
    #[error("it is no node of a Redis Cluster; say redis:// in --redis instead of redis-cluster://")]
    NoCluster,
    /// It has no keys, and knows who has.
    #[error("it is a Sentinel; say redis-sentinel://<host:port>,…/<name of the master> in --redis")]
    Sentinel,
    /// It knows no masters.
    #[error("it is no Sentinel; name the ports of the Sentinels in --redis, 26379 as a rule, or say redis://")]
    NoSentinel,
    /// The Sentinels watch others.
    #[error(
        "the Sentinels know no master by the name of {0}; `redis-cli -p 26379 SENTINEL MASTERS` lists those they do"
    )]
    NoMaster(String),
    /// A Sentinel does not let this node ask.
    #[error(
        "a Sentinel does not let this node ask ({0}); look at --redis-sentinel-user and --redis-sentinel-password-file, \
         and at docs/REDIS.md for the ACL"
    )]
    SentinelLogin(String),
    /// Who answers may be anybody.
    #[error(
        "its certificate is not accepted ({0}); pass its CA with --redis-ca, and in --redis a host that its \
         certificate names"
    )]
    Untrusted(String),
    /// What listens there speaks no TLS.
    #[error("it does not speak TLS ({0}); say redis:// instead of rediss://, or name its TLS port")]
    NoTls(String),
    /// It does not accept this node's certificate, or misses one.
    #[error(
        "it does not accept this node's certificate ({0}); pass one of a CA that it knows with --redis-cert and --redis-key"
    )]
    Certificate(String),
    /// The user or the password is wrong, or missing.
    #[error(
        "it does not accept the user or the password ({0}); look at --redis-user and --redis-password-file, or the URL"
    )]
    Login(String),
    /// The user may not do what a node does.
    #[error("its user may not do what a node does ({0}); docs/REDIS.md has the ACL that a node needs")]
    Permission(String),
}

/// What a Redis that can be used says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct About {
    pub run_id: SmolStr,
    /// What it is, and of which version.
    pub server: String,
}

/// What `INFO` says of a Redis that can be used. `cluster`: it is to be a node of a Cluster.
pub(super) fn fit(about: &str, allow_eviction: bool, cluster: bool) -> Result<About, Incompatible> {
    let find = |name: &str| about.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let field = |name: &'static str| find(name).ok_or(Incompatible::Unknown(name));
    if find("sentinel_masters").is_some() {
        return Err(Incompatible::Sentinel);
    }
    let version = field("redis_version")?;
    let server = match find("valkey_version") {
        Some(valkey) => format!("Valkey {valkey}"),
        None => format!("Redis {version}"),
    };
    let mut numbers = version.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Err(Incompatible::Unknown("redis_version"));
    };
    if (major, minor) < OLDEST {
        return Err(Incompatible::TooOld(server));
    }
    if !cluster && find("cluster_enabled") == Some("1") {
        return Err(Incompatible::Cluster);
    }
    if field("role")? != "master" {
        return Err(Incompatible::Replica);
    }
    let policy = field("maxmemory_policy")?;
    if policy != "noeviction" && !allow_eviction {
        return Err(Incompatible::Evicts(policy.to_owned()));
    }
    Ok(About { run_id: field("run_id")?.into(), server })
}

/// Tries whether the user may do what a node does, on this key, which is gone afterwards.
pub(super) async fn probe(connection: &mut MultiplexedConnection, key: &str) -> Result<(), ConnectError> {
    let mut commands = ::redis::pipe();
    for probed in PROBED {
        let [command, arguments @ ..] = probed else { continue };
        commands.cmd(command);
        for argument in arguments {
            commands.arg(argument.replace("{}", key));
        }
    }
    let answers: Result<::redis::Value, RedisError> = commands.query_async(connection).await;
    let Err(error) = answers else { return Ok(()) };
    let Some(errors) = error.clone().into_server_errors() else { return Err(error.into()) };
    // What else may be wrong is told by the calls that meet it.
    for (number, error) in errors.iter() {
        if matches!(error.kind(), Some(ServerErrorKind::Moved | ServerErrorKind::ClusterDown)) {
            return Err(ConnectError::NotNow(error.to_string()));
        }
        if error.code() == "NOPERM" {
            return Err(Incompatible::Permission(error.to_string()).into());
        }
        if error.details().is_some_and(is_unknown_command) {
            let command = PROBED.get(*number).and_then(|probed| probed.first());
            return Err(Incompatible::Missing(command.copied().unwrap_or("of the trial")).into());
        }
    }
    Ok(())
}

/// Whether an error says that a command is not known.
pub(super) fn is_unknown_command(detail: &str) -> bool {
    detail.starts_with("unknown command")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REDIS: &str = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n# Memory\r\nmaxmemory_policy:noeviction\r\n\
                         # Replication\r\nrole:master\r\n# Cluster\r\ncluster_enabled:0\r\n";

    #[test]
    fn what_answers_is_called_by_its_name() {
        let about = |server: &str| Ok(About { run_id: "abc".into(), server: server.to_owned() });
        assert_eq!(fit(REDIS, false, false), about("Redis 7.0.15"));
        let valkey = REDIS.replace("7.0.15", "7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1");
        assert_eq!(fit(&valkey, false, false), about("Valkey 8.0.1"));
        for version in ["6.2.0", "6.10.1", "8.0", "255.255.255", "7.4-rc1.2"] {
            let said = fit(&REDIS.replace("7.0.15", version), false, false);
            assert_eq!(said.is_ok(), version != "7.4-rc1.2", "{version}");
        }
    }

    #[test]
    fn what_is_too_old_or_something_else_is_refused_with_what_mends_it() {
        assert!(NEEDED.starts_with(&format!("Redis {}.{} ", OLDEST.0, OLDEST.1)));
        let said = |from: &str, to: &str| fit(&REDIS.replace(from, to), false, false).unwrap_err();
        assert_eq!(said("7.0.15", "6.0.16"), Incompatible::TooOld("Redis 6.0.16".to_owned()));
        assert!(
            said("7.0.15", "5.0")
                .to_string()
                .ends_with("it is Redis 5.0, and a node needs Redis 6.2 or newer, or Valkey")
        );
        assert_eq!(said("7.0.15", "new"), Incompatible::Unknown("redis_version"));
        assert_eq!(said("redis_version", "version"), Incompatible::Unknown("redis_version"));
        assert_eq!(said("enabled:0", "enabled:1"), Incompatible::Cluster);
        assert_eq!(said("# Cluster", "# Sentinel\r\nsentinel_masters:1"), Incompatible::Sentinel);
        assert_eq!(said("role:master", "role:slave"), Incompatible::Replica);
        assert_eq!(said("noeviction", "allkeys-lru"), Incompatible::Evicts("allkeys-lru".to_owned()));
        assert_eq!(said("run_id", "id"), Incompatible::Unknown("run_id"));
        assert!(fit(&REDIS.replace("enabled:0", "enabled:1"), false, true).is_ok(), "where a Cluster is meant");
        assert!(fit(&REDIS.replace("noeviction", "allkeys-lru"), true, false).is_ok(), "whoever typed it has it");
    }
}
