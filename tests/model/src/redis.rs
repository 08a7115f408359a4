//! Redis as the protocol sees it: leases, one owner set, the epoch, and the ways in which it loses data.
//!
//! Owns the relevant scripts and pipelines, each as one step, and the epoch as a reader sees it. Does not interpret
//! entries. One of two Redis processes serves at a time; a failover goes to the other one. Each failover, and each return
//! of one process to older data, begins another history (`master_replid`).

use crate::rules::{Rule, Rules};
use crate::state::{Age, LEASE};

/// The maximum number of incarnations. They are numbered from 1; 0 means none.
pub const INCARNATIONS: usize = 3;

/// An epoch as a reader sees it: the value, and the identity of the data that it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch {
    serial: u8,
    identity: u8,
}

/// The value of the epoch's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct EpochValue {
    serial: u8,
    created_in: u8,
}

/// The data that a failover may lose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Data {
    value: Option<EpochValue>,
    /// The process under which a node registered last.
    registered: u8,
    /// The remaining time of the lease of each incarnation of the node.
    leases: [Age; INCARNATIONS],
    coordinator: Age,
    witness: Age,
    owners: Incarnations,
}

/// A set of incarnations of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Incarnations(u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Redis {
    process: u8,
    /// The number of the history of the data.
    history: u8,
    /// The number of clock steps so far.
    pub steps: u8,
    data: Data,
    /// The content of the other process, from an earlier moment.
    replica: Option<Data>,
    /// The number of epochs created so far.
    epochs_created: u8,
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
        Self { process: 1, history: 1, steps: 0, data: Data::default(), replica: None, epochs_created: 0 }
    }

    /// The epoch as every node reads it now.
    pub fn epoch(&self, rules: Rules) -> Option<Epoch> {
        let value = self.data.value?;
        if !rules.has(Rule::EpochNamesProcess) {
            return Some(Epoch { serial: value.serial, identity: 0 });
        }
        let foreign = value.created_in != self.identity(rules);
        if foreign && rules.has(Rule::ForeignEpochIsInvalid) {
            return None;
        }
        Some(Epoch { serial: value.serial, identity: self.identity(rules) })
    }

    fn identity(&self, rules: Rules) -> u8 {
        if rules.has(Rule::EpochNamesHistory) { self.history } else { self.process }
    }

    /// Writes a lease that must not exist, and an epoch if there is no valid one. `None` if the lease exists.
    pub fn register(&mut self, incarnation: u8, rules: Rules) -> Option<Epoch> {
        self.create_epoch(rules);
        if self.leased(incarnation) {
            return None;
        }
        self.data.leases[incarnation as usize - 1] = LEASE;
        self.epoch(rules)
    }

    /// Renews a lease that must exist. `None` if it lapsed, or if there is no valid epoch.
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

    /// The latest incarnation that has a lease; 0 if none has.
    pub fn latest_leased(&self) -> u8 {
        (1..=INCARNATIONS as u8).rev().find(|incarnation| self.leased(*incarnation)).unwrap_or(0)
    }

    pub fn register_coordinator(&mut self, rules: Rules) {
        self.create_epoch(rules);
        self.data.coordinator = LEASE;
    }

    pub fn remove_coordinator(&mut self) {
        self.data.coordinator = 0;
    }

    pub fn coordinator_leased(&self) -> bool {
        self.data.coordinator > 0
    }

    pub fn register_witness(&mut self, rules: Rules) {
        self.create_epoch(rules);
        self.data.witness = LEASE;
    }

    pub fn witness_leased(&self) -> bool {
        self.data.witness > 0
    }

    pub fn owners(&self) -> Incarnations {
        self.data.owners
    }

    pub fn add_owner(&mut self, incarnation: u8) {
        self.data.owners.add(incarnation);
    }

    pub fn remove_owner(&mut self, incarnation: u8) {
        self.data.owners.remove(incarnation);
    }

    /// Removes the entry and the lease of a retired incarnation.
    pub fn remove_incarnation(&mut self, incarnation: u8) {
        self.remove_owner(incarnation);
        self.data.leases[incarnation as usize - 1] = 0;
    }

    pub fn tick(&mut self) {
        for data in [Some(&mut self.data), self.replica.as_mut()].into_iter().flatten() {
            for lease in data.leases.iter_mut().chain([&mut data.coordinator, &mut data.witness]) {
                *lease = lease.saturating_sub(1);
            }
        }
    }

    pub fn flush(&mut self) {
        self.data = Data::default();
    }

    /// The other process falls behind from now on. Only once for each serving process, to keep the search finite.
    pub fn replicate(&mut self) -> bool {
        let first = self.replica.is_none();
        if first {
            self.replica = Some(self.data);
        }
        first
    }

    pub fn fail_over(&mut self, unseen: bool) -> bool {
        let Some(data) = self.replica else { return false };
        // If no node registered under a process, nothing distinguishes its predecessor from the same process later.
        if !unseen && data.registered != self.process {
            return false;
        }
        self.replica = None;
        self.data = data;
        self.process = 3 - self.process;
        self.history += 1;
        true
    }

    /// The process gets the data of an earlier moment, as the replica of a replica, and is the master again.
    pub fn go_back(&mut self) -> bool {
        let Some(data) = self.replica.take() else { return false };
        self.data = data;
        self.history += 1;
        true
    }

    /// The clock steps forward by half a lease. The epoch lasts longer than the leases that were not renewed since.
    pub fn step_clock(&mut self) {
        self.steps += 1;
        for lease in self.data.leases.iter_mut().chain([&mut self.data.coordinator, &mut self.data.witness]) {
            *lease = lease.saturating_sub(1);
        }
    }

    /// The clock steps past every expiry.
    pub fn step_clock_far(&mut self, rules: Rules) {
        self.steps += 1;
        let value = self.data.value.filter(|_| !rules.has(Rule::EpochExpiresFirst));
        self.data = Data { value, registered: self.data.registered, ..Data::default() };
    }

    fn create_epoch(&mut self, rules: Rules) {
        self.data.registered = self.process;
        if self.epoch(rules).is_none() {
            self.epochs_created += 1;
            self.data.value = Some(EpochValue { serial: self.epochs_created, created_in: self.identity(rules) });
        }
    }
}
