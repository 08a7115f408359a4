//! The directory in Redis: key names and commands.
//!
//! Owns the keys (docs/ARCHITECTURE.md, "The directory in Redis") and the mapping of Redis errors to
//! [`DirectoryError`]. A call without an answer within [`CALL_TIMEOUT`] closes the connection, and
//! [`Directory::maintain`] opens another one. No call is retried. The connection, with its checks and its search for the
//! master, is in [`connection`].
//!
//! Every answer that relies on the epoch reads it last, together with the identity of the data: see [`epoch`].

pub mod connect;
mod connection;
mod discovery;
mod epoch;
mod error;
mod preflight;
pub mod scan;
pub mod slot;
pub mod url;

use std::time::Duration;

use ::redis::{ErrorKind, FromRedisValue, Pipeline, RedisError, Script, ScriptInvocation, ServerErrorKind};
use async_trait::async_trait;
use parking_lot::Mutex;
use rand::Rng;
use tracing::{debug, warn};

use super::{
    Directory, DirectoryError, ENTRY_TTL, LeaseAndCount, LeaseRenewal, NodeEntry, NodeListing, Result, RoomOwners,
    epoch_ttl,
};
use crate::clock::whole_milliseconds;
use crate::index::{Epoch, SocketWrite};
use crate::names::{NodeId, Room};
use crate::telemetry::anomalies::{Anomalies, Anomaly};
use connect::RedisAccess;
use connection::RedisConnection;
use epoch::{LeaseRecord, REGISTER, RENEW, epoch_age, epoch_in, parse_epoch, read_epoch};

pub use error::{CALL_TIMEOUT, Incompatible};

/// Maximum number of logged bytes of a foreign set member.
const MAX_LOGGED_BYTES: usize = 40;

/// `KEYS`: the node's lease, a set that may contain the node, and the node's own keys. If the lease does not exist, removes
/// the node from the set, and its keys. A script is atomic, so a node that registers meanwhile is either seen, or writes
/// its entries afterwards.
const REMOVE_UNLEASED: &str = r"
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('SREM', KEYS[2], ARGV[1])
for i = 3, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 1
";

/// A directory in Redis. Connects only while [`Directory::maintain`] runs.
pub struct RedisDirectory {
    connection: RedisConnection,
    prefix: String,
    remove_unleased: Script,
    register: Script,
    renew: Script,
    lease: Mutex<LeaseRecord>,
    anomalies: Anomalies,
}

impl RedisDirectory {
    /// Does not connect yet. `allow_eviction`: accept a Redis that may evict keys.
    ///
    /// # Errors
    /// If the URL is not usable.
    pub fn open(url: &str, prefix: &str, allow_eviction: bool) -> anyhow::Result<Self> {
        Self::with(url, &RedisAccess::default(), prefix, allow_eviction)
    }

    /// Like [`open`](Self::open), with credentials and certificates in files.
    ///
    /// # Errors
    /// If the URL or the prefix is not usable, a file cannot be read, or files for TLS are given without a TLS URL.
    pub fn with(url: &str, access: &RedisAccess, prefix: &str, allow_eviction: bool) -> anyhow::Result<Self> {
        let connection = RedisConnection::open(url, access, prefix, allow_eviction)?;
        let prefix = connection.prefix().to_owned();
        Ok(Self {
            connection,
            prefix,
            remove_unleased: Script::new(REMOVE_UNLEASED),
            register: Script::new(REGISTER),
            renew: Script::new(RENEW),
            lease: Mutex::default(),
            anomalies: Anomalies::default(),
        })
    }

    /// Counts what other programs wrote with the anomalies of a node.
    #[must_use]
    pub fn with_anomalies(self, anomalies: Anomalies) -> Self {
        Self { anomalies, ..self }
    }

    /// The addresses in the URL, without credentials: of the Redis, the Sentinels, or nodes of the Cluster.
    pub fn addresses(&self) -> Vec<String> {
        self.connection.addresses()
    }

    /// The [`addresses`](Self::addresses), separated by commas.
    pub fn address(&self) -> String {
        self.addresses().join(",")
    }

