//! The member table: the other nodes of the cluster, with their last status and their last contact.
//!
//! Owns the rules of evidence (rules 5, 6 and 10), without clocks, locks or I/O. A node becomes a member by its lease, by a
//! status that it sent, or by recent gossip. A status with a higher sequence number replaces a lower one. A node that said
//! goodbye, and all incarnations of a process but the latest, never come back. A member is dead when, for a whole lease, the
//! directory had one epoch and no lease of it, and no message of it arrived. Every member with a lease must confirm that it
//! has not heard from the dead one either.

use std::collections::HashMap;
use std::time::Duration;

use smol_str::SmolStr;

use super::state::{DrainState, Member, MembershipView, NodeInfo};
use crate::clock::BootInstant;
use crate::directory::{NodeEntry, NodeListing};
use crate::index::Epoch;
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
    /// The time when the read of the last listing started.
    listed: Option<BootInstant>,
    /// The epoch of the last listing.
    epoch: Option<Epoch>,
    /// The time since which every listing could be read and had `epoch`.
    steady_since: Option<BootInstant>,
    /// The time since which this node waits for a status of every member with a lease, because it is new or was away for too
    /// long. `None`: it is synced.
    syncing_since: Option<BootInstant>,
    was_synced: bool,
    /// The epoch is younger than a lease, so that living nodes may not have registered in it yet.
    is_young_epoch: bool,
    /// The directory has never had another epoch.
    is_first_epoch: bool,
    members: HashMap<NodeId, Member>,
    departed: HashMap<NodeId, BootInstant>,
    last_announced: Option<(IndexState, DrainState)>,
    /// The sequence number of this node's last status.
    sequence: u64,
    /// The sequence number of the first status of the current incarnation.
    hello: u64,
}

impl MemberTable {
    pub fn new(node: &NodeId, lease: Duration) -> Self {
        Self {
            process: node.process().into(),
            lease,
            listed: None,
            epoch: None,
            steady_since: None,
            syncing_since: None,
            was_synced: false,
            is_young_epoch: true,
            is_first_epoch: false,
            members: HashMap::new(),
            departed: HashMap::new(),
            last_announced: None,
            sequence: 0,
            hello: 0,
        }
    }

    pub fn view(&self) -> MembershipView {
        MembershipView {
            listed: self.listed,
            steady_since: self.steady_since,
            synced: self.listed.is_some() && self.syncing_since.is_none(),
            members: self.members.values().cloned().collect(),
            departed: self.departed.keys().cloned().collect(),
        }
    }

    /// The mesh address of a process, of which at most one incarnation is a member.
    pub fn mesh_of(&self, process: &str) -> Option<SmolStr> {
        self.members.values().find(|member| member.node.process() == process).map(|member| member.mesh.clone())
    }

    pub fn record_contact(&mut self, node: &NodeId, now: BootInstant) {
        if let Some(member) = self.members.get_mut(node) {
            member.heard = Some(now);
            member.suspected = None;
        }
    }

    /// Applies a status that a node sent. Returns whether a member was added or changed.
    pub fn receive_status(&mut self, status: &NodeStatus, now: BootInstant) -> bool {
        let node = &status.about.node;
        if node.process() == self.process {
            return false;
        }
        if status.goodbye {
            self.mark_departed(node, now);
        } else {
            self.add_member(&status.about, now);
        }
        let mut changed = false;
        if let Some(member) = self.members.get_mut(node) {
            member.heard = Some(now);
            member.status_received = Some(now);
            member.suspected = None;
            if status.sequence > member.sequence {
                changed = true;
                member.sequence = status.sequence;
                member.fully_indexed_in = status.fully_indexed_in.clone();
                member.mesh = status.about.mesh.clone();
            }
        }
        for gossip in &status.members {
            changed |= self.apply_gossip(gossip, now);
        }
        self.update_synced();
        changed
    }

    /// Adds a node that has a lease in the directory. Returns whether it is a new member.
    pub fn add_from_directory(&mut self, node: &NodeId, entry: &NodeEntry, now: BootInstant) -> bool {
        let info = MemberInfo {
            node: node.clone(),
            name: entry.name.clone(),
            mesh: entry.mesh.clone(),
            since: entry.since.clone(),
            age: None,
        };
        let is_new = self.add_member(&info, now);
        if let Some(member) = self.members.get_mut(node) {
            member.leased = true;
        }
        is_new
    }

    /// Applies a listing whose read started at `started`. Its nodes are members.
    ///
    /// A member that is not listed and was silent for a whole lease becomes a suspect. The epoch must have been the same
    /// during that lease: after a flush no node has a lease, although all are alive. `leased`: this node has a lease itself,
    /// so the directory accepts writes.
    ///
    /// Returns whether the announcer must send this node's status to the members.
    pub fn apply_listing(
        &mut self,
        listing: &NodeListing,
        started: BootInstant,
        now: BootInstant,
        leased: bool,
    ) -> bool {
        let lease = self.lease;
        let is_consecutive = self.listed.replace(started).is_some_and(|previous| started.since(previous) <= lease);
        if !is_consecutive {
            self.syncing_since = Some(started);
        }
        if !is_consecutive || self.steady_since.is_none() || self.epoch != listing.epoch {
            self.epoch.clone_from(&listing.epoch);
            self.steady_since = Some(started);
        }
        for member in self.members.values_mut() {
            member.leased = false;
        }
        self.is_young_epoch = listing.age < lease;
        self.is_first_epoch = listing.age == Duration::MAX;
        let mut changed = !is_consecutive;
        for (node, entry) in &listing.nodes {
            changed |= self.add_from_directory(node, entry, now);
        }
        let is_steady = self.steady_since.is_some_and(|since| started.since(since) >= lease);
        for member in self.members.values_mut() {
            let is_silent = !member.leased && member.heard.is_none_or(|heard| now.since(heard) >= lease);
            if !(is_silent && is_steady && leased) {
                member.suspected = None;
            } else if member.suspected.is_none() {
                member.suspected = Some(now);
                changed = true;
            }
        }
        self.remove_dead();
        self.update_synced();
        self.departed.retain(|_, left| now.since(*left) < lease * REMEMBERED_LEASES);
        changed
    }

