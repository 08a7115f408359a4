//! The asker: the node that calls the roll. Its lease, its table of members, its judgement, and one roll call.
//!
//! Owns whom to ask, what silence means, and what the answer amounts to. A roll call reads in steps, and anything may
//! happen between two of them. Owns no sockets: what the asked node says is its roster at that moment.

use crate::node::Node;
use crate::redis::{Epoch, Incarnations, Redis};
use crate::rules::{Rule, Rules};
use crate::state::{Age, LEASE, Message, older};

/// For how long a table may be used: half a lease. After nearly a whole one, who was known by its lease may have lost
/// it, and who was known by what others heard may have a lease.
const FRESH: Age = LEASE / 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asker {
    pub runs: bool,
    pub reaches_redis: bool,
    /// This process has been in an index.
    pub entered: bool,
    /// The incarnation of the node that is a member, as known here; 0 when none is.
    pub member: u8,
    /// The index that the member last said it is whole under.
    pub word: Option<Epoch>,
    /// Time since the member was heard.
    pub heard: Age,
    /// Time since the list was read.
    pub listed: Age,
    /// The index that was listed last.
    pub index: Option<Epoch>,
    /// For how long every list was read, and from that index; `None` when the last one could not be read.
    pub steady: Option<Age>,
    /// The list was read when the index had been the same for a lease, and there was a lease ever since.
    settled: bool,
    /// The witness has spoken to this process…
    pub introduced: bool,
    /// …and has answered since the member fell silent.
    pub witnessed: bool,
}

/// A roll call under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// The acknowledged socket that was there when it began, as long as it stays; 0 when there is none.
    pub expected: u8,
    /// The socket in the roster when it began, and the last one that had joined by then.
    present: u8,
    joined: u8,
    /// It began before the last tick. It ends within its deadline, which is shorter than a lease.
    ticked: bool,
    pub table: Option<Table>,
    pub owners: Option<Reading<Incarnations>>,
    pub epoch: Option<Reading<Option<Epoch>>>,
}

/// The table of members at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Table {
    member: u8,
    word: Option<Epoch>,
    fresh: bool,
    settled: bool,
    introduced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reading<T> {
    Unreadable,
    Read(T),
}

/// What a roll call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    pub complete: bool,
    /// The socket that is listed; 0 when none is.
    pub listed: u8,
    /// The member was not asked, with permission.
    pub skipped: bool,
    /// A socket was there from before the call to its end, and is not listed.
    pub misses: bool,
    /// What is listed was gone before the call began.
    pub ghost: bool,
    /// A socket is listed twice.
    pub doubled: bool,
}

/// Everything that an answer rests on besides the asker.
pub struct Surroundings<'a> {
    pub node: &'a Node,
    pub redis: &'a Redis,
    pub mesh: bool,
    /// There is a witness, and it has a lease: it must be heard before anybody is held to be dead.
    pub witness_leased: bool,
    pub witness: bool,
    pub rules: Rules,
}

