//! The directory: the index that all nodes share. It lists the nodes, and the nodes that own sockets of a room.
//!
//! Owns the contract ([`Directory`]) and its implementations: [`redis`] for a cluster, [`memory`] for one process, and
//! [`measured`], which wraps one of them and records metrics. Tests wrap one in `faulty`.
//!
//! Owns no truth about sockets. The index only permits a roll call to skip a node (docs/ARCHITECTURE.md, rule 1); it is
//! never evidence that a socket exists. Every answer names the epoch it was read in, and every call ends in bounded time.

#[cfg(any(test, feature = "testing"))]
pub mod faulty;
pub mod measured;
pub mod memory;
pub mod redis;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use strum::{EnumCount, IntoStaticStr, VariantArray};
use thiserror::Error;

use crate::index::{Epoch, SocketWrite};
use crate::names::{NodeId, NodeName, Room};

/// Time to live of owner sets and socket sets after their last write.
///
/// Nodes rewrite them every half minute, so only the entries of nodes that never came back reach this age.
pub const ENTRY_TTL: Duration = Duration::from_secs(600);

/// The lifetime of an epoch is a lease divided by this.
///
/// Nodes renew the epoch with their leases, five times per lease. A node that missed one renewal still has more than half of
/// its lease, so the epoch expires first. The epoch survives one missed renewal of all nodes; two in a row end it.
const EPOCHS_PER_LEASE: u32 = 2;

/// The entry of a node under its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    pub name: NodeName,
    /// The advertised address of its mesh listener, `host:port`.
    pub mesh: SmolStr,
    /// When the process started, RFC 3339.
    pub since: SmolStr,
    pub draining: bool,
}

/// The nodes that have a lease, and the epoch, which was read after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeListing {
    pub nodes: Vec<(NodeId, NodeEntry)>,
    /// `None` without a valid epoch: no node has registered yet, it expired, or the data has another history.
    pub epoch: Option<Epoch>,
    /// Age of the epoch, by the clock of the index. Shortly after an epoch began, live nodes may be missing from the
    /// listing because they have not registered again. `None` for the first epoch of an index in memory: no node can have
    /// registered before it.
    pub age: Option<Duration>,
    /// The clock of the index at the time of the read, since a fixed moment. It may step; nodes compare it with their own.
    pub time: Duration,
}

/// The owner set of a room, and the epoch, which was read after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomOwners {
    pub nodes: Vec<NodeId>,
    /// `None` without a valid epoch, as in [`NodeListing`]. Then a roll call may skip no node.
    pub epoch: Option<Epoch>,
}

/// The answer to a lease renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseRenewal {
    Renewed(Epoch),
    /// The lease is gone, because it expired or the index was flushed; or the epoch is not valid; or the lease is older than
    /// the last renewal. The call created no lease. After an older lease, the next registration begins another epoch.
    Lapsed,
}

/// The lease of a node and its socket count in a room: evidence about a node that did not answer for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAndCount {
    /// `None` if the node has no lease.
    pub entry: Option<NodeEntry>,
    /// Size of the node's socket set for the room.
    pub sockets: u64,
}

/// Why a call to the directory failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DirectoryError {
    /// No answer arrived. A write may have been executed, or may still be.
    #[error("no answer: {0}")]
    Unanswered(String),
    /// The directory rejected the call. A call on several rooms may be partly written, but nothing runs later.
    #[error("refused: {0}")]
    Refused(String),
    /// A key holds a value of another type, so another program wrote it. The rest of the call was executed.
    #[error("a key holds another program's value: {0}")]
    Foreign(String),
}

/// The lifetime of an epoch that is renewed together with leases of this duration.
fn epoch_ttl(lease: Duration) -> Duration {
    lease / EPOCHS_PER_LEASE
}

pub type Result<T> = std::result::Result<T, DirectoryError>;

/// The calls of a [`Directory`], by the name that their metrics have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
pub enum DirectoryCall {
    #[strum(serialize = "enter")]
    Register,
    #[strum(serialize = "renew")]
    Renew,
    #[strum(serialize = "nodes")]
    Nodes,
    #[strum(serialize = "claim")]
    AddOwner,
    #[strum(serialize = "release")]
    RemoveOwner,
    #[strum(serialize = "owners")]
    Owners,
    #[strum(serialize = "account")]
    LeasesAndCounts,
    #[strum(serialize = "repair")]
    RemoveDeadOwners,
    #[strum(serialize = "list")]
    WriteSockets,
    #[strum(serialize = "forget")]
    Deregister,
}

/// The contract of an index.
///
/// An implementation never retries a call. A write without an answer may still run later and undo a newer one, so only
/// the caller can decide what to do about it.
#[async_trait]
pub trait Directory: Send + Sync + 'static {
    /// Runs forever and maintains what the calls need, such as a connection. Each node runs it once.
    async fn maintain(&self);

    /// Writes the node's entry under a new lease, and creates an epoch if the index has none.
    ///
    /// The epoch expires half a lease after the last registration or renewal of any node: before the leases and the owner
    /// sets that readers trust because of it. So a step of the clock of the index never removes these alone.
    ///
    /// Returns `None`, and leaves the lease unchanged, if the id has one already: a lapsed lease is never revived.
    async fn register(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<Option<Epoch>>;

    /// Extends an existing lease and the epoch, and replaces the entry under the lease.
    async fn renew(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<LeaseRenewal>;

    /// Returns the nodes that have a lease. Removes registrations without one.
    async fn nodes(&self) -> Result<NodeListing>;

    /// Adds the node to the owner sets of these rooms.
    ///
    /// Returns the epoch, read after the writes, or `None` if the index has no epoch.
    async fn add_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<Option<Epoch>>;

    /// Removes the node from the owner sets of these rooms, and its socket sets. Skips keys of other programs.
    async fn remove_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<()>;

    /// Returns the owner set of a room. A roll call reads nothing else in the normal case.
    async fn owners(&self, room: &Room) -> Result<RoomOwners>;

    /// Returns lease and socket count of each node, in the order given.
    async fn leases_and_counts(&self, room: &Room, nodes: &[NodeId]) -> Result<Vec<LeaseAndCount>>;

    /// Removes those of the nodes that have no lease from the room. Checks and removes each node in one atomic step.
    async fn remove_dead_owners(&self, room: &Room, nodes: &[NodeId]) -> Result<()>;

    /// Adds sockets to, and removes them from, the node's socket sets. Skips keys of other programs.
    async fn write_sockets(&self, node: &NodeId, writes: &[SocketWrite]) -> Result<()>;

    /// Removes the registration and the lease of a node that will not return. Its owner entries must be gone already.
    async fn deregister(&self, node: &NodeId) -> Result<()>;
}
