//! The node with the socket: its roster, its ownership of the one room, its lease and its status.
//!
//! Owns the knowledge and the decisions of the node, and its commands and messages until they are answered. Their
//! effects on others are in `redis.rs` and `coordinator.rs`.

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
pub enum Ownership {
    None,
    Requested,
    Confirmed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommandKind {
    AddOwner,
    RemoveOwner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Progress {
    Sent,
    Executed(Option<Epoch>),
    /// The connection to its Redis process is lost.
    Lost,
}

/// A command that adds or removes the owner entry of the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Command {
    pub kind: CommandKind,
    pub incarnation: u8,
    pub progress: Progress,
}

/// The acknowledgement of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Acknowledgement {
    /// Time since the last acknowledged message was sent.
    pub age: Age,
    /// The current status was acknowledged.
    pub current: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub process: Process,
    pub reaches_redis: bool,
    pub incarnation: u8,
    /// The number of the socket that joined last; 0 before the first one.
    pub joined: u8,
    /// The socket in the roster; 0 if there is none.
    pub row: u8,
    /// The client of the socket has received its acknowledgement.
    pub acknowledged: bool,
    pub ownership: Ownership,
    /// The row may have been acknowledged without ownership: the room has been unowned since before the node was last
    /// fully indexed.
    pub acked_unowned: bool,
    /// The epoch in which this incarnation registered.
    pub epoch: Option<Epoch>,
    /// A lease write or an owner command failed, and no lease was written since.
    pub degraded: bool,
    /// Time since the last confirmed lease write was sent.
    pub confirmed: Age,
    /// Time since this incarnation registered.
    pub registered: Age,
    /// A list was read since this incarnation registered.
    pub listed: bool,
    /// A list was read after the epoch had been the same for a lease.
    pub settled: bool,
    /// The coordinator has acknowledged a status of this incarnation, or had the time to find it in the list.
    pub hello_acked: bool,
    pub knows_coordinator: bool,
    pub coordinator_ack: Acknowledgement,
    pub witness_ack: Acknowledgement,
    /// Retired incarnations whose entries and leases must be removed.
    pub retired: Incarnations,
    pub commands: [Option<Command>; 2],
}

impl Acknowledgement {
    pub const NOTHING: Self = Self { age: LEASE, current: false };

    fn is_recent(self) -> bool {
        self.age < LEASE
    }
}

impl Node {
    pub fn new() -> Self {
        Self {
            process: Process::Runs,
            reaches_redis: true,
            incarnation: 1,
            joined: 0,
            row: 0,
            acknowledged: false,
            ownership: Ownership::None,
            acked_unowned: false,
            epoch: None,
            degraded: false,
            confirmed: LEASE,
            registered: 0,
            listed: false,
            settled: false,
            hello_acked: false,
            knows_coordinator: false,
            coordinator_ack: Acknowledgement::NOTHING,
            witness_ack: Acknowledgement::NOTHING,
            retired: Incarnations::default(),
            commands: [None; 2],
        }
    }

    pub fn runs(&self) -> bool {
        self.process == Process::Runs
    }

    /// The epoch in which the node's status says "fully indexed"; `None` means "always ask me".
    pub fn fully_indexed_in(&self) -> Option<Epoch> {
        self.epoch.filter(|_| !self.acked_unowned && !self.degraded)
    }

    /// Whether the sockets of this node are part of the roll. A node without a lease and without peers continues, but
    /// is not active: no node can ask it.
    pub fn is_active(&self, witness: bool) -> bool {
        self.confirmed < LEASE || self.peers(witness) > 0 && self.has_majority(witness)
    }

    /// While the node is not fully indexed, it acknowledges clients of unowned rooms. It is fully indexed again when
    /// those rooms are owned.
    pub fn track_unowned(&mut self, rules: Rules) {
        self.acked_unowned |= rules.has(Rule::UnownedAckIsTracked)
            && self.fully_indexed_in().is_none()
            && self.row != 0
            && self.ownership != Ownership::Confirmed;
    }

    /// Registers in the index, or renews the lease. Another epoch or a lapsed lease ends the incarnation.
    pub fn write_lease(&mut self, redis: &mut Redis, rules: Rules) -> bool {
        if !self.runs() {
            return false;
        }
        if !self.reaches_redis {
            self.degraded = true;
            return true;
        }
        let renewing = self.epoch.is_some();
        let answer =
            if renewing { redis.renew(self.incarnation, rules) } else { redis.register(self.incarnation, rules) };
        if answer.is_none() || renewing && answer != self.epoch {
            self.retire();
            return true;
        }
        if renewing {
            self.hello_acked |= self.registered == LEASE;
        } else {
            (self.registered, self.listed) = (0, false);
        }
        (self.epoch, self.confirmed, self.degraded) = (answer, 0, false);
        // After a registration, other actions may come before the list. After a renewal, the list is read at once.
        if renewing {
            self.read_list(redis, rules);
        }
        true
    }

