//! The coordinator: the node that runs the roll call. Its lease, its member table, its judgement of silence, and one
//! call.
//!
//! Owns the plan, the meaning of silence, and the answer. A roll call reads in steps, and any action may happen between
//! two of them. Owns no sockets: the reply of the node is its roster at that moment.

use crate::node::Node;
use crate::redis::{Epoch, Incarnations, Redis};
use crate::rules::{Rule, Rules};
use crate::state::{Age, LEASE, Message, older};

/// A table may be used for half a lease, as in `MembershipView::is_fresh`. After nearly a whole lease, a member that was
/// known by its lease may have lost it, and a member that was known by hearsay may have a lease.
const FRESH: Age = LEASE / 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Coordinator {
    pub runs: bool,
    pub reaches_redis: bool,
    /// This process has registered in an index.
    pub registered: bool,
    /// The incarnation of the node in the member table; 0 if the node is no member.
    pub member: u8,
    /// The epoch of the member's last status, in which it is fully indexed.
    pub fully_indexed_in: Option<Epoch>,
    /// Time since the member was heard.
    pub heard: Age,
    /// Time since the list was read.
    pub listed: Age,
    /// The epoch of the last list.
    pub epoch: Option<Epoch>,
    /// For how long every list could be read and had this epoch; `None` if the last one could not be read.
    pub steady: Option<Age>,
    /// The number of clock steps of Redis up to the last list.
    steps: u8,
    /// A list was read after the epoch had been the same for a lease, and the coordinator had a lease ever since.
    settled: bool,
    /// The witness has sent its status to this process.
    pub synced: bool,
    /// The witness has replied since the member became silent.
    pub witness_replied: bool,
    /// The member was asked over the mesh since it became silent, and did not answer.
    probe_failed: bool,
    /// The latest incarnation that said goodbye, according to another node; 0 if there is none.
    departed: u8,
    /// A member that answers over the mesh was considered dead.
    pub removed_reachable: bool,
}

/// A running roll call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// The acknowledged socket that was in the room at the start, while it stays; 0 if there is none.
    pub expected: u8,
    /// The socket in the roster at the start, and the last one that had joined by then.
    present: u8,
    joined: u8,
    /// It began before the last tick. Its deadline is shorter than a lease.
    ticked: bool,
    pub table: Option<TableCopy>,
    pub owners: Option<Reading<Incarnations>>,
    pub epoch: Option<Reading<Option<Epoch>>>,
    /// The table was fresh at the last of the three reads.
    fresh: bool,
    /// The rows in the node's reply, which the coordinator has not read yet.
    reply: Option<u8>,
}

/// A copy of the member table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableCopy {
    member: u8,
    fully_indexed_in: Option<Epoch>,
    /// Time since the list was read.
    listed: Age,
    settled: bool,
    synced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reading<T> {
    Unreadable,
    Read(T),
}

/// The result of a roll call, with its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    pub complete: bool,
    /// The listed socket; 0 if none is listed.
    pub listed: u8,
    /// The plan skipped the member.
    pub skipped: bool,
    /// A complete answer does not list a socket that was in the room during the whole call.
    pub misses: bool,
    /// The listed socket had left before the call began.
    pub ghost: bool,
    /// A socket is listed twice.
    pub duplicate: bool,
}

/// The rest of the state, on which an answer depends.
pub struct Environment<'a> {
    pub node: &'a Node,
    pub redis: &'a Redis,
    pub mesh: bool,
    /// The witness has a lease, so it must be asked before a member is considered dead.
    pub witness_leased: bool,
    pub witness: bool,
    pub rules: Rules,
}

impl Coordinator {
    pub fn new() -> Self {
        Self {
            runs: true,
            reaches_redis: true,
            registered: false,
            member: 0,
            fully_indexed_in: None,
            heard: LEASE,
            listed: LEASE,
            epoch: None,
            steady: None,
            steps: 0,
            settled: false,
            synced: false,
            witness_replied: false,
            probe_failed: false,
            departed: 0,
            removed_reachable: false,
        }
    }

    /// Writes or renews the lease, then reads the list.
    pub fn renew(&mut self, redis: &mut Redis, rules: Rules) -> bool {
        if !self.runs {
            return false;
        }
        if !self.reaches_redis {
            self.fail_to_list(rules);
            return true;
        }
        if self.has_lapsed() && rules.has(Rule::StatusesEndWithLease) {
            (self.fully_indexed_in, self.synced) = (None, false);
        }
        redis.register_coordinator(rules);
        self.registered = true;
        true
    }

