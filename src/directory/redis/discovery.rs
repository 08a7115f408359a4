//! Finds the master that has the keys: in the URL, from the Sentinels, or from the nodes of the Cluster.
//!
//! Owns the question, the choice between different answers, and the periodic check while a connection is open: a master
//! that was replaced may accept writes for a while without knowing. Sentinels or nodes are asked in parallel, each with
//! [`ANSWER_TIMEOUT`], so that a hanging one delays nothing. Their connections are kept for the next question.
//!
//! Of Sentinels, the newest configuration is believed; of Cluster nodes, the majority. Owns no connection to the master.

use std::collections::HashMap;
use std::future::pending;
use std::time::Duration;

use ::redis::{ConnectionAddr, RedisError, Value};
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::connect::{OpenConnection, RedisDialer};
use super::error::{ConnectError, Incompatible, is_unknown_command};
use super::url::{Topology, host_and_port};

/// The timeout of each answer, connecting included.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(400);
/// The interval of the check while a connection is open.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of Cluster nodes to ask in addition to those in the URL.
const MAX_LEARNED_NODES: usize = 16;

/// Finds the master of one index.
pub(super) struct MasterDiscovery {
    topology: Topology,
    seeds: Vec<ConnectionAddr>,
    /// The slot that all keys are in.
    slot: u16,
    cache: Mutex<DiscoveryCache>,
}

#[derive(Default)]
struct DiscoveryCache {
    /// The nodes of the Cluster, from the answer that was believed last.
    learned: Vec<ConnectionAddr>,
    /// Open connections by `host:port`.
    open: HashMap<String, OpenConnection>,
}

/// The answer of one Sentinel or Cluster node.
#[derive(Debug, Clone, PartialEq)]
struct MasterReport {
    master: ConnectionAddr,
    /// From a Sentinel: grows with every failover. Otherwise 0.
    epoch: u64,
    /// From a Cluster node: all nodes that it knows.
    nodes: Vec<ConnectionAddr>,
}