    /// Reads the list of nodes. A list of an epoch in which the node has not registered is ignored.
    pub fn read_list(&mut self, redis: &Redis, rules: Rules) -> bool {
        let same_epoch = self.epoch.is_some() && redis.epoch(rules) == self.epoch;
        if !self.runs() || !self.reaches_redis || !same_epoch {
            return false;
        }
        let steady = self.registered == LEASE;
        self.listed = true;
        self.settled |= steady || !rules.has(Rule::SettledBeforeStatusAck);
        if redis.coordinator_leased() {
            self.knows_coordinator = true;
        } else if !self.coordinator_ack.is_recent() && steady {
            self.knows_coordinator = false;
        }
        true
    }

    /// A socket joins, unless the node refuses clients.
    pub fn join(&mut self, max: u8, witness: bool, rules: Rules) -> bool {
        let takes = self.runs() && self.row == 0 && self.joined < max && self.may_keep_clients(witness, rules);
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

    /// The socket leaves, unless it is the last one: without sockets, no gap can be found.
    pub fn leave(&mut self, max: u8) -> bool {
        let leaves = self.runs() && self.row != 0 && self.joined < max;
        if leaves {
            self.drop_row();
        }
        leaves
    }

    pub fn send_add_owner(&mut self, rules: Rules) -> bool {
        let wants = self.runs() && self.row != 0 && self.ownership != Ownership::Confirmed && self.epoch.is_some();
        // A command is sent again only after it has timed out.
        if !wants || self.is_in_flight(CommandKind::AddOwner) || !self.send(CommandKind::AddOwner, rules) {
            return false;
        }
        self.ownership = Ownership::Requested;
        true
    }

    pub fn send_remove_owner(&mut self, rules: Rules) -> bool {
        let unneeded = self.runs() && self.row == 0 && self.ownership != Ownership::None && self.epoch.is_some();
        if !unneeded || self.is_in_flight(CommandKind::RemoveOwner) || !self.send(CommandKind::RemoveOwner, rules) {
            return false;
        }
        if rules.has(Rule::UnownedBeforeRemoval) {
            self.ownership = Ownership::None;
        }
        true
    }

    /// Runs the command in Redis.
    pub fn execute(&mut self, index: usize, redis: &mut Redis, rules: Rules) -> bool {
        let reaches = self.reaches_redis;
        let Some(command) = self.commands[index].as_mut() else { return false };
        if command.progress != Progress::Sent || !reaches {
            return false;
        }
        command.run(redis);
        command.progress = Progress::Executed(redis.epoch(rules));
        true
    }

    /// The node receives the reply to the command.
    pub fn receive_reply(&mut self, index: usize) -> bool {
        let Some(Command { kind, incarnation, progress: Progress::Executed(epoch) }) = self.commands[index] else {
            return false;
        };
        if !self.runs() {
            return false;
        }
        self.commands[index] = None;
        if incarnation != self.incarnation {
            return true;
        }
        match kind {
            CommandKind::AddOwner if epoch != self.epoch => self.retire(),
            CommandKind::AddOwner if self.ownership == Ownership::Requested => {
                self.ownership = Ownership::Confirmed;
                self.acked_unowned = false;
            }
            CommandKind::AddOwner => {}
            CommandKind::RemoveOwner if self.row == 0 => self.ownership = Ownership::None,
            CommandKind::RemoveOwner => {}
        }
        true
    }

    /// The command times out. Returns it, because it may still run later.
    pub fn give_up(&mut self, index: usize, rules: Rules) -> Option<Command> {
        let command = self.commands[index].filter(|_| self.runs())?;
        self.commands[index] = None;
        let present = command.incarnation == self.incarnation;
        match command.kind {
            CommandKind::AddOwner if present => self.degraded = true,
            CommandKind::AddOwner => {}
            CommandKind::RemoveOwner => {
                self.retired.add(command.incarnation);
                if present && rules.has(Rule::UnansweredRemovalRetires) {
                    self.retire();
                }
                if present && !rules.has(Rule::UnansweredRemovalRetires) {
                    self.retired.remove(command.incarnation);
                }
            }
        }
        Some(command)
    }

    /// Removes the entries and the lease of a retired incarnation.
    pub fn remove_retired(&mut self, redis: &mut Redis, rules: Rules) -> bool {
        let Some(incarnation) = self.retired.iter().next() else { return false };
        let fully_indexed = self.fully_indexed_in().is_some() || !rules.has(Rule::RetiredUntilFullyIndexed);
        let removes = self.runs() && self.reaches_redis && fully_indexed;
        if removes {
            redis.remove_incarnation(incarnation);
            self.retired.remove(incarnation);
        }
        removes
    }

    /// The Redis process of the connection has ended, and its unanswered commands are lost.
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
        for age in [&mut self.confirmed, &mut self.registered, &mut self.coordinator_ack.age, &mut self.witness_ack.age]
        {
            *age = older(*age);
        }
    }