    /// Connects once and checks the server. Succeeds if Redis does not answer, because it may come back.
    ///
    /// # Errors
    /// [`Incompatible`] if Redis answers and must be reconfigured.
    pub async fn check(&self) -> std::result::Result<(), Incompatible> {
        self.connection.check().await
    }

    fn failed(&self, generation: u64, error: &RedisError) -> DirectoryError {
        let meaning = classify(error, &self.anomalies);
        if matches!(meaning, DirectoryError::Unanswered(_)) || is_not_master(error) {
            self.connection.close(generation);
        }
        meaning
    }

    /// Runs the commands in order on one connection.
    async fn run<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T> {
        let (generation, mut live) = self.connection.live().await?;
        let answer = commands.query_async(&mut live.connection.redis).await;
        answer.map_err(|error| self.failed(generation, &error))
    }

    /// Like `run`, but leaves the keys of other programs as they are.
    async fn write(&self, commands: &Pipeline) -> Result<()> {
        match self.run::<()>(commands).await {
            Ok(()) | Err(DirectoryError::Foreign(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn remove_if_unleased(&self, node: &NodeId, set: &str, keys: &[String]) -> Result<()> {
        let (generation, mut live) = self.connection.live().await?;
        let mut call = self.remove_unleased.prepare_invoke();
        call.key(self.lease_key(node)).key(set).arg(node.as_str());
        for key in keys {
            call.key(key);
        }
        let removed: std::result::Result<i64, _> = call.invoke_async(&mut live.connection.redis).await;
        removed.map(drop).map_err(|error| self.failed(generation, &error))
    }

    /// A call of [`REGISTER`] or [`RENEW`], with the arguments that both have.
    fn lease_call<'a>(
        &self,
        script: &'a Script,
        node: &NodeId,
        content: String,
        lease: Duration,
    ) -> ScriptInvocation<'a> {
        let mut call = script.prepare_invoke();
        call.key(self.lease_key(node)).key(self.nodes_key()).key(self.epoch_key());
        call.arg(content).arg(node.as_str()).arg(milliseconds(lease)).arg(milliseconds(epoch_ttl(lease)));
        call
    }

    fn lease_key(&self, node: &NodeId) -> String {
        format!("{}node:{node}", self.prefix)
    }

    fn nodes_key(&self) -> String {
        format!("{}nodes", self.prefix)
    }

    fn epoch_key(&self) -> String {
        format!("{}epoch", self.prefix)
    }

    fn owners_key(&self, room: &Room) -> String {
        format!("{}owners:{room}", self.prefix)
    }

    fn room_key(&self, node: &NodeId, room: &Room) -> String {
        format!("{}room:{node}:{room}", self.prefix)
    }
}

/// Whether the error says that the server is not, or no longer, the master that has the keys. Such a server may continue
/// to answer reads with old data, so its connection is closed.
fn is_not_master(error: &RedisError) -> bool {
    use ServerErrorKind::{ClusterDown, MasterDown, Moved, ReadOnly};
    [ReadOnly, MasterDown, Moved, ClusterDown].map(ErrorKind::Server).contains(&error.kind())
}

fn classify(error: &RedisError, anomalies: &Anomalies) -> DirectoryError {
    // The error of a pipeline contains those of the failed commands; the other commands were executed.
    let commands = error.clone().into_server_errors();
    let foreign = commands.is_some_and(|errors| errors.iter().all(|(_, error)| error.code() == "WRONGTYPE"));
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse => DirectoryError::Unanswered(error.to_string()),
        _ if foreign => {
            anomalies.record(Anomaly::ForeignKey, error);
            DirectoryError::Foreign(error.to_string())
        }
        _ => DirectoryError::Refused(error.to_string()),
    }
}

/// Parses the members of a set of node ids. Skips members that no node can have written.
pub fn read_nodes(members: &[Vec<u8>], anomalies: &Anomalies) -> Vec<NodeId> {
    let parsed = members.iter().filter_map(|member| {
        let node = str::from_utf8(member).ok().and_then(|member| NodeId::parse(member).ok());
        if node.is_none() {
            let begin = &member[..member.len().min(MAX_LOGGED_BYTES)];
            anomalies.record(Anomaly::ForeignMember, format_args!("not a node id: \"{}\"", begin.escape_ascii()));
        }
        node
    });
    parsed.collect()
}

/// Parses the entry under a lease. `None` if no node can have written it.
pub fn read_entry(value: &[u8], anomalies: &Anomalies) -> Option<NodeEntry> {
    let entry = serde_json::from_slice(value);
    if let Err(error) = &entry {
        anomalies.record(Anomaly::ForeignEntry, error);
    }
    entry.ok()
}

fn parse<T: FromRedisValue>(answer: &::redis::Value) -> Result<T> {
    ::redis::from_redis_value_ref(answer).map_err(|error| DirectoryError::Refused(error.to_string()))
}

/// A time to live. Redis rejects 0.
fn milliseconds(duration: Duration) -> u64 {
    whole_milliseconds(duration).max(1)
}

#[async_trait]
impl Directory for RedisDirectory {
    async fn maintain(&self) {
        self.connection.maintain().await;
    }