impl MasterDiscovery {
    pub(super) fn new(topology: Topology, seeds: Vec<ConnectionAddr>, slot: u16) -> Self {
        Self { topology, seeds, slot, cache: Mutex::default() }
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(super) fn seeds(&self) -> &[ConnectionAddr] {
        &self.seeds
    }

    /// Returns the address of the master. Takes little longer than [`ANSWER_TIMEOUT`].
    pub(super) async fn find(&self, dialer: &RedisDialer) -> Result<ConnectionAddr, ConnectError> {
        if self.topology == Topology::Direct {
            return Ok(self.seeds[0].clone());
        }
        let asked = self.candidates();
        let answers = join_all(asked.iter().map(|address| self.ask(dialer, address))).await;
        let mut reports = Vec::new();
        let mut failed = None;
        for answer in answers {
            match answer {
                Ok(report) => reports.push(report),
                // A failure that the operator can remedy is reported rather than a timeout.
                Err(error @ ConnectError::Incompatible(_))
                    if !matches!(failed, Some(ConnectError::Incompatible(_))) =>
                {
                    failed = Some(error);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let Some(believed) = most_credible(&reports) else { return Err(failed.unwrap_or(ConnectError::Timeout)) };
        self.cache.lock().learned.clone_from(&believed.nodes);
        Ok(believed.master.clone())
    }

    /// Waits until the master has another address than `from`, and returns that. While no answer arrives, the master is
    /// assumed not to have moved.
    pub(super) async fn wait_for_move(&self, dialer: &RedisDialer, from: &ConnectionAddr) -> ConnectionAddr {
        if self.topology == Topology::Direct {
            return pending().await;
        }
        let mut checks = interval_at(Instant::now() + CHECK_INTERVAL, CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            checks.tick().await;
            if let Ok(found) = self.find(dialer).await
                && found != *from
            {
                return found;
            }
        }
    }

    /// The addresses to ask: those in the URL, and those learned since.
    fn candidates(&self) -> Vec<ConnectionAddr> {
        let mut cache = self.cache.lock();
        let learned = cache.learned.iter().filter(|address| !self.seeds.contains(address)).take(MAX_LEARNED_NODES);
        let asked: Vec<_> = self.seeds.iter().chain(learned).cloned().collect();
        cache.open.retain(|name, _| asked.iter().any(|address| host_and_port(address) == *name));
        asked
    }

    async fn ask(&self, dialer: &RedisDialer, address: &ConnectionAddr) -> Result<MasterReport, ConnectError> {
        let name = host_and_port(address);
        // Removed first, so that a connection that times out is not used again.
        let open = self.cache.lock().open.remove(&name);
        let asking = async {
            let mut connection = match open {
                Some(connection) => connection,
                None => match self.topology {
                    Topology::Sentinel { .. } => dialer.dial_sentinel(address).await.map_err(as_sentinel_error)?,
                    Topology::Cluster | Topology::Direct => dialer.dial(address).await?,
                },
            };
            let answer = match &self.topology {
                Topology::Sentinel { master } => ask_sentinel(&mut connection, master).await,
                Topology::Cluster | Topology::Direct => ask_node(&mut connection, self.slot, address).await,
            };
            if !matches!(answer, Err(ConnectError::Failed(_) | ConnectError::Timeout)) {
                self.cache.lock().open.insert(name, connection);
            }
            answer
        };
        timeout(ANSWER_TIMEOUT, asking).await.map_err(|_elapsed| ConnectError::Timeout)?
    }
}

/// Chooses the report with the newest configuration, then the majority, then the first.
fn most_credible(reports: &[MasterReport]) -> Option<&MasterReport> {
    let votes = |report: &MasterReport| reports.iter().filter(|other| other.master == report.master).count();
    let weight = |report: &MasterReport| (report.epoch, votes(report));
    // Reversed, because `max_by_key` returns the last of equal elements.
    reports.iter().rev().max_by_key(|report| weight(report))
}

async fn ask_sentinel(connection: &mut OpenConnection, master: &str) -> Result<MasterReport, ConnectError> {
    let mut command = ::redis::cmd("SENTINEL");
    command.arg("MASTER").arg(master);
    let fields: Result<HashMap<String, String>, RedisError> = command.query_async(&mut connection.redis).await;
    let fields = fields.map_err(|error| match error.detail() {
        Some(detail) if detail.starts_with("No such master") => Incompatible::UnknownMaster(master.to_owned()).into(),
        Some(detail) if is_unknown_command(detail) => Incompatible::NoSentinel.into(),
        _ => as_sentinel_error(error.into()),
    })?;
    let number = |name: &str| fields.get(name)?.parse().ok();
    let address = || Some(ConnectionAddr::Tcp(fields.get("ip")?.clone(), u16::try_from(number("port")?).ok()?));
    let master = address().ok_or(ConnectError::MalformedAnswer)?;
    Ok(MasterReport { master, epoch: number("config-epoch").unwrap_or_default(), nodes: Vec::new() })
}

/// A Sentinel has other credentials than the master, so its refusal needs another remedy.
fn as_sentinel_error(error: ConnectError) -> ConnectError {
    match error {
        ConnectError::Incompatible(Incompatible::Login(text) | Incompatible::Permission(text)) => {
            Incompatible::SentinelLogin(text).into()
        }
        other => other,
    }
}

async fn ask_node(
    connection: &mut OpenConnection,
    slot: u16,
    asked: &ConnectionAddr,
) -> Result<MasterReport, ConnectError> {
    let answer: Result<Value, RedisError> =
        ::redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection.redis).await;
    let ranges = answer.map_err(|error| match error.detail() {
        Some(detail) if detail.contains("cluster support disabled") => Incompatible::NoCluster.into(),
        Some(detail) if is_unknown_command(detail) => Incompatible::NoCluster.into(),
        _ => ConnectError::from(error),
    })?;
    read_slots(&ranges, slot, asked)
}

/// Reads the owner of the slot from `[[first, last, [host, port, …], …replicas], …]`. A node that does not know its own
/// host leaves it out: then it is the address that was asked.
fn read_slots(ranges: &Value, slot: u16, asked: &ConnectionAddr) -> Result<MasterReport, ConnectError> {
    let Value::Array(ranges) = ranges else { return Err(ConnectError::MalformedAnswer) };
    let mut answer: Option<MasterReport> = None;
    let mut nodes: Vec<ConnectionAddr> = Vec::new();
    for range in ranges {
        let Value::Array(range) = range else { return Err(ConnectError::MalformedAnswer) };
        let [Value::Int(first), Value::Int(last), named @ ..] = range.as_slice() else {
            return Err(ConnectError::MalformedAnswer);
        };
        let named: Vec<_> = named.iter().filter_map(|node| read_node(node, asked)).collect();
        if (*first..=*last).contains(&i64::from(slot)) {
            let master = named.first().cloned().ok_or(ConnectError::MalformedAnswer)?;
            answer = Some(MasterReport { master, epoch: 0, nodes: Vec::new() });
        }
        for node in named {
            if !nodes.contains(&node) && nodes.len() < MAX_LEARNED_NODES {
                nodes.push(node);
            }
        }
    }
    let answer = answer.ok_or(ConnectError::UnassignedSlot)?;
    Ok(MasterReport { nodes, ..answer })
}

fn read_node(node: &Value, asked: &ConnectionAddr) -> Option<ConnectionAddr> {
    let Value::Array(node) = node else { return None };
    let [host, Value::Int(port), ..] = node.as_slice() else { return None };
    let host = match host {
        Value::BulkString(host) => str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        Value::Nil => "",
        _ => return None,
    };
    let host = match (host, asked) {
        ("" | "?", ConnectionAddr::Tcp(asked, _)) => asked,
        _ => host,
    };
    Some(ConnectionAddr::Tcp(host.to_owned(), u16::try_from(*port).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> ConnectionAddr {
        ConnectionAddr::Tcp(host.to_owned(), port)
    }

    fn report(host: &str, epoch: u64) -> MasterReport {
        MasterReport { master: at(host, 1), epoch, nodes: Vec::new() }
    }

    #[test]
    fn the_newest_configuration_wins_then_the_majority() {
        let master = |said: &[MasterReport]| most_credible(said).map(|answer| answer.master.clone());
        assert_eq!(master(&[]), None);
        assert_eq!(master(&[report("old", 3), report("old", 3), report("new", 4)]), Some(at("new", 1)));
        assert_eq!(master(&[report("cut-off", 0), report("new", 0), report("new", 0)]), Some(at("new", 1)));
        assert_eq!(master(&[report("first", 0), report("second", 0)]), Some(at("first", 1)));
    }

    fn node(host: Value, port: i64) -> Value {
        Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec()), Value::Array(vec![])])
    }

    fn range(first: i64, last: i64, nodes: Vec<Value>) -> Value {
        Value::Array([vec![Value::Int(first), Value::Int(last)], nodes].concat())
    }

    #[test]
    fn the_first_node_of_a_slot_range_is_the_master() {
        let named = |host: &str| Value::BulkString(host.as_bytes().to_vec());
        let ranges = Value::Array(vec![
            range(0, 99, vec![node(named("a"), 1), node(named("b"), 2)]),
            range(100, 200, vec![node(Value::Nil, 3), node(named("?"), 4), node(named(""), 5)]),
        ]);
        let read = |slot| read_slots(&ranges, slot, &at("asked", 9));
        let nodes = vec![at("a", 1), at("b", 2), at("asked", 3), at("asked", 4), at("asked", 5)];
        let expected = |master| MasterReport { master, epoch: 0, nodes: nodes.clone() };
        assert_eq!(read(99).unwrap(), expected(at("a", 1)));
        assert_eq!(read(100).unwrap(), expected(at("asked", 3)), "the address that was asked");
        assert!(matches!(read(201), Err(ConnectError::UnassignedSlot)));
    }

    #[test]
    fn a_malformed_answer_is_an_error() {
        let asked = at("asked", 9);
        for wrong in [
            Value::Nil,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![Value::Array(vec![Value::Int(0)])]),
            Value::Array(vec![range(0, 9, vec![])]),
            Value::Array(vec![range(0, 9, vec![node(Value::Int(1), 1)])]),
            Value::Array(vec![range(0, 9, vec![node(Value::Nil, 65_536)])]),
        ] {
            assert!(matches!(read_slots(&wrong, 5, &asked), Err(ConnectError::MalformedAnswer)), "{wrong:?}");
        }
    }
}
