//! The meaning of a missing reply (rule 9): from the evidence about a silent node to the verdict.
//!
//! Owns the table "The meaning of silence" of docs/ARCHITECTURE.md. [`LeaseEvidence`] is the evidence, [`Disposition`] the
//! verdict. The same rules judge nodes that were asked and owners without a known address. Pure: the fan-out reads the
//! leases and copies the member table.

use crate::directory::LeaseAndCount;
use crate::membership::MembershipView;
use crate::mesh::answers::PeerError;
use crate::names::NodeId;

/// The evidence about a node that did not reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEvidence {
    /// The node said goodbye or was replaced, and no incarnation of its process is a member.
    Departed,
    /// The lease was not read, or could not be read.
    Unreadable,
    /// The node has a lease.
    Leased { sockets: u64 },
    /// The node has no lease, but may live: an incarnation of its process is a member, or the index is too young for a
    /// missing lease to be evidence.
    Unproven { sockets: u64 },
    /// The node has no lease in a steady index, and no incarnation of its process is a member.
    Lapsed,
}

/// The meaning of a missing reply of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The node may have sockets in the room. `unresolved`: their number in the index, `None` if it could not be read.
    Unanswered { unresolved: Option<u64> },
    /// The node has no sockets that may be listed.
    Dead,
}

/// A missing reply after it was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JudgedSilence {
    pub error: PeerError,
    pub disposition: Disposition,
}

impl LeaseEvidence {
    /// `reading`: the lease of the node in the index, and the number of its sockets; `None` if they could not be read.
    /// `proves_absence`: whether a missing lease is evidence in this index. `view`: the member table after the reading.
    pub fn of(node: &NodeId, reading: Option<&LeaseAndCount>, proves_absence: bool, view: &MembershipView) -> Self {
        // The node itself, or a later incarnation under an id that was not asked. A member is alive even if its lease is
        // missing: the index may have been flushed since the member was listed.
        let is_process_member = view.members.iter().any(|member| member.node.process() == node.process());
        match reading {
            _ if view.departed.contains(node) && !is_process_member => Self::Departed,
            None => Self::Unreadable,
            Some(LeaseAndCount { entry: Some(_), sockets }) => Self::Leased { sockets: *sockets },
            Some(LeaseAndCount { entry: None, sockets }) if is_process_member || !proves_absence => {
                Self::Unproven { sockets: *sockets }
            }
            Some(LeaseAndCount { entry: None, .. }) => Self::Lapsed,
        }
    }
}

impl Disposition {
    /// Judges a node that did not reply.
    pub fn of(evidence: LeaseEvidence) -> Self {
        match evidence {
            LeaseEvidence::Departed | LeaseEvidence::Lapsed => Self::Dead,
            LeaseEvidence::Unreadable => Self::Unanswered { unresolved: None },
            LeaseEvidence::Leased { sockets } | LeaseEvidence::Unproven { sockets } => {
                Self::Unanswered { unresolved: Some(sockets) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use smol_str::SmolStr;

    use super::*;
    use crate::clock::BootInstant;
    use crate::directory::NodeEntry;
    use crate::membership::Member;
    use crate::names::NodeName;

    #[test]
    fn the_disposition_follows_the_table_of_silence() {
        let entry = NodeEntry {
            name: NodeName::from_any("node"),
            mesh: SmolStr::default(),
            since: SmolStr::default(),
            draining: false,
        };
        let leased = LeaseAndCount { entry: Some(entry), sockets: 5 };
        let unleased = LeaseAndCount { entry: None, sockets: 5 };
        let unanswered = |unresolved| Disposition::Unanswered { unresolved };
        let node = NodeId::new_process();
        let member = |node: &NodeId| Member::new(node.clone(), NodeName::from_any("node"), SmolStr::default(), None);
        let stranger = MembershipView::default();
        let mut departed = MembershipView::default();
        departed.departed.insert(&node, BootInstant::now());
        let listed = MembershipView { members: vec![member(&node)], ..MembershipView::default() };
        let replaced = MembershipView { members: vec![member(&node.next_incarnation())], ..departed.clone() };
        for (reading, proves_absence, view, disposition) in [
            (Some(&leased), true, &stranger, unanswered(Some(5))),
            (Some(&unleased), true, &listed, unanswered(Some(5))),
            (Some(&unleased), false, &stranger, unanswered(Some(5))),
            (Some(&unleased), true, &replaced, unanswered(Some(5))),
            (Some(&unleased), true, &stranger, Disposition::Dead),
            (None, true, &stranger, unanswered(None)),
            (None, false, &listed, unanswered(None)),
            (Some(&leased), false, &departed, Disposition::Dead),
            (None, false, &departed, Disposition::Dead),
        ] {
            let evidence = LeaseEvidence::of(&node, reading, proves_absence, view);
            assert_eq!(Disposition::of(evidence), disposition, "{evidence:?}, {view:?}");
        }
    }
}
