//! The directory in Redis: the keys of the design, over one multiplexed connection.
//!
//! Owns the key names and the commands. The connection is `link`'s: it is to the one master that has the keys, wherever
//! that is (`master`), and it is one Redis process, so the `run_id` read when it was made is part of every [`Epoch`]
//! read over it. A call without an answer within [`CALL_TIMEOUT`] ends the connection, and [`Directory::upkeep`] makes
//! another one; nothing is retried behind a caller's back. What is not fit for an index is not used ([`fitness`]).

pub mod connect;
mod discovery;
mod link;
pub mod preflight;
pub mod scan;
pub mod slot;
pub mod url;

use std::time::Duration;

use ::redis::{ErrorKind, FromRedisValue, Pipeline, RedisError, Script, ServerErrorKind};
use async_trait::async_trait;
use rand::Rng;
use smol_str::SmolStr;
use tracing::debug;

use super::{
    Directory, DirectoryError, ENTRY_TTL, LeaseAndCount, LeaseRenewal, NodeEntry, NodeListing, Result, RoomOwners,
};
use crate::clock::whole_milliseconds;
use crate::index::{Epoch, SocketWrite};
use crate::names::{NodeId, Room};
use crate::telemetry::anomalies::Oddity;
use connect::{RedisAccess, Server};
use link::Link;

pub use preflight::Incompatible;

/// The longest any call waits for Redis, connecting included.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// How much of what another program wrote is logged, in bytes.
const FOREIGN_SHOWN: usize = 40;

/// `KEYS`: the node's lease, a set it may be named in, and keys of its own. Without a lease it is taken out of the set,
/// and its keys are removed. One step in Redis, so a node that enters meanwhile is either seen or comes after.
const REPAIR: &str = r"
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('SREM', KEYS[2], ARGV[1])
for i = 3, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 1
";

