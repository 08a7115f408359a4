//! The node whose socket is looked for: its roster, its claim of the one room, its lease and its word.
//!
//! Owns what the node knows and decides by itself. Commands and messages that it has sent are here until they are
//! answered; what they do elsewhere is in `redis.rs` and `asker.rs`.

use crate::redis::{Epoch, Incarnations, Redis};
use crate::rules::{Rule, Rules};
use crate::state::{Age, LEASE, older};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Process {
    Runs,
    Stopped,
    Crashed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    None,
    Asked,
    Held,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Claim,
    Release,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Progress {
    Sent,
    Executed(Option<Epoch>),
    /// The Redis process that it was sent to is gone.
    Lost,
}

/// A command about the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Command {
    pub kind: Kind,
    pub incarnation: u8,
    pub progress: Progress,
}

/// What one other node has acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Acknowledged {
    /// Time since the last acknowledged message was sent.
    pub age: Age,
    /// The present word was acknowledged.
    pub word: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub process: Process,
    pub reaches_redis: bool,
    pub incarnation: u8,
    /// The number of the socket that joined last; 0 before the first.
    pub joined: u8,
    /// The socket in the roster; 0 when there is none.
    pub row: u8,
    /// The socket's client has been told that it is in the room.
    pub acknowledged: bool,
    pub claim: Claim,
    /// The row may have been acknowledged without the claim: there is no claim since before the word was last whole.
    pub owed: bool,
    /// The index that this incarnation has entered.
    pub index: Option<Epoch>,
    /// A lease write or a claim failed, and no lease was written since.
    pub trouble: bool,
    /// Time since the last confirmed lease write was sent.
    pub confirmed: Age,
    /// Time since this incarnation entered.
    pub entered: Age,
    /// A list was read since this incarnation entered.
    pub listed: bool,
    /// A list was read of an index that had been the same for a lease.
    pub settled: bool,
    /// The asker has acknowledged a word of this incarnation, or has had the time to find it in the list.
    pub greeted: bool,
    pub knows_asker: bool,
    pub by_asker: Acknowledged,
    pub by_witness: Acknowledged,
    /// Retired incarnations whose claims and leases are still to be removed.
    pub abandoned: Incarnations,
    pub commands: [Option<Command>; 2],
}

impl Acknowledged {
    pub const NOTHING: Self = Self { age: LEASE, word: false };

    fn lately(self) -> bool {
        self.age < LEASE
    }
}

impl Node {
    /// A process that has just started.
    pub fn new() -> Self {
        Self {
            process: Process::Runs,
            reaches_redis: true,
            incarnation: 1,
            joined: 0,
            row: 0,
            acknowledged: false,
            claim: Claim::None,
            owed: false,
            index: None,
            trouble: false,
            confirmed: LEASE,
            entered: 0,
            listed: false,
            settled: false,
            greeted: false,
            knows_asker: false,
            by_asker: Acknowledged::NOTHING,
            by_witness: Acknowledged::NOTHING,
            abandoned: Incarnations::default(),
            commands: [None; 2],
        }
    }

    pub fn runs(&self) -> bool {
        self.process == Process::Runs
    }

    /// The index that the node says it is whole under; `None` is "not whole: ask me always".
    pub fn word(&self) -> Option<Epoch> {
        self.index.filter(|_| !self.owed && !self.trouble)
    }

    /// Whether its sockets belong into the answers of others. A cluster of one that lost its lease goes on, but for
    /// itself: nobody can ask a node that nobody knows.
    pub fn counts(&self, witness: bool) -> bool {
        self.confirmed < LEASE || self.peers(witness) > 0 && self.has_majority(witness)
    }

    /// While the node is not whole, rooms are acknowledged without their claims: it is whole again when those are held.
    pub fn owe(&mut self, rules: Rules) {
        self.owed |=
            rules.has(Rule::UnclaimedIsOwed) && self.word().is_none() && self.row != 0 && self.claim != Claim::Held;
    }

    /// Enters the index, or renews the lease there; another index or a lapsed lease ends the incarnation.
    pub fn write_lease(&mut self, redis: &mut Redis, rules: Rules) -> bool {
        if !self.runs() {
            return false;
        }
        if !self.reaches_redis {
            self.trouble = true;
            return true;
        }
        let renewing = self.index.is_some();
        let answer = if renewing { redis.renew(self.incarnation, rules) } else { redis.enter(self.incarnation, rules) };
        if answer.is_none() || renewing && answer != self.index {
            self.retire();
            return true;
        }
        if renewing {
            self.greeted |= self.entered == LEASE;
        } else {
            (self.entered, self.listed) = (0, false);
        }
        (self.index, self.confirmed, self.trouble) = (answer, 0, false);
        // What matters between the two is the entry: a renewal is followed by the list at once.
        if renewing {
            self.read_list(redis, rules);
        }
        true
    }

