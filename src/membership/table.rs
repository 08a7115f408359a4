//! The member table: the other nodes of the cluster, with their last status and their last contact.
//!
//! Owns the rules about members (rules 5 and 6), without clocks, locks or I/O. A node becomes a member by its lease, by a
//! status that it sent, or by recent gossip ([`admission`]). A member is a suspect when, for a whole lease, the directory had one
//! epoch and no lease of it, and no message of it arrived. A suspect is dead when it leaves an announcement unanswered, and
//! every member with a lease confirms that it has not heard it either. [`IndexEvidence`] says what the listings prove, and
//! [`StatusNumbering`] numbers the statuses of this node. `table/tests.rs` has a test for each rule.

mod admission;
mod reachability;

use std::collections::HashMap;
use std::time::Duration;

use smol_str::SmolStr;

use super::departed::DepartedNodes;
use super::events::{MembershipEvent, TableChange};
use super::index_evidence::{IndexEvidence, ListingRead};
use super::own_status::StatusNumbering;
use super::state::{DrainState, Member, MemberSource, MembershipView, NodeInfo};
use crate::clock::BootInstant;
use crate::mesh::node_status::{MemberInfo, NodeStatus};
use crate::names::NodeId;
use crate::roster::IndexState;

/// A goodbye is remembered for this many leases, so that a listing that was read just before it cannot bring the node back.
const REMEMBERED_LEASES: u32 = 10;

/// The limit of members that the directory has never listed: other nodes may have invented them, and each one costs a connection
/// and a lookup in each roll call. Real ones are rare: they registered since the last listing, or lost their lease before this
/// node started. Twice the 32 nodes that the files in `deploy/` provide for; further ones wait until they are listed.
pub const MAX_UNLISTED_MEMBERS: usize = 64;

/// The members of the cluster other than this node.
pub struct MemberTable {
    /// The process of this node. Its incarnations are never members.
    process: SmolStr,
    lease: Duration,
    evidence: IndexEvidence,
    numbering: StatusNumbering,
    /// By process: one incarnation of it is a member.
    members: HashMap<SmolStr, Member>,
    departed: DepartedNodes,
    /// The last time when this node could not add a member, or when two sources disagreed about the address of a process.
    doubted: Option<BootInstant>,
}

/// A member to which this node's status must be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusReceiver {
    pub node: NodeId,
    pub mesh: SmolStr,
    /// See [`Member::is_verified`]. Few of the others are dialled at a time.
    pub is_verified: bool,
}

impl MemberTable {
    pub fn new(node: &NodeId, lease: Duration) -> Self {
        Self {
            process: node.process().into(),
            lease,
            evidence: IndexEvidence::new(lease),
            numbering: StatusNumbering::default(),
            members: HashMap::new(),
            departed: DepartedNodes::default(),
            doubted: None,
        }
    }

    pub fn view(&self) -> MembershipView {
        MembershipView {
            listed: self.evidence.listed(),
            steady_since: self.evidence.steady_since(),
            synced: self.evidence.is_synced() && self.doubted.is_none(),
            members: self.members.values().map(without_disputed_status).collect(),
            departed: self.departed.clone(),
        }
    }

    /// The mesh address of a process, unless it is known from gossip only: gossip must not redirect anything.
    pub fn mesh_of(&self, process: &str) -> Option<SmolStr> {
        let member = self.members.get(process).filter(|member| member.source > MemberSource::Gossip);
        member.map(|member| member.mesh.clone())
    }

    /// The mesh addresses of all members.
    pub fn addresses(&self) -> impl Iterator<Item = &SmolStr> {
        self.members.values().map(|member| &member.mesh)
    }

    /// Records a contact with a member over the mesh.
    pub fn record_contact(&mut self, node: &NodeId, now: BootInstant) -> TableChange {
        let mut change = TableChange::default();
        let lease = self.lease;
        if let Some(member) = self.get_mut(node) {
            hear(member, now, Duration::ZERO, lease, &mut change);
        }
        change
    }

