//! The member table: the other nodes of the cluster, with their last status and their last contact.
//!
//! Owns the rules about members (rules 5 and 6), without clocks, locks or I/O. A node becomes a member by its lease, by a
//! status that it sent, or by recent gossip. A status with a higher sequence number replaces a lower one. A node that said
//! goodbye, and all incarnations of a process but the latest, never come back. A member is a suspect
//! when, for a whole lease, the directory had one epoch and no lease of it, and no message of it arrived. A suspect is dead
//! when it leaves an announcement unanswered, and every member with a lease confirms that it has not heard it either. [`IndexEvidence`] says what the listings prove, and [`StatusNumbering`] numbers
//! the statuses of this node. `table/tests.rs` has a test for each rule.

use std::collections::HashMap;
use std::time::Duration;

use smol_str::SmolStr;

use super::events::{Departure, MemberSource, MembershipEvent, TableChange};
use super::index_evidence::{IndexEvidence, ListingRead};
use super::own_status::StatusNumbering;
use super::state::{DrainState, Member, MembershipView, NodeInfo};
use crate::clock::BootInstant;
use crate::directory::NodeEntry;
use crate::mesh::node_status::{MemberInfo, NodeStatus};
use crate::names::NodeId;
use crate::roster::IndexState;

/// A goodbye is remembered for this many leases, so that a listing that was read just before it cannot bring the node back.
const REMEMBERED_LEASES: u32 = 10;

/// The members of the cluster other than this node.
pub struct MemberTable {
    /// The process of this node. Its incarnations are never members.
    process: SmolStr,
    lease: Duration,
    evidence: IndexEvidence,
    numbering: StatusNumbering,
    members: HashMap<NodeId, Member>,
    departed: HashMap<NodeId, BootInstant>,
}

impl MemberTable {
    pub fn new(node: &NodeId, lease: Duration) -> Self {
        Self {
            process: node.process().into(),
            lease,
            evidence: IndexEvidence::new(lease),
            numbering: StatusNumbering::default(),
            members: HashMap::new(),
            departed: HashMap::new(),
        }
    }

    pub fn view(&self) -> MembershipView {
        MembershipView {
            listed: self.evidence.listed(),
            steady_since: self.evidence.steady_since(),
            synced: self.evidence.is_synced(),
            members: self.members.values().cloned().collect(),
            departed: self.departed.keys().cloned().collect(),
        }
    }

    /// The mesh address of a process, of which at most one incarnation is a member.
    pub fn mesh_of(&self, process: &str) -> Option<SmolStr> {
        self.members.values().find(|member| member.node.process() == process).map(|member| member.mesh.clone())
    }

    /// Records a contact with a member over the mesh.
    pub fn record_contact(&mut self, node: &NodeId, now: BootInstant) -> TableChange {
        let mut change = TableChange::default();
        self.hear(node, now, Duration::ZERO, &mut change);
        change
    }

    /// Applies a status that a node sent.
    pub fn receive_status(&mut self, status: &NodeStatus, now: BootInstant) -> TableChange {
        let node = &status.about.node;
        let mut change = TableChange::default();
        if node.process() == self.process {
            return change;
        }
        if status.goodbye {
            self.mark_departed(node, Departure::Goodbye, now, &mut change);
        } else {
            self.add_member(&status.about, MemberSource::Status, now, &mut change);
            // The change of the status below covers the addition.
            change.must_announce = false;
        }
        self.hear(node, now, Duration::ZERO, &mut change);
        if let Some(member) = self.members.get_mut(node) {
            member.status_received = Some(now);
            if status.sequence > member.sequence {
                change.must_announce = true;
                member.sequence = status.sequence;
                member.fully_indexed_in = status.fully_indexed_in.clone();
                member.mesh = status.about.mesh.clone();
            }
        }
        for gossip in &status.members {
            self.apply_gossip(gossip, now, &mut change);
        }
        self.update_sync(&mut change);
        change
    }

    /// Adds a node that has a lease in the directory.
    pub fn add_from_directory(&mut self, node: &NodeId, entry: &NodeEntry, now: BootInstant) -> TableChange {
        let mut change = TableChange::default();
        let info = MemberInfo {
            node: node.clone(),
            name: entry.name.clone(),
            mesh: entry.mesh.clone(),
            since: entry.since.clone(),
            age: None,
        };
        self.add_member(&info, MemberSource::Lease, now, &mut change);
        if let Some(member) = self.members.get_mut(node) {
            member.leased = true;
        }
        change
    }

