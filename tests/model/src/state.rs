//! The cluster at one moment, and every step that can follow.
//!
//! Owns time, the mesh, the faults, and the truth that an answer is measured by: which socket must be listed. What the
//! node, the asker and Redis do by themselves is in their own files. A lease lasts two ticks; a node that runs and
//! reaches Redis has renewed before a tick, so that a lease lapses by a fault and never by idleness.

use crate::asker::{Answer, Asker, Call, Surroundings};
use crate::node::{Acknowledged, Command, Node, Process};
use crate::redis::{Epoch, Incarnations, Redis};
use crate::rules::{Bound, Fault, Rule, Rules, Start};

/// Time in ticks, up to a lease: what is older is not told apart.
pub type Age = u8;

/// A lease, in ticks. With two, something can be older than an event and younger than a lease.
pub const LEASE: Age = 2;

pub fn older(age: Age) -> Age {
    (age + 1).min(LEASE)
}

/// A word of the node on its way to the asker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    pub incarnation: u8,
    pub word: Option<Epoch>,
    age: Age,
}

/// A node that owns no sockets, and remembers which incarnation of the node it heard, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Witness {
    heard: Age,
    incarnation: u8,
    /// It is on the node's side of a split.
    split: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RollCall {
    None,
    UnderWay(Call),
    Answered(Answer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub node: Node,
    pub asker: Asker,
    pub witness: Option<Witness>,
    pub redis: Redis,
    /// The mesh between the node and the asker carries.
    mesh: bool,
    /// The word that is on its way to the asker; a newer one takes its place, as the older would be ignored.
    message: Option<Message>,
    /// A command that its sender has given up, and that may still run.
    late: Option<Command>,
    /// Repairs that were decided on while the lease was absent; only where the script does not look again.
    doomed: Incarnations,
    pub call: RollCall,
    strikes: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Everything gets a tick older.
    Tick,
    /// The node enters the index, or renews its lease.
    NodeWritesLease,
    NodeReadsList,
    /// A socket joins the room on the node.
    SocketJoins,
    /// Its client is told so.
    SocketIsAcknowledged,
    /// It leaves, or is disconnected by the server.
    SocketLeaves,
    ClaimIsSent,
    RemovalIsSent,
    /// A command of the node runs in Redis.
    CommandRuns(usize),
    /// Its answer arrives.
    CommandIsAnswered(usize),
    /// The node gives up a command that cannot be answered any more.
    CommandIsGivenUp(usize),
    /// A command that was given up runs after all.
    LateCommandRuns,
    /// The node removes what a retired incarnation left.
    AbandonedIsCleared,
    /// Somebody removes a claim whose lease is absent…
    ClaimIsRepaired(u8),
    /// …having found it absent earlier.
    RepairIsDecided(u8),
    /// The node sends its word to the asker.
    WordIsSent,
    /// The asker takes it in and acknowledges.
    WordArrives,
    /// The node tells the witness its word.
    WitnessIsTold,
    /// The witness tells the asker whom it heard.
    WitnessSpeaks,
    /// The asker writes its lease, and reads the list.
    AskerRenews,
    /// The asker greets a node that does not know it, and hears its word.
    AskerGreets,
    /// The other Redis process holds what is there now, and from here on lags behind.
    ReplicaLags,
    RollCallBegins,
    /// It takes the table, reads the owner set, or reads E.
    RollCallReads,
    /// It asks, judges and answers.
    RollCallEnds,
    /// The stopped node goes on.
    NodeGoesOn,
    AskerGoesOn,
    /// The node reaches Redis again.
    NodeIsReconnected,
    AskerIsReconnected,
    MeshHeals,
    Strike(Fault),
}

/// Actions without a fault, in the order in which they are tried.
pub const ORDINARY: [Action; 37] = [
    Action::Tick,
    Action::NodeWritesLease,
    Action::NodeReadsList,
    Action::SocketJoins,
    Action::SocketIsAcknowledged,
    Action::SocketLeaves,
    Action::ClaimIsSent,
    Action::RemovalIsSent,
    Action::CommandRuns(0),
    Action::CommandRuns(1),
    Action::CommandIsAnswered(0),
    Action::CommandIsAnswered(1),
    Action::CommandIsGivenUp(0),
    Action::CommandIsGivenUp(1),
    Action::LateCommandRuns,
    Action::AbandonedIsCleared,
    Action::ClaimIsRepaired(1),
    Action::ClaimIsRepaired(2),
    Action::ClaimIsRepaired(3),
    Action::RepairIsDecided(1),
    Action::RepairIsDecided(2),
    Action::RepairIsDecided(3),
    Action::WordIsSent,
    Action::WordArrives,
    Action::WitnessIsTold,
    Action::WitnessSpeaks,
    Action::AskerRenews,
    Action::AskerGreets,
    Action::ReplicaLags,
    Action::RollCallBegins,
    Action::RollCallReads,
    Action::RollCallEnds,
    Action::NodeGoesOn,
    Action::AskerGoesOn,
    Action::NodeIsReconnected,
    Action::AskerIsReconnected,
    Action::MeshHeals,
];

impl State {
    /// Both nodes have just started, and Redis is empty.
    fn cold(bound: &Bound) -> Self {
        let witness = bound.witness.then_some(Witness { heard: LEASE, incarnation: 0, split: false });
        Self {
            node: Node::new(),
            asker: Asker::new(),
            witness,
            redis: Redis::empty(),
            mesh: true,
            message: None,
            late: None,
            doomed: Incarnations::default(),
            call: RollCall::None,
            strikes: bound.strikes,
        }
    }

    pub fn start(bound: &Bound, rules: Rules) -> Self {
        use Action::{
            AskerRenews, ClaimIsSent, CommandIsAnswered, CommandRuns, NodeReadsList, NodeWritesLease,
            SocketIsAcknowledged, SocketJoins, Tick, WitnessIsTold, WitnessSpeaks, WordArrives, WordIsSent,
        };
        let long_up = [AskerRenews, NodeWritesLease, NodeReadsList, Tick].repeat(2);
        let now = [AskerRenews, WitnessSpeaks];
        let known = [NodeWritesLease, NodeReadsList, WitnessIsTold, WordIsSent, WordArrives];
        let serving = [SocketJoins, ClaimIsSent, CommandRuns(0), CommandIsAnswered(0), SocketIsAcknowledged];

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
        if bound.faults.contains(&Fault::FailOver) && !bound.lags_any_time {
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

    /// Whether the action could be taken; it may have changed nothing.
    pub fn step(&mut self, action: Action, bound: &Bound, rules: Rules) -> bool {
        let said = (self.node.incarnation, self.node.word());
        let taken = self.take(action, bound, rules);
        self.node.owe(rules);
        if said != (self.node.incarnation, self.node.word()) {
            self.node.by_asker.word = false;
            self.node.by_witness.word = false;
        }
        self.node.simplify(bound.asker_may_lapse());
        self.forget_pointless_call(rules);
        taken
    }

    /// A roll call whose socket went meanwhile may list it or not: nothing can be learned from it.
    fn forget_pointless_call(&mut self, rules: Rules) {
        if let RollCall::UnderWay(call) = self.call
            && call.expected != 0
            && call.expected != self.must_be_listed(rules)
        {
            self.call = RollCall::None;
        }
    }

    /// The socket that a complete answer may not miss: acknowledged, still connected, and its node counts. A stopped
    /// node keeps its sockets and counts as long as its lease; a running one that does not count should have let go.
    fn must_be_listed(&self, rules: Rules) -> u8 {
        let counts = self.node.counts(self.witness.is_some());
        let should_count = match self.node.process {
            Process::Runs => counts || self.node.keeps_regardless(self.witness.is_some(), rules),
            Process::Stopped => counts,
            Process::Crashed => false,
        };
        if self.node.acknowledged && should_count { self.node.row } else { 0 }
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
            Action::ClaimIsSent => self.node.send_claim(rules),
            Action::RemovalIsSent => self.node.send_release(rules),
            Action::CommandRuns(place) => self.node.execute(place, &mut self.redis, rules),
            Action::CommandIsAnswered(place) => self.node.hear_answer(place),
            Action::CommandIsGivenUp(place) => self.give_up_hopeless(place, rules),
            Action::LateCommandRuns => self.run_late(),
            Action::AbandonedIsCleared => self.node.clear(&mut self.redis, rules),
            Action::ClaimIsRepaired(incarnation) => self.repair(incarnation, rules),
            Action::RepairIsDecided(incarnation) => self.decide_repair(incarnation, rules),
            Action::WordIsSent => self.send_word(),
            Action::WordArrives => self.deliver_word(),
            Action::WitnessIsTold => self.tell_witness(),
            Action::WitnessSpeaks => self.let_witness_speak(rules),
            Action::AskerRenews => self.renew_asker(rules),
            Action::AskerGreets => self.greet(),
            Action::ReplicaLags => self.may_lag(bound) && self.redis.replicate(),
            Action::RollCallBegins => self.begin_call(rules),
            Action::RollCallReads => self.read_on(rules),
            Action::RollCallEnds => self.end_call(rules),
            Action::NodeGoesOn => self.go_on(rules),
            Action::AskerGoesOn => !std::mem::replace(&mut self.asker.runs, true),
            Action::NodeIsReconnected => bound.heals && !std::mem::replace(&mut self.node.reaches_redis, true),
            Action::AskerIsReconnected => bound.heals && !std::mem::replace(&mut self.asker.reaches_redis, true),
            Action::MeshHeals => bound.heals && !std::mem::replace(&mut self.mesh, true),
            Action::Strike(fault) => self.strike(fault, bound, rules),
        }
    }

    fn tick(&mut self, rules: Rules) -> bool {
        if !self.node.is_punctual() || !self.asker.is_punctual() {
            return false;
        }
        if let RollCall::UnderWay(call) = &mut self.call
            && !call.outlasts_a_tick()
        {
            return false;
        }
        self.redis.tick();
        self.node.tick();
        self.asker.tick();
        if let Some(witness) = &mut self.witness {
            witness.heard = older(witness.heard);
            if !witness.split {
                self.redis.enter_witness(rules);
            }
        }
        self.message = self.message.map(|message| Message { age: older(message.age), ..message });
        self.message = self.message.filter(|message| message.age < LEASE);
        self.node.let_go(self.witness.is_some(), rules);
        true
    }

    fn give_up_hopeless(&mut self, place: usize, rules: Rules) -> bool {
        let hopeless = self.node.commands[place].is_some_and(Command::is_lost) || !self.node.reaches_redis;
        hopeless && self.node.give_up(place, rules).is_some()
    }

    /// A command gets no answer in time: it is still on its way, or it ran and the answer was lost.
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
            self.doomed.has(incarnation)
        };
        let repairs = decided && self.redis.owners().has(incarnation);
        if repairs {
            self.redis.release(incarnation);
        }
        repairs
    }

    fn decide_repair(&mut self, incarnation: u8, rules: Rules) -> bool {
        let decides = !rules.has(Rule::RepairOnlyWithoutLease) && self.may_repair(incarnation, rules);
        if decides {
            self.doomed.add(incarnation);
        }
        decides
    }

    fn may_repair(&self, incarnation: u8, rules: Rules) -> bool {
        let gone = self.asker.holds_gone(incarnation, &self.surroundings(rules));
        let lapsed = self.redis.owners().has(incarnation) && !self.redis.leased(incarnation);
        lapsed && (gone || !rules.has(Rule::RepairOnlyTheDead))
    }

    /// The hello comes after the entry; later words are told with or without one.
    fn send_word(&mut self) -> bool {
        let speaks = self.node.runs() && self.node.knows_asker && (self.node.index.is_some() || self.node.settled);
        if speaks {
            let (incarnation, word) = (self.node.incarnation, self.node.word());
            self.message = Some(Message { incarnation, word, age: 0 });
        }
        speaks
    }

    fn deliver_word(&mut self) -> bool {
        let Some(message) = self.message.filter(|_| self.mesh && self.asker.runs) else { return false };
        self.message = None;
        self.asker.told(message);
        let node = &mut self.node;
        if node.runs() {
            node.knows_asker = true;
            node.by_asker.age = node.by_asker.age.min(message.age);
            node.by_asker.word |= (message.incarnation, message.word) == (node.incarnation, node.word());
            node.greeted |= message.incarnation == node.incarnation;
        }
        true
    }

    fn tell_witness(&mut self) -> bool {
        let node = &mut self.node;
        let speaks = node.runs() && (node.index.is_some() || node.settled);
        let Some(witness) = self.witness.as_mut().filter(|_| speaks) else { return false };
        (witness.incarnation, witness.heard) = (node.incarnation, 0);
        node.by_witness = Acknowledged { age: 0, word: true };
        true
    }

    fn let_witness_speak(&mut self, rules: Rules) -> bool {
        let Some(witness) = self.witness.filter(|witness| !witness.split && self.asker.runs) else { return false };
        let heard = (witness.heard < LEASE).then_some((witness.incarnation, witness.heard));
        self.asker.introduce(heard, &self.redis, rules);
        true
    }

    fn renew_asker(&mut self, rules: Rules) -> bool {
        let mut asker = self.asker;
        if asker.has_lapsed() && rules.has(Rule::WordsEndWithTheLease) {
            // It was meant for the last incarnation.
            self.message = None;
        }
        let renews = asker.renew(&mut self.redis, rules);
        if renews {
            asker.list(&self.surroundings(rules));
        }
        self.asker = asker;
        renews
    }

    fn greet(&mut self) -> bool {
        let meets = self.mesh && self.asker.runs && self.asker.member != 0 && self.node.runs();
        let greets = meets && !self.node.knows_asker;
        if greets {
            self.node.knows_asker = true;
            self.asker.told(Message { incarnation: self.node.incarnation, word: self.node.word(), age: 0 });
        }
        greets
    }

    fn begin_call(&mut self, rules: Rules) -> bool {
        let expected = self.must_be_listed(rules);
        // Before the first join, and while a join is not acknowledged, any answer will do.
        let matters = expected != 0 || self.node.row == 0 && self.node.joined > 0;
        let begins = matters && self.call == RollCall::None && self.asker.runs && self.asker.entered;
        if begins {
            let mut call = Call::begin(expected, &self.node);
            call.read(&self.asker, &self.redis, rules);
            self.call = RollCall::UnderWay(call);
        }
        begins
    }

    fn read_on(&mut self, rules: Rules) -> bool {
        let RollCall::UnderWay(mut call) = self.call else { return false };
        let reads = self.asker.runs && call.read(&self.asker, &self.redis, rules);
        self.call = RollCall::UnderWay(call);
        reads
    }

    fn end_call(&mut self, rules: Rules) -> bool {
        let RollCall::UnderWay(call) = self.call else { return false };
        let Some(answer) = call.ask(&self.asker, &self.surroundings(rules)).filter(|_| self.asker.runs) else {
            return false;
        };
        self.call = RollCall::Answered(answer);
        true
    }

    fn go_on(&mut self, rules: Rules) -> bool {
        if self.node.process != Process::Stopped {
            return false;
        }
        self.node.process = Process::Runs;
        self.node.let_go(self.witness.is_some(), rules);
        true
    }

    fn strike(&mut self, fault: Fault, bound: &Bound, rules: Rules) -> bool {
        if self.strikes == 0 {
            return false;
        }
        self.strikes -= 1;
        match fault {
            Fault::Flush => {
                self.redis.flush();
                true
            }
            Fault::FailOver => self.fail_over(bound),
            Fault::LostRemovalElsewhere => self.lose_removal_elsewhere(rules),
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
            Fault::StopAsker => std::mem::replace(&mut self.asker.runs, false),
            Fault::RestartAsker => {
                self.restart_asker();
                true
            }
            Fault::CutAsker => std::mem::replace(&mut self.asker.reaches_redis, false),
            Fault::CutMesh => std::mem::replace(&mut self.mesh, false),
            Fault::Split => self.split(),
        }
    }

    fn lose_removal_elsewhere(&mut self, rules: Rules) -> bool {
        let retires = self.node.runs() && self.node.index.is_some() && rules.has(Rule::LostRemovalRetires);
        if retires {
            self.node.retire();
        }
        retires
    }

    fn may_lag(&self, bound: &Bound) -> bool {
        let after_the_first = self.strikes < bound.strikes;
        bound.faults.contains(&Fault::FailOver) && self.strikes > 0 && (bound.lags_any_time || after_the_first)
    }

    fn fail_over(&mut self, bound: &Bound) -> bool {
        let failed = self.redis.fail_over(bound.fails_back_unseen);
        if failed {
            self.node.lose_connection();
            self.late = None;
        }
        failed
    }

    /// The old process says goodbye; the new one is somebody else to everybody.
    fn restart_asker(&mut self) {
        self.redis.forget_asker();
        self.asker = Asker::new();
        self.message = None;
        self.call = RollCall::None;
        self.node.knows_asker = false;
        self.node.by_asker = Acknowledged::NOTHING;
    }

    fn split(&mut self) -> bool {
        let Some(witness) = &mut self.witness else { return false };
        witness.split = true;
        (self.node.reaches_redis, self.mesh) = (false, false);
        true
    }

    fn surroundings(&self, rules: Rules) -> Surroundings<'_> {
        Surroundings {
            node: &self.node,
            redis: &self.redis,
            mesh: self.mesh,
            witness_leased: self.witness.is_some() && self.redis.witness_leased(),
            witness: self.witness.is_some(),
            rules,
        }
    }
}