    /// Reads who else is there. A list of another index than was entered does not count.
    pub fn read_list(&mut self, redis: &Redis, rules: Rules) -> bool {
        let counts = self.index.is_some() && redis.epoch(rules) == self.index;
        if !self.runs() || !self.reaches_redis || !counts {
            return false;
        }
        let steady = self.entered == LEASE;
        self.listed = true;
        self.settled |= steady || !rules.has(Rule::SettledBeforeWord);
        if redis.asker_leased() {
            self.knows_asker = true;
        } else if !self.by_asker.lately() && steady {
            self.knows_asker = false;
        }
        true
    }

    /// A socket joins, unless the node takes none.
    pub fn join(&mut self, most: u8, witness: bool, rules: Rules) -> bool {
        let takes = self.runs() && self.row == 0 && self.joined < most && self.may_go_on(witness, rules);
        if takes {
            self.joined += 1;
            self.row = self.joined;
        }
        takes
    }

    pub fn acknowledge(&mut self, witness: bool, rules: Rules) -> bool {
        let may = self.runs() && self.row != 0 && !self.acknowledged && self.may_acknowledge(witness, rules);
        self.acknowledged |= may;
        may
    }

    /// It leaves, unless it is the last one: with nobody left to be missed there is nothing to be found.
    pub fn leave(&mut self, most: u8) -> bool {
        let leaves = self.runs() && self.row != 0 && self.joined < most;
        if leaves {
            self.drop_row();
        }
        leaves
    }

    pub fn send_claim(&mut self, rules: Rules) -> bool {
        let wants = self.runs() && self.row != 0 && self.claim != Claim::Held && self.index.is_some();
        // One that was sent is sent again only when it was given up.
        if !wants || self.underway(Kind::Claim) || !self.send(Kind::Claim, rules) {
            return false;
        }
        self.claim = Claim::Asked;
        true
    }

    pub fn send_release(&mut self, rules: Rules) -> bool {
        let lingers = self.runs() && self.row == 0 && self.claim != Claim::None && self.index.is_some();
        if !lingers || self.underway(Kind::Release) || !self.send(Kind::Release, rules) {
            return false;
        }
        if rules.has(Rule::UnclaimedBeforeRemoval) {
            self.claim = Claim::None;
        }
        true
    }

    /// The command runs in Redis.
    pub fn execute(&mut self, place: usize, redis: &mut Redis, rules: Rules) -> bool {
        let reaches = self.reaches_redis;
        let Some(command) = self.commands[place].as_mut() else { return false };
        if command.progress != Progress::Sent || !reaches {
            return false;
        }
        command.run(redis);
        command.progress = Progress::Executed(redis.epoch(rules));
        true
    }

    /// The node hears what the command answered.
    pub fn hear_answer(&mut self, place: usize) -> bool {
        let Some(Command { kind, incarnation, progress: Progress::Executed(index) }) = self.commands[place] else {
            return false;
        };
        if !self.runs() {
            return false;
        }
        self.commands[place] = None;
        if incarnation != self.incarnation {
            return true;
        }
        match kind {
            Kind::Claim if index != self.index => self.retire(),
            Kind::Claim if self.claim == Claim::Asked => {
                self.claim = Claim::Held;
                self.owed = false;
            }
            Kind::Claim => {}
            Kind::Release if self.row == 0 => self.claim = Claim::None,
            Kind::Release => {}
        }
        true
    }

    /// The node gives the command up. Returns it: it may still run later.
    pub fn give_up(&mut self, place: usize, rules: Rules) -> Option<Command> {
        let command = self.commands[place].filter(|_| self.runs())?;
        self.commands[place] = None;
        let present = command.incarnation == self.incarnation;
        match command.kind {
            Kind::Claim if present => self.trouble = true,
            Kind::Claim => {}
            Kind::Release => {
                self.abandoned.add(command.incarnation);
                if present && rules.has(Rule::LostRemovalRetires) {
                    self.retire();
                }
                if present && !rules.has(Rule::LostRemovalRetires) {
                    self.abandoned.remove(command.incarnation);
                }
            }
        }
        Some(command)
    }

    /// Removes what a retired incarnation left.
    pub fn clear(&mut self, redis: &mut Redis, rules: Rules) -> bool {
        let Some(incarnation) = self.abandoned.iter().next() else { return false };
        let whole = self.word().is_some() || !rules.has(Rule::AbandonedUntilWhole);
        let clears = self.runs() && self.reaches_redis && whole;
        if clears {
            redis.clear(incarnation);
            self.abandoned.remove(incarnation);
        }
        clears
    }