    /// Applies a listing. Its nodes are members. A member may become a suspect, and suspects may be dead.
    pub fn apply_listing(&mut self, read: &ListingRead<'_>) -> TableChange {
        let (now, lease) = (read.ended, self.lease);
        let is_consecutive = self.evidence.record_listing(read);
        let mut change = TableChange { must_announce: !is_consecutive, ..TableChange::default() };
        for member in self.members.values_mut() {
            member.leased = false;
        }
        for (node, entry) in &read.listing.nodes {
            change.extend(self.add_from_directory(node, entry, now));
        }
        let absence_is_evidence = self.evidence.is_steady() && read.has_lease;
        for member in self.members.values_mut() {
            if !(absence_is_evidence && is_silent(member, lease, now)) {
                clear_suspicion(member, &mut change);
            } else if member.suspected.is_none() {
                member.suspected = Some(now);
                change.must_announce = true;
                change.events.push(MembershipEvent::Suspected((&*member).into()));
            }
        }
        self.remove_dead(&mut change);
        self.update_sync(&mut change);
        self.departed.retain(|_, left| now.since(*left) < lease * REMEMBERED_LEASES);
        change
    }

    /// Records that the listing could not be read, or that leases may have expired early.
    pub fn end_steady_period(&mut self) {
        self.evidence.end_steady_period();
    }

    /// Removes the suspects that did not answer and that no member with a lease has heard. The suspect must have left an
    /// announcement unanswered that was sent after the suspicion. Every member with a lease must have answered one: its status
    /// names the nodes that it has heard, and would have cleared the suspicion.
    fn remove_dead(&mut self, change: &mut TableChange) {
        if !self.evidence.is_steady() {
            return;
        }
        let witnesses: Vec<_> = self.members.values().filter(|member| member.leased).collect();
        let asked_all = |since| witnesses.iter().all(|witness| witness.answered_since(since));
        let is_dead = |member: &&Member| {
            member.suspected.is_some_and(|since| member.left_unanswered_since(since) && asked_all(since))
        };
        let dead: Vec<NodeId> = self.members.values().filter(is_dead).map(|member| member.node.clone()).collect();
        for node in dead {
            if let Some(member) = self.members.remove(&node) {
                change.events.push(MembershipEvent::Removed((&member).into()));
            }
        }
    }

    fn update_sync(&mut self, change: &mut TableChange) {
        if self.evidence.update_sync(self.members.values()) {
            change.events.push(MembershipEvent::Synced);
        }
    }

    /// Whether this node has been synced once.
    pub fn was_synced(&self) -> bool {
        self.evidence.was_synced()
    }

    /// The number of this node's status. A status that differs from the last one gets the next number.
    pub fn number_status(&mut self, index: &IndexState, drain_state: DrainState) -> u64 {
        self.numbering.number(index, drain_state)
    }

    /// This node's status, with the members that it knows.
    pub fn own_status(
        &mut self,
        node_info: &NodeInfo,
        index: &IndexState,
        drain_state: DrainState,
        now: BootInstant,
    ) -> NodeStatus {
        let sequence = self.number_status(index, drain_state);
        let members = self.members.values().map(|member| {
            let Member { node, name, mesh, since, heard, .. } = member.clone();
            MemberInfo { node, name, mesh, since, age: heard.map(|heard| now.since(heard)) }
        });
        NodeStatus {
            about: MemberInfo {
                node: index.incarnation.clone(),
                name: node_info.name.clone(),
                mesh: node_info.mesh.clone(),
                since: node_info.since.clone(),
                age: Some(Duration::ZERO),
            },
            sequence,
            fully_indexed_in: index.fully_indexed_in.clone(),
            draining: drain_state != DrainState::Serving,
            goodbye: drain_state == DrainState::Goodbye,
            members: members.collect(),
        }
    }

    /// Records that the member answered a request that was sent at `sent` with the status `sequence` or a later one.
    pub fn record_acknowledgement(&mut self, node: &NodeId, sequence: u64, sent: BootInstant) -> TableChange {
        let mut change = TableChange::default();
        if let Some(member) = self.members.get_mut(node) {
            member.acknowledged = member.acknowledged.max(sequence);
            member.answered = member.answered.max(Some(sent));
        }
        self.remove_dead(&mut change);
        change
    }

    /// Records that the member did not answer an announcement that was sent at `sent`.
    pub fn record_unanswered(&mut self, node: &NodeId, sent: BootInstant) -> TableChange {
        let mut change = TableChange::default();
        if let Some(member) = self.members.get_mut(node) {
            member.unanswered = member.unanswered.max(Some(sent));
        }
        self.remove_dead(&mut change);
        change
    }

    pub fn all_acknowledged(&self, sequence: u64) -> bool {
        self.members.values().all(|member| member.acknowledged >= sequence)
    }

    /// Whether every member has acknowledged this status, and has answered a request that was sent at `since` or later.
    pub fn all_answered(&self, sequence: u64, since: BootInstant) -> bool {
        self.all_acknowledged(sequence) && self.members.values().all(|member| member.answered_since(since))
    }

