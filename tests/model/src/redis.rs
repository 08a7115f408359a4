//! Redis as the protocol sees it: leases, one owner set, the value of E, and the ways in which it forgets.
//!
//! Owns the scripts and pipelines that matter, each as one step, and E as a reader gets it. Owns no opinion on what an
//! entry means. Of two Redis processes one serves at a time; a failover goes to the other one.

use crate::rules::{Rule, Rules};
use crate::state::{Age, LEASE};

/// The most incarnations that fit. Numbered from 1, so that 0 is nobody.
pub const INCARNATIONS: usize = 3;

/// The life of an index: the value, and the process that it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch {
    serial: u8,
    process: u8,
}

/// What is stored under the epoch's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Value {
    serial: u8,
    made_under: u8,
}

/// What a failover may lose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Data {
    value: Option<Value>,
    /// The process under which a node entered last.
    entered: u8,
    /// Time left of the lease of each incarnation of the node.
    leases: [Age; INCARNATIONS],
    asker: Age,
    witness: Age,
    owners: Incarnations,
}

/// A set of incarnations of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Incarnations(u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Redis {
    process: u8,
    data: Data,
    /// What the other process holds: the content of an earlier moment.
    replica: Option<Data>,
    /// How many values of E were made.
    made: u8,
}

impl Incarnations {
    pub fn has(self, incarnation: u8) -> bool {
        self.0 & (1 << incarnation) != 0
    }

    pub fn add(&mut self, incarnation: u8) {
        self.0 |= 1 << incarnation;
    }

    pub fn remove(&mut self, incarnation: u8) {
        self.0 &= !(1 << incarnation);
    }

    pub fn iter(self) -> impl Iterator<Item = u8> {
        (1..=INCARNATIONS as u8).filter(move |incarnation| self.has(*incarnation))
    }
}

impl Redis {
    pub fn empty() -> Self {
        Self { process: 1, data: Data::default(), replica: None, made: 0 }
    }

    /// E as everybody reads it now.
    pub fn epoch(&self, rules: Rules) -> Option<Epoch> {
        let value = self.data.value?;
        if !rules.has(Rule::EpochNamesItsProcess) {
            return Some(Epoch { serial: value.serial, process: 0 });
        }
        let foreign = value.made_under != self.process;
        if foreign && rules.has(Rule::EpochNeverComesBack) {
            return None;
        }
        Some(Epoch { serial: value.serial, process: self.process })
    }

    /// Writes a lease that must not exist, and E where there is none to be believed. `None`: the lease exists.
    pub fn enter(&mut self, incarnation: u8, rules: Rules) -> Option<Epoch> {
        self.make_epoch(rules);
        if self.leased(incarnation) {
            return None;
        }
        self.data.leases[incarnation as usize - 1] = LEASE;
        self.epoch(rules)
    }

    /// Renews a lease that must exist. `None`: it lapsed, or there is no E.
    pub fn renew(&mut self, incarnation: u8, rules: Rules) -> Option<Epoch> {
        if !self.leased(incarnation) && rules.has(Rule::LapsedStaysLapsed) {
            return None;
        }
        self.data.leases[incarnation as usize - 1] = LEASE;
        self.epoch(rules)
    }

    pub fn leased(&self, incarnation: u8) -> bool {
        self.data.leases[incarnation as usize - 1] > 0
    }

    /// The latest incarnation that has a lease; 0 when none has.
    pub fn latest_leased(&self) -> u8 {
        (1..=INCARNATIONS as u8).rev().find(|incarnation| self.leased(*incarnation)).unwrap_or(0)
    }

    pub fn enter_asker(&mut self, rules: Rules) {
        self.make_epoch(rules);
        self.data.asker = LEASE;
    }

    pub fn forget_asker(&mut self) {
        self.data.asker = 0;
    }

    pub fn asker_leased(&self) -> bool {
        self.data.asker > 0
    }

    pub fn enter_witness(&mut self, rules: Rules) {
        self.make_epoch(rules);
        self.data.witness = LEASE;
    }

    pub fn witness_leased(&self) -> bool {
        self.data.witness > 0
    }

    pub fn owners(&self) -> Incarnations {
        self.data.owners
    }

    pub fn claim(&mut self, incarnation: u8) {
        self.data.owners.add(incarnation);
    }

    pub fn release(&mut self, incarnation: u8) {
        self.data.owners.remove(incarnation);
    }

    /// Removes all that a retired incarnation left.
    pub fn clear(&mut self, incarnation: u8) {
        self.release(incarnation);
        self.data.leases[incarnation as usize - 1] = 0;
    }

    pub fn tick(&mut self) {
        for data in [Some(&mut self.data), self.replica.as_mut()].into_iter().flatten() {
            for lease in data.leases.iter_mut().chain([&mut data.asker, &mut data.witness]) {
                *lease = lease.saturating_sub(1);
            }
        }
    }

    pub fn flush(&mut self) {
        self.data = Data::default();
    }

    /// The other process falls behind from here on. Once for each serving process, to keep the search finite.
    pub fn replicate(&mut self) -> bool {
        let first = self.replica.is_none();
        if first {
            self.replica = Some(self.data);
        }
        first
    }

    pub fn fail_over(&mut self, unseen: bool) -> bool {
        let Some(data) = self.replica else { return false };
        // A process that nobody entered leaves no trace by which its predecessor could be told from itself.
        if !unseen && data.entered != self.process {
            return false;
        }
        self.replica = None;
        self.data = data;
        self.process = 3 - self.process;
        true
    }

    fn make_epoch(&mut self, rules: Rules) {
        self.data.entered = self.process;
        if self.epoch(rules).is_none() {
            self.made += 1;
            self.data.value = Some(Value { serial: self.made, made_under: self.process });
        }
    }
}