    /// The next lease write registers another incarnation of it.
    pub fn has_lapsed(&self) -> bool {
        self.listed == LEASE
    }

    /// Applies a list of leases.
    pub fn apply_listing(&mut self, environment: &Environment<'_>) {
        if !self.reaches_redis {
            return;
        }
        let epoch = environment.redis.epoch(environment.rules);
        let stepped = self.steps != environment.redis.steps && environment.rules.has(Rule::StepEndsSteadiness);
        self.steps = environment.redis.steps;
        if self.steady.is_none() || self.epoch != epoch || stepped {
            (self.epoch, self.steady) = (epoch, Some(0));
        }
        self.listed = 0;
        self.settled |= self.steady == Some(LEASE);
        let latest = environment.redis.latest_leased();
        if latest > self.member.max(self.departed) {
            self.learn_of(latest, LEASE);
        }
        if self.member != 0 && self.considers_dead(self.member, environment) {
            self.removed_reachable |= environment.mesh && environment.node.runs();
            (self.member, self.fully_indexed_in) = (0, None);
        }
    }

    fn fail_to_list(&mut self, rules: Rules) {
        if rules.has(Rule::NoDeathWhileUnreadable) {
            self.steady = None;
            return;
        }
        self.listed = 0;
        if self.heard == LEASE && self.steady == Some(LEASE) {
            (self.member, self.fully_indexed_in) = (0, None);
        }
    }

    /// Receives a status of the node.
    pub fn receive_status(&mut self, message: Message) {
        if message.incarnation >= self.member && message.incarnation > self.departed {
            self.member = message.incarnation;
            self.fully_indexed_in = message.fully_indexed_in;
            self.hear(0);
        }
    }

    /// Learns of an incarnation from the witness or the index.
    pub fn learn_of(&mut self, incarnation: u8, heard: Age) {
        if incarnation > self.member {
            (self.member, self.fully_indexed_in, self.heard) = (incarnation, None, LEASE);
            (self.witness_replied, self.probe_failed) = (false, false);
        }
        if incarnation == self.member && heard < self.heard {
            self.hear(heard);
        }
    }

    /// Receives the reply of the witness: the incarnation that it heard within a lease, if any.
    pub fn hear_witness(&mut self, heard: Option<(u8, Age)>, redis: &Redis, rules: Rules) {
        self.synced |= self.settled || !rules.has(Rule::SyncedWhenSettled);
        if let Some((incarnation, age)) = heard {
            self.learn_of(incarnation, age);
        }
        self.witness_replied = self.heard == LEASE && !redis.leased(self.member.max(1));
    }

    pub fn hear(&mut self, age: Age) {
        self.heard = age;
        (self.witness_replied, self.probe_failed) = (false, false);
    }

    /// Asks the member, which does not answer. Only a suspect is asked.
    pub fn fail_to_reach_member(&mut self, environment: &Environment<'_>) -> bool {
        let reachable = environment.mesh && environment.node.runs();
        let silent = self.heard == LEASE || !environment.rules.has(Rule::HeardIsAlive);
        let fails = self.runs && self.member != 0 && silent && !environment.redis.leased(self.member) && !reachable;
        fails && !std::mem::replace(&mut self.probe_failed, true)
    }

    /// Hears about the node from a member that lies.
    pub fn hear_lie(&mut self, rules: Rules) {
        if rules.has(Rule::HearsayOnlyAdds) {
            self.hear(0);
        } else {
            self.departed = self.member;
            (self.member, self.fully_indexed_in) = (0, None);
        }
    }

    pub fn tick(&mut self) {
        self.heard = older(self.heard);
        self.listed = older(self.listed);
        self.steady = self.steady.map(older);
        self.settled &= self.listed < LEASE;
    }

    /// Before time passes, a running coordinator has renewed and listed, or has noticed that it cannot.
    pub fn may_tick(&self) -> bool {
        let idle = !self.runs || !self.registered;
        idle || self.listed == 0 || !self.reaches_redis && self.steady.is_none()
    }