    /// The members that have acknowledged this status, and have answered a request that was sent at `since` or later. `None`
    /// if they and this node are not a majority of all nodes.
    pub fn answering_majority(&self, sequence: u64, since: BootInstant) -> Option<Vec<NodeId>> {
        let answered =
            self.members.values().filter(|member| member.acknowledged >= sequence && member.answered_since(since));
        let answered: Vec<_> = answered.map(|member| member.node.clone()).collect();
        ((answered.len() + 1) * 2 > self.members.len() + 1).then_some(answered)
    }

    /// Whether every member of a listing that was read after `registered` has acknowledged this incarnation's hello.
    pub fn hello_acked(&self, registered: BootInstant) -> bool {
        let is_listed = self.evidence.listed().is_some_and(|listed| listed >= registered);
        is_listed && self.numbering.hello().is_some_and(|hello| self.all_acknowledged(hello))
    }

    /// The members that need this node's status now, with their addresses: those that have not acknowledged it. In a degraded
    /// cluster, also the members that have not answered for `repeat_interval`.
    pub fn status_receivers(
        &self,
        sequence: u64,
        now: BootInstant,
        repeat_interval: Duration,
    ) -> Vec<(NodeId, SmolStr)> {
        let is_degraded = self.is_degraded();
        let receivers = self.members.values().filter(|member| {
            let has_answered = member.answered.is_some_and(|sent| now.since(sent) < repeat_interval);
            member.acknowledged < sequence || is_degraded && !has_answered
        });
        receivers.map(|member| (member.node.clone(), member.mesh.clone())).collect()
    }

    /// Whether the directory does not prove which nodes are alive. Then each node repeats its status, which names the nodes
    /// that it has heard.
    fn is_degraded(&self) -> bool {
        !self.numbering.is_fully_indexed()
            || self.evidence.is_syncing()
            || self.members.values().any(|member| !member.leased || member.fully_indexed_in.is_none())
    }

    /// Gossip adds members, and proves contacts of known members, at the age that it states. While the directory can be read,
    /// gossip older than a lease is ignored: otherwise two nodes could keep a dead one in their tables forever.
    fn apply_gossip(&mut self, gossip: &MemberInfo, now: BootInstant, change: &mut TableChange) {
        let is_recent = gossip.age.is_some_and(|age| age < self.lease);
        if self.evidence.is_readable() && !is_recent {
            return;
        }
        self.add_member(gossip, MemberSource::Gossip, now, change);
        if let Some(age) = gossip.age {
            self.hear(&gossip.node, now, age, change);
        }
    }

    /// Records that a message of a member arrived `age` before `now`, at this node or at another one. If that is less than a
    /// lease ago, it clears a suspicion.
    fn hear(&mut self, node: &NodeId, now: BootInstant, age: Duration, change: &mut TableChange) {
        let Some(member) = self.members.get_mut(node) else { return };
        member.heard = member.heard.max(Some(now.before(age)));
        if age < self.lease {
            clear_suspicion(member, change);
        }
    }

    /// Adds a member, unless it is known, has departed, or is an earlier incarnation of a known process.
    fn add_member(&mut self, info: &MemberInfo, source: MemberSource, now: BootInstant, change: &mut TableChange) {
        let node = &info.node;
        if node.process() == self.process || self.departed.contains_key(node) || self.members.contains_key(node) {
            return;
        }
        let same_process =
            self.members.keys().chain(self.departed.keys()).filter(|other| other.process() == node.process());
        let (earlier, later): (Vec<_>, Vec<_>) =
            same_process.cloned().partition(|other| other.incarnation() < node.incarnation());
        if !later.is_empty() {
            return;
        }
        for other in earlier {
            self.mark_departed(&other, Departure::Replaced, now, change);
        }
        let mut member = Member::new(node.clone(), info.name.clone(), info.mesh.clone(), None);
        member.since = info.since.clone();
        change.must_announce = true;
        change.events.push(MembershipEvent::Added { member: (&member).into(), source });
        self.members.insert(node.clone(), member);
    }

    fn mark_departed(&mut self, node: &NodeId, reason: Departure, now: BootInstant, change: &mut TableChange) {
        if let Some(member) = self.members.remove(node) {
            change.events.push(MembershipEvent::Departed { member: (&member).into(), reason });
        }
        self.departed.insert(node.clone(), now);
    }
}

/// Whether a member shows no sign of life: it has no lease, and no message of it arrived for a lease.
fn is_silent(member: &Member, lease: Duration, now: BootInstant) -> bool {
    !member.leased && member.heard.is_none_or(|heard| now.since(heard) >= lease)
}

fn clear_suspicion(member: &mut Member, change: &mut TableChange) {
    if member.suspected.take().is_some() {
        change.events.push(MembershipEvent::Recovered((&*member).into()));
    }
}

#[cfg(test)]
mod tests;
