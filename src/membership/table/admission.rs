//! The sources of members and their powers (docs/SECURITY.md): the directory, the node itself, and hearsay.
//!
//! The directory decides over the address of a process. A node may speak for its own process. Hearsay only adds processes that
//! are not known, and keeps known ones alive. A process that the directory has not listed may be invented, so their number is
//! bounded. The tests
//! are in `tests/hearsay.rs`.

use smol_str::SmolStr;

use super::{MAX_UNLISTED_MEMBERS, MemberTable, hear};
use crate::clock::BootInstant;
use crate::directory::NodeEntry;
use crate::membership::events::{Departure, MembershipEvent, TableChange};
use crate::membership::state::{Member, MemberSource};
use crate::mesh::node_status::MemberInfo;
use crate::names::NodeId;

impl MemberTable {
    /// Adds a node that has a lease in the directory. The directory overrides other sources, but not
    /// a later incarnation at the same address.
    pub fn add_from_directory(&mut self, node: &NodeId, entry: &NodeEntry, now: BootInstant) -> TableChange {
        let mut change = TableChange::default();
        if node.process() == self.process || self.departed.contains(node) {
            return change;
        }
        let is_current = self.members.get_mut(node.process()).is_some_and(|member| {
            let is_same_address = member.mesh == entry.mesh;
            let is_later = member.node.incarnation() > node.incarnation();
            let is_confirmed = match member.source {
                MemberSource::Lease => is_same_address || is_later,
                MemberSource::Status => is_same_address,
                MemberSource::Gossip => is_same_address && member.node == *node,
            };
            if is_confirmed {
                member.source = MemberSource::Lease;
            }
            is_confirmed && (is_later || member.node == *node)
        });
        if !is_current {
            let mut member = Member::new(node.clone(), entry.name.clone(), entry.mesh.clone(), None);
            member.since = entry.since.clone();
            self.insert(member, now, &mut change);
        }
        if let Some(member) = self.get_mut(node) {
            member.leased = true;
            member.name.clone_from(&entry.name);
            member.since.clone_from(&entry.since);
        }
        change
    }

    /// Gossip adds processes that are not known, and proves contacts of known ones, at the age that it states. It changes no
    /// address and no name, and replaces no incarnation: that is up to the directory and to the node itself. A member of which
    /// a later incarnation is named is always asked, until it answers for itself. While the
    /// directory can be read, gossip older than a lease is ignored: otherwise two nodes could keep a dead one in their tables
    /// forever.
    pub(super) fn apply_gossip(&mut self, gossip: &MemberInfo, now: BootInstant, change: &mut TableChange) {
        let (node, lease) = (&gossip.node, self.lease);
        let is_recent = gossip.age.is_some_and(|age| age < lease);
        let is_ignored = self.evidence.is_readable() && !is_recent;
        if is_ignored || node.process() == self.process || self.departed.contains(node) {
            return;
        }
        if let Some(member) = self.members.get_mut(node.process()) {
            if let Some(age) = gossip.age.filter(|_| node.incarnation() >= member.node.incarnation()) {
                hear(member, now, age, lease, change);
            }
            if node.incarnation() > member.node.incarnation() {
                member.disputed = Some(now);
            }
            if member.source < MemberSource::Lease && member.mesh != gossip.mesh {
                self.doubted = Some(now);
            }
            return;
        }
        if !self.has_room_for_unlisted() {
            self.doubted = Some(now);
            return;
        }
        let mut member = unlisted(gossip, MemberSource::Gossip);
        member.heard = gossip.age.map(|age| now.before(age));
        self.insert(member, now, change);
    }

    /// Makes the sender of a status a member, unless a later incarnation of its process is one. Returns whether the table has
    /// room for it.
    pub(super) fn admit(&mut self, about: &MemberInfo, now: BootInstant, change: &mut TableChange) -> bool {
        let has_room = self.has_room_for_unlisted();
        let mut source = MemberSource::Status;
        match self.members.get_mut(about.node.process()) {
            None if !has_room => {
                self.doubted = Some(now);
                return false;
            }
            None => {}
            Some(known)
                if known.source == MemberSource::Gossip && known.node == about.node && known.mesh == about.mesh =>
            {
                known.source = MemberSource::Status;
                return true;
            }
            Some(known) if known.source == MemberSource::Gossip => {}
            Some(known) if known.node.incarnation() >= about.node.incarnation() => return true,
            Some(known) => source = known.source,
        }
        self.insert(unlisted(about, source), now, change);
        true
    }

    /// Records that another source claims a process that this node knows. Until the directory decides, this node may lack the
    /// real one, which must be asked.
    pub fn contest(&mut self, process: &str, now: BootInstant) {
        if self.members.get(process).is_some_and(|member| member.source < MemberSource::Lease) {
            self.doubted = Some(now);
        }
    }

    fn has_room_for_unlisted(&self) -> bool {
        let unlisted = self.members.values().filter(|member| member.source < MemberSource::Lease);
        unlisted.count() < MAX_UNLISTED_MEMBERS
    }

    /// Inserts a member, and removes the other incarnation of its process.
    fn insert(&mut self, member: Member, now: BootInstant, change: &mut TableChange) {
        change.must_announce = true;
        let (process, added) = (SmolStr::from(member.node.process()), (&member).into());
        let (node, source) = (member.node.clone(), member.source);
        if let Some(replaced) = self.members.insert(process, member).filter(|replaced| replaced.node != node) {
            let reason = Departure::Replaced;
            change.events.push(MembershipEvent::Departed { member: (&replaced).into(), reason });
            self.remember_departed(&replaced, now);
        }
        change.events.push(MembershipEvent::Added { member: added, source });
    }

    /// Removes a node that said goodbye, and the earlier incarnations of its process.
    pub(super) fn remove_departed(&mut self, node: &NodeId, now: BootInstant, change: &mut TableChange) {
        let is_ended = |member: &Member| member.node.incarnation() <= node.incarnation();
        if !self.members.get(node.process()).is_some_and(is_ended) {
            return;
        }
        if let Some(member) = self.members.remove(node.process()) {
            let reason = Departure::Goodbye;
            change.events.push(MembershipEvent::Departed { member: (&member).into(), reason });
            self.remember_departed(&Member { node: node.clone(), ..member }, now);
        }
    }

    /// A process that was never listed is not remembered: an impostor may have claimed it, and the directory must be able to
    /// add the real one.
    fn remember_departed(&mut self, member: &Member, now: BootInstant) {
        let is_listed = member.source == MemberSource::Lease;
        let is_member = self
            .members
            .get(member.node.process())
            .is_some_and(|present| present.node.incarnation() <= member.node.incarnation());
        if is_listed && !is_member {
            self.departed.insert(&member.node, now);
        }
    }
}

/// A member that the directory has not listed.
fn unlisted(info: &MemberInfo, source: MemberSource) -> Member {
    let mut member = Member::new(info.node.clone(), info.name.clone(), info.mesh.clone(), None);
    (member.since, member.source) = (info.since.clone(), source);
    member
}