    /// The Redis process behind the connection is gone, and with it what was on its way.
    pub fn lose_connection(&mut self) {
        for command in self.commands.iter_mut().flatten() {
            if command.is_sent() {
                command.progress = Progress::Lost;
            }
        }
    }

    pub fn crash(&mut self) {
        self.drop_row();
        self.process = Process::Crashed;
        self.commands = [None; 2];
    }

    pub fn tick(&mut self) {
        for age in [&mut self.confirmed, &mut self.entered, &mut self.by_asker.age, &mut self.by_witness.age] {
            *age = older(*age);
        }
    }

    /// Forgets ages that make no difference any more, so that states that behave alike are one.
    pub fn simplify(&mut self, asker_may_lapse: bool) {
        if asker_may_lapse {
            return;
        }
        for acknowledged in [&mut self.by_asker, &mut self.by_witness] {
            // A lease that was confirmed since makes the node count for longer.
            if !acknowledged.word && acknowledged.age >= self.confirmed {
                acknowledged.age = LEASE;
            }
        }
        if self.greeted && self.settled {
            self.entered = LEASE;
        }
    }

    /// A node that does not count lets go of its sockets at once.
    pub fn let_go(&mut self, witness: bool, rules: Rules) {
        if self.runs() && self.row != 0 && !self.may_go_on(witness, rules) {
            self.drop_row();
        }
    }

    /// A running node renews, and tells itself when it cannot, before any time passes.
    pub fn is_punctual(&self) -> bool {
        let renewed = self.index.is_some() && self.confirmed == 0 && self.listed;
        !self.runs() || if self.reaches_redis { renewed } else { self.trouble }
    }

    /// Without the rule by which a node that does not count lets go, its clients count on it.
    pub fn keeps_regardless(&self, witness: bool, rules: Rules) -> bool {
        let unconfirmed = !rules.has(Rule::AcksAreRecent) || !rules.has(Rule::LetsGoWithoutMajority);
        unconfirmed && self.peers(witness) > 0
    }

    fn may_go_on(&self, witness: bool, rules: Rules) -> bool {
        let confirmed = self.confirmed < LEASE || !rules.has(Rule::AcksAreRecent);
        confirmed || self.has_majority(witness) || !rules.has(Rule::LetsGoWithoutMajority)
    }

    fn may_acknowledge(&self, witness: bool, rules: Rules) -> bool {
        if !rules.has(Rule::AckRestsOnClaimOrWord) {
            return true;
        }
        let confirmed = self.confirmed < LEASE || !rules.has(Rule::AcksAreRecent);
        let held = self.claim == Claim::Held && self.is_born(rules) && confirmed;
        let asker = !self.knows_asker || self.by_asker.word && self.by_asker.lately();
        let witness = !witness || self.by_witness.word && self.by_witness.lately();
        held || self.word().is_none() && self.settled && asker && witness
    }

    fn is_born(&self, rules: Rules) -> bool {
        let greeted = self.listed && (!self.knows_asker || self.greeted);
        let by_time = self.entered == LEASE && !rules.has(Rule::BirthByRenewal);
        self.index.is_some() && (greeted || by_time || !rules.has(Rule::Birth))
    }

    fn peers(&self, witness: bool) -> u8 {
        u8::from(self.knows_asker) + u8::from(witness)
    }

    fn has_majority(&self, witness: bool) -> bool {
        let asker = self.knows_asker && self.by_asker.lately();
        let acknowledged = u8::from(asker) + u8::from(witness && self.by_witness.lately());
        (acknowledged + 1) * 2 > self.peers(witness) + 1
    }

    fn underway(&self, kind: Kind) -> bool {
        self.commands.iter().flatten().any(|command| command.kind == kind && command.incarnation == self.incarnation)
    }

    fn send(&mut self, kind: Kind, rules: Rules) -> bool {
        let most = if rules.has(Rule::OneCommandPerRoom) { 1 } else { 2 };
        let Some(place) = self.commands[..most].iter_mut().find(|place| place.is_none()) else { return false };
        *place = Some(Command { kind, incarnation: self.incarnation, progress: Progress::Sent });
        true
    }

    pub fn retire(&mut self) {
        self.abandoned.add(self.incarnation);
        self.incarnation += 1;
        self.index = None;
        self.claim = Claim::None;
        self.owed = self.row != 0;
        (self.listed, self.greeted) = (false, false);
    }

    fn drop_row(&mut self) {
        self.row = 0;
        self.acknowledged = false;
        self.owed = false;
    }
}

impl Command {
    pub fn is_sent(self) -> bool {
        self.progress == Progress::Sent
    }

    pub fn is_lost(self) -> bool {
        self.progress == Progress::Lost
    }

    pub fn run(self, redis: &mut Redis) {
        match self.kind {
            Kind::Claim => redis.claim(self.incarnation),
            Kind::Release => redis.release(self.incarnation),
        }
    }
}
