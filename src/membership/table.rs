//! The table of members: what each said last, and when there was last a sign of life from it.
//!
//! Owns the rules of evidence, without clocks, locks or I/O of its own: a member is known by its lease, by having been
//! heard, or by hearsay of a known age; a later word outranks an earlier one; who said goodbye, and every incarnation
//! but a process's latest, never comes back. A member is dead when it has no lease in an index that was readable, and
//! the same, for a whole lease, nothing was heard of it for as long, and whoever has a lease was asked since and did
//! not hear it either.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use smol_str::SmolStr;

use super::{Leaving, NodeInfo};
use crate::clock::BootInstant;
use crate::directory::{NodeEntry, NodeListing};
use crate::index::Epoch;
use crate::mesh::node_status::{MemberInfo, NodeStatus};
use crate::names::{NodeId, NodeName};
use crate::roster::IndexState;

/// How many leases a goodbye is remembered, so that a list read just before it cannot bring the node back.
const DEPARTED_LEASES: u32 = 10;

/// A node of the cluster other than this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
    pub name: NodeName,
    pub mesh: SmolStr,
    pub since: SmolStr,
    /// The index in which it last said that every room of it is claimed.
    pub fully_indexed_in: Option<Epoch>,
    /// The last list that could be read had its lease.
    pub leased: bool,
    /// When it was last heard over the mesh, by this node or by one that told this node.
    pub heard: Option<BootInstant>,
    /// When it last told its word to this node itself.
    spoke: Option<BootInstant>,
    /// The sequence number of its last word; 0 when it has not spoken yet.
    sequence: u64,
    /// The last word of this node that it acknowledged, and when the latest was *sent* that it answered.
    acknowledged: u64,
    answered: Option<BootInstant>,
    /// Since when there has been neither a lease nor any other sign of life.
    suspected: Option<BootInstant>,
}

/// The table at one moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// When the read of the list *began* that the table rests on; `None` before the first.
    pub listed: Option<BootInstant>,
    pub members: Vec<Member>,
    /// Since when every list was read, and from one index; `None` when the last one could not be read.
    pub steady_since: Option<BootInstant>,
    /// What the members with a lease know is known here.
    pub acquainted: bool,
    /// Nodes that said goodbye, and incarnations that a later one of their process has replaced.
    pub departed: HashSet<NodeId>,
}

/// See the module.
pub struct Table {
    /// The process this table belongs to: no incarnation of it is a member.
    process: SmolStr,
    lease: Duration,
    listed: Option<BootInstant>,
    /// The index that was listed last, and since when every list came from it.
    index: Option<Epoch>,
    steady_since: Option<BootInstant>,
    /// Since when this node has to hear what every member with a lease knows: it is new, or was away for too long.
    acquainting: Option<BootInstant>,
    /// It has been acquainted once.
    was_acquainted: bool,
    /// The index that was listed last is younger than a lease: who is alive may not be in it yet.
    young: bool,
    /// It is the only one there has ever been.
    only: bool,
    members: HashMap<NodeId, Member>,
    departed: HashMap<NodeId, BootInstant>,
    last_said: Option<(IndexState, Leaving)>,
    /// The number of what was said last.
    sequence: u64,
    /// The number of what the present incarnation said first: its hello.
    hello: u64,
}

impl Member {
    /// A member of which nothing is known but where it is and what it said of its claims.
    pub fn known(node: NodeId, name: NodeName, mesh: SmolStr, fully_indexed_in: Option<Epoch>) -> Self {
        Self {
            node,
            name,
            mesh,
            since: SmolStr::default(),
            fully_indexed_in,
            leased: false,
            heard: None,
            spoke: None,
            sequence: 0,
            acknowledged: 0,
            answered: None,
            suspected: None,
        }
    }
}

impl View {
    /// Whether the absence of a lease means something: the index was read all the time, and was the same, for a lease.
    pub fn steady(&self, lease: Duration, now: BootInstant) -> bool {
        self.steady_since.is_some_and(|since| now.since(since) >= lease)
    }

    pub fn get(&self, node: &NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node == *node)
    }
}

impl Table {
    pub fn new(node: &NodeId, lease: Duration) -> Self {
        Self {
            process: node.process().into(),
            lease,
            listed: None,
            index: None,
            steady_since: None,
            acquainting: None,
            was_acquainted: false,
            young: true,
            only: false,
            members: HashMap::new(),
            departed: HashMap::new(),
            last_said: None,
            sequence: 0,
            hello: 0,
        }
    }

    pub fn view(&self) -> View {
        View {
            listed: self.listed,
            steady_since: self.steady_since,
            acquainted: self.listed.is_some() && self.acquainting.is_none(),
            members: self.members.values().cloned().collect(),
            departed: self.departed.keys().cloned().collect(),
        }
    }

    /// Where the mesh of a process is reached, if one of its incarnations is a member: never more than one is.
    pub fn mesh_of(&self, process: &str) -> Option<SmolStr> {
        self.members.values().find(|member| member.node.process() == process).map(|member| member.mesh.clone())
    }

