//! Whom to ask: a pure function of the table of members and of what the directory said.
//!
//! Owns rule 1: the index is only permission to skip a peer. A roll call asks every member, except one whose last word
//! is "whole under E" and which is not in the owner set, where E was read after the owner set, and the table is no
//! older than a lease. Owns no I/O and no time of its own.

use std::time::Duration;

use smol_str::SmolStr;

use super::answer::Source;
use crate::clock::BootInstant;
use crate::directory::Owners;
use crate::membership::{Member, View};
use crate::names::{NodeId, NodeName};

/// A node to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub node: NodeId,
    pub name: NodeName,
    pub mesh: SmolStr,
}

/// The outcome of planning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub source: Source,
    /// The directory was read, and the members have been listed: who is not asked was skipped with permission.
    pub informed: bool,
    pub ask: Vec<Target>,
    /// Owners that are no members as known here: the directory must say whether they have a lease.
    pub strangers: Vec<NodeId>,
    /// Owners that are gone for good: what they left is to be removed.
    pub gone: Vec<NodeId>,
}

/// Decides whom to ask. `owners` is what the directory said after `view` was taken; `None` when it could not be read.
/// `own` is this node's process: no incarnation of it is asked over the mesh.
pub fn plan(view: &View, owners: Option<&Owners>, own: &str, lease: Duration, now: BootInstant) -> Plan {
    let fresh = view.listed.is_some_and(|listed| now.since(listed) <= lease);
    let permission = owners.filter(|_| fresh).and_then(|owners| Some((owners.epoch.as_ref()?, &owners.nodes)));
    let skipped = |member: &Member| {
        permission
            .is_some_and(|(epoch, nodes)| member.whole_under.as_ref() == Some(epoch) && !nodes.contains(&member.node))
    };
    let ask = view.members.iter().filter(|member| !skipped(member)).map(Target::from).collect();

    let owners_or_none = owners.map(|owners| owners.nodes.as_slice()).unwrap_or_default();
    let unknown = owners_or_none.iter().filter(|owner| owner.process() != own && view.get(owner).is_none());
    let (gone, strangers) = unknown.cloned().partition(|owner| view.departed.contains(owner));
    Plan {
        source: if permission.is_some() { Source::Directory } else { Source::Peers },
        informed: owners.is_some() && view.listed.is_some(),
        ask,
        strangers,
        gone,
    }
}

impl From<&Member> for Target {
    fn from(member: &Member) -> Self {
        Self { node: member.node.clone(), name: member.name.clone(), mesh: member.mesh.clone() }
    }
}