    /// Applies a status that a node sent itself. Returns `None` if the table has no room for the node.
    pub fn receive_status(&mut self, status: &NodeStatus, now: BootInstant) -> Option<TableChange> {
        let node = &status.about.node;
        let mut change = TableChange::default();
        if node.process() == self.process || self.departed.contains(node) {
            return Some(change);
        }
        if status.goodbye {
            self.remove_departed(node, now, &mut change);
        } else {
            if !self.admit(&status.about, now, &mut change) {
                return None;
            }
            let lease = self.lease;
            // The change of the status below covers the addition.
            change.must_announce = false;
            if let Some(member) = self.get_mut(node) {
                hear(member, now, Duration::ZERO, lease, &mut change);
                member.status_received = Some(now);
                if status.sequence > member.sequence {
                    change.must_announce = true;
                    member.sequence = status.sequence;
                    member.fully_indexed_in.clone_from(&status.fully_indexed_in);
                }
            }
        }
        for gossip in &status.members {
            self.apply_gossip(gossip, now, &mut change);
        }
        self.update_sync(&mut change);
        Some(change)
    }

    /// Applies a listing. Its nodes are members. A member may become a suspect, and suspects may be dead.
    pub fn apply_listing(&mut self, read: &ListingRead<'_>) -> TableChange {
        let (now, lease) = (read.ended, self.lease);
        let is_consecutive = self.evidence.record_listing(read);
        let mut change = TableChange { must_announce: !is_consecutive, ..TableChange::default() };
        for member in self.members.values_mut() {
            (member.leased, member.is_checked) = (false, true);
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
        self.departed.forget(lease * REMEMBERED_LEASES, now);
        self.doubted = self.doubted.filter(|doubted| now.since(*doubted) < lease);
        change
    }

    /// Records that the listing could not be read, or that leases may have expired early.
    pub fn end_steady_period(&mut self) {
        self.evidence.end_steady_period();
        for member in self.members.values_mut() {
            member.is_checked = true;
        }
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
            if let Some(member) = self.members.remove(node.process()) {
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

    /// This node's status, with the members that it knows first hand. Members from gossip are not passed on.
    pub fn own_status(
        &mut self,
        node_info: &NodeInfo,
        index: &IndexState,
        drain_state: DrainState,
        now: BootInstant,
    ) -> NodeStatus {
        let sequence = self.number_status(index, drain_state);
        let members = self.first_hand().map(|member| {
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
        if let Some(member) = self.get_mut(node) {
            member.acknowledged = member.acknowledged.max(sequence);
            member.answered = member.answered.max(Some(sent));
            // Asked after the dispute, it still has this id.
            member.disputed = member.disputed.filter(|disputed| *disputed > sent);
        }
        self.remove_dead(&mut change);
        change
    }

    /// Records that the member did not answer an announcement that was sent at `sent`.
    pub fn record_unanswered(&mut self, node: &NodeId, sent: BootInstant) -> TableChange {
        let mut change = TableChange::default();
        if let Some(member) = self.get_mut(node) {
            member.unanswered = member.unanswered.max(Some(sent));
        }
        self.remove_dead(&mut change);
        change
    }

    pub fn all_acknowledged(&self, sequence: u64) -> bool {
        self.first_hand().all(|member| member.acknowledged >= sequence)
    }

    /// Whether every member has acknowledged this status, and has answered a request that was sent at `since` or later.
    pub fn all_answered(&self, sequence: u64, since: BootInstant) -> bool {
        self.all_acknowledged(sequence) && self.first_hand().all(|member| member.answered_since(since))
    }

    /// The members that have acknowledged this status, and have answered a request that was sent at `since` or later. `None`
    /// if they and this node are not a majority of all nodes.
    pub fn answering_majority(&self, sequence: u64, since: BootInstant) -> Option<Vec<NodeId>> {
        let answered =
            self.first_hand().filter(|member| member.acknowledged >= sequence && member.answered_since(since));
        let answered: Vec<_> = answered.map(|member| member.node.clone()).collect();
        ((answered.len() + 1) * 2 > self.first_hand().count() + 1).then_some(answered)
    }

    /// Whether every member of a listing that was read after `registered` has acknowledged this incarnation's hello.
    pub fn hello_acked(&self, registered: BootInstant) -> bool {
        let is_listed = self.evidence.listed().is_some_and(|listed| listed >= registered);
        is_listed && self.numbering.hello().is_some_and(|hello| self.all_acknowledged(hello))
    }

    /// The members that the directory listed or that announced themselves. The acknowledgements of others are not counted, so
    /// that invented members can outvote no node. They miss nothing: a node that can be complete has learned of this one from
    /// a member with a lease, and announces itself.
    fn first_hand(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| member.source > MemberSource::Gossip)
    }

    /// The members that need this node's status now: those that have not acknowledged it. In a degraded cluster, also the
    /// members that have not answered for `repeat_interval`. A member known from gossip waits until the directory was asked
    /// for it. The first receiver is the one whose last unanswered announcement is oldest.
    pub fn status_receivers(&self, sequence: u64, now: BootInstant, repeat_interval: Duration) -> Vec<StatusReceiver> {
        let is_degraded = self.is_degraded();
        let needs_status = |member: &&Member| {
            let has_answered = member.answered.is_some_and(|sent| now.since(sent) < repeat_interval);
            let may_dial = member.is_checked || member.source > MemberSource::Gossip;
            may_dial && (member.acknowledged < sequence || is_degraded && !has_answered)
        };
        let mut receivers: Vec<_> = self.members.values().filter(needs_status).collect();
        receivers.sort_by_key(|member| member.unanswered);
        receivers.into_iter().map(StatusReceiver::from).collect()
    }

    /// All members whose address fulfils the condition.
    pub fn members_at(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<StatusReceiver> {
        self.members.values().filter(|member| is_wanted(&member.mesh)).map(StatusReceiver::from).collect()
    }

    /// Whether the directory does not prove which nodes are alive. Then each node repeats its status, which names the nodes
    /// that it has heard.
    fn is_degraded(&self) -> bool {
        !self.numbering.is_fully_indexed()
            || self.evidence.is_syncing()
            || self
                .members
                .values()
                .any(|member| !member.leased || member.fully_indexed_in.is_none() || member.disputed.is_some())
    }

    fn get_mut(&mut self, node: &NodeId) -> Option<&mut Member> {
        self.members.get_mut(node.process()).filter(|member| member.node == *node)
    }
}

/// Records that a message of the member arrived `age` before `now`, at this node or at another one. If that is less than a
/// lease ago, it clears a suspicion.
fn hear(member: &mut Member, now: BootInstant, age: Duration, lease: Duration, change: &mut TableChange) {
    member.heard = member.heard.max(Some(now.before(age)));
    if age < lease {
        clear_suspicion(member, change);
    }
}

/// Whether a member shows no sign of life: it has no lease, and no message of it arrived for a lease.
fn is_silent(member: &Member, lease: Duration, now: BootInstant) -> bool {
    !member.leased && member.heard.is_none_or(|heard| now.since(heard) >= lease)
}

/// The member for a roll call, which must always ask a disputed incarnation.
fn without_disputed_status(member: &Member) -> Member {
    let mut seen = member.clone();
    if seen.disputed.is_some() {
        seen.fully_indexed_in = None;
    }
    seen
}

fn clear_suspicion(member: &mut Member, change: &mut TableChange) {
    if member.suspected.take().is_some() {
        change.events.push(MembershipEvent::Recovered((&*member).into()));
    }
}

impl From<&Member> for StatusReceiver {
    fn from(member: &Member) -> Self {
        Self { node: member.node.clone(), mesh: member.mesh.clone(), is_verified: member.is_verified() }
    }
}

#[cfg(test)]
mod tests;