    pub fn heard(&mut self, node: &NodeId, now: BootInstant) {
        if let Some(member) = self.members.get_mut(node) {
            member.heard = Some(now);
            member.suspected = None;
        }
    }

    /// Returns whether a member was added, or spoke anew.
    pub fn told(&mut self, said: &NodeStatus, now: BootInstant) -> bool {
        let node = &said.about.node;
        if node.process() == self.process {
            return false;
        }
        if said.goodbye {
            self.depart(node, now);
        } else {
            self.meet(&said.about, now);
        }
        let mut news = false;
        if let Some(member) = self.members.get_mut(node) {
            member.heard = Some(now);
            member.spoke = Some(now);
            member.suspected = None;
            if said.sequence > member.sequence {
                news = true;
                member.sequence = said.sequence;
                member.fully_indexed_in = said.fully_indexed_in.clone();
                member.mesh = said.about.mesh.clone();
            }
        }
        for known in &said.members {
            news |= self.hearsay(known, now);
        }
        self.get_acquainted();
        news
    }

    /// Returns whether it is a new member.
    pub fn found(&mut self, node: &NodeId, entry: &NodeEntry, now: BootInstant) -> bool {
        let known = MemberInfo {
            node: node.clone(),
            name: entry.name.clone(),
            mesh: entry.mesh.clone(),
            since: entry.since.clone(),
            age: None,
        };
        let new = self.meet(&known, now);
        if let Some(member) = self.members.get_mut(node) {
            member.leased = true;
        }
        new
    }

    /// Takes in a list of leases whose read began at `began`: who is in it is a member. Who is not, and was not heard
    /// for a whole lease, is suspected, if the index was the same for a lease: after a flush nobody has a lease, and
    /// everybody is alive. `leased`: this node has a lease itself, so the index is not one that nobody can write to.
    /// Returns whether there is something to tell or to ask the others.
    pub fn list(&mut self, listing: &NodeListing, began: BootInstant, now: BootInstant, leased: bool) -> bool {
        let lease = self.lease;
        let followed = self.listed.replace(began).is_some_and(|before| began.since(before) <= lease);
        if !followed {
            self.acquainting = Some(began);
        }
        if !followed || self.steady_since.is_none() || self.index != listing.epoch {
            self.index.clone_from(&listing.epoch);
            self.steady_since = Some(began);
        }
        for member in self.members.values_mut() {
            member.leased = false;
        }
        self.young = listing.age < lease;
        self.only = listing.age == Duration::MAX;
        let mut news = !followed;
        for (node, entry) in &listing.nodes {
            news |= self.found(node, entry, now);
        }
        let steady = self.steady_since.is_some_and(|since| began.since(since) >= lease);
        for member in self.members.values_mut() {
            let silent = !member.leased && member.heard.is_none_or(|heard| now.since(heard) >= lease);
            if !(silent && steady && leased) {
                member.suspected = None;
            } else if member.suspected.is_none() {
                member.suspected = Some(now);
                news = true;
            }
        }
        self.bury();
        self.get_acquainted();
        self.departed.retain(|_, left| now.since(*left) < lease * DEPARTED_LEASES);
        news
    }

