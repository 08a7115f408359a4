//! The directory in Redis: the keys of the design, over one multiplexed connection.
//!
//! Owns the key names, the commands, and the life of the connection, which is made by [`connect`]: one connection is one
//! Redis process, so the `run_id` read when it was made is part of every [`Epoch`] read over it. A call without an answer
//! within [`CALL_TIMEOUT`] ends the connection, and [`Directory::upkeep`] makes another one; nothing is retried behind a
//! caller's back. A Redis that may evict keys, that is a replica, or that does not let a node do what it does, is not
//! used.

pub mod connect;
pub mod scan;

use std::time::Duration;

use ::redis::{ErrorKind, FromRedisValue, Pipeline, RedisError, Script, ServerErrorKind};
use async_trait::async_trait;
use futures::future::join;
use rand::Rng;
use smol_str::SmolStr;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::{Account, Directory, ENTRY_TTL, Epoch, Error, Listing, NodeEntry, Owners, Renewal, Result};
use crate::names::{NodeId, Room};
use crate::oddities::Oddity;
use crate::roster::claims::SeatChange;
use connect::{Access, ConnectError, Connection, Server, probe};

pub use connect::Unfit;

/// The longest any call waits for Redis, connecting included.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(1);

const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_MOST: Duration = Duration::from_secs(1);
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
pub struct Redis {
    server: Server,
    prefix: String,
    allow_eviction: bool,
    link: watch::Sender<Link>,
    repair: Script,
    begin_epoch: Script,
}

#[derive(Clone, Default)]
struct Link {
    /// Counts connections, so that a late failure of an old one does not end the new one.
    generation: u64,
    live: Option<Live>,
    /// The first attempt to connect has ended, one way or the other.
    attempted: bool,
}

#[derive(Clone)]
struct Live {
    connection: Connection,
    run_id: SmolStr,
}

impl Redis {
    /// Does not connect yet. `allow_eviction`: a Redis that may evict keys is used all the same.
    ///
    /// # Errors
    /// When `url` is none that can be used here.
    pub fn open(url: &str, prefix: &str, allow_eviction: bool) -> anyhow::Result<Self> {
        Ok(Self::at(Server::open(url, &Access::default())?, prefix, allow_eviction))
    }

    /// The same with credentials and certificates in files.
    pub fn at(server: Server, prefix: &str, allow_eviction: bool) -> Self {
        let (link, _) = watch::channel(Link::default());
        Self {
            server,
            prefix: prefix.to_owned(),
            allow_eviction,
            link,
            repair: Script::new(REPAIR),
            begin_epoch: Script::new(BEGIN_EPOCH),
        }
    }

    /// Where it connects to, without credentials.
    pub fn address(&self) -> String {
        self.server.address()
    }

    /// Whether this Redis can be used, as far as can be told now: one that does not answer may be fit later.
    ///
    /// # Errors
    /// [`Unfit`] when it answers, and must be mended.
    pub async fn check(&self) -> std::result::Result<(), Unfit> {
        match self.connect().await {
            Err(ConnectError::Unfit(unfit)) => Err(unfit),
            Ok(_) | Err(ConnectError::Failed(_) | ConnectError::Late | ConnectError::NoTlsYet) => Ok(()),
        }
    }

    async fn connect(&self) -> std::result::Result<Live, ConnectError> {
        let connecting = async {
            let mut connection = self.server.connect().await?;
            let about: String = ::redis::cmd("INFO").query_async(&mut connection.redis).await?;
            let run_id = fit(&about, self.allow_eviction)?.into();
            let tried = format!("{}probe:{:016x}", self.prefix, rand::rng().random::<u64>());
            probe(&mut connection.redis, &tried).await?;
            Ok(Live { connection, run_id })
        };
        timeout(CALL_TIMEOUT, connecting).await.map_err(|_elapsed| ConnectError::Late)?
    }

