//! Decides which nodes a roll call asks (rule 1): a pure function of the member table and of the directory's answer.
//!
//! The index is only a permission to skip a peer. A roll call asks every member, except a member that has announced "fully
//! indexed in E" and is not in the owner set of the room. The exception holds only if epoch E was read after the owner set,
//! and if the member table is not older than half a lease. Owns no I/O and reads no clock.

use std::time::Duration;

use smol_str::SmolStr;

use crate::clock::BootInstant;
use crate::directory::RoomOwners;
use crate::membership::{Member, MembershipView};
use crate::names::{NodeId, NodeName};
use crate::telemetry::metrics::roll_calls::RollCallSource;

/// A node to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTarget {
    pub node: NodeId,
    pub name: NodeName,
    pub mesh: SmolStr,
}

/// The nodes to ask, and the owners that need more work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskPlan {
    pub source: RollCallSource,
    /// `ask` lacks no node that may have sockets of the room: the owners were read, the member table is fresh, and this node
    /// has exchanged member lists with the others.
    pub can_be_complete: bool,
    pub ask: Vec<PeerTarget>,
    /// Owners that are not in the member table. Their leases must be read.
    pub unknown_owners: Vec<NodeId>,
    /// Owners that have departed, and must be removed from the owner set. The fan-out adds those that it finds dead.
    pub dead_owners: Vec<NodeId>,
}

/// Decides which nodes to ask.
///
/// `view`: the member table, copied before `owners` was read from the directory. `owners`: `None` if the directory could
/// not be read. `own`: this process; a roll call asks none of its incarnations over the mesh. `now`: a time after the read
/// of the owners, so that a stop of this node before or during the read makes the table old.
pub fn plan(
    view: &MembershipView,
    owners: Option<&RoomOwners>,
    own: &str,
    lease: Duration,
    now: BootInstant,
) -> AskPlan {
    // An older table may lack a node that joined since.
    let fresh = view.is_fresh(lease, now);
    let permission = owners.filter(|_| fresh).and_then(|owners| Some((owners.epoch.as_ref()?, &owners.nodes)));
    // A process that the index has not listed may be an impostor, whose status permits nothing.
    let indexed = |member: &Member| {
        member.is_listed() && permission.is_some_and(|(epoch, _)| member.fully_indexed_in.as_ref() == Some(epoch))
    };
    let skipped =
        |member: &Member| indexed(member) && permission.is_some_and(|(_, nodes)| !nodes.contains(&member.node));
    let relied_on = permission.is_some() && (view.members.is_empty() || view.members.iter().any(indexed));
    let ask = view.members.iter().filter(|member| !skipped(member)).map(PeerTarget::from).collect();

    let owners_or_none = owners.map(|owners| owners.nodes.as_slice()).unwrap_or_default();
    let unknown = owners_or_none.iter().filter(|owner| owner.process() != own && view.get(owner).is_none());
    // An index that went back may have entries of earlier incarnations that no living node remembers.
    let is_replaced = |owner: &NodeId| {
        let is_successor = |member: &Member| {
            member.node.process() == owner.process() && member.node.incarnation() > owner.incarnation()
        };
        view.members.iter().any(|member| is_successor(member) && indexed(member))
    };
    let is_dead = |owner: &NodeId| view.departed.contains(owner) || is_replaced(owner);
    let (dead_owners, unknown_owners) = unknown.cloned().partition(is_dead);
    AskPlan {
        source: if relied_on { RollCallSource::Directory } else { RollCallSource::Peers },
        can_be_complete: owners.is_some() && fresh && view.synced,
        ask,
        unknown_owners,
        dead_owners,
    }
}

impl From<&Member> for PeerTarget {
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

    fn asked(view: &MembershipView, owners: Option<&RoomOwners>, now: BootInstant) -> (RollCallSource, Vec<NodeId>) {
        let plan = plan(view, owners, "own", LEASE, now);
        (plan.source, plan.ask.into_iter().map(|target| target.node).collect())
    }

    #[test]
    fn only_fully_indexed_members_without_ownership_are_skipped() {
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
            (RollCallSource::Directory, vec![owner.clone(), unsure.clone(), elsewhere.clone()])
        );
        let all = (RollCallSource::Peers, vec![owner.clone(), idle.clone(), unsure, elsewhere]);
        let without_epoch = RoomOwners { epoch: None, ..owners.clone() };
        assert_eq!(asked(&view, Some(&without_epoch), now), all, "an index without an epoch");
        assert_eq!(asked(&view, None, now), all, "an index that cannot be read");
        assert_eq!(asked(&view, Some(&owners), now.after(LEASE / 2)), all, "a table that is half a lease old");
        let skipping = (RollCallSource::Directory, vec![owner.clone(), all.1[2].clone(), all.1[3].clone()]);
        assert_eq!(asked(&view, Some(&owners), now.after(LEASE / 5)), skipping, "a table of the previous renewal");
        let none_indexed =
            MembershipView { members: vec![member(&owner, None), member(&idle, Some("F"))], ..view.clone() };
        let both = vec![owner, idle];
        assert_eq!(
            asked(&none_indexed, Some(&owners), now),
            (RollCallSource::Peers, both),
            "no member is indexed in this epoch"
        );
        let never = MembershipView { listed: None, ..view };
        assert_eq!(asked(&never, Some(&owners), now), all, "a table that was never read");
    }

    #[test]
    fn owners_that_are_not_members_are_unknown_or_dead() {
        let now = BootInstant::now();
        let [own, unknown, departed] = [(); 3].map(|()| NodeId::new_process());
        let mut view = view(vec![], Some(now));
        view.departed.insert(&departed, now);
        let owners =
            RoomOwners { nodes: vec![own.clone(), unknown.clone(), departed.clone()], epoch: Some(epoch("E")) };
        let plan = plan(&view, Some(&owners), own.process(), LEASE, now);
        assert_eq!(plan.ask, vec![]);
        assert_eq!(plan.unknown_owners, vec![unknown]);
        assert_eq!(plan.dead_owners, vec![departed]);
        assert!(plan.can_be_complete);
    }

    #[test]
    fn an_owner_is_dead_once_its_successor_is_fully_indexed() {
        let now = BootInstant::now();
        let first = NodeId::new_process();
        let second = first.next_incarnation();
        let owners = RoomOwners { nodes: vec![first.clone()], epoch: Some(epoch("E")) };
        let with = |node: &NodeId, fully_indexed_in| {
            let view = view(vec![member(node, fully_indexed_in)], Some(now));
            let plan = plan(&view, Some(&owners), "own", LEASE, now);
            (plan.dead_owners, plan.unknown_owners)
        };
        assert_eq!(with(&second, Some("E")), (vec![first.clone()], vec![]));
        assert_eq!(with(&second, Some("F")), (vec![], vec![first.clone()]), "its own entries may be missing");
        assert_eq!(with(&second, None), (vec![], vec![first.clone()]));
        assert_eq!(with(&first, Some("E")), (vec![], vec![]), "a member");
    }
}