    /// Records that the listing could not be read. Until the next steady period, a missing lease is no evidence.
    pub fn listing_failed(&mut self) {
        self.steady_since = None;
    }

    /// Removes the suspects that no member with a lease has heard. Every such member must have answered an announcement that
    /// was sent after the suspicion: its status names the nodes that it has heard, and would have cleared the suspicion.
    fn remove_dead(&mut self) {
        let witnesses: Vec<_> = self.members.values().filter(|member| member.leased).collect();
        let asked_all = |since| witnesses.iter().all(|witness| witness.answered_since(since));
        let dead: Vec<NodeId> = self
            .members
            .values()
            .filter(|member| member.suspected.is_some_and(asked_all))
            .map(|member| member.node.clone())
            .collect();
        for node in dead {
            self.members.remove(&node);
        }
    }

    /// This node is synced when each member with a lease has sent a status since the sync started: a status names all members
    /// that its sender knows. A young epoch proves nothing, because living nodes have up to a lease to register in it.
    /// Neither does an old epoch in which no other node has a lease. After a long outage of the directory all leases have
    /// lapsed, and this node may be the first to come back.
    fn update_synced(&mut self) {
        let Some(since) = self.syncing_since.filter(|_| !self.is_young_epoch) else { return };
        let is_alone = !self.is_first_epoch && !self.members.values().any(|member| member.leased);
        if is_alone && self.listed.is_none_or(|listed| listed.since(since) < self.lease) {
            return;
        }
        let has_reported =
            |member: &Member| !member.leased || member.status_received.is_some_and(|received| received >= since);
        if self.members.values().all(has_reported) {
            self.syncing_since = None;
            self.was_synced = true;
        }
    }

    /// Whether this node has been synced once.
    pub fn was_synced(&self) -> bool {
        self.was_synced
    }

    /// The sequence number of this node's status. A status that differs from the last one gets the next number.
    pub fn own_sequence(&mut self, index: &IndexState, drain_state: DrainState) -> u64 {
        let announced = (index.clone(), drain_state);
        if self.last_announced.as_ref() != Some(&announced) {
            self.sequence += 1;
            let previous = self.last_announced.replace(announced);
            if previous.is_none_or(|(previous, _)| previous.incarnation != index.incarnation) {
                self.hello = self.sequence;
            }
        }
        self.sequence
    }

    /// This node's status, with the members that it knows.
    pub fn own_status(
        &mut self,
        node_info: &NodeInfo,
        index: &IndexState,
        drain_state: DrainState,
        now: BootInstant,
    ) -> NodeStatus {
        let sequence = self.own_sequence(index, drain_state);
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
    pub fn record_acknowledgement(&mut self, node: &NodeId, sequence: u64, sent: BootInstant) {
        if let Some(member) = self.members.get_mut(node) {
            member.acknowledged = member.acknowledged.max(sequence);
            member.answered = member.answered.max(Some(sent));
        }
        self.remove_dead();
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
        let is_listed = self.listed.is_some_and(|listed| listed >= registered);
        is_listed && self.hello > 0 && self.all_acknowledged(self.hello)
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
        let own_is_indexed = self.last_announced.as_ref().is_some_and(|(index, _)| index.fully_indexed_in.is_some());
        !own_is_indexed
            || self.syncing_since.is_some()
            || self.members.values().any(|member| !member.leased || member.fully_indexed_in.is_none())
    }

    /// Gossip adds members, and proves contacts of known members, at the age that it states. While the directory can be read,
    /// gossip older than a lease is ignored: otherwise two nodes could keep a dead one in their tables forever.
    fn apply_gossip(&mut self, gossip: &MemberInfo, now: BootInstant) -> bool {
        let is_recent = gossip.age.is_some_and(|age| age < self.lease);
        if self.steady_since.is_some() && !is_recent {
            return false;
        }
        let is_new = self.add_member(gossip, now);
        if let Some(member) = self.members.get_mut(&gossip.node) {
            member.heard = member.heard.max(gossip.age.map(|age| now.before(age)));
            if is_recent {
                member.suspected = None;
            }
        }
        is_new
    }

    /// Adds a member, unless it is known, has departed, or is an earlier incarnation of a known process. Returns whether it
    /// was added.
    fn add_member(&mut self, info: &MemberInfo, now: BootInstant) -> bool {
        let node = &info.node;
        if node.process() == self.process || self.departed.contains_key(node) || self.members.contains_key(node) {
            return false;
        }
        let same_process =
            self.members.keys().chain(self.departed.keys()).filter(|other| other.process() == node.process());
        let (earlier, later): (Vec<_>, Vec<_>) =
            same_process.cloned().partition(|other| other.incarnation() < node.incarnation());
        if !later.is_empty() {
            return false;
        }
        for other in earlier {
            self.mark_departed(&other, now);
        }
        let mut member = Member::new(node.clone(), info.name.clone(), info.mesh.clone(), None);
        member.since = info.since.clone();
        self.members.insert(node.clone(), member);
        true
    }

    fn mark_departed(&mut self, node: &NodeId, now: BootInstant) {
        self.members.remove(node);
        self.departed.insert(node.clone(), now);
    }
}

#[cfg(test)]
mod tests;