    /// Keeps a connection: connects, waits until a call says that it broke, connects again.
    async fn keep_connected(&self) {
        let mut link = self.link.subscribe();
        let mut pause = RECONNECT_FIRST;
        // What was complained of last, so that each trouble is told once.
        let mut complaint = None;
        loop {
            match self.connect().await {
                Ok(live) => {
                    info!(redis = self.address(), run_id = %live.run_id, "connected to redis");
                    self.link.send_modify(|link| {
                        *link = Link { generation: link.generation + 1, live: Some(live), attempted: true }
                    });
                    (pause, complaint) = (RECONNECT_FIRST, None);
                    // The sender lives in `self`, so waiting cannot fail.
                    let _ = link.wait_for(|link| link.live.is_none()).await;
                    warn!(redis = self.address(), "lost the connection to redis, trying again");
                }
                Err(error) => {
                    let trouble = error.kind();
                    if complaint.replace(trouble) != Some(trouble) {
                        warn!(redis = self.address(), %error, "redis cannot be used, trying again until it can");
                    }
                    self.link.send_if_modified(|link| !std::mem::replace(&mut link.attempted, true));
                    sleep(pause).await;
                    pause = (pause * 2).min(RECONNECT_MOST);
                }
            }
        }
    }

    /// The present connection. Only the first attempt to connect is waited for.
    async fn live(&self) -> Result<(u64, Live)> {
        let mut link = self.link.subscribe();
        if timeout(CALL_TIMEOUT, link.wait_for(|link| link.attempted)).await.is_err() {
            return Err(Error::Unanswered("not connected yet".to_owned()));
        }
        let link = link.borrow();
        let live = link.live.clone().ok_or_else(|| Error::Unanswered("not connected".to_owned()))?;
        Ok((link.generation, live))
    }

    fn failed(&self, generation: u64, error: &RedisError) -> Error {
        // A master that was demoted answers reads for as long as one likes; its successor is at the same address.
        let demoted = [ServerErrorKind::ReadOnly, ServerErrorKind::MasterDown].map(ErrorKind::Server);
        let demoted = demoted.contains(&error.kind());
        let error = meaning(error);
        if demoted || matches!(error, Error::Unanswered(_)) {
            self.link.send_if_modified(|link| {
                let broken = link.generation == generation && link.live.is_some();
                if broken {
                    link.live = None;
                }
                broken
            });
        }
        error
    }

    /// Runs the commands in order on the present connection; answers with what they said and the process's `run_id`.
    async fn run<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<(T, SmolStr)> {
        let (generation, mut live) = self.live().await?;
        match commands.query_async(&mut live.connection.redis).await {
            Ok(answer) => Ok((answer, live.run_id)),
            Err(error) => Err(self.failed(generation, &error)),
        }
    }