    /// Lets suspects go when every member with a lease has answered since, and so has said whom it heard.
    fn bury(&mut self) {
        let witnesses: Vec<_> = self.members.values().filter(|member| member.leased).collect();
        let asked_all = |since| witnesses.iter().all(|witness| witness.answered.is_some_and(|sent| sent >= since));
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

    /// What the members know is known here when each that has a lease has spoken since it had to. In a young index that
    /// says nothing: those that are alive have up to a lease to be in it. Nor does an old one in which nobody else has a
    /// lease: it may have been away for so long that everybody's ran out, and this node be the first to come back to it.
    fn get_acquainted(&mut self) {
        let Some(since) = self.acquainting.filter(|_| !self.young) else { return };
        let alone = !self.only && !self.members.values().any(|member| member.leased);
        if alone && self.listed.is_none_or(|listed| listed.since(since) < self.lease) {
            return;
        }
        let spoke = |member: &Member| !member.leased || member.spoke.is_some_and(|spoke| spoke >= since);
        if self.members.values().all(spoke) {
            self.acquainting = None;
            self.was_acquainted = true;
        }
    }

    /// Whether what the others know has been known here once.
    pub fn was_acquainted(&self) -> bool {
        self.was_acquainted
    }

    /// The list could not be read: from now on nobody is let go for having no lease.
    pub fn unreadable(&mut self) {
        self.steady_since = None;
    }

    /// The number of this node's word; a word that differs from the last one gets the next.
    pub fn number(&mut self, word: &IndexState, leaving: Leaving) -> u64 {
        let saying = (word.clone(), leaving);
        if self.last_said.as_ref() != Some(&saying) {
            self.sequence += 1;
            let before = self.last_said.replace(saying);
            if before.is_none_or(|(before, _)| before.incarnation != word.incarnation) {
                self.hello = self.sequence;
            }
        }
        self.sequence
    }

    /// This node's word now, and the members it knows.
    pub fn say(&mut self, node_info: &NodeInfo, word: &IndexState, leaving: Leaving, now: BootInstant) -> NodeStatus {
        let sequence = self.number(word, leaving);
        let members = self.members.values().map(|member| {
            let Member { node, name, mesh, since, heard, .. } = member.clone();
            MemberInfo { node, name, mesh, since, age: heard.map(|heard| now.since(heard)) }
        });
        NodeStatus {
            about: MemberInfo {
                node: word.incarnation.clone(),
                name: node_info.name.clone(),
                mesh: node_info.mesh.clone(),
                since: node_info.since.clone(),
                age: Some(Duration::ZERO),
            },
            sequence,
            fully_indexed_in: word.fully_indexed_in.clone(),
            draining: leaving != Leaving::Staying,
            goodbye: leaving == Leaving::Goodbye,
            members: members.collect(),
        }
    }

    /// The member has answered this word, or a later one, which was sent at `sent`.
    pub fn acknowledged(&mut self, node: &NodeId, sequence: u64, sent: BootInstant) {
        if let Some(member) = self.members.get_mut(node) {
            member.acknowledged = member.acknowledged.max(sequence);
            member.answered = member.answered.max(Some(sent));
        }
        self.bury();
    }

    pub fn all_acknowledged(&self, sequence: u64) -> bool {
        self.members.values().all(|member| member.acknowledged >= sequence)
    }

    /// Whether every member has acknowledged this word, and answered something that was sent at `since` or later.
    pub fn all_answered(&self, sequence: u64, since: BootInstant) -> bool {
        self.all_acknowledged(sequence)
            && self.members.values().all(|member| member.answered.is_some_and(|sent| sent >= since))
    }

    /// The members that have acknowledged this word, and answered something sent at `since` or later, if with this node
    /// they are more than half of the nodes.
    pub fn most_answered(&self, sequence: u64, since: BootInstant) -> Option<Vec<NodeId>> {
        let answered = self
            .members
            .values()
            .filter(|member| member.acknowledged >= sequence && member.answered.is_some_and(|sent| sent >= since));
        let answered: Vec<_> = answered.map(|member| member.node.clone()).collect();
        ((answered.len() + 1) * 2 > self.members.len() + 1).then_some(answered)
    }

    /// Whether every member of a list that was read after `entered` has acknowledged the present incarnation's hello.
    pub fn greeted(&self, entered: BootInstant) -> bool {
        let listed = self.listed.is_some_and(|listed| listed >= entered);
        listed && self.hello > 0 && self.all_acknowledged(self.hello)
    }

    /// Members that this node's word, and whom it heard, is to be told now, with where to reach them: those that have
    /// not acknowledged it, and in times of trouble all that have not answered for this long.
    pub fn to_tell(&self, sequence: u64, now: BootInstant, again_after: Duration) -> Vec<(NodeId, SmolStr)> {
        let trouble = self.is_trouble();
        let waiting = self.members.values().filter(|member| {
            let lately = member.answered.is_some_and(|sent| now.since(sent) < again_after);
            member.acknowledged < sequence || trouble && !lately
        });
        waiting.map(|member| (member.node.clone(), member.mesh.clone())).collect()
    }

    /// Whether somebody may be alive without everybody being able to tell from the index: then who heard whom is
    /// repeated, and so is "ask me always".
    fn is_trouble(&self) -> bool {
        let not_whole = self.last_said.as_ref().is_none_or(|(word, _)| word.fully_indexed_in.is_none());
        not_whole
            || self.acquainting.is_some()
            || self.members.values().any(|member| !member.leased || member.fully_indexed_in.is_none())
    }

    /// Hearsay makes members, and makes the evidence for known ones younger, but is not worth more than its age.
    fn hearsay(&mut self, known: &MemberInfo, now: BootInstant) -> bool {
        let alive = known.age.is_some_and(|age| age < self.lease);
        if self.steady_since.is_some() && !alive {
            return false;
        }
        let new = self.meet(known, now);
        if let Some(member) = self.members.get_mut(&known.node) {
            member.heard = member.heard.max(known.age.map(|age| now.before(age)));
            if alive {
                member.suspected = None;
            }
        }
        new
    }

    /// Adds a member that is not known yet, unless it is gone for good. Returns whether it was added.
    fn meet(&mut self, known: &MemberInfo, now: BootInstant) -> bool {
        let node = &known.node;
        if node.process() == self.process || self.departed.contains_key(node) || self.members.contains_key(node) {
            return false;
        }
        let siblings =
            self.members.keys().chain(self.departed.keys()).filter(|other| other.process() == node.process());
        let (earlier, later): (Vec<_>, Vec<_>) =
            siblings.cloned().partition(|other| other.incarnation() < node.incarnation());
        if !later.is_empty() {
            return false;
        }
        for other in earlier {
            self.depart(&other, now);
        }
        let mut member = Member::known(node.clone(), known.name.clone(), known.mesh.clone(), None);
        member.since = known.since.clone();
        self.members.insert(node.clone(), member);
        true
    }

    fn depart(&mut self, node: &NodeId, now: BootInstant) {
        self.members.remove(node);
        self.departed.insert(node.clone(), now);
    }
}

#[cfg(test)]
mod tests;
