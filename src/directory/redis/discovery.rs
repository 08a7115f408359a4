//! Where the master is that has the keys: asked of the Sentinels, or of the nodes of the Cluster.
//!
//! Owns the question, whose answer is believed, and looking again while a connection stands: a master that was replaced
//! may take writes for a while, and nobody tells it. Owns no connection to a master. All who may know are asked at once,
//! each for [`ANSWER_WITHIN`], so that one that hangs costs no more than that; the connections stay for the next time.
//! Of Sentinels the one with the latest configuration is believed, of the nodes of a Cluster the most.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use ::redis::{ConnectionAddr, RedisError, Value};
use futures::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::connect::{ConnectError, Connection, Dialer};
use super::preflight::{Incompatible, is_unknown_command};
use super::url::{Topology, host_and_port};

/// How long each that may know is waited for, connecting included.
const ANSWER_WITHIN: Duration = Duration::from_millis(400);
/// How often they are asked again while a connection stands.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many nodes of a Cluster are asked beyond those of the URL.
const LEARNT_MOST: usize = 16;

/// See the module.
pub(super) struct Master {
    topology: Topology,
    seeds: Vec<ConnectionAddr>,
    /// The slot that all keys are in.
    slot: u16,
    known: Mutex<Known>,
}

/// What was found out from those that were asked.
#[derive(Default)]
struct Known {
    /// Nodes of the Cluster, as one of them named them last.
    learnt: Vec<ConnectionAddr>,
    /// By `host:port`.
    open: HashMap<String, Connection>,
}

/// What one of them says.
#[derive(Debug, Clone, PartialEq)]
struct Answer {
    master: ConnectionAddr,
    /// Of a Sentinel: it grows with every failover.
    epoch: u64,
    /// Of a node of a Cluster: all that it knows.
    nodes: Vec<ConnectionAddr>,
}

impl Master {
    pub fn new(topology: Topology, seeds: Vec<ConnectionAddr>, slot: u16) -> Self {
        Self { topology, seeds, slot, known: Mutex::default() }
    }

    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    pub fn seeds(&self) -> &[ConnectionAddr] {
        &self.seeds
    }