    /// Like `run`. Keys of other programs are left as they are: there is nothing of ours in them.
    async fn write(&self, commands: &Pipeline) -> Result<()> {
        match self.run::<()>(commands).await {
            Ok(_) | Err(Error::Foreign(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn run_repair(&self, node: &NodeId, set: &str, keys: &[String]) -> Result<()> {
        let (generation, mut live) = self.live().await?;
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

/// The `run_id` of a Redis that can be used, out of what its `INFO` says.
fn fit(about: &str, allow_eviction: bool) -> std::result::Result<&str, Unfit> {
    let field = |name: &'static str| {
        let value = about.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(str::trim).ok_or(Unfit::Unknown(name))
    };
    if field("role")? != "master" {
        return Err(Unfit::Replica);
    }
    let policy = field("maxmemory_policy")?;
    if policy != "noeviction" && !allow_eviction {
        return Err(Unfit::Evicts(policy.to_owned()));
    }
    field("run_id")
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

fn meaning(error: &RedisError) -> Error {
    // A call of several commands fails with those that failed; the others were carried out.
    let commands = error.clone().into_server_errors();
    let foreign = commands.is_some_and(|errors| errors.iter().all(|(_, error)| error.code() == "WRONGTYPE"));
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse => Error::Unanswered(error.to_string()),
        _ if foreign => {
            Oddity::ForeignKey.note(error);
            Error::Foreign(error.to_string())
        }
        _ => Error::Refused(error.to_string()),
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
    ::redis::from_redis_value_ref(answer).map_err(|error| Error::Refused(error.to_string()))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn encode(entry: &NodeEntry) -> String {
    serde_json::to_string(entry).expect("an entry is plain text and a flag")
}

#[async_trait]
impl Directory for Redis {
    async fn upkeep(&self) {
        join(self.server.keep(), self.keep_connected()).await;
    }

    async fn enter(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<Option<Epoch>> {
        let (generation, mut live) = self.live().await?;
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

    async fn renew(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<Renewal> {
        let mut commands = ::redis::pipe();
        let lease_key = self.lease_key(node);
        commands.cmd("SET").arg(lease_key).arg(encode(entry)).arg("XX").arg("PX").arg(milliseconds(lease));
        commands.cmd("SADD").arg(self.nodes_key()).arg(node.as_str()).ignore();
        commands.cmd("GET").arg(self.epoch_key());
        let ((written, value), run_id): ((Option<String>, Option<Vec<u8>>), _) = self.run(&commands).await?;
        let epoch = written.and_then(|_| epoch(value, &run_id));
        Ok(epoch.map_or(Renewal::Lapsed, Renewal::Renewed))
    }

    async fn nodes(&self) -> Result<Listing> {
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
            return Err(Error::Refused("fewer answers than commands".to_owned()));
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
        Ok(Listing { nodes, epoch, age })
    }

    async fn claim(&self, node: &NodeId, rooms: &[Room]) -> Result<Option<Epoch>> {
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

    async fn release(&self, node: &NodeId, rooms: &[Room]) -> Result<()> {
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

    async fn owners(&self, room: &Room) -> Result<Owners> {
        let mut commands = ::redis::pipe();
        commands.cmd("SMEMBERS").arg(self.owners_key(room));
        commands.cmd("GET").arg(self.epoch_key());
        let ((members, value), run_id): ((Vec<Vec<u8>>, Option<Vec<u8>>), _) = self.run(&commands).await?;
        Ok(Owners { nodes: read_nodes(&members), epoch: epoch(value, &run_id) })
    }

    async fn account(&self, room: &Room, nodes: &[NodeId]) -> Result<Vec<Account>> {
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
            accounts.push(Account { entry: entry.as_deref().and_then(read_entry), sockets });
        }
        Ok(accounts)
    }

    async fn repair(&self, room: &Room, nodes: &[NodeId]) -> Result<()> {
        for node in nodes {
            self.run_repair(node, &self.owners_key(room), &[self.room_key(node, room)]).await?;
        }
        Ok(())
    }

    async fn list(&self, node: &NodeId, changes: &[SeatChange]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut commands = ::redis::pipe();
        for room in changes.chunk_by(|one, next| one.seat.room == next.seat.room && one.taken == next.taken) {
            let first = &room[0];
            let key = self.room_key(node, &first.seat.room);
            commands.cmd(if first.taken { "SADD" } else { "SREM" }).arg(&key);
            for change in room {
                commands.arg(change.seat.socket.as_str());
            }
            commands.ignore();
            if first.taken {
                commands.cmd("EXPIRE").arg(&key).arg(ENTRY_TTL.as_secs()).ignore();
            }
        }
        self.write(&commands).await
    }

    async fn forget(&self, node: &NodeId) -> Result<()> {
        let mut commands = ::redis::pipe();
        commands.cmd("SREM").arg(self.nodes_key()).arg(node.as_str()).ignore();
        commands.cmd("DEL").arg(self.lease_key(node)).ignore();
        self.run::<()>(&commands).await.map(drop)
    }
}