/// `KEYS`: the epoch. `ARGV`: a new name, and the process it is made under. The value is
/// `<name>.<seconds since 1970 at its beginning>@<process>`. An epoch that was made under another process
/// is another life of the index: this process may have been restored from an old state, or promoted with a part of it.
const BEGIN_EPOCH: &str = r"
local epoch = redis.call('GET', KEYS[1])
if epoch and string.sub(epoch, -#ARGV[2]) == ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1] .. '.' .. redis.call('TIME')[1] .. '@' .. ARGV[2])
return 1
";

/// Made by [`Redis::open`]; connects only while [`Directory::upkeep`] runs.
pub struct RedisDirectory {
    link: Link,
    prefix: String,
    repair: Script,
    begin_epoch: Script,
}

impl RedisDirectory {
    /// Does not connect yet. `allow_eviction`: a Redis that may evict keys is used all the same.
    ///
    /// # Errors
    /// When `url` is none that can be used here.
    pub fn open(url: &str, prefix: &str, allow_eviction: bool) -> anyhow::Result<Self> {
        Self::with(url, &RedisAccess::default(), prefix, allow_eviction)
    }

    /// The same with credentials and certificates in files.
    ///
    /// # Errors
    /// When `url` is none that can be used here, a file cannot be read, or they do not go together.
    pub fn with(url: &str, access: &RedisAccess, prefix: &str, allow_eviction: bool) -> anyhow::Result<Self> {
        let server = Server::open(url, access, prefix)?;
        let prefix = server.prefix().to_owned();
        let (repair, begin_epoch) = (Script::new(REPAIR), Script::new(BEGIN_EPOCH));
        Ok(Self { link: Link::new(server, allow_eviction), prefix, repair, begin_epoch })
    }

    /// Where it is looked for, without credentials: itself, the Sentinels, or nodes of the Cluster.
    pub fn addresses(&self) -> Vec<String> {
        self.link.server().addresses()
    }

    /// The same in one line.
    pub fn address(&self) -> String {
        self.addresses().join(",")
    }

    /// Whether this Redis can be used, as far as can be told now: one that does not answer may be fit later.
    ///
    /// # Errors
    /// [`Incompatible`] when it answers, and must be mended.
    pub async fn check(&self) -> std::result::Result<(), Incompatible> {
        self.link.check().await
    }

    fn failed(&self, generation: u64, error: &RedisError) -> DirectoryError {
        let meaning = meaning(error);
        if matches!(meaning, DirectoryError::Unanswered(_)) || is_no_master(error) {
            self.link.end(generation);
        }
        meaning
    }

    /// Runs the commands in order on the present connection; answers with what they said and the process's `run_id`.
    async fn run<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<(T, SmolStr)> {
        let (generation, mut live) = self.link.live().await?;
        match commands.query_async(&mut live.connection.redis).await {
            Ok(answer) => Ok((answer, live.run_id)),
            Err(error) => Err(self.failed(generation, &error)),
        }
    }

    /// Like `run`. Keys of other programs are left as they are: there is nothing of ours in them.
    async fn write(&self, commands: &Pipeline) -> Result<()> {
        match self.run::<()>(commands).await {
            Ok(_) | Err(DirectoryError::Foreign(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn run_repair(&self, node: &NodeId, set: &str, keys: &[String]) -> Result<()> {
        let (generation, mut live) = self.link.live().await?;
        let mut call = self.repair.prepare_invoke();
        call.key(self.lease_key(node)).key(set).arg(node.as_str());
        for key in keys {
            call.key(key);
        }
        let repaired: std::result::Result<i64, _> = call.invoke_async(&mut live.connection.redis).await;
        repaired.map(drop).map_err(|error| self.failed(generation, &error))
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

/// The life of the index, if its epoch was made under the process that it was read from.
fn epoch(value: Option<Vec<u8>>, run_id: &str) -> Option<Epoch> {
    let value = String::from_utf8(value?).ok()?;
    let (_, made_under) = value.rsplit_once('@')?;
    (made_under == run_id).then(|| Epoch(value.into()))
}

/// How long ago this life of the index began; `now` in seconds since 1970 by the same clock. None at all where the value
/// does not tell.
fn age(epoch: &Epoch, now: u64) -> Duration {
    let began = epoch.0.split_once('@').and_then(|(made, _)| made.rsplit_once('.')?.1.parse::<u64>().ok());
    // Up to a second more may be missing from a time in whole seconds.
    Duration::from_secs(began.map_or(0, |began| now.saturating_sub(began).saturating_sub(1)))
}

/// Whether who answers is not the master that has the keys, or not any more. It may go on to answer so, or to answer
/// reads, for as long as one likes.
fn is_no_master(error: &RedisError) -> bool {
    use ServerErrorKind::{ClusterDown, MasterDown, Moved, ReadOnly};
    [ReadOnly, MasterDown, Moved, ClusterDown].map(ErrorKind::Server).contains(&error.kind())
}

fn meaning(error: &RedisError) -> DirectoryError {
    // A call of several commands fails with those that failed; the others were carried out.
    let commands = error.clone().into_server_errors();
    let foreign = commands.is_some_and(|errors| errors.iter().all(|(_, error)| error.code() == "WRONGTYPE"));
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse => DirectoryError::Unanswered(error.to_string()),
        _ if foreign => {
            Oddity::ForeignKey.note(error);
            DirectoryError::Foreign(error.to_string())
        }
        _ => DirectoryError::Refused(error.to_string()),
    }
}

/// The nodes in a set. Members that no node has written are skipped.
pub fn read_nodes(members: &[Vec<u8>]) -> Vec<NodeId> {
    let parsed = members.iter().filter_map(|member| {
        let node = str::from_utf8(member).ok().and_then(|member| NodeId::parse(member).ok());
        if node.is_none() {
            let begin = &member[..member.len().min(FOREIGN_SHOWN)];
            Oddity::ForeignMember.note(format_args!("no node's id begins with \"{}\"", begin.escape_ascii()));
        }
        node
    });
    parsed.collect()
}

/// The entry under a lease. One that no node has written is nobody's.
pub fn read_entry(value: &[u8]) -> Option<NodeEntry> {
    let entry = serde_json::from_slice(value);
    if let Err(error) = &entry {
        Oddity::ForeignEntry.note(error);
    }
    entry.ok()
}

fn parse<T: FromRedisValue>(answer: &::redis::Value) -> Result<T> {
    ::redis::from_redis_value_ref(answer).map_err(|error| DirectoryError::Refused(error.to_string()))
}

/// A time to live, which is not 0.
fn milliseconds(duration: Duration) -> u64 {
    whole_milliseconds(duration).max(1)
}

fn encode(entry: &NodeEntry) -> String {
    serde_json::to_string(entry).expect("an entry is plain text and a flag")
}

#[async_trait]
impl Directory for RedisDirectory {
    async fn maintain(&self) {
        self.link.keep().await;
    }

    async fn register(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<Option<Epoch>> {
        let (generation, mut live) = self.link.live().await?;
        let new_epoch = format!("{:016x}", rand::rng().random::<u64>());
        let mut call = self.begin_epoch.prepare_invoke();
        call.key(self.epoch_key()).arg(new_epoch).arg(live.run_id.as_str());
        let begun: std::result::Result<i64, _> = call.invoke_async(&mut live.connection.redis).await;
        begun.map_err(|error| self.failed(generation, &error))?;
        let mut commands = ::redis::pipe();
        let lease_key = self.lease_key(node);
        commands.cmd("SET").arg(lease_key).arg(encode(entry)).arg("NX").arg("PX").arg(milliseconds(lease));
        // After the lease: a registration without one may be cleared away at any moment.
        commands.cmd("SADD").arg(self.nodes_key()).arg(node.as_str()).ignore();
        commands.cmd("GET").arg(self.epoch_key());
        let ((written, value), run_id): ((Option<String>, Option<Vec<u8>>), _) = self.run(&commands).await?;
        Ok(written.and_then(|_| epoch(value, &run_id)))
    }

    async fn renew(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<LeaseRenewal> {
        let mut commands = ::redis::pipe();
        let lease_key = self.lease_key(node);
        commands.cmd("SET").arg(lease_key).arg(encode(entry)).arg("XX").arg("PX").arg(milliseconds(lease));
        commands.cmd("SADD").arg(self.nodes_key()).arg(node.as_str()).ignore();
        commands.cmd("GET").arg(self.epoch_key());
        let ((written, value), run_id): ((Option<String>, Option<Vec<u8>>), _) = self.run(&commands).await?;
        let epoch = written.and_then(|_| epoch(value, &run_id));
        Ok(epoch.map_or(LeaseRenewal::Lapsed, LeaseRenewal::Renewed))
    }

    async fn nodes(&self) -> Result<NodeListing> {
        let mut commands = ::redis::pipe();
        commands.cmd("SMEMBERS").arg(self.nodes_key());
        let ((members,), _): ((Vec<Vec<u8>>,), _) = self.run(&commands).await?;
        let ids = read_nodes(&members);
        let mut commands = ::redis::pipe();
        for id in &ids {
            commands.cmd("GET").arg(self.lease_key(id));
        }
        commands.cmd("GET").arg(self.epoch_key());
        commands.cmd("TIME");
        let (answers, run_id): (Vec<::redis::Value>, _) = self.run(&commands).await?;
        let Some((leases, [value, clock])) = answers.split_last_chunk() else {
            return Err(DirectoryError::Refused("fewer answers than commands".to_owned()));
        };
        let epoch = epoch(parse(value)?, &run_id);
        let (now, _microseconds): (u64, u64) = parse(clock)?;
        let age = epoch.as_ref().map_or(Duration::ZERO, |epoch| age(epoch, now));
        let mut nodes = Vec::with_capacity(ids.len());
        for (id, lease) in ids.into_iter().zip(leases) {
            let entry: Option<Vec<u8>> = parse(lease)?;
            if let Some(entry) = entry.as_deref().and_then(read_entry) {
                nodes.push((id, entry));
            } else if let Err(error) = self.run_repair(&id, &self.nodes_key(), &[]).await {
                debug!(node = %id, %error, "a registration without a lease stays for now");
            }
        }
        Ok(NodeListing { nodes, epoch, age })
    }

    async fn add_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<Option<Epoch>> {
        let mut commands = ::redis::pipe();
        for room in rooms {
            let owners = self.owners_key(room);
            commands.cmd("SADD").arg(&owners).arg(node.as_str()).ignore();
            commands.cmd("EXPIRE").arg(&owners).arg(ENTRY_TTL.as_secs()).ignore();
            commands.cmd("EXPIRE").arg(self.room_key(node, room)).arg(ENTRY_TTL.as_secs()).ignore();
        }
        commands.cmd("GET").arg(self.epoch_key());
        let ((value,), run_id): ((Option<Vec<u8>>,), _) = self.run(&commands).await?;
        Ok(epoch(value, &run_id))
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
        commands.cmd("GET").arg(self.epoch_key());
        let ((members, value), run_id): ((Vec<Vec<u8>>, Option<Vec<u8>>), _) = self.run(&commands).await?;
        Ok(RoomOwners { nodes: read_nodes(&members), epoch: epoch(value, &run_id) })
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
        let (answers, _): (Vec<::redis::Value>, _) = self.run(&commands).await?;
        let mut accounts = Vec::with_capacity(nodes.len());
        for pair in answers.chunks_exact(2) {
            let entry: Option<Vec<u8>> = parse(&pair[0])?;
            let sockets = parse(&pair[1])?;
            accounts.push(LeaseAndCount { entry: entry.as_deref().and_then(read_entry), sockets });
        }
        Ok(accounts)
    }

    async fn remove_dead_owners(&self, room: &Room, nodes: &[NodeId]) -> Result<()> {
        for node in nodes {
            self.run_repair(node, &self.owners_key(room), &[self.room_key(node, room)]).await?;
        }
        Ok(())
    }

    async fn write_sockets(&self, node: &NodeId, changes: &[SocketWrite]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut commands = ::redis::pipe();
        for room in changes.chunk_by(|one, next| one.entry.room == next.entry.room && one.present == next.present) {
            let first = &room[0];
            let key = self.room_key(node, &first.entry.room);
            commands.cmd(if first.present { "SADD" } else { "SREM" }).arg(&key);
            for change in room {
                commands.arg(change.entry.socket.as_str());
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
        self.run::<()>(&commands).await.map(drop)
    }
}