    async fn register(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<Option<Epoch>> {
        let (generation, mut live) = self.connection.live().await?;
        let (content, outdated) = {
            let mut record = self.lease.lock();
            (record.register(node, entry), record.outdated())
        };
        let new_epoch = format!("{:016x}", rand::rng().random::<u64>());
        let mut call = self.lease_call(&self.register, node, content, lease);
        call.arg(new_epoch).arg(live.run_id.as_str()).arg(outdated);
        let answer = call.invoke_async(&mut live.connection.redis).await;
        let (written, value, replid): (bool, Option<Vec<u8>>, String) =
            answer.map_err(|error| self.failed(generation, &error))?;
        self.lease.lock().distrust(None);
        Ok(epoch_in(value, &replid).filter(|_| written))
    }

    async fn renew(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<LeaseRenewal> {
        let (generation, mut live) = self.connection.live().await?;
        let (content, counter) = self.lease.lock().renew(node, entry);
        let call = self.lease_call(&self.renew, node, content, lease);
        let answer = call.invoke_async(&mut live.connection.redis).await;
        let (previous, value, replid): (Option<Vec<u8>>, Option<Vec<u8>>, Option<String>) =
            answer.map_err(|error| self.failed(generation, &error))?;
        let (Some(previous), Some(replid)) = (previous, replid) else { return Ok(LeaseRenewal::Lapsed) };
        let epoch = epoch_in(value, &replid);
        let mut record = self.lease.lock();
        if !record.confirm(node, counter, &previous) {
            warn!(%node, "redis returned an older lease of this node: its data went back; beginning a new epoch");
            record.distrust(epoch);
            return Ok(LeaseRenewal::Lapsed);
        }
        Ok(epoch.map_or(LeaseRenewal::Lapsed, LeaseRenewal::Renewed))
    }

    async fn nodes(&self) -> Result<NodeListing> {
        let mut commands = ::redis::pipe();
        commands.cmd("SMEMBERS").arg(self.nodes_key());
        let (members,): (Vec<Vec<u8>>,) = self.run(&commands).await?;
        let ids = read_nodes(&members, &self.anomalies);
        let mut commands = ::redis::pipe();
        for id in &ids {
            commands.cmd("GET").arg(self.lease_key(id));
        }
        commands.cmd("TIME");
        read_epoch(&mut commands, &self.epoch_key());
        let answers: Vec<::redis::Value> = self.run(&commands).await?;
        let Some((leases, [clock, value, info])) = answers.split_last_chunk() else {
            return Err(DirectoryError::Refused("redis returned fewer answers than commands".to_owned()));
        };
        let epoch = parse_epoch(parse(value)?, &parse::<String>(info)?);
        let (seconds, microseconds): (u64, u64) = parse(clock)?;
        let time = Duration::from_secs(seconds) + Duration::from_micros(microseconds);
        let age = epoch.as_ref().map_or(Duration::ZERO, |epoch| epoch_age(epoch, time));
        let mut nodes = Vec::with_capacity(ids.len());
        for (id, lease) in ids.into_iter().zip(leases) {
            let entry: Option<Vec<u8>> = parse(lease)?;
            if let Some(entry) = entry.as_deref().and_then(|entry| read_entry(entry, &self.anomalies)) {
                nodes.push((id, entry));
            } else if let Err(error) = self.remove_if_unleased(&id, &self.nodes_key(), &[]).await {
                debug!(node = %id, %error, "cannot remove a registration without a lease from redis");
            }
        }
        Ok(NodeListing { nodes, epoch, age: Some(age), time })
    }

    async fn add_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<Option<Epoch>> {
        let mut commands = ::redis::pipe();
        for room in rooms {
            let owners = self.owners_key(room);
            commands.cmd("SADD").arg(&owners).arg(node.as_str()).ignore();
            commands.cmd("EXPIRE").arg(&owners).arg(ENTRY_TTL.as_secs()).ignore();
            commands.cmd("EXPIRE").arg(self.room_key(node, room)).arg(ENTRY_TTL.as_secs()).ignore();
        }
        read_epoch(&mut commands, &self.epoch_key());
        let (value, info): (Option<Vec<u8>>, String) = self.run(&commands).await?;
        Ok(parse_epoch(value, &info))
    }

    async fn remove_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<()> {
        if rooms.is_empty() {
            return Ok(());
        }
        let mut commands = ::redis::pipe();
        for room in rooms {
            commands.cmd("SREM").arg(self.owners_key(room)).arg(node.as_str()).ignore();
            commands.cmd("UNLINK").arg(self.room_key(node, room)).ignore();
        }
        self.write(&commands).await
    }

    async fn owners(&self, room: &Room) -> Result<RoomOwners> {
        let mut commands = ::redis::pipe();
        commands.cmd("SMEMBERS").arg(self.owners_key(room));
        read_epoch(&mut commands, &self.epoch_key());
        let (members, value, info): (Vec<Vec<u8>>, Option<Vec<u8>>, String) = self.run(&commands).await?;
        Ok(RoomOwners { nodes: read_nodes(&members, &self.anomalies), epoch: parse_epoch(value, &info) })
    }

    async fn leases_and_counts(&self, room: &Room, nodes: &[NodeId]) -> Result<Vec<LeaseAndCount>> {
        if nodes.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = ::redis::pipe();
        for node in nodes {
            commands.cmd("GET").arg(self.lease_key(node));
            commands.cmd("SCARD").arg(self.room_key(node, room));
        }
        let answers: Vec<::redis::Value> = self.run(&commands).await?;
        let mut found = Vec::with_capacity(nodes.len());
        for pair in answers.chunks_exact(2) {
            let entry: Option<Vec<u8>> = parse(&pair[0])?;
            let sockets = parse(&pair[1])?;
            found.push(LeaseAndCount {
                entry: entry.as_deref().and_then(|entry| read_entry(entry, &self.anomalies)),
                sockets,
            });
        }
        Ok(found)
    }

    async fn remove_dead_owners(&self, room: &Room, nodes: &[NodeId]) -> Result<()> {
        for node in nodes {
            self.remove_if_unleased(node, &self.owners_key(room), &[self.room_key(node, room)]).await?;
        }
        Ok(())
    }

    async fn write_sockets(&self, node: &NodeId, writes: &[SocketWrite]) -> Result<()> {
        if writes.is_empty() {
            return Ok(());
        }
        let mut commands = ::redis::pipe();
        for room in writes.chunk_by(|one, next| one.entry.room == next.entry.room && one.present == next.present) {
            let first = &room[0];
            let key = self.room_key(node, &first.entry.room);
            commands.cmd(if first.present { "SADD" } else { "SREM" }).arg(&key);
            for write in room {
                commands.arg(write.entry.socket.as_str());
            }
            commands.ignore();
            if first.present {
                commands.cmd("EXPIRE").arg(&key).arg(ENTRY_TTL.as_secs()).ignore();
            }
        }
        self.write(&commands).await
    }

    async fn deregister(&self, node: &NodeId) -> Result<()> {
        let mut commands = ::redis::pipe();
        commands.cmd("SREM").arg(self.nodes_key()).arg(node.as_str()).ignore();
        commands.cmd("DEL").arg(self.lease_key(node)).ignore();
        self.run::<()>(&commands).await
    }
}
