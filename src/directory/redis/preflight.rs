//! Checks whether a Redis that answers can hold the index.
//!
//! Owns the check of its `INFO`, and a trial of every command that a node sends. Valkey and other servers are judged by
//! the `redis_version` that they report for compatibility.

use ::redis::aio::MultiplexedConnection;
use ::redis::{RedisError, ServerErrorKind};
use smol_str::SmolStr;

use super::error::{ConnectError, Incompatible, is_unknown_command};

/// The first version with the ACL rule `resetchannels`, which docs/REDIS.md recommends. Every command that a node sends,
/// and scripts that call TIME before they write, are older.
const MIN_VERSION: (u32, u32) = (6, 2);
/// The commands that a node sends, with `{}` for the key of the trial.
const PROBED_COMMANDS: &[&[&str]] = &[
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
    &["INFO", "replication"],
    &["SCRIPT", "LOAD", "return 0"],
    // There is no such script, but the ACL is checked first.
    &["EVALSHA", "0000000000000000000000000000000000000000", "1", "{}"],
];

/// The identity of a compatible Redis, from its `INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerInfo {
    pub(super) run_id: SmolStr,
    /// Product and version.
    pub(super) server: String,
}

/// Checks the text of `INFO`. `cluster`: whether a node of a Redis Cluster is expected.
pub(super) fn check_info(info: &str, allow_eviction: bool, cluster: bool) -> Result<ServerInfo, Incompatible> {
    let find = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let field = |name: &'static str| find(name).ok_or(Incompatible::MissingField(name));
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
        return Err(Incompatible::MissingField("redis_version"));
    };
    if (major, minor) < MIN_VERSION {
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
    // It tells whether the data went back. Some services hide it.
    if field("master_replid")?.trim_matches('0').is_empty() {
        return Err(Incompatible::MissingField("master_replid"));
    }
    Ok(ServerInfo { run_id: field("run_id")?.into(), server })
}

/// Tries every command of a node on `key`, and removes the key. Detects a missing permission at the start, not at the
/// first call that needs it.
pub(super) async fn probe(connection: &mut MultiplexedConnection, key: &str) -> Result<(), ConnectError> {
    let mut commands = ::redis::pipe();
    for probed in PROBED_COMMANDS {
        let [command, arguments @ ..] = probed else { continue };
        commands.cmd(command);
        for argument in arguments {
            commands.arg(argument.replace("{}", key));
        }
    }
    let answers: Result<::redis::Value, RedisError> = commands.query_async(connection).await;
    let Err(error) = answers else { return Ok(()) };
    let Some(errors) = error.clone().into_server_errors() else { return Err(error.into()) };
    // Other errors, such as a full memory, may pass: the calls that meet them report them.
    for (number, error) in errors.iter() {
        if matches!(error.kind(), Some(ServerErrorKind::Moved | ServerErrorKind::ClusterDown)) {
            return Err(ConnectError::SlotUnavailable(error.to_string()));
        }
        if error.code() == "NOPERM" {
            return Err(Incompatible::Permission(error.to_string()).into());
        }
        if error.details().is_some_and(is_unknown_command) {
            let command = PROBED_COMMANDS.get(*number).and_then(|probed| probed.first());
            return Err(Incompatible::MissingCommand(command.copied().unwrap_or("of the preflight")).into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::redis::error::REQUIRED;

    const REDIS: &str = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n# Memory\r\nmaxmemory_policy:noeviction\r\n\
                         # Replication\r\nrole:master\r\nmaster_replid:def\r\n# Cluster\r\ncluster_enabled:0\r\n";

    #[test]
    fn product_and_version_are_read_from_info() {
        let info = |server: &str| Ok(ServerInfo { run_id: "abc".into(), server: server.to_owned() });
        assert_eq!(check_info(REDIS, false, false), info("Redis 7.0.15"));
        let valkey = REDIS.replace("7.0.15", "7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1");
        assert_eq!(check_info(&valkey, false, false), info("Valkey 8.0.1"));
        for version in ["6.2.0", "6.10.1", "8.0", "255.255.255", "7.4-rc1.2"] {
            let result = check_info(&REDIS.replace("7.0.15", version), false, false);
            assert_eq!(result.is_ok(), version != "7.4-rc1.2", "{version}");
        }
    }

    #[test]
    fn an_incompatible_redis_is_refused_with_the_remedy() {
        assert!(REQUIRED.starts_with(&format!("Redis {}.{} ", MIN_VERSION.0, MIN_VERSION.1)));
        let refusal = |from: &str, to: &str| check_info(&REDIS.replace(from, to), false, false).unwrap_err();
        assert_eq!(refusal("7.0.15", "6.0.16"), Incompatible::TooOld("Redis 6.0.16".to_owned()));
        assert!(
            refusal("7.0.15", "5.0")
                .to_string()
                .ends_with("it is Redis 5.0, but a node needs Redis 6.2 or newer, or Valkey")
        );
        assert_eq!(refusal("7.0.15", "new"), Incompatible::MissingField("redis_version"));
        assert_eq!(refusal("redis_version", "version"), Incompatible::MissingField("redis_version"));
        assert_eq!(refusal("enabled:0", "enabled:1"), Incompatible::Cluster);
        assert_eq!(refusal("# Cluster", "# Sentinel\r\nsentinel_masters:1"), Incompatible::Sentinel);
        assert_eq!(refusal("role:master", "role:slave"), Incompatible::Replica);
        assert_eq!(refusal("noeviction", "allkeys-lru"), Incompatible::Evicts("allkeys-lru".to_owned()));
        assert_eq!(refusal("run_id", "id"), Incompatible::MissingField("run_id"));
        assert_eq!(refusal("master_replid", "replid"), Incompatible::MissingField("master_replid"));
        assert_eq!(refusal("replid:def", "replid:000"), Incompatible::MissingField("master_replid"));
        assert!(check_info(&REDIS.replace("enabled:0", "enabled:1"), false, true).is_ok(), "a Cluster is expected");
        assert!(check_info(&REDIS.replace("noeviction", "allkeys-lru"), true, false).is_ok(), "eviction is allowed");
    }
}
