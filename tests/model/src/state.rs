//! The state of the cluster at one moment, and every action that can follow.
//!
//! Owns time, the mesh, the faults, and the socket that an answer must list. The actions of the node, of the
//! coordinator and of Redis are in their own files. A lease lasts two ticks. A running node that reaches Redis has
//! renewed before a tick, so that a lease lapses only by a fault.

use crate::coordinator::{Answer, Call, Coordinator, Environment};
use crate::node::{Acknowledgement, Command, Node, Process};
use crate::redis::{Epoch, Incarnations, Redis};
use crate::rules::{Bound, Fault, Rule, Rules, Start};

/// Time in ticks, at most a lease: greater ages are equal.
pub type Age = u8;

/// With two ticks, an age can be greater than that of an event and less than a lease.
pub const LEASE: Age = 2;

pub fn older(age: Age) -> Age {
    (age + 1).min(LEASE)
}

/// A status of the node on its way to the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    pub incarnation: u8,
    pub fully_indexed_in: Option<Epoch>,
    age: Age,
}

/// A node without sockets. It remembers when it heard which incarnation of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Witness {
    heard: Age,
    incarnation: u8,
    /// It is on the node's side of a split.
    split: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallState {
    None,
    Running(Call),
    Answered(Answer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub node: Node,
    pub coordinator: Coordinator,
    pub witness: Option<Witness>,
    pub redis: Redis,
    /// The connection between the node and the coordinator works.
    mesh: bool,
    /// The status on its way to the coordinator. A newer one replaces it, because the older would be ignored.
    message: Option<Message>,
    /// A command that timed out and may still run.
    late: Option<Command>,
    /// Repairs that were decided while the lease was absent; only used if the script does not check again.
    decided_repairs: Incarnations,
    pub call: CallState,
    faults_left: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Tick,
    /// The node registers in the index, or renews its lease.
    NodeWritesLease,
    NodeReadsList,
    SocketJoins,
    /// The client of the socket receives its acknowledgement.
    SocketIsAcknowledged,
    /// The socket leaves, or the server disconnects it.
    SocketLeaves,
    AddOwnerIsSent,
    RemoveOwnerIsSent,
    /// A command of the node runs in Redis.
    CommandRuns(usize),
    /// The node receives the reply.
    CommandIsAnswered(usize),
    /// A command that can get no answer any more times out.
    CommandIsGivenUp(usize),
    /// A command that had timed out runs nevertheless.
    LateCommandRuns,
    /// The node removes the entries of a retired incarnation.
    RetiredIsRemoved,
    /// A node removes an owner entry that has no lease.
    OwnerIsRepaired(u8),
    /// A node finds an owner entry without a lease, and removes it later.
    RepairIsDecided(u8),
    /// The node sends its status to the coordinator.
    StatusIsSent,
    /// The coordinator receives the status and acknowledges it.
    StatusArrives,
    /// The node sends its status to the witness.
    StatusReachesWitness,
    /// The witness reports to the coordinator whom it heard.
    WitnessReplies,
    /// The coordinator asks a member that became silent, and gets no answer.
    ProbeFails,
    /// The coordinator writes its lease, and reads the list.
    CoordinatorRenews,
    /// The coordinator sends a hello to a node that does not know it, and receives its status.
    HelloIsExchanged,
    /// The other Redis process gets a copy of the data, and lags behind from now on.
    ReplicaLags,
    RollCallBegins,
    /// It copies the member table, reads the owner set, or reads the epoch.
    RollCallReads,
    /// The node replies. The coordinator reads the reply later.
    NodeReplies,
    /// A caller that asks now gets the answer of the running roll call.
    CallerJoinsRunningCall,
    /// It asks, judges silence and answers.
    RollCallEnds,
    NodeResumes,
    CoordinatorResumes,
    NodeIsReconnected,
    CoordinatorIsReconnected,
    MeshHeals,
    Inject(Fault),
}

/// Actions without a fault, in the order of the search.
pub const ORDINARY: [Action; 40] = [
    Action::Tick,
    Action::NodeWritesLease,
    Action::NodeReadsList,
    Action::SocketJoins,
    Action::SocketIsAcknowledged,
    Action::SocketLeaves,
    Action::AddOwnerIsSent,
    Action::RemoveOwnerIsSent,
    Action::CommandRuns(0),
    Action::CommandRuns(1),
    Action::CommandIsAnswered(0),
    Action::CommandIsAnswered(1),
    Action::CommandIsGivenUp(0),
    Action::CommandIsGivenUp(1),
    Action::LateCommandRuns,
    Action::RetiredIsRemoved,
    Action::OwnerIsRepaired(1),
    Action::OwnerIsRepaired(2),
    Action::OwnerIsRepaired(3),
    Action::RepairIsDecided(1),
    Action::RepairIsDecided(2),
    Action::RepairIsDecided(3),
    Action::StatusIsSent,
    Action::StatusArrives,
    Action::StatusReachesWitness,
    Action::WitnessReplies,
    Action::ProbeFails,
    Action::CoordinatorRenews,
    Action::HelloIsExchanged,
    Action::ReplicaLags,
    Action::RollCallBegins,
    Action::RollCallReads,
    Action::NodeReplies,
    Action::CallerJoinsRunningCall,
    Action::RollCallEnds,
    Action::NodeResumes,
    Action::CoordinatorResumes,
    Action::NodeIsReconnected,
    Action::CoordinatorIsReconnected,
    Action::MeshHeals,
];

impl State {
    fn cold(bound: &Bound) -> Self {
        let witness = bound.witness.then_some(Witness { heard: LEASE, incarnation: 0, split: false });
        Self {
            node: Node::new(),
            coordinator: Coordinator::new(),
            witness,
            redis: Redis::empty(),
            mesh: true,
            message: None,
            late: None,
            decided_repairs: Incarnations::default(),
            call: CallState::None,
            faults_left: bound.max_faults,
        }
    }

    pub fn start(bound: &Bound, rules: Rules) -> Self {
        use Action::{
            AddOwnerIsSent, CommandIsAnswered, CommandRuns, CoordinatorRenews, NodeReadsList, NodeWritesLease,
            SocketIsAcknowledged, SocketJoins, StatusArrives, StatusIsSent, StatusReachesWitness, Tick, WitnessReplies,
        };
        let long_up = [CoordinatorRenews, NodeWritesLease, NodeReadsList, Tick].repeat(2);
        let now = [CoordinatorRenews, WitnessReplies];
        let known = [NodeWritesLease, NodeReadsList, StatusReachesWitness, StatusIsSent, StatusArrives];
        let serving = [SocketJoins, AddOwnerIsSent, CommandRuns(0), CommandIsAnswered(0), SocketIsAcknowledged];

        let mut state = Self::cold(bound);
        if bound.start == Start::Cold {
            return state;
        }
        if bound.start == Start::NewNode {
            state.node.process = Process::Stopped;
        }
        state.steps([long_up.as_slice(), &now].concat(), bound, rules);
        state.node.process = Process::Runs;
        if bound.start == Start::NewNode {
            return state;
        }
        state.steps(known.to_vec(), bound, rules);
        state.steps([long_up.as_slice(), &now, &known[..2]].concat(), bound, rules);
        if bound.has_replica() && !bound.lags_any_time {
            state.redis.replicate();
        }
        if bound.start == Start::Warm {
            return state;
        }
        state.steps(serving.to_vec(), bound, rules);
        if bound.start == Start::CutOff {
            state.node.reaches_redis = false;
            state.steps(known.to_vec(), bound, rules);
        }
        state
    }

    fn steps(&mut self, actions: Vec<Action>, bound: &Bound, rules: Rules) {
        for action in actions {
            self.step(action, bound, rules);
        }
    }

    /// Whether the action was possible. It may have changed nothing.
    pub fn step(&mut self, action: Action, bound: &Bound, rules: Rules) -> bool {
        let status_before = (self.node.incarnation, self.node.fully_indexed_in());
        let taken = self.take(action, bound, rules);
        self.node.track_unowned(rules);
        if status_before != (self.node.incarnation, self.node.fully_indexed_in()) {
            self.node.coordinator_ack.current = false;
            self.node.witness_ack.current = false;
        }
        self.node.simplify(bound.coordinator_may_lapse());
        self.drop_inconclusive_call(rules);
        taken
    }

    /// If the socket left during a roll call, the answer may list it or not, and proves nothing.
    fn drop_inconclusive_call(&mut self, rules: Rules) {
        if let CallState::Running(call) = self.call
            && call.expected != 0
            && call.expected != self.must_be_listed(rules)
        {
            self.call = CallState::None;
        }
    }

    /// The socket that a complete answer must list: acknowledged, still connected, and its node is active. A stopped
    /// node keeps its sockets, and is active until its lease lapses. A running node that is not active should have
    /// disconnected them.
    fn must_be_listed(&self, rules: Rules) -> u8 {
        let active = self.node.is_active(self.witness.is_some());
        let should_be_active = match self.node.process {
            Process::Runs => active || self.node.keeps_clients_while_inactive(self.witness.is_some(), rules),
            Process::Stopped => active,
            Process::Crashed => false,
        };
        if self.node.acknowledged && should_be_active { self.node.row } else { 0 }
    }

    fn take(&mut self, action: Action, bound: &Bound, rules: Rules) -> bool {
        let witness = self.witness.is_some();
        match action {
            Action::Tick => self.tick(rules),
            Action::NodeWritesLease => self.node.write_lease(&mut self.redis, rules),
            Action::NodeReadsList => self.node.read_list(&self.redis, rules),
            Action::SocketJoins => self.node.join(bound.joins, witness, rules),
            Action::SocketIsAcknowledged => self.node.acknowledge(witness, rules),
            Action::SocketLeaves => self.node.leave(bound.joins),
            Action::AddOwnerIsSent => self.node.send_add_owner(rules),
            Action::RemoveOwnerIsSent => self.node.send_remove_owner(rules),
            Action::CommandRuns(index) => self.node.execute(index, &mut self.redis, rules),
            Action::CommandIsAnswered(index) => self.node.receive_reply(index),
            Action::CommandIsGivenUp(index) => self.give_up_unanswerable(index, rules),
            Action::LateCommandRuns => self.run_late(),
            Action::RetiredIsRemoved => self.node.remove_retired(&mut self.redis, rules),
            Action::OwnerIsRepaired(incarnation) => self.repair(incarnation, rules),
            Action::RepairIsDecided(incarnation) => self.decide_repair(incarnation, rules),
            Action::StatusIsSent => self.send_status(),
            Action::StatusArrives => self.deliver_status(),
            Action::StatusReachesWitness => self.send_status_to_witness(),
            Action::WitnessReplies => self.receive_witness_reply(rules),
            Action::ProbeFails => self.fail_to_reach_member(rules),
            Action::CoordinatorRenews => self.renew_coordinator(rules),
            Action::HelloIsExchanged => self.exchange_hello(),
            Action::ReplicaLags => self.may_lag(bound) && self.redis.replicate(),
            Action::RollCallBegins => self.begin_call(rules),
            Action::RollCallReads => self.read_next(rules),
            Action::NodeReplies => self.reply_to_call(),
            Action::CallerJoinsRunningCall => self.join_running_call(rules),
            Action::RollCallEnds => self.end_call(rules),
            Action::NodeResumes => self.resume_node(rules),
            Action::CoordinatorResumes => !std::mem::replace(&mut self.coordinator.runs, true),
            Action::NodeIsReconnected => bound.heals && !std::mem::replace(&mut self.node.reaches_redis, true),
            Action::CoordinatorIsReconnected => {
                bound.heals && !std::mem::replace(&mut self.coordinator.reaches_redis, true)
            }
            Action::MeshHeals => bound.heals && !std::mem::replace(&mut self.mesh, true),
            Action::Inject(fault) => self.inject(fault, bound, rules),
        }
    }

    fn tick(&mut self, rules: Rules) -> bool {
        if !self.node.may_tick() || !self.coordinator.may_tick() {
            return false;
        }
        if let CallState::Running(call) = &mut self.call
            && !call.outlasts_a_tick(!self.coordinator.runs)
        {
            return false;
        }
        self.redis.tick();
        self.node.tick();
        self.coordinator.tick();
        if let Some(witness) = &mut self.witness {
            witness.heard = older(witness.heard);
            if !witness.split {
                self.redis.register_witness(rules);
            }
        }
        self.message = self.message.map(|message| Message { age: older(message.age), ..message });
        self.message = self.message.filter(|message| message.age < LEASE);
        self.node.disconnect_if_inactive(self.witness.is_some(), rules);
        true
    }

    fn give_up_unanswerable(&mut self, index: usize, rules: Rules) -> bool {
        let unanswerable = self.node.commands[index].is_some_and(Command::is_lost) || !self.node.reaches_redis;
        unanswerable && self.node.give_up(index, rules).is_some()
    }

    /// A command gets no answer in time: it has not run yet, or its answer was lost.
    fn leave_unanswered(&mut self, rules: Rules) -> bool {
        let Some(command) = self.node.give_up(0, rules) else { return false };
        if command.is_sent() {
            self.late = Some(command);
        }
        true
    }

    fn run_late(&mut self) -> bool {
        let Some(command) = self.late.take() else { return false };
        command.run(&mut self.redis);
        true
    }

    fn repair(&mut self, incarnation: u8, rules: Rules) -> bool {
        let decided = if rules.has(Rule::RepairOnlyWithoutLease) {
            self.may_repair(incarnation, rules)
        } else {
            self.decided_repairs.has(incarnation)
        };
        let repairs = decided && self.redis.owners().has(incarnation);
        if repairs {
            self.redis.remove_owner(incarnation);
        }
        repairs
    }

    fn decide_repair(&mut self, incarnation: u8, rules: Rules) -> bool {
        let decides = !rules.has(Rule::RepairOnlyWithoutLease) && self.may_repair(incarnation, rules);
        if decides {
            self.decided_repairs.add(incarnation);
        }
        decides
    }

    fn may_repair(&self, incarnation: u8, rules: Rules) -> bool {
        let gone = self.coordinator.considers_gone(incarnation, &self.environment(rules));
        let lapsed = self.redis.owners().has(incarnation) && !self.redis.leased(incarnation);
        lapsed && (gone || !rules.has(Rule::RepairOnlyDead))
    }

    /// The first status follows the registration; later ones may be sent without one.
    fn send_status(&mut self) -> bool {
        let sends = self.node.runs() && self.node.knows_coordinator && (self.node.epoch.is_some() || self.node.settled);
        if sends {
            let (incarnation, fully_indexed_in) = (self.node.incarnation, self.node.fully_indexed_in());
            self.message = Some(Message { incarnation, fully_indexed_in, age: 0 });
        }
        sends
    }

    fn deliver_status(&mut self) -> bool {
        let Some(message) = self.message.filter(|_| self.mesh && self.coordinator.runs) else { return false };
        self.message = None;
        self.coordinator.receive_status(message);
        let node = &mut self.node;
        if node.runs() {
            node.knows_coordinator = true;
            node.coordinator_ack.age = node.coordinator_ack.age.min(message.age);
            node.coordinator_ack.current |=
                (message.incarnation, message.fully_indexed_in) == (node.incarnation, node.fully_indexed_in());
            node.hello_acked |= message.incarnation == node.incarnation;
        }
        true
    }

    fn send_status_to_witness(&mut self) -> bool {
        let node = &mut self.node;
        let sends = node.runs() && (node.epoch.is_some() || node.settled);
        let Some(witness) = self.witness.as_mut().filter(|_| sends) else { return false };
        (witness.incarnation, witness.heard) = (node.incarnation, 0);
        node.witness_ack = Acknowledgement { age: 0, current: true };
        true
    }

    fn receive_witness_reply(&mut self, rules: Rules) -> bool {
        let Some(witness) = self.witness.filter(|witness| !witness.split && self.coordinator.runs) else {
            return false;
        };
        let heard = (witness.heard < LEASE).then_some((witness.incarnation, witness.heard));
        self.coordinator.hear_witness(heard, &self.redis, rules);
        true
    }

    fn fail_to_reach_member(&mut self, rules: Rules) -> bool {
        let mut coordinator = self.coordinator;
        let fails = coordinator.fail_to_reach_member(&self.environment(rules));
        self.coordinator = coordinator;
        fails
    }

    fn renew_coordinator(&mut self, rules: Rules) -> bool {
        let mut coordinator = self.coordinator;
        if coordinator.has_lapsed() && rules.has(Rule::StatusesEndWithLease) {
            // The status was meant for the previous incarnation.
            self.message = None;
        }
        let renews = coordinator.renew(&mut self.redis, rules);
        if renews {
            coordinator.apply_listing(&self.environment(rules));
        }
        self.coordinator = coordinator;
        renews
    }

    fn exchange_hello(&mut self) -> bool {
        let meets = self.mesh && self.coordinator.runs && self.coordinator.member != 0 && self.node.runs();
        let greets = meets && !self.node.knows_coordinator;
        if greets {
            self.node.knows_coordinator = true;
            self.coordinator.receive_status(Message {
                incarnation: self.node.incarnation,
                fully_indexed_in: self.node.fully_indexed_in(),
                age: 0,
            });
        }
        greets
    }

    fn begin_call(&mut self, rules: Rules) -> bool {
        let expected = self.must_be_listed(rules);
        // Before the first join, and before its acknowledgement, any answer is right.
        let conclusive = expected != 0 || self.node.row == 0 && self.node.joined > 0;
        let begins = conclusive && self.call == CallState::None && self.coordinator.runs && self.coordinator.registered;
        if begins {
            let mut call = Call::begin(expected, &self.node);
            call.read(&self.coordinator, &self.redis, rules);
            self.call = CallState::Running(call);
        }
        begins
    }

    fn read_next(&mut self, rules: Rules) -> bool {
        let CallState::Running(mut call) = self.call else { return false };
        let reads = self.coordinator.runs && call.read(&self.coordinator, &self.redis, rules);
        self.call = CallState::Running(call);
        reads
    }

    fn reply_to_call(&mut self) -> bool {
        let CallState::Running(call) = &mut self.call else { return false };
        self.mesh && self.node.runs() && call.receive_reply(self.node.row)
    }

    fn join_running_call(&mut self, rules: Rules) -> bool {
        let expected = self.must_be_listed(rules);
        let CallState::Running(call) = &mut self.call else { return false };
        !rules.has(Rule::AnswersBeginAfterQuestion) && expected != 0 && call.join_late(expected, &self.node)
    }

    fn end_call(&mut self, rules: Rules) -> bool {
        let CallState::Running(call) = self.call else { return false };
        let Some(answer) = call.ask(&self.coordinator, &self.environment(rules)).filter(|_| self.coordinator.runs)
        else {
            return false;
        };
        self.call = CallState::Answered(answer);
        true
    }

    fn resume_node(&mut self, rules: Rules) -> bool {
        if self.node.process != Process::Stopped {
            return false;
        }
        self.node.process = Process::Runs;
        self.node.disconnect_if_inactive(self.witness.is_some(), rules);
        true
    }

    fn inject(&mut self, fault: Fault, bound: &Bound, rules: Rules) -> bool {
        if self.faults_left == 0 {
            return false;
        }
        self.faults_left -= 1;
        match fault {
            Fault::Flush => {
                self.redis.flush();
                true
            }
            Fault::FailOver => self.fail_over(bound),
            Fault::GoBack => self.redis.go_back(),
            Fault::ClockStep => {
                self.redis.step_clock();
                true
            }
            Fault::FarClockStep => {
                self.redis.step_clock_far(rules);
                true
            }
            Fault::UnansweredRemovalElsewhere => self.lose_removal_elsewhere(rules),
            Fault::NoAnswer => self.leave_unanswered(rules),
            Fault::StopNode if self.node.runs() => {
                self.node.process = Process::Stopped;
                true
            }
            Fault::StopNode => false,
            Fault::CrashNode => {
                self.node.crash();
                true
            }
            Fault::CutNode => std::mem::replace(&mut self.node.reaches_redis, false),
            Fault::StopCoordinator => std::mem::replace(&mut self.coordinator.runs, false),
            Fault::RestartCoordinator => {
                self.restart_coordinator();
                true
            }
            Fault::CutCoordinator => std::mem::replace(&mut self.coordinator.reaches_redis, false),
            Fault::CutMesh => std::mem::replace(&mut self.mesh, false),
            Fault::Split => self.split(),
            Fault::Lie => {
                let lies = self.coordinator.runs && self.coordinator.member != 0;
                if lies {
                    self.coordinator.hear_lie(rules);
                }
                lies
            }
        }
    }

    fn lose_removal_elsewhere(&mut self, rules: Rules) -> bool {
        let retires = self.node.runs() && self.node.epoch.is_some() && rules.has(Rule::UnansweredRemovalRetires);
        if retires {
            self.node.retire();
        }
        retires
    }

    fn may_lag(&self, bound: &Bound) -> bool {
        let after_the_first = self.faults_left < bound.max_faults;
        bound.has_replica() && self.faults_left > 0 && (bound.lags_any_time || after_the_first)
    }

    fn fail_over(&mut self, bound: &Bound) -> bool {
        let failed = self.redis.fail_over(bound.fails_back_unseen);
        if failed {
            self.node.lose_connection();
            self.late = None;
        }
        failed
    }

    /// The old process says goodbye. The new one is unknown to all members.
    fn restart_coordinator(&mut self) {
        self.redis.remove_coordinator();
        self.coordinator = Coordinator::new();
        self.message = None;
        self.call = CallState::None;
        self.node.knows_coordinator = false;
        self.node.coordinator_ack = Acknowledgement::NOTHING;
    }

    fn split(&mut self) -> bool {
        let Some(witness) = &mut self.witness else { return false };
        witness.split = true;
        (self.node.reaches_redis, self.mesh) = (false, false);
        true
    }

    fn environment(&self, rules: Rules) -> Environment<'_> {
        Environment {
            node: &self.node,
            redis: &self.redis,
            mesh: self.mesh,
            witness_leased: self.witness.is_some() && self.redis.witness_leased(),
            witness: self.witness.is_some(),
            rules,
        }
    }
}