    /// Where it is, as far as can be told now. Takes little longer than [`ANSWER_WITHIN`].
    pub async fn find(&self, dialer: &Dialer) -> Result<ConnectionAddr, ConnectError> {
        if self.topology == Topology::Direct {
            return Ok(self.seeds[0].clone());
        }
        let asked = self.candidates();
        let answers = join_all(asked.iter().map(|address| self.ask(dialer, address))).await;
        let mut said = Vec::new();
        let mut failed = None;
        for answer in answers {
            match answer {
                Ok(answer) => said.push(answer),
                // What can be mended is told rather than who does not answer.
                Err(error @ ConnectError::Incompatible(_))
                    if !matches!(failed, Some(ConnectError::Incompatible(_))) =>
                {
                    failed = Some(error);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let Some(believed) = believed(&said) else { return Err(failed.unwrap_or(ConnectError::Late)) };
        self.lock().learnt.clone_from(&believed.nodes);
        Ok(believed.master.clone())
    }

    /// Ends when the master is somewhere else than `from`, and says where. While nobody can tell, it is where it was.
    pub async fn moves(&self, dialer: &Dialer, from: &ConnectionAddr) -> ConnectionAddr {
        if self.topology == Topology::Direct {
            return pending().await;
        }
        let mut looks = interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if let Ok(found) = self.find(dialer).await
                && found != *from
            {
                return found;
            }
        }
    }

    /// Those to be asked: what the URL names, and what was learnt since.
    fn candidates(&self) -> Vec<ConnectionAddr> {
        let mut known = self.lock();
        let learnt = known.learnt.iter().filter(|address| !self.seeds.contains(address)).take(LEARNT_MOST);
        let asked: Vec<_> = self.seeds.iter().chain(learnt).cloned().collect();
        known.open.retain(|name, _| asked.iter().any(|address| host_and_port(address) == *name));
        asked
    }

    async fn ask(&self, dialer: &Dialer, address: &ConnectionAddr) -> Result<Answer, ConnectError> {
        let name = host_and_port(address);
        // Taken out: one that does not answer is not asked over the same connection again.
        let open = self.lock().open.remove(&name);
        let asking = async {
            let mut connection = match open {
                Some(connection) => connection,
                None => match self.topology {
                    Topology::Sentinel { .. } => dialer.sentinel(address).await.map_err(of_sentinel)?,
                    Topology::Cluster | Topology::Direct => dialer.dial(address).await?,
                },
            };
            let answer = match &self.topology {
                Topology::Sentinel { master } => ask_sentinel(&mut connection, master).await,
                Topology::Cluster | Topology::Direct => ask_node(&mut connection, self.slot, address).await,
            };
            if !matches!(answer, Err(ConnectError::Failed(_) | ConnectError::Late)) {
                self.lock().open.insert(name, connection);
            }
            answer
        };
        timeout(ANSWER_WITHIN, asking).await.map_err(|_elapsed| ConnectError::Late)?
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no code panics while it holds what is known")
    }
}

/// Whose answer counts: that of the latest configuration, and of those the one that most give, the first of them.
fn believed(said: &[Answer]) -> Option<&Answer> {
    let voices = |answer: &Answer| said.iter().filter(|other| other.master == answer.master).count();
    let weight = |answer: &Answer| (answer.epoch, voices(answer));
    said.iter().rev().max_by_key(|answer| weight(answer))
}

async fn ask_sentinel(connection: &mut Connection, master: &str) -> Result<Answer, ConnectError> {
    let mut command = ::redis::cmd("SENTINEL");
    command.arg("MASTER").arg(master);
    let fields: Result<HashMap<String, String>, RedisError> = command.query_async(&mut connection.redis).await;
    let fields = fields.map_err(|error| match error.detail() {
        Some(detail) if detail.starts_with("No such master") => Incompatible::NoMaster(master.to_owned()).into(),
        Some(detail) if is_unknown_command(detail) => Incompatible::NoSentinel.into(),
        _ => of_sentinel(error.into()),
    })?;
    let number = |name: &str| fields.get(name)?.parse().ok();
    let address = || Some(ConnectionAddr::Tcp(fields.get("ip")?.clone(), u16::try_from(number("port")?).ok()?));
    let master = address().ok_or(ConnectError::Unclear)?;
    Ok(Answer { master, epoch: number("config-epoch").unwrap_or_default(), nodes: Vec::new() })
}

/// A refusal of a Sentinel is about the credentials for Sentinels.
fn of_sentinel(error: ConnectError) -> ConnectError {
    match error {
        ConnectError::Incompatible(Incompatible::Login(text) | Incompatible::Permission(text)) => {
            Incompatible::SentinelLogin(text).into()
        }
        other => other,
    }
}

async fn ask_node(connection: &mut Connection, slot: u16, asked: &ConnectionAddr) -> Result<Answer, ConnectError> {
    let answer: Result<Value, RedisError> =
        ::redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection.redis).await;
    let ranges = answer.map_err(|error| match error.detail() {
        Some(detail) if detail.contains("cluster support disabled") => Incompatible::NoCluster.into(),
        Some(detail) if is_unknown_command(detail) => Incompatible::NoCluster.into(),
        _ => ConnectError::from(error),
    })?;
    read_slots(&ranges, slot, asked)
}

/// Who has the slot, out of `[[first, last, [host, port, …], …replicas], …]`. A node that does not know its own name
/// stands there without one: it is where it was asked.
fn read_slots(ranges: &Value, slot: u16, asked: &ConnectionAddr) -> Result<Answer, ConnectError> {
    let Value::Array(ranges) = ranges else { return Err(ConnectError::Unclear) };
    let mut answer: Option<Answer> = None;
    let mut nodes: Vec<ConnectionAddr> = Vec::new();
    for range in ranges {
        let Value::Array(range) = range else { return Err(ConnectError::Unclear) };
        let [Value::Int(first), Value::Int(last), named @ ..] = range.as_slice() else {
            return Err(ConnectError::Unclear);
        };
        let named: Vec<_> = named.iter().filter_map(|node| read_node(node, asked)).collect();
        if (*first..=*last).contains(&i64::from(slot)) {
            let master = named.first().cloned().ok_or(ConnectError::Unclear)?;
            answer = Some(Answer { master, epoch: 0, nodes: Vec::new() });
        }
        for node in named {
            if !nodes.contains(&node) && nodes.len() < LEARNT_MOST {
                nodes.push(node);
            }
        }
    }
    let answer = answer.ok_or(ConnectError::NoOwner)?;
    Ok(Answer { nodes, ..answer })
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

    fn says(host: &str, epoch: u64) -> Answer {
        Answer { master: at(host, 1), epoch, nodes: Vec::new() }
    }

    #[test]
    fn the_latest_configuration_is_believed_and_of_equals_the_most() {
        let master = |said: &[Answer]| believed(said).map(|answer| answer.master.clone());
        assert_eq!(master(&[]), None);
        assert_eq!(master(&[says("old", 3), says("old", 3), says("new", 4)]), Some(at("new", 1)));
        assert_eq!(master(&[says("cut-off", 0), says("new", 0), says("new", 0)]), Some(at("new", 1)));
        assert_eq!(master(&[says("first", 0), says("second", 0)]), Some(at("first", 1)));
    }

    fn node(host: Value, port: i64) -> Value {
        Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec()), Value::Array(vec![])])
    }

    fn range(first: i64, last: i64, nodes: Vec<Value>) -> Value {
        Value::Array([vec![Value::Int(first), Value::Int(last)], nodes].concat())
    }

    #[test]
    fn the_first_node_of_the_range_has_the_slot() {
        let named = |host: &str| Value::BulkString(host.as_bytes().to_vec());
        let ranges = Value::Array(vec![
            range(0, 99, vec![node(named("a"), 1), node(named("b"), 2)]),
            range(100, 200, vec![node(Value::Nil, 3), node(named("?"), 4), node(named(""), 5)]),
        ]);
        let read = |slot| read_slots(&ranges, slot, &at("asked", 9));
        let nodes = vec![at("a", 1), at("b", 2), at("asked", 3), at("asked", 4), at("asked", 5)];
        let expected = |master| Answer { master, epoch: 0, nodes: nodes.clone() };
        assert_eq!(read(99).unwrap(), expected(at("a", 1)));
        assert_eq!(read(100).unwrap(), expected(at("asked", 3)), "where it was asked");
        assert!(matches!(read(201), Err(ConnectError::NoOwner)));
    }

    #[test]
    fn an_answer_of_another_shape_is_none() {
        let asked = at("asked", 9);
        for wrong in [
            Value::Nil,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![Value::Array(vec![Value::Int(0)])]),
            Value::Array(vec![range(0, 9, vec![])]),
            Value::Array(vec![range(0, 9, vec![node(Value::Int(1), 1)])]),
            Value::Array(vec![range(0, 9, vec![node(Value::Nil, 65_536)])]),
        ] {
            assert!(matches!(read_slots(&wrong, 5, &asked), Err(ConnectError::Unclear)), "{wrong:?}");
        }
    }
}
