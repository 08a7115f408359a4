//! The events in the life of members, for the log of an operator.
//!
//! [`super::table`] returns the events together with the effect of a change, and [`super::Membership`] logs them at `info`.
//! Owns no state. The tests of the table cover the events.

use strum::Display;
use tracing::info;

use super::state::{Member, MemberSource};
use crate::names::NodeId;

/// The effect of a change of the member table.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TableChange {
    /// This node's status must be sent to the members that need it.
    pub must_announce: bool,
    pub events: Vec<MembershipEvent>,
}

/// An event in the life of a member, or of this node's knowledge of the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipEvent {
    Added {
        member: MemberName,
        source: MemberSource,
    },
    /// The member has no lease, and sent no message for a lease.
    Suspected(MemberName),
    /// A suspect was heard again, or has a lease again.
    Recovered(MemberName),
    Removed(MemberName),
    Departed {
        member: MemberName,
        reason: Departure,
    },
    /// This node knows every member that a member with a lease knows.
    Synced,
}

/// The fields of a member that identify it in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberName {
    pub node: NodeId,
    pub name: String,
    pub mesh: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Display)]
#[strum(serialize_all = "lowercase")]
pub enum Departure {
    Goodbye,
    /// A later incarnation of its process took its place.
    Replaced,
}

impl TableChange {
    /// Adds the effect of a further change.
    pub fn extend(&mut self, other: Self) {
        self.must_announce |= other.must_announce;
        self.events.extend(other.events);
    }
}

impl MembershipEvent {
    pub fn log(&self) {
        match self {
            Self::Added { member: MemberName { node, name, mesh }, source } => {
                info!(%node, %name, %mesh, %source, "added a member");
            }
            Self::Suspected(MemberName { node, name, mesh }) => {
                info!(%node, %name, %mesh, "suspecting a member: it has no lease, and sent no message for a lease");
            }
            Self::Recovered(MemberName { node, name, mesh }) => {
                info!(%node, %name, %mesh, "no longer suspecting a member: it sent a message, or has a lease");
            }
            Self::Removed(MemberName { node, name, mesh }) => {
                info!(%node, %name, %mesh, "removed a dead member: it has no lease, did not answer, and no member has heard it");
            }
            Self::Departed { member: MemberName { node, name, mesh }, reason } => {
                info!(%node, %name, %mesh, %reason, "a member departed");
            }
            Self::Synced => info!("synced: this node knows all members"),
        }
    }
}

impl From<&Member> for MemberName {
    fn from(member: &Member) -> Self {
        Self { node: member.node.clone(), name: member.name.to_string(), mesh: member.mesh.to_string() }
    }
}