impl Asker {
    /// A process that has just started.
    pub fn new() -> Self {
        Self {
            runs: true,
            reaches_redis: true,
            entered: false,
            member: 0,
            word: None,
            heard: LEASE,
            listed: LEASE,
            index: None,
            steady: None,
            settled: false,
            introduced: false,
            witnessed: false,
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
        if self.has_lapsed() && rules.has(Rule::WordsEndWithTheLease) {
            (self.word, self.introduced) = (None, false);
        }
        redis.enter_asker(rules);
        self.entered = true;
        true
    }

    /// Its next lease write makes another incarnation of it.
    pub fn has_lapsed(&self) -> bool {
        self.listed == LEASE
    }

    /// Takes the list in.
    pub fn list(&mut self, around: &Surroundings<'_>) {
        if !self.reaches_redis {
            return;
        }
        let index = around.redis.epoch(around.rules);
        if self.steady.is_none() || self.index != index {
            (self.index, self.steady) = (index, Some(0));
        }
        self.listed = 0;
        self.settled |= self.steady == Some(LEASE);
        let latest = around.redis.latest_leased();
        if latest > self.member {
            self.meet(latest, LEASE);
        }
        if self.member != 0 && self.holds_dead(self.member, around) {
            (self.member, self.word) = (0, None);
        }
    }

    fn fail_to_list(&mut self, rules: Rules) {
        if rules.has(Rule::UnreadableKillsNobody) {
            self.steady = None;
            return;
        }
        self.listed = 0;
        if self.heard == LEASE && self.steady == Some(LEASE) {
            (self.member, self.word) = (0, None);
        }
    }

    /// Takes in a word of the node.
    pub fn told(&mut self, message: Message) {
        if message.incarnation >= self.member {
            self.member = message.incarnation;
            self.word = message.word;
            self.hear(0);
        }
    }

    /// Learns of an incarnation that spoke to somebody else, or that was found in the index.
    pub fn meet(&mut self, incarnation: u8, heard: Age) {
        if incarnation > self.member {
            (self.member, self.word, self.heard, self.witnessed) = (incarnation, None, LEASE, false);
        }
        if incarnation == self.member && heard < self.heard {
            self.hear(heard);
        }
    }

    /// The witness speaks: of an incarnation, if it heard one within a lease.
    pub fn introduce(&mut self, heard: Option<(u8, Age)>, redis: &Redis, rules: Rules) {
        self.introduced |= self.settled || !rules.has(Rule::IntroducedWhenSettled);
        if let Some((incarnation, age)) = heard {
            self.meet(incarnation, age);
        }
        self.witnessed = self.heard == LEASE && !redis.leased(self.member.max(1));
    }

    pub fn hear(&mut self, age: Age) {
        self.heard = age;
        self.witnessed = false;
    }

    pub fn tick(&mut self) {
        self.heard = older(self.heard);
        self.listed = older(self.listed);
        self.steady = self.steady.map(older);
        self.settled &= self.listed < LEASE;
    }

    /// A running asker renews and lists, or knows that it cannot, before any time passes.
    pub fn is_punctual(&self) -> bool {
        let idle = !self.runs || !self.entered;
        idle || self.listed == 0 || !self.reaches_redis && self.steady.is_none()
    }

    /// Whether an incarnation may be repaired away: it is dead, or its successor is whole.
    pub fn holds_gone(&self, incarnation: u8, around: &Surroundings<'_>) -> bool {
        let looks = self.runs && self.reaches_redis && self.entered;
        let whole = self.word.is_some() && self.word == around.redis.epoch(around.rules);
        looks && (incarnation < self.member && whole || self.holds_dead(incarnation, around))
    }

    /// Whether an incarnation is held to be dead: no lease, and nothing heard of it. One that has a successor is not:
    /// its process lives.
    fn holds_dead(&self, incarnation: u8, around: &Surroundings<'_>) -> bool {
        let rules = around.rules;
        let heard = incarnation == self.member && self.heard < LEASE && rules.has(Rule::HeardIsAlive);
        let successor = rules.has(Rule::DeathIsOfAProcess) && around.redis.latest_leased() > incarnation;
        let lives = incarnation < self.member || heard || around.redis.leased(incarnation) || successor;
        let asked = self.witnessed || !around.witness_leased || !rules.has(Rule::WitnessesAreHeard);
        !lives && self.believes_absence(around) && asked
    }

    /// Whether a lease that is missing now means something.
    fn believes_absence(&self, around: &Surroundings<'_>) -> bool {
        let rules = around.rules;
        let same = self.index == around.redis.epoch(rules) || !rules.has(Rule::JudgedInTheSteadyIndex);
        let steady = self.steady == Some(LEASE) && same || !rules.has(Rule::SteadyBeforeDeath);
        steady && self.steady.is_some() && self.is_fresh(rules)
    }

    fn is_fresh(&self, rules: Rules) -> bool {
        self.listed < FRESH || !rules.has(Rule::TableIsFresh)
    }

    fn table(&self, rules: Rules) -> Table {
        let fresh = self.is_fresh(rules);
        let settled = self.settled || !rules.has(Rule::SettledBeforeComplete);
        let introduced = self.introduced || !rules.has(Rule::IntroducedBeforeComplete);
        Table { member: self.member, word: self.word, fresh, settled, introduced }
    }
}

/// One thing to read. Returns whether it was still to be read.
type Step = fn(&mut Call, &Asker, &Redis, Rules) -> bool;

impl Call {
    pub fn begin(expected: u8, node: &Node) -> Self {
        let Node { row, joined, .. } = *node;
        Self { expected, present: row, joined, ticked: false, table: None, owners: None, epoch: None }
    }

