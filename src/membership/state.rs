//! The data types of the membership: what is known of the members, of this node's lease, and of its readiness.
//!
//! Owns no behaviour beyond reading these values. [`super::table`] decides who is a member, [`super::lease`] keeps the
//! lease.

use std::collections::HashSet;
use std::time::Duration;

use smol_str::SmolStr;

use crate::clock::BootInstant;
use crate::index::Epoch;
use crate::names::{NodeId, NodeName};

/// A node without its id, which changes with each incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    pub name: NodeName,
    /// The address of its mesh port, `host:port`.
    pub mesh: SmolStr,
    /// When the process started, RFC 3339.
    pub since: SmolStr,
}

/// A node of the cluster other than this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
    pub name: NodeName,
    pub mesh: SmolStr,
    pub since: SmolStr,
    /// The epoch in which all its rooms are in the directory, by its last status.
    pub fully_indexed_in: Option<Epoch>,
    /// Its lease was in the last listing that could be read.
    pub leased: bool,
    /// The last contact over the mesh, of this node or of a member that reported it.
    pub heard: Option<BootInstant>,
    /// When its last status arrived here directly.
    pub(super) status_received: Option<BootInstant>,
    /// The sequence number of its last status; 0 before the first.
    pub(super) sequence: u64,
    /// The last status of this node that it acknowledged.
    pub(super) acknowledged: u64,
    /// When the latest request was *sent* that it answered.
    pub(super) answered: Option<BootInstant>,
    /// Since when it has neither a lease nor any contact.
    pub(super) suspected: Option<BootInstant>,
}

/// The members at one moment.
#[derive(Debug, Clone, Default)]
pub struct MembershipView {
    /// When the read of the last listing *began*; `None` before the first.
    pub listed: Option<BootInstant>,
    pub members: Vec<Member>,
    /// Since when every listing could be read and had the same epoch; `None` after a failed read.
    pub steady_since: Option<BootInstant>,
    /// This node knows every member that a node with a lease knows.
    pub synced: bool,
    /// Nodes that said goodbye, and incarnations that a later one of their process has replaced.
    pub departed: HashSet<NodeId>,
}

/// The lease of this node, by the last answer of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    /// The incarnation that this is about.
    pub node: NodeId,
    /// When its registration was sent; `None` until it was answered.
    pub registered: Option<BootInstant>,
    /// When the last renewal that was answered was *sent*.
    pub confirmed: Option<BootInstant>,
    /// Every member has acknowledged the hello of this incarnation, or a whole lease has passed since it registered.
    pub birth_complete: bool,
    /// This process has registered once and read the listing afterwards. Stays true for later incarnations.
    pub joined: bool,
}

/// How far the shutdown of this node is. Only advances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainState {
    #[default]
    Serving,
    /// Accepts no new sockets and disconnects those it has.
    Draining,
    /// Has no sockets any more.
    Goodbye,
}

/// Whether new clients should be sent to this node, and what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    pub directory: DirectoryState,
    pub mesh: MeshState,
    pub draining: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectoryState {
    /// The directory has confirmed the lease recently.
    LeaseConfirmed,
    /// The directory does not answer. The other nodes may still know this one.
    Unavailable,
    /// The directory has never answered, so this node knows no other.
    NeverReached,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeshState {
    /// The other nodes know this one well enough for its sockets to be acknowledged, and this node knows the others.
    Synced,
    /// Some member has not acknowledged the status of this node yet, or this node may not know all members.
    Announcing,
    /// No lease, and no answers from a majority of the members.
    Isolated,
}

impl Member {
    /// A member of which only the address is known, and the epoch of its last status.
    pub fn new(node: NodeId, name: NodeName, mesh: SmolStr, fully_indexed_in: Option<Epoch>) -> Self {
        Self {
            node,
            name,
            mesh,
            since: SmolStr::default(),
            fully_indexed_in,
            leased: false,
            heard: None,
            status_received: None,
            sequence: 0,
            acknowledged: 0,
            answered: None,
            suspected: None,
        }
    }

    /// Whether it has answered a request that was sent at `since` or later.
    pub(super) fn answered_since(&self, since: BootInstant) -> bool {
        self.answered.is_some_and(|sent| sent >= since)
    }
}

impl MembershipView {
    /// Whether a missing lease is evidence: for a whole lease, every listing could be read and had the same epoch.
    pub fn steady(&self, lease: Duration, now: BootInstant) -> bool {
        self.steady_since.is_some_and(|since| now.since(since) >= lease)
    }

    pub fn get(&self, node: &NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node == *node)
    }
}

impl LeaseState {
    /// When `node` registered, if this is about it.
    pub(super) fn registered(&self, node: &NodeId) -> Option<BootInstant> {
        self.registered.filter(|_| self.node == *node)
    }

    pub(super) fn may_acknowledge(&self, node: &NodeId, lease: Duration) -> bool {
        self.node == *node && self.birth_complete && self.is_confirmed(lease)
    }

    /// Whether the directory has confirmed the lease recently.
    pub(super) fn is_confirmed(&self, lease: Duration) -> bool {
        self.confirmed.is_some_and(|sent| sent.elapsed() < trust_period(lease))
    }
}

impl Readiness {
    pub fn is_ready(&self) -> bool {
        self.mesh == MeshState::Synced && !self.draining
    }
}

/// How long an answer is relied on, counted from when its request was sent. Other nodes rely on it for a whole lease; the
/// margin covers a process that was suspended between the check and the acknowledgement.
pub(super) fn trust_period(lease: Duration) -> Duration {
    lease * 3 / 4
}
