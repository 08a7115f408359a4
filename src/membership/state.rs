//! The data types of the membership: members, this node's lease, and its readiness.
//!
//! Owns no behaviour beyond reading these values. [`super::table`] owns the conditions for a member, and [`super::lease`]
//! keeps the lease.

use std::time::Duration;

use smol_str::SmolStr;
use strum::Display;

use super::departed::DepartedNodes;
use crate::clock::BootInstant;
use crate::index::Epoch;
use crate::names::{NodeId, NodeName};

/// The properties of a node that stay the same for an incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    pub name: NodeName,
    /// The address of its mesh port, `host:port`. Empty until it was found.
    pub mesh: SmolStr,
    /// The start time of the process, RFC 3339.
    pub since: SmolStr,
}

/// A node of the cluster other than this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
    pub name: NodeName,
    pub mesh: SmolStr,
    pub since: SmolStr,
    pub(super) source: MemberSource,
    /// The directory was read, or could not be read, since this node first learned of the member.
    pub(super) is_checked: bool,
    /// The epoch in which the member is fully indexed, by its last status.
    pub fully_indexed_in: Option<Epoch>,
    /// The lease of the member was in the last listing that could be read.
    pub leased: bool,
    /// The time of the last contact over the mesh, with this node or with a member that reported it.
    pub heard: Option<BootInstant>,
    /// The time when another node last named a later incarnation of the process. If that is true, the last status of this one
    /// permits nothing any more.
    pub(super) disputed: Option<BootInstant>,
    /// The incarnation of this node to which the member last announced itself, on a connection that it opened.
    pub(super) announced_to: Option<NodeId>,
    /// The time when its last status arrived at this node directly.
    pub(super) status_received: Option<BootInstant>,
    /// The sequence number of its last status; 0 before the first.
    pub(super) sequence: u64,
    /// The sequence number of the last status of this node that the member acknowledged.
    pub(super) acknowledged: u64,
    /// The time when the last request that the member answered was *sent*.
    pub(super) answered: Option<BootInstant>,
    /// The time when the last announcement that the member did not answer was *sent*.
    pub(super) unanswered: Option<BootInstant>,
    /// The time when this node began to suspect it: it had neither a lease nor any contact for a lease.
    pub(super) suspected: Option<BootInstant>,
}

/// The best source from which a member is known, worst first (docs/SECURITY.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Display)]
#[strum(serialize_all = "lowercase")]
pub enum MemberSource {
    /// Another node named it: hearsay.
    Gossip,
    /// It announced itself.
    Status,
    /// It had a lease in the directory, or an earlier incarnation of its process had one.
    Lease,
}

/// The members at one moment.
#[derive(Debug, Clone, Default)]
pub struct MembershipView {
    /// The time when the read of the last listing *started*; `None` before the first.
    pub listed: Option<BootInstant>,
    pub members: Vec<Member>,
    /// The time since which every listing could be read and had the same epoch; `None` after a failed read.
    pub steady_since: Option<BootInstant>,
    /// This node knows every member that a node with a lease knows.
    pub synced: bool,
    /// Nodes that said goodbye, and incarnations that a later one of their process has replaced.
    pub departed: DepartedNodes,
}

/// The lease of this node, according to the last answer of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    /// The incarnation that holds the lease.
    pub node: NodeId,
    /// The time when its registration was *sent*; `None` before the answer.
    pub registered: Option<BootInstant>,
    /// The time when the last answered renewal was *sent*.
    pub confirmed: Option<BootInstant>,
    /// Every member has acknowledged the hello of this incarnation, or a whole lease has passed since it registered.
    pub birth_complete: bool,
    /// This process has registered once and read the listing afterwards. Stays true for later incarnations.
    pub joined: bool,
}

/// The progress of this node's shutdown. It never goes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainState {
    #[default]
    Serving,
    /// The node accepts no new sockets and disconnects its existing ones.
    Draining,
    /// The node has no sockets any more.
    Goodbye,
}

/// The conditions under which load balancers should send new clients to this node.
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
    /// Most members with a lease have not connected to this node for a lease: they cannot reach its advertised address.
    Unreachable,
    /// No lease, and no answers from a majority of the members.
    Isolated,
}

impl Member {
    /// A member with a lease, without any contact so far.
    pub fn new(node: NodeId, name: NodeName, mesh: SmolStr, fully_indexed_in: Option<Epoch>) -> Self {
        Self {
            node,
            name,
            mesh,
            since: SmolStr::default(),
            source: MemberSource::Lease,
            is_checked: false,
            fully_indexed_in,
            leased: false,
            heard: None,
            disputed: None,
            announced_to: None,
            status_received: None,
            sequence: 0,
            acknowledged: 0,
            answered: None,
            unanswered: None,
            suspected: None,
        }
    }

    /// Whether the directory has listed the process. Other members may be impostors.
    pub fn is_listed(&self) -> bool {
        self.source == MemberSource::Lease
    }

    /// Whether the member itself, or the directory, has confirmed that it exists at its address. Until then it may be invented.
    pub(super) fn is_verified(&self) -> bool {
        self.is_listed() || self.answered.is_some()
    }

    /// Whether the member has answered a request that was sent at `since` or later.
    pub(super) fn answered_since(&self, since: BootInstant) -> bool {
        self.answered.is_some_and(|sent| sent >= since)
    }

    /// Whether the member has left a request unanswered that was sent at `since` or later.
    pub(super) fn left_unanswered_since(&self, since: BootInstant) -> bool {
        self.unanswered.is_some_and(|sent| sent >= since)
    }
}

impl MembershipView {
    /// Whether the read of the last listing started less than half a lease ago.
    ///
    /// Renewals and listings follow each other five times per lease, so an older table belongs to a node that was stopped,
    /// or that Redis has not answered. After a whole lease the others may have removed this node and act without it; half a
    /// lease leaves time for a stop between a renewal and its listing.
    pub fn is_fresh(&self, lease: Duration, now: BootInstant) -> bool {
        self.listed.is_some_and(|listed| now.since(listed) < lease / 2)
    }

    /// Whether a missing lease is evidence: every listing of the last lease could be read and had the same epoch, and the
    /// last one is fresh. A node that was stopped did not see what happened to the index meanwhile.
    pub fn steady(&self, lease: Duration, now: BootInstant) -> bool {
        self.is_fresh(lease, now) && self.steady_since.is_some_and(|since| now.since(since) >= lease)
    }

    pub fn get(&self, node: &NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node == *node)
    }
}

impl LeaseState {
    /// The time of the registration of `node`; `None` for another incarnation.
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

/// The time for which this node relies on an answer, counted from the send of its request.
///
/// Other nodes rely on it for a whole lease. The margin covers a process that is suspended between the check and the
/// acknowledgement.
pub(super) fn trust_period(lease: Duration) -> Duration {
    lease * 3 / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(5);

    #[test]
    fn a_missing_lease_is_no_evidence_after_a_stop_of_this_node() {
        let now = BootInstant::now();
        let view = MembershipView { listed: Some(now), steady_since: Some(now.before(LEASE)), ..Default::default() };
        assert!(view.steady(LEASE, now.after(LEASE / 5)), "the next listing is due");
        assert!(!view.steady(LEASE, now.after(LEASE / 2)), "the listing is old");
        let young = MembershipView { steady_since: Some(now.before(LEASE / 2)), ..view.clone() };
        assert!(!young.steady(LEASE, now), "the index is young");
        let unreadable = MembershipView { steady_since: None, ..view };
        assert!(!unreadable.steady(LEASE, now), "the last listing failed");
    }
}