    /// Whether the entries of an incarnation may be repaired: it is dead, or its successor is fully indexed.
    pub fn considers_gone(&self, incarnation: u8, environment: &Environment<'_>) -> bool {
        let can_repair = self.runs && self.reaches_redis && self.registered;
        let fully_indexed =
            self.fully_indexed_in.is_some() && self.fully_indexed_in == environment.redis.epoch(environment.rules);
        can_repair && (incarnation < self.member && fully_indexed || self.considers_dead(incarnation, environment))
    }

    /// Whether an incarnation is considered dead: it has no lease and was not heard. An incarnation with a successor is
    /// not, because its process lives.
    fn considers_dead(&self, incarnation: u8, environment: &Environment<'_>) -> bool {
        let rules = environment.rules;
        let heard = incarnation == self.member && self.heard < LEASE && rules.has(Rule::HeardIsAlive);
        let successor = rules.has(Rule::DeathIsPerProcess) && environment.redis.latest_leased() > incarnation;
        let lives = incarnation < self.member || heard || environment.redis.leased(incarnation) || successor;
        let asked = self.witness_replied || !environment.witness_leased || !rules.has(Rule::WitnessesAreAsked);
        let probed = incarnation != self.member || self.probe_failed || !rules.has(Rule::ProbedBeforeDeath);
        incarnation <= self.departed || !lives && self.trusts_absence(environment) && asked && probed
    }

    /// Whether the absence of a lease is evidence.
    fn trusts_absence(&self, environment: &Environment<'_>) -> bool {
        let rules = environment.rules;
        let same = self.epoch == environment.redis.epoch(rules) || !rules.has(Rule::JudgedInSteadyIndex);
        // A list has the clock in the same answer as the leases.
        let same = same && (self.steps == environment.redis.steps || !rules.has(Rule::StepEndsSteadiness));
        let steady = self.steady == Some(LEASE) && same || !rules.has(Rule::SteadyBeforeDeath);
        steady && self.steady.is_some() && self.is_fresh(rules)
    }

    fn is_fresh(&self, rules: Rules) -> bool {
        self.listed < FRESH || !rules.has(Rule::TableIsFresh)
    }

    fn table(&self, rules: Rules) -> TableCopy {
        let settled = self.settled || !rules.has(Rule::SettledBeforeComplete);
        let synced = self.synced || !rules.has(Rule::SyncedBeforeComplete);
        let (member, fully_indexed_in, listed) = (self.member, self.fully_indexed_in, self.listed);
        TableCopy { member, fully_indexed_in, listed, settled, synced }
    }
}

/// Reads one thing. Returns whether it had not been read yet.
type ReadStep = fn(&mut Call, &Coordinator, &Redis, Rules) -> bool;

impl Call {
    pub fn begin(expected: u8, node: &Node) -> Self {
        let Node { row, joined, .. } = *node;
        let (table, owners, epoch) = (None, None, None);
        Self { expected, present: row, joined, ticked: false, table, owners, epoch, fresh: false, reply: None }
    }

    /// Reads the next thing. Returns whether there was one.
    pub fn read(&mut self, coordinator: &Coordinator, redis: &Redis, rules: Rules) -> bool {
        let steps: [ReadStep; 3] = if !rules.has(Rule::TableBeforeOwners) {
            [Self::read_owners, Self::read_epoch, Self::take_table]
        } else if !rules.has(Rule::OwnersBeforeEpoch) {
            [Self::take_table, Self::read_epoch, Self::read_owners]
        } else {
            [Self::take_table, Self::read_owners, Self::read_epoch]
        };
        let reads = steps.iter().any(|step| step(self, coordinator, redis, rules));
        if reads && let Some(table) = self.table {
            self.fresh = table.listed < FRESH || !rules.has(Rule::TableIsFresh);
        }
        reads
    }

    fn has_read_all(&self) -> bool {
        self.table.is_some() && self.owners.is_some() && self.epoch.is_some()
    }

    /// The node writes its reply. The coordinator may be stopped before it reads the reply.
    pub fn receive_reply(&mut self, row: u8) -> bool {
        let receives = self.has_read_all() && self.reply.is_none();
        if receives {
            self.reply = Some(row);
        }
        receives
    }

