//! Redis URLs: of one Redis, of Sentinels that know a master, or of nodes of a Cluster.
//!
//! Owns the schemes and the error texts, which never repeat the URL, because it may contain a password. The Redis library
//! parses each address and the credentials.

use ::redis::{ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, RedisError};
use percent_encoding::percent_decode_str;

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// Why a URL is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a usable Redis URL, such as redis://127.0.0.1:6379, redis-sentinel://a:26379,b:26379/mymaster or \
     redis-cluster://a:6379,b:6379 ({0})"
)]
pub struct InvalidRedisUrl(String);

/// How to find the master that has the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// At the address in the URL.
    Direct,
    /// From Sentinels, which know it by this name.
    Sentinel { master: String },
    /// From Cluster nodes: the node that owns the slot of the keys.
    Cluster,
}

/// A parsed URL.
#[derive(Debug, Clone)]
pub struct RedisTarget {
    pub tls: bool,
    pub topology: Topology,
    /// The addresses of the Redis, the Sentinels, or some nodes of the Cluster. Never empty.
    pub(super) seeds: Vec<ConnectionAddr>,
    /// The credentials and the database of the master.
    pub(super) settings: RedisConnectionInfo,
}

impl RedisTarget {
    /// # Errors
    /// If the URL is not usable. The message contains the reason.
    pub fn parse(url: &str) -> Result<Self, InvalidRedisUrl> {
        let Some((scheme, rest)) = url.split_once("://") else { return Self::direct(url, false) };
        let (base, way) = match scheme.rsplit_once('-') {
            Some((base, way @ ("sentinel" | "cluster"))) => (base, way),
            _ => (scheme, ""),
        };
        let tls = matches!(base, "rediss" | "valkeys");
        if tls && rest.contains('#') {
            return invalid("it must not contain a #; pass the trusted CA with --redis-ca");
        }
        if way.is_empty() {
            // The library does not handle TLS here, so it gets the URL without it.
            return if tls { Self::direct(&format!("redis://{rest}"), true) } else { Self::direct(url, false) };
        }
        if !tls && !matches!(base, "redis" | "valkey") {
            return invalid("unknown scheme");
        }
        let (before, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        let (authority, path) = before.split_once('/').unwrap_or((before, ""));
        let path = path.trim_end_matches('/');
        if way == "cluster" {
            if !matches!(path, "" | "0") {
                return invalid("a Redis Cluster has no database but 0");
            }
            let (seeds, settings) = parse_addresses(authority, REDIS_PORT, "", query)?;
            return Ok(Self { tls, topology: Topology::Cluster, seeds, settings });
        }
        let (name, database) = path.split_once('/').unwrap_or((path, ""));
        let master = percent_decode_str(name).decode_utf8().map(String::from).unwrap_or_default();
        if master.is_empty() || master.contains(char::is_control) {
            return invalid("the path must be the name of the master that the Sentinels know, as in /mymaster");
        }
        let (seeds, settings) = parse_addresses(authority, SENTINEL_PORT, database, query)?;
        Ok(Self { tls, topology: Topology::Sentinel { master }, seeds, settings })
    }

    fn direct(url: &str, tls: bool) -> Result<Self, InvalidRedisUrl> {
        let info = url.into_connection_info().map_err(|error| unusable(&error))?;
        Ok(Self {
            tls,
            topology: Topology::Direct,
            seeds: vec![info.addr().clone()],
            settings: info.redis_settings().clone(),
        })
    }
}

/// Parses addresses that are separated by commas, and the settings that they share.
fn parse_addresses(
    authority: &str,
    port: u16,
    database: &str,
    query: &str,
) -> Result<(Vec<ConnectionAddr>, RedisConnectionInfo), InvalidRedisUrl> {
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    let mut seeds = Vec::new();
    let mut settings = None;
    for host in hosts.split(',') {
        if host.is_empty() {
            return invalid("a host is missing");
        }
        // The colons of an IPv6 address are within brackets.
        let has_port = host.rsplit(']').next().unwrap_or(host).contains(':');
        let port = if has_port { String::new() } else { format!(":{port}") };
        let info = format!("redis://{user}{host}{port}/{database}{query}")
            .into_connection_info()
            .map_err(|error| unusable(&error))?;
        seeds.push(info.addr().clone());
        settings = Some(info.redis_settings().clone());
    }
    settings.map(|settings| (seeds, settings)).ok_or_else(|| InvalidRedisUrl("a host is missing".to_owned()))
}

fn invalid<T>(why: &str) -> Result<T, InvalidRedisUrl> {
    Err(InvalidRedisUrl(why.to_owned()))
}

fn unusable(error: &RedisError) -> InvalidRedisUrl {
    InvalidRedisUrl(error.to_string())
}

/// Formats an address as `host:port`.
pub(super) fn host_and_port(address: &ConnectionAddr) -> String {
    match address {
        ConnectionAddr::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
        ConnectionAddr::Tcp(host, port) => format!("{host}:{port}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> (bool, Topology, Vec<String>) {
        let target = RedisTarget::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        (target.tls, target.topology, target.seeds.iter().map(host_and_port).collect())
    }

    #[test]
    fn each_scheme_yields_its_addresses_and_topology() {
        let sentinel = |name: &str| Topology::Sentinel { master: name.to_owned() };
        for (url, tls, way, seeds) in [
            ("redis://a", false, Topology::Direct, &["a:6379"] as &[&str]),
            ("rediss://a:1/3", true, Topology::Direct, &["a:1"]),
            ("valkey://[::1]:2", false, Topology::Direct, &["[::1]:2"]),
            ("valkeys://a", true, Topology::Direct, &["a:6379"]),
            ("redis-sentinel://a:1,b/main", false, sentinel("main"), &["a:1", "b:26379"]),
            ("rediss-sentinel://a/main/", true, sentinel("main"), &["a:26379"]),
            (
                "valkey-sentinel://[fd00::1],[fd00::2]:7/a%2Fb/3",
                false,
                sentinel("a/b"),
                &["[fd00::1]:26379", "[fd00::2]:7"],
            ),
            ("redis-cluster://a,b:7000/", false, Topology::Cluster, &["a:6379", "b:7000"]),
            ("valkeys-cluster://a:1/0", true, Topology::Cluster, &["a:1"]),
        ] {
            let seeds = seeds.iter().map(|seed| (*seed).to_owned()).collect();
            assert_eq!(read(url), (tls, way, seeds), "{url}");
        }
    }

    #[test]
    fn credentials_and_database_belong_to_the_master() {
        for url in ["redis://me:p%40ss@a/3", "redis-sentinel://me:p%40ss@a,b:1/main/3?protocol=resp3"] {
            let settings = RedisTarget::parse(url).unwrap().settings;
            assert_eq!((settings.username(), settings.password(), settings.db()), (Some("me"), Some("p@ss"), 3));
        }
        assert_eq!(RedisTarget::parse("redis-cluster://:secret@a,b").unwrap().settings.password(), Some("secret"));
    }

    #[test]
    fn an_unusable_url_is_refused_and_not_repeated() {
        for (url, why) in [
            ("hunter2", ""),
            ("http://hunter2", ""),
            ("http-cluster://hunter2", "unknown scheme"),
            ("redis-fleet://hunter2", ""),
            ("redis-sentinel://hunter2", "name of the master"),
            ("redis-sentinel://hunter2/", "name of the master"),
            ("redis-sentinel://hunter2/%00", "name of the master"),
            ("redis-sentinel://hunter2/%ff", "name of the master"),
            ("redis-sentinel://hunter2/main/two", "database"),
            ("redis-sentinel:///hunter2", "host is missing"),
            ("redis-cluster://hunter2,,b", "host is missing"),
            ("redis-cluster://hunter2,", "host is missing"),
            ("redis-cluster://hunter2:x,b", ""),
            ("redis-cluster://hunter2/1", "no database but 0"),
            ("redis-cluster://0.0.0.0", "wildcard"),
            ("rediss-cluster://hunter2#insecure", "--redis-ca"),
            ("rediss://hunter2/#insecure", "--redis-ca"),
        ] {
            let error = RedisTarget::parse(url).map(drop).expect_err(url).to_string();
            assert!(error.contains(why) && !error.contains("hunter2"), "{url}: {error}");
        }
    }
}
