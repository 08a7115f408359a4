//! The directory: the index that all nodes share, of who is there and whom to ask about a room.
//!
//! Owns the contract ([`Directory`]) and its two implementations: [`redis`] for a cluster, [`memory`] for one process;
//! and [`faulty`], which stands around one of them in tests.
//! Owns no truth about sockets: it is permission to skip a node, never evidence that a socket exists. Every answer
//! says which life of the index ([`Epoch`]) it came from, and every call ends within a bounded time.

pub mod faulty;
pub mod measured;
pub mod memory;
pub mod redis;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use thiserror::Error;

use crate::index::{Epoch, SocketWrite};
use crate::names::{NodeId, NodeName, Room};

/// How long a claim and a socket-id set live in the index after they were last asserted. Only what a node left behind
/// that never came back is still there by then.
pub const ENTRY_TTL: Duration = Duration::from_secs(600);

/// What a node writes about itself under its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    pub name: NodeName,
    /// Where its mesh is reached, `host:port`.
    pub mesh: SmolStr,
    /// When the process started, RFC 3339.
    pub since: SmolStr,
    pub draining: bool,
}

/// The nodes that have a lease, and then the index it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeListing {
    pub nodes: Vec<(NodeId, NodeEntry)>,
    /// `None` when nobody has registered in this index yet.
    pub epoch: Option<Epoch>,
    /// How long ago this life of the index began, by its own clock. In a young one not everybody who is alive may have
    /// registered again. `MAX`: there was never another, and nobody was ever cut off from it.
    pub age: Duration,
}

/// The owner set of a room, and then the index it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomOwners {
    pub nodes: Vec<NodeId>,
    /// `None` when nobody has registered in this index yet: it permits to skip nobody.
    pub epoch: Option<Epoch>,
}

/// The answer to a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseRenewal {
    Renewed(Epoch),
    /// The lease was not there any more, and was not made again.
    Lapsed,
}

/// What the index knows of a node and a room, for a node that did not answer for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAndCount {
    /// `None`: it has no lease.
    pub entry: Option<NodeEntry>,
    /// How many sockets of the room are listed for it.
    pub sockets: u64,
}

/// Why the directory did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// No answer came. A command that writes may have been carried out, or may be yet.
    #[error("no answer: {0}")]
    Unanswered(String),
    /// It answered that it will not. Part of a call on several rooms may have been written, but nothing runs later.
    #[error("refused: {0}")]
    Refused(String),
    /// Refused because a key holds a value of another kind: some other program's. The rest of the call was done.
    #[error("a key is another program's: {0}")]
    Foreign(String),
}

pub type Result<T> = std::result::Result<T, Error>;

/// The contract. No call is retried inside: a write without an answer may still run later, so its caller decides.
#[async_trait]
pub trait Directory: Send + Sync + 'static {
    /// Keeps up what the calls need, for ever: a connection, where there is one. Each node runs it once.
    async fn maintain(&self);

    /// Writes the node's entry under a lease that is not there yet, and makes an epoch if there is none.
    /// `None`: a lease of that id was there, and was left as it was.
    async fn register(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<Option<Epoch>>;

    /// Renews a lease that is still there, with the entry as it is now.
    async fn renew(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<LeaseRenewal>;

    /// Every registered node that has a lease, and then the index it was read from. Registrations without a lease are
    /// cleared away on the side.
    async fn nodes(&self) -> Result<NodeListing>;

    /// Adds the node to the owner sets of these rooms, and answers with the index it did so in, read afterwards.
    /// `None`: the index has no epoch.
    async fn add_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<Option<Epoch>>;

    /// Takes the node out of the owner sets of these rooms, and removes its socket-id sets of them. A key of another
    /// program has nothing to be removed.
    async fn remove_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<()>;

    /// Who owns sockets of the room. The one read of a roll call.
    async fn owners(&self, room: &Room) -> Result<RoomOwners>;

    /// What is known of these nodes and this room, in the order given.
    async fn leases_and_counts(&self, room: &Room, nodes: &[NodeId]) -> Result<Vec<LeaseAndCount>>;

    /// Removes what is left in the room of those of these nodes that have no lease, each in one step.
    async fn remove_dead_owners(&self, room: &Room, nodes: &[NodeId]) -> Result<()>;

    /// Makes the socket-id sets list what is true of these seats, but for those that are another program's key.
    async fn write_sockets(&self, node: &NodeId, changes: &[SocketWrite]) -> Result<()>;

    /// Removes the registration and the lease of a node that is not coming back. Its claims were released before.
    async fn deregister(&self, node: &NodeId) -> Result<()>;
}