    /// The next thing is read. Returns whether there was one.
    pub fn read(&mut self, asker: &Asker, redis: &Redis, rules: Rules) -> bool {
        let steps: [Step; 3] = if !rules.has(Rule::TableBeforeOwners) {
            [Self::read_owners, Self::read_epoch, Self::take_table]
        } else if !rules.has(Rule::OwnersBeforeEpoch) {
            [Self::take_table, Self::read_epoch, Self::read_owners]
        } else {
            [Self::take_table, Self::read_owners, Self::read_epoch]
        };
        steps.iter().any(|step| step(self, asker, redis, rules))
    }

    /// Whether it can go on after a tick. Redis has a third of the deadline at most, so what it reads is of one tick.
    pub fn outlasts_a_tick(&mut self) -> bool {
        let read = self.table.is_some() && self.owners.is_some() && self.epoch.is_some();
        let outlasts = read && !self.ticked;
        self.ticked |= outlasts;
        outlasts
    }

    fn take_table(&mut self, asker: &Asker, _: &Redis, rules: Rules) -> bool {
        let first = self.table.is_none();
        self.table.get_or_insert(asker.table(rules));
        first
    }

    fn read_owners(&mut self, asker: &Asker, redis: &Redis, _: Rules) -> bool {
        let first = self.owners.is_none();
        self.owners.get_or_insert(if asker.reaches_redis {
            Reading::Read(redis.owners())
        } else {
            Reading::Unreadable
        });
        first
    }

    fn read_epoch(&mut self, asker: &Asker, redis: &Redis, rules: Rules) -> bool {
        let first = self.epoch.is_none();
        let epoch = if asker.reaches_redis { Reading::Read(redis.epoch(rules)) } else { Reading::Unreadable };
        self.epoch.get_or_insert(epoch);
        first
    }

    /// Asks whoever must be asked, judges who stays silent, and joins the parts. `None`: not everything was read yet.
    pub fn ask(&self, asker: &Asker, around: &Surroundings<'_>) -> Option<Answer> {
        let (table, owners, epoch) = (self.table?, self.owners?, self.epoch?);
        let rules = around.rules;
        let (owners, epoch) = match (owners, epoch) {
            (Reading::Read(owners), Reading::Read(epoch)) => (Some(owners), epoch),
            _ => (None, None),
        };
        let knows_everybody = table.settled && (table.introduced || !around.witness);
        let mut complete = owners.is_some() && table.fresh && knows_everybody;
        let owners = owners.unwrap_or_default();
        let skipped = table.may_skip(owners, epoch, rules);

        let mut asked = Incarnations::default();
        if table.member != 0 && !skipped {
            asked.add(table.member);
        }
        for owner in owners.iter().filter(|owner| *owner > table.member) {
            let readable = asker.reaches_redis;
            if readable && around.redis.leased(owner) {
                asked.add(owner);
            } else if !readable || !asker.holds_dead(owner, around) {
                complete = false;
            }
        }

        let mut parts = Vec::new();
        for incarnation in asked.iter() {
            if around.mesh && around.node.runs() {
                parts.push(around.node.row);
                continue;
            }
            if !rules.has(Rule::OnlyVouchedRows) && owners.has(incarnation) {
                parts.push(self.joined);
            }
            complete &= asker.reaches_redis && asker.holds_dead(incarnation, around);
        }
        if rules.has(Rule::OnePartPerProcess) {
            parts.truncate(1);
        }
        Some(self.join(&parts, complete, skipped))
    }

    fn join(&self, parts: &[u8], complete: bool, skipped: bool) -> Answer {
        let rows = parts.iter().filter(|row| **row != 0);
        let listed = rows.clone().next().copied().unwrap_or(0);
        Answer {
            complete,
            listed,
            skipped,
            misses: complete && self.expected != 0 && listed != self.expected,
            ghost: listed != 0 && listed <= self.joined && listed != self.present,
            doubled: rows.count() > 1,
        }
    }
}

impl Table {
    fn may_skip(&self, owners: Incarnations, epoch: Option<Epoch>, rules: Rules) -> bool {
        let whole = self.word == epoch || !rules.has(Rule::SkippedOnlyWhenWhole);
        self.member != 0 && self.fresh && epoch.is_some() && whole && !owners.has(self.member)
    }
}
