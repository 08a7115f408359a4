//! Whom to ask: a pure function of the table of members and of what the directory said.
//!
//! Owns rule 1: the index is only permission to skip a peer. A roll call asks every member, except one whose last word
//! is "whole under E" and which is not in the owner set, where E was read after the owner set, and the table is no
//! older than a lease. Owns no I/O and no time of its own.

use std::time::Duration;

use smol_str::SmolStr;

use super::answer::Source;
use crate::clock::BootInstant;
use crate::directory::RoomOwners;
use crate::membership::{Member, MembershipView};
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
    /// The directory was read, the members were listed lately, and what they know is known here: who is not asked was
    /// skipped with permission.
    pub informed: bool,
    pub ask: Vec<Target>,
    /// Owners that are no members as known here: the directory must say whether they have a lease.
    pub strangers: Vec<NodeId>,
    /// Owners that are gone for good: what they left is to be removed.
    pub gone: Vec<NodeId>,
}

/// Decides whom to ask. `owners` is what the directory said after `view` was taken; `None` when it could not be read.
/// `own` is this node's process: no incarnation of it is asked over the mesh.
pub fn plan(view: &MembershipView, owners: Option<&RoomOwners>, own: &str, lease: Duration, now: BootInstant) -> Plan {
    let fresh = view.listed.is_some_and(|listed| now.since(listed) <= lease);
    let permission = owners.filter(|_| fresh).and_then(|owners| Some((owners.epoch.as_ref()?, &owners.nodes)));
    let indexed =
        |member: &Member| permission.is_some_and(|(epoch, _)| member.fully_indexed_in.as_ref() == Some(epoch));
    let skipped =
        |member: &Member| indexed(member) && permission.is_some_and(|(_, nodes)| !nodes.contains(&member.node));
    let relied_on = permission.is_some() && (view.members.is_empty() || view.members.iter().any(indexed));
    let ask = view.members.iter().filter(|member| !skipped(member)).map(Target::from).collect();

    let owners_or_none = owners.map(|owners| owners.nodes.as_slice()).unwrap_or_default();
    let unknown = owners_or_none.iter().filter(|owner| owner.process() != own && view.get(owner).is_none());
    let (gone, strangers) = unknown.cloned().partition(|owner| view.departed.contains(owner));
    Plan {
        source: if relied_on { Source::Directory } else { Source::Peers },
        informed: owners.is_some() && fresh && view.synced,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Epoch;

    const LEASE: Duration = Duration::from_secs(5);

    fn epoch(name: &str) -> Epoch {
        Epoch(name.into())
    }

    fn member(node: &NodeId, fully_indexed_in: Option<&str>) -> Member {
        Member::new(node.clone(), NodeName::from_any("node"), "127.0.0.1:1".into(), fully_indexed_in.map(epoch))
    }

    fn view(members: Vec<Member>, listed: Option<BootInstant>) -> MembershipView {
        MembershipView { listed, members, synced: true, ..MembershipView::default() }
    }

    fn asked(view: &MembershipView, owners: Option<&RoomOwners>, now: BootInstant) -> (Source, Vec<NodeId>) {
        let plan = plan(view, owners, "own", LEASE, now);
        (plan.source, plan.ask.into_iter().map(|target| target.node).collect())
    }

    #[test]
    fn only_who_is_whole_in_this_index_and_owns_nothing_may_be_skipped() {
        let now = BootInstant::now();
        let [owner, idle, unsure, elsewhere] = [(); 4].map(|()| NodeId::new_process());
        let members = vec![
            member(&owner, Some("E")),
            member(&idle, Some("E")),
            member(&unsure, None),
            member(&elsewhere, Some("F")),
        ];
        let view = view(members, Some(now));
        let owners = RoomOwners { nodes: vec![owner.clone()], epoch: Some(epoch("E")) };
        assert_eq!(
            asked(&view, Some(&owners), now),
            (Source::Directory, vec![owner.clone(), unsure.clone(), elsewhere.clone()])
        );
        let everybody = (Source::Peers, vec![owner.clone(), idle.clone(), unsure, elsewhere]);
        let without_epoch = RoomOwners { epoch: None, ..owners.clone() };
        assert_eq!(asked(&view, Some(&without_epoch), now), everybody, "an index without an epoch");
        assert_eq!(asked(&view, None, now), everybody, "an index that cannot be read");
        let later = view.listed.map(|listed| MembershipView { listed: Some(listed.before(LEASE * 2)), ..view.clone() });
        assert_eq!(asked(&later.unwrap(), Some(&owners), now), everybody, "a table older than a lease");
        let nobody_whole =
            MembershipView { members: vec![member(&owner, None), member(&idle, Some("F"))], ..view.clone() };
        let both = vec![owner, idle];
        assert_eq!(asked(&nobody_whole, Some(&owners), now), (Source::Peers, both), "nobody goes by this index");
        let never = MembershipView { listed: None, ..view };
        assert_eq!(asked(&never, Some(&owners), now), everybody, "a table that was never read");
    }

    #[test]
    fn who_owns_without_being_a_member_is_a_stranger_or_gone_and_never_this_node() {
        let now = BootInstant::now();
        let [own, stranger, gone] = [(); 3].map(|()| NodeId::new_process());
        let mut view = view(vec![], Some(now));
        view.departed.insert(gone.clone());
        let owners = RoomOwners { nodes: vec![own.clone(), stranger.clone(), gone.clone()], epoch: Some(epoch("E")) };
        let plan = plan(&view, Some(&owners), own.process(), LEASE, now);
        assert_eq!((plan.ask, plan.strangers, plan.gone), (vec![], vec![stranger], vec![gone]));
        assert!(plan.informed);
    }
}