    /// A later caller gets the answer of this call. Returns whether the answer can be older than the question.
    pub fn join_late(&mut self, expected: u8, node: &Node) -> bool {
        let joins = self.reply.is_some() && expected != self.expected;
        if joins {
            (self.expected, self.present, self.joined) = (expected, node.row, node.joined);
        }
        joins
    }

    /// Whether the call may continue after a tick. The directory has at most a third of the deadline, so all reads are
    /// in one tick, unless the coordinator is stopped: then the call lasts until it resumes.
    pub fn outlasts_a_tick(&mut self, stopped: bool) -> bool {
        let outlasts = stopped || self.has_read_all() && !self.ticked;
        self.ticked |= outlasts;
        if outlasts && let Some(table) = &mut self.table {
            table.listed = older(table.listed);
        }
        outlasts
    }

    fn take_table(&mut self, coordinator: &Coordinator, _: &Redis, rules: Rules) -> bool {
        let first = self.table.is_none();
        self.table.get_or_insert(coordinator.table(rules));
        first
    }

    fn read_owners(&mut self, coordinator: &Coordinator, redis: &Redis, _: Rules) -> bool {
        let first = self.owners.is_none();
        self.owners.get_or_insert(if coordinator.reaches_redis {
            Reading::Read(redis.owners())
        } else {
            Reading::Unreadable
        });
        first
    }

    fn read_epoch(&mut self, coordinator: &Coordinator, redis: &Redis, rules: Rules) -> bool {
        let first = self.epoch.is_none();
        let epoch = if coordinator.reaches_redis { Reading::Read(redis.epoch(rules)) } else { Reading::Unreadable };
        self.epoch.get_or_insert(epoch);
        first
    }

    /// Asks the nodes of the plan, judges silent ones, and joins the snapshots. `None` if a read is still missing.
    pub fn ask(&self, coordinator: &Coordinator, environment: &Environment<'_>) -> Option<Answer> {
        let (table, owners, epoch) = (self.table?, self.owners?, self.epoch?);
        let rules = environment.rules;
        let (owners, epoch) = match (owners, epoch) {
            (Reading::Read(owners), Reading::Read(epoch)) => (Some(owners), epoch),
            _ => (None, None),
        };
        let knows_all = table.settled && (table.synced || !environment.witness);
        let mut complete = owners.is_some() && self.fresh && knows_all;
        let owners = owners.unwrap_or_default();
        let skipped = self.fresh && table.may_skip(owners, epoch, rules);

        let mut asked = Incarnations::default();
        if table.member != 0 && !skipped {
            asked.add(table.member);
        }
        for owner in owners.iter().filter(|owner| *owner > table.member.max(coordinator.departed)) {
            let readable = coordinator.reaches_redis;
            if readable && environment.redis.leased(owner) {
                asked.add(owner);
            } else if !readable || !coordinator.considers_dead(owner, environment) {
                complete = false;
            }
        }

        let mut snapshots = Vec::new();
        for incarnation in asked.iter() {
            if let Some(row) = self.reply {
                snapshots.push(row);
                continue;
            }
            if environment.mesh && environment.node.runs() {
                snapshots.push(environment.node.row);
                continue;
            }
            if !rules.has(Rule::OnlyVouchedRows) && owners.has(incarnation) {
                snapshots.push(self.joined);
            }
            complete &= coordinator.reaches_redis && coordinator.considers_dead(incarnation, environment);
        }
        if rules.has(Rule::OneSnapshotPerProcess) {
            snapshots.truncate(1);
        }
        Some(self.join(&snapshots, complete, skipped))
    }

    fn join(&self, snapshots: &[u8], complete: bool, skipped: bool) -> Answer {
        let rows = snapshots.iter().filter(|row| **row != 0);
        let listed = rows.clone().next().copied().unwrap_or(0);
        Answer {
            complete,
            listed,
            skipped,
            misses: complete && self.expected != 0 && listed != self.expected,
            ghost: listed != 0 && listed <= self.joined && listed != self.present,
            duplicate: rows.count() > 1,
        }
    }
}

impl TableCopy {
    fn may_skip(&self, owners: Incarnations, epoch: Option<Epoch>, rules: Rules) -> bool {
        let fully_indexed = self.fully_indexed_in == epoch || !rules.has(Rule::SkipOnlyFullyIndexed);
        self.member != 0 && epoch.is_some() && fully_indexed && !owners.has(self.member)
    }
}