    /// Resets ages that make no difference any more, so that equivalent states are equal.
    pub fn simplify(&mut self, coordinator_may_lapse: bool) {
        if coordinator_may_lapse {
            return;
        }
        for acknowledged in [&mut self.coordinator_ack, &mut self.witness_ack] {
            // A lease that was confirmed later keeps the node active for longer.
            if !acknowledged.current && acknowledged.age >= self.confirmed {
                acknowledged.age = LEASE;
            }
        }
        if self.hello_acked && self.settled {
            self.registered = LEASE;
        }
    }

    /// A running node that is not active disconnects its clients at once.
    pub fn disconnect_if_inactive(&mut self, witness: bool, rules: Rules) {
        if self.runs() && self.row != 0 && !self.may_keep_clients(witness, rules) {
            self.drop_row();
        }
    }

    /// Before time passes, a running node has renewed, or has noticed that it cannot.
    pub fn may_tick(&self) -> bool {
        let renewed = self.epoch.is_some() && self.confirmed == 0 && self.listed;
        !self.runs() || if self.reaches_redis { renewed } else { self.degraded }
    }

    /// Without the rule that disconnects the clients of an inactive node, these clients expect to be listed.
    pub fn keeps_clients_while_inactive(&self, witness: bool, rules: Rules) -> bool {
        let unconfirmed = !rules.has(Rule::AcksAreRecent) || !rules.has(Rule::DisconnectsWithoutMajority);
        unconfirmed && self.peers(witness) > 0
    }

    fn may_keep_clients(&self, witness: bool, rules: Rules) -> bool {
        let confirmed = self.confirmed < LEASE || !rules.has(Rule::AcksAreRecent);
        confirmed || self.has_majority(witness) || !rules.has(Rule::DisconnectsWithoutMajority)
    }

    fn may_acknowledge(&self, witness: bool, rules: Rules) -> bool {
        if !rules.has(Rule::AckNeedsOwnershipOrStatus) {
            return true;
        }
        let confirmed = self.confirmed < LEASE || !rules.has(Rule::AcksAreRecent);
        let held = self.ownership == Ownership::Confirmed && self.is_born(rules) && confirmed;
        let coordinator = !self.knows_coordinator || self.coordinator_ack.current && self.coordinator_ack.is_recent();
        let witness = !witness || self.witness_ack.current && self.witness_ack.is_recent();
        held || self.fully_indexed_in().is_none() && self.settled && coordinator && witness
    }

    fn is_born(&self, rules: Rules) -> bool {
        let hello_acked = self.listed && (!self.knows_coordinator || self.hello_acked);
        let by_time = self.registered == LEASE && !rules.has(Rule::BirthByRenewal);
        self.epoch.is_some() && (hello_acked || by_time || !rules.has(Rule::Birth))
    }

    fn peers(&self, witness: bool) -> u8 {
        u8::from(self.knows_coordinator) + u8::from(witness)
    }

    fn has_majority(&self, witness: bool) -> bool {
        let coordinator = self.knows_coordinator && self.coordinator_ack.is_recent();
        let acknowledged = u8::from(coordinator) + u8::from(witness && self.witness_ack.is_recent());
        (acknowledged + 1) * 2 > self.peers(witness) + 1
    }

    fn is_in_flight(&self, kind: CommandKind) -> bool {
        self.commands.iter().flatten().any(|command| command.kind == kind && command.incarnation == self.incarnation)
    }

    fn send(&mut self, kind: CommandKind, rules: Rules) -> bool {
        let max = if rules.has(Rule::OneCommandPerRoom) { 1 } else { 2 };
        let Some(index) = self.commands[..max].iter_mut().find(|index| index.is_none()) else { return false };
        *index = Some(Command { kind, incarnation: self.incarnation, progress: Progress::Sent });
        true
    }

    pub fn retire(&mut self) {
        self.retired.add(self.incarnation);
        self.incarnation += 1;
        self.epoch = None;
        self.ownership = Ownership::None;
        self.acked_unowned = self.row != 0;
        (self.listed, self.hello_acked) = (false, false);
    }

    fn drop_row(&mut self) {
        self.row = 0;
        self.acknowledged = false;
        self.acked_unowned = false;
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
            CommandKind::AddOwner => redis.add_owner(self.incarnation),
            CommandKind::RemoveOwner => redis.remove_owner(self.incarnation),
        }
    }
}
