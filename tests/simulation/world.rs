//! One seed: hosts, an index, random events, and the expected final state.
//!
//! Owns the choice of events, which depends on the seed alone, and the check of the final state. After the repair of all
//! faults, each node lists exactly the present sockets in a complete answer, and the index equals the rosters. Owns no
//! judgement of answers.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Write as _};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rollcall::directory::DirectoryCall;
use rollcall::directory::faulty::{Fault, FaultyDirectory};
use rollcall::directory::memory::{MemoryDirectory, MemorySnapshot};
use rollcall::directory::{Directory, NodeEntry};
use rollcall::membership::table::MAX_UNLISTED_MEMBERS;
use rollcall::names::{NodeId, NodeName, Room, SocketId};
use rollcall::roll_call::answer::RollCallAnswer;
use turmoil::Sim;

use crate::host::{Host, LEASE, Life, Order};
use crate::liar::{self, Liar};
use crate::network;
use crate::oracle::{Flaw, Oracle};

/// Shorter ticks found no more errors, and take longer.
const TICK: Duration = Duration::from_millis(5);
/// The duration of the phase with faults.
const FAULT_PHASE: Duration = Duration::from_secs(6);
/// The timeout of the healing. A connection that lost segments fails only after 7 s, and the next assertion of claims
/// corrects the effect of a write that ran late.
const HEALING_TIMEOUT: Duration = Duration::from_secs(40);
/// The interval between two checks of the final state.
const HEALING_CHECK_INTERVAL: Duration = Duration::from_millis(600);
/// The maximum pause between two events.
const MAX_PAUSE_MS: u64 = 60;
const ROOMS: [&str; 3] = ["Maths", "Physics", "Art"];
/// One in this number of arrivals is a crowd. Rooms with many rows are needed, because nodes send only the changes of
/// such rooms.
const ARRIVALS_PER_CROWD: u32 = 50;
const CROWD_SIZE: usize = 24;
const DEADLINES_MS: [u64; 3] = [200, 500, 1_000];
/// The durations of pauses: shorter and longer than a roll call, and all shorter than a lease.
const PAUSES_MS: [u64; 4] = [40, 150, 500, 1_200];
/// The maximum delay of a pause after the first questions, so that it begins at any step of their roll calls.
const MAX_PAUSE_DELAY_MS: u64 = 60;
/// The seed chooses the maximum latency of a segment from these.
const LATENCIES_MS: [u64; 4] = [1, 5, 20, 60];
/// The maximum latency of the directory.
const MAX_DIRECTORY_LATENCY_MS: u64 = 20;
/// Longer than the lifetime of every entry of the index.
const CLOCK_STEP: Duration = Duration::from_secs(700);
/// Longer than the interval between two renewals, and shorter than the lifetime of an epoch.
const COPY_INTERVAL: Duration = Duration::from_millis(500);
/// All nodes have renewed their leases, or have failed to, within this time.
const NOTICED_WITHIN: Duration = LEASE;
/// The message of `expect` for calls of the index in memory, which never wait.
const AT_ONCE: &str = "an index in memory answers at once";
/// The maximum number of members that were in the index. Crashed nodes, and earlier processes of the hosts, are among them.
const MAX_LISTED_MEMBERS: usize = 20;
/// The maximum number of events in the report of a failure.
const MAX_REPORTED_EVENTS: usize = 150;

/// The state that the hosts of one simulation share.
pub(crate) struct SharedState {
    pub flaw: Flaw,
    pub oracle: RefCell<Oracle>,
    pub tally: RefCell<Tally>,
    /// The answers since the last check of the final state.
    pub records: RefCell<Vec<Record>>,
    hosts: RefCell<Vec<Host>>,
    time: Cell<Duration>,
    /// Until then, nodes may not have noticed that the content of the index was exchanged.
    exchanged_until: Cell<Duration>,
    events: RefCell<Vec<String>>,
    wrong: RefCell<Option<String>>,
    /// The pause of each host that is paused, or will be.
    pauses: RefCell<BTreeMap<usize, Pause>>,
}

/// A span of the simulated time.
#[derive(Debug, Clone, Copy)]
struct Pause {
    from: Duration,
    to: Duration,
}

pub(crate) struct Record {
    pub host: usize,
    pub answer: Arc<RollCallAnswer>,
}

/// The amounts of one or more simulations.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub seeds: u64,
    pub calls: u64,
    pub complete: u64,
    pub rows: u64,
    /// Acknowledged joins.
    pub acknowledged: u64,
    /// Joins whose client was disconnected because the acknowledgement timed out.
    pub dropped: u64,
    pub faults: u64,
    pub time: Duration,
}

struct World {
    /// The source of each event's own generator. An event draws a number of values that depends on the state, and must
    /// not change the choices of later events.
    seeds: StdRng,
    random: StdRng,
    memory: Arc<MemoryDirectory>,
    snapshot: Option<MemorySnapshot>,
    /// The last two copies of the index.
    older: Option<MemorySnapshot>,
    newer: Option<MemorySnapshot>,
    next_copy: Duration,
    hosts: Vec<Host>,
    /// The node id of the member that lies, if there is one.
    liar: NodeId,
    shared: Rc<SharedState>,
    last_socket: u64,
}

/// Runs one seed.
///
/// # Errors
/// A report with the first error and the events before it.
pub(crate) fn run(seed: u64, flaw: Flaw) -> Result<Tally, String> {
    network::begin_time();
    let mut random = StdRng::seed_from_u64(seed);
    let latency = *LATENCIES_MS.choose(&mut random).expect("not empty");
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .enable_random_order()
        .tick_duration(TICK)
        .min_message_latency(Duration::ZERO)
        .max_message_latency(Duration::from_millis(latency))
        .tcp_capacity(4096)
        .simulation_duration(Duration::MAX)
        .build();
    let mut world = World::new(random, flaw);
    if flaw == Flaw::LyingMember {
        let liar = Rc::new(Liar { memory: Arc::clone(&world.memory), node: world.liar.clone(), seed });
        sim.host(liar::NAME, move || Rc::clone(&liar).run());
    }
    for host in &world.hosts {
        let software = host.clone();
        sim.host(host.name(), move || software.clone().run());
    }
    let result = world.run(&mut sim);
    let shared = Rc::clone(&world.shared);
    // Break the reference cycle between the shared state and the hosts, which would leak the nodes.
    for host in world.hosts {
        drop(host.life.borrow_mut().take());
    }
    shared.hosts.borrow_mut().clear();
    match result {
        Ok(()) => {
            shared.tally.borrow_mut().time = sim.elapsed();
            Ok(shared.tally.take())
        }
        Err(wrong) => Err(format!(
            "seed {seed} with a latency up to {latency} ms: {wrong}\n\n{}\nrepeat this run with ROLLCALL_SEED={seed}",
            shared.last_events()
        )),
    }
}

impl World {
    fn new(mut random: StdRng, flaw: Flaw) -> Self {
        let memory = MemoryDirectory::new();
        // A node that knows it is the first of an index skips the wait for others. A previous node prevents that.
        let before = NodeId::new_process();
        let entry =
            NodeEntry { name: NodeName::from_any("before"), mesh: "".into(), since: "".into(), draining: false };
        memory.register(&before, &entry, Duration::ZERO).now_or_never().expect(AT_ONCE).expect("an index in memory");
        memory.flush();
        let shared = Rc::new(SharedState {
            flaw,
            oracle: RefCell::default(),
            tally: RefCell::new(Tally { seeds: 1, ..Tally::default() }),
            records: RefCell::default(),
            hosts: RefCell::default(),
            time: Cell::default(),
            exchanged_until: Cell::default(),
            events: RefCell::default(),
            wrong: RefCell::default(),
            pauses: RefCell::default(),
        });
        let host = |number| Host {
            number,
            directory: FaultyDirectory::new(Arc::clone(&memory) as Arc<dyn Directory>),
            life: Rc::default(),
            shared: Rc::clone(&shared),
        };
        let hosts: Vec<Host> = (0..random.random_range(3..=4)).map(host).collect();
        for host in &hosts {
            host.directory.set_latency(Duration::from_millis(random.random_range(0..=MAX_DIRECTORY_LATENCY_MS)));
        }
        shared.hosts.borrow_mut().clone_from(&hosts);
        let seeds = StdRng::from_rng(&mut random);
        let liar = NodeId::new_process();
        Self {
            seeds,
            random,
            memory,
            snapshot: None,
            older: None,
            newer: None,
            next_copy: Duration::ZERO,
            hosts,
            liar,
            shared,
            last_socket: 0,
        }
    }

    fn run(&mut self, sim: &mut Sim<'_>) -> Result<(), String> {
        while sim.elapsed() < FAULT_PHASE {
            self.random = StdRng::from_rng(&mut self.seeds);
            self.copy_index();
            self.cause_event(sim);
            let pause = self.random.random_range(0..=MAX_PAUSE_MS);
            self.pass(sim, Duration::from_millis(pause))?;
            self.check_member_tables()?;
        }
        self.repair_all(sim);
        let until = sim.elapsed() + HEALING_TIMEOUT;
        loop {
            // A host may have been in its shutdown during the repair, and have ended since.
            self.restart_crashed(sim);
            self.shared.records.borrow_mut().clear();
            for host in &self.hosts {
                for room in rooms() {
                    self.ask(host, room, Duration::from_millis(500));
                }
            }
            self.pass(sim, HEALING_CHECK_INTERVAL)?;
            let Err(difference) = self.check_final_state() else { return Ok(()) };
            if sim.elapsed() > until {
                return Err(format!("{HEALING_TIMEOUT:?} after the repair of all faults, {difference}"));
            }
        }
    }

    /// Runs the simulation for this time, and stops at the first error.
    fn pass(&self, sim: &mut Sim<'_>, time: Duration) -> Result<(), String> {
        let until = sim.elapsed() + time;
        while sim.elapsed() < until {
            sim.step().map_err(|error| error.to_string())?;
            self.shared.time.set(sim.elapsed());
            self.advance_pauses(sim, sim.elapsed());
            self.shared.observe();
            if let Some(wrong) = self.shared.wrong.take() {
                return Err(wrong);
            }
        }
        Ok(())
    }

    fn cause_event(&mut self, sim: &mut Sim<'_>) {
        let number = self.random.random_range(0..self.hosts.len());
        let host = self.hosts[number].clone();
        match self.random.random_range(0..1000) {
            0..250 => {
                let count = self.random.random_range(1..=2);
                let rooms: Vec<Room> = rooms().choose_multiple(&mut self.random, count).cloned().collect();
                let crowd = if self.random.random_ratio(1, ARRIVALS_PER_CROWD) { CROWD_SIZE } else { 1 };
                for _ in 0..crowd {
                    self.last_socket += 1;
                    let socket = SocketId::parse(&format!("s{}", self.last_socket)).expect("a valid id");
                    host.order(Order::Come { socket, rooms: rooms.clone() });
                }
            }
            250..300 => self.with_socket(&host, |socket, room| Order::Join { socket, room }),
            300..380 => self.with_socket(&host, |socket, room| Order::Leave { socket, room }),
            380..500 => self.with_socket(&host, |socket, _| Order::Go { socket }),
            500..830 => {
                let room = rooms().choose(&mut self.random).cloned().expect("not empty");
                let deadline = *DEADLINES_MS.choose(&mut self.random).expect("not empty");
                self.ask(&host, room, Duration::from_millis(deadline));
            }
            _ => {
                self.shared.tally.borrow_mut().faults += 1;
                self.cause_fault(sim, &host);
            }
        }
    }

    fn with_socket(&mut self, host: &Host, order: impl Fn(SocketId, Room) -> Order) {
        let sockets: Vec<SocketId> =
            host.life.borrow().iter().flat_map(|life| life.presences.keys().cloned()).collect();
        let room = rooms().choose(&mut self.random).cloned().expect("not empty");
        let Some(socket) = sockets.choose(&mut self.random).cloned() else { return };
        host.order(order(socket, room));
    }

    fn cause_fault(&mut self, sim: &mut Sim<'_>, host: &Host) {
        let name = host.name();
        let other = self.hosts.choose(&mut self.random).expect("not empty").name();
        let waiting = Duration::from_millis(*[0, 300].choose(&mut self.random).expect("not empty"));
        match self.random.random_range(0..112) {
            0..8 if name != other => {
                self.note(&format!("the network drops messages between {name} and {other}"));
                sim.partition(name, other);
            }
            8..18 if name != other => {
                self.note(&format!("the network holds messages between {name} and {other}"));
                sim.hold(name, other);
            }
            0..30 if name != other => {
                self.note(&format!("the link between {name} and {other} is restored"));
                sim.release(name, other);
            }
            30..34 => {
                self.note(&format!("the network holds messages between {name} and all other nodes"));
                for other in self.hosts.iter().filter(|other| other.number != host.number) {
                    sim.hold(name.clone(), other.name());
                }
            }
            34..38 => {
                self.note("all links are restored");
                self.restore_links(sim);
            }
            38..43 if host.life.borrow().is_some() => {
                self.note(&format!("{name} crashes"));
                sim.crash(name);
                host.ended();
            }
            43..46 if host.life.borrow().is_some() => host.order(Order::Stop),
            38..50 => self.restart_crashed(sim),
            50..56 => {
                self.note(&format!("the directory is unreachable from {name}, calls fail after {waiting:?}"));
                host.directory.disconnect(waiting);
            }
            56..59 => {
                self.note(&format!("the directory is unreachable, calls fail after {waiting:?}"));
                self.hosts.iter().for_each(|host| host.directory.disconnect(waiting));
            }
            59..66 => {
                self.note(&format!("the directory is reachable from {name}"));
                host.directory.reconnect();
            }
            66..72 => {
                self.note("the directory is reachable");
                self.hosts.iter().for_each(|host| host.directory.reconnect());
            }
            72..74 => {
                self.note("the index is flushed");
                self.flush();
            }
            74..76 => self.snapshot = Some(self.memory.snapshot()),
            76..78 => {
                if let Some(snapshot) = self.snapshot.take() {
                    self.note("the index is rolled back");
                    self.memory.restore(snapshot);
                }
            }
            78..93 => self.inject_directory_fault(host),
            93..100 => {
                self.note(&format!("the late directory calls of {name} run"));
                run_late(host);
            }
            100..101 => self.step_clock(),
            101..102 => self.exchange_index(),
            _ => {
                let delay = Duration::from_millis(self.random.random_range(0..=MAX_PAUSE_DELAY_MS));
                let pause = Duration::from_millis(*PAUSES_MS.choose(&mut self.random).expect("not empty"));
                let from = sim.elapsed() + delay;
                self.shared.pauses.borrow_mut().entry(host.number).or_insert(Pause { from, to: from + pause });
                // Their lookups or the replies wait in buffers during the pause.
                self.ask_all_rooms(host);
            }
        }
    }

    /// Steps the clock of the index by up to two leases, or forward past every expiry. A farther step back would keep the
    /// leases of dead nodes for as long, and the cluster would not recover in time.
    fn step_clock(&mut self) {
        let forward = self.random.random_ratio(2, 3);
        let is_far = forward && self.random.random_ratio(1, 3);
        let by = if is_far { CLOCK_STEP } else { LEASE.mul_f64(self.random.random_range(0.0..2.0)) };
        let direction = if forward { "forward" } else { "back" };
        self.note(&format!("the clock of the index steps {direction} by {by:?}"));
        self.memory.step_clock(by, forward);
        if !forward {
            // Its leases end by the later clock, and would last for as long as the step.
            self.snapshot = None;
        }
    }

    /// Copies the index from time to time, for a later exchange. Every node renews its lease between two copies.
    fn copy_index(&mut self) {
        let now = self.shared.time.get();
        if now >= self.next_copy {
            self.next_copy = now + COPY_INTERVAL;
            self.older = self.newer.replace(self.memory.snapshot());
        }
    }

    /// Replaces the content of the index by an older one, as if keys were exchanged. No reader can notice it before the nodes
    /// have renewed their leases, so until then a complete answer may miss sockets.
    fn exchange_index(&mut self) {
        let Some(older) = self.older.take() else { return };
        self.note("the content of the index is exchanged");
        self.memory.exchange(older);
        self.newer = None;
        self.shared.exchanged_until.set(self.shared.time.get() + NOTICED_WITHIN);
    }

    /// Sends a question now. A paused host reads it later.
    fn ask(&self, host: &Host, room: Room, deadline: Duration) {
        let asked = self.shared.oracle.borrow_mut().now();
        host.order(Order::Call { room, deadline, asked });
    }

    fn ask_all_rooms(&self, host: &Host) {
        for room in rooms() {
            self.ask(host, room, Duration::from_secs(1));
        }
    }

    /// Pauses the hosts whose pause has begun, and resumes those whose pause has ended. A question in every room waits for
    /// the host when it resumes.
    fn advance_pauses(&self, sim: &Sim<'_>, time: Duration) {
        let mut pauses = self.shared.pauses.borrow_mut();
        for (number, _) in pauses.extract_if(.., |_, pause| pause.to <= time) {
            let host = &self.hosts[number];
            self.ask_all_rooms(host);
            self.note(&format!("{} resumes", host.name()));
            network::resume(sim.lookup(host.name()));
        }
        for (number, pause) in pauses.iter().filter(|(_, pause)| pause.from <= time) {
            let name = self.hosts[*number].name();
            if network::pause(sim.lookup(name.clone())) {
                self.note(&format!("{name} is paused until {:?}", pause.to));
            }
        }
    }

    fn flush(&self) {
        if self.shared.flaw != Flaw::SilentClaimLoss {
            return self.memory.flush();
        }
        for node in self.hosts.iter().filter_map(Host::incarnation) {
            let released = self.memory.remove_owner(&node, &rooms()).now_or_never();
            released.expect(AT_ONCE).expect("an index in memory refuses no call");
        }
    }

    fn inject_directory_fault(&mut self, host: &Host) {
        let (call, fault) = match self.random.random_range(0..6) {
            0 => (DirectoryCall::ALL.choose(&mut self.random), Fault::LoseRequest),
            1 => (DirectoryCall::WRITES.choose(&mut self.random), Fault::LoseAnswer),
            2 => (DirectoryCall::WRITES.choose(&mut self.random), Fault::Refuse),
            _ => (DirectoryCall::WRITES.choose(&mut self.random), Fault::RunLate),
        };
        let call = *call.expect("not empty");
        self.note(&format!("the next directory call {call:?} of {} has the fault {fault:?}", host.name()));
        host.directory.inject(call, fault);
    }

    fn restart_crashed(&self, sim: &mut Sim<'_>) {
        for host in &self.hosts {
            if !sim.is_host_running(host.name()) {
                self.note(&format!("{} restarts", host.name()));
                sim.bounce(host.name());
            }
        }
    }

    fn restore_links(&self, sim: &Sim<'_>) {
        for (index, one) in self.hosts.iter().enumerate() {
            for other in &self.hosts[index + 1..] {
                sim.release(one.name(), other.name());
            }
        }
    }

    fn repair_all(&self, sim: &mut Sim<'_>) {
        self.note("all faults are repaired");
        if self.shared.flaw == Flaw::LyingMember {
            sim.crash(liar::NAME);
            self.memory.deregister(&self.liar).now_or_never().expect(AT_ONCE).expect("an index in memory");
        }
        self.restore_links(sim);
        self.advance_pauses(sim, Duration::MAX);
        for host in &self.hosts {
            run_late(host);
            host.directory.reconnect();
        }
        self.restart_crashed(sim);
    }

    /// Checks that the members that a liar invents are bounded.
    fn check_member_tables(&self) -> Result<(), String> {
        let max = MAX_LISTED_MEMBERS + MAX_UNLISTED_MEMBERS;
        for host in &self.hosts {
            let members = host.life.borrow().as_ref().map_or(0, |life| life.core.membership.view().members.len());
            if members > max {
                return Err(format!("{} knows {members} members, at most {max} may be known", host.name()));
            }
        }
        Ok(())
    }

    /// Checks that every node lists exactly the present sockets in a complete answer, and that the index equals the
    /// rosters. The error describes the first difference.
    fn check_final_state(&self) -> Result<(), String> {
        let records = self.shared.records.borrow();
        let oracle = self.shared.oracle.borrow();
        for host in &self.hosts {
            for room in rooms() {
                let present: BTreeSet<SocketId> = oracle.present(&room).into_iter().map(|(_, socket)| socket).collect();
                let matches = |record: &&Record| record.host == host.number && record.answer.room == room;
                let Some(Record { answer, .. }) = records.iter().find(matches) else {
                    return Err(format!("{} does not answer for {room}", host.name()));
                };
                let listed: BTreeSet<SocketId> = answer.rows().map(|(_, row)| row.id_socket.clone()).collect();
                if !answer.complete || listed != present {
                    let (name, complete) = (host.name(), answer.complete);
                    let silent: Vec<_> = answer.unanswered().collect();
                    return Err(format!(
                        "{name} lists {listed:?} in {room} (complete: {complete}, unanswered: {silent:?}), present are {present:?}"
                    ));
                }
            }
        }
        self.check_index(&oracle)
    }

    fn check_index(&self, oracle: &Oracle) -> Result<(), String> {
        let node = |number: usize| self.hosts[number].incarnation();
        let listing = self.memory.nodes().now_or_never().expect(AT_ONCE).map_err(|error| error.to_string())?;
        let leases: BTreeSet<NodeId> = listing.nodes.into_iter().map(|(node, _)| node).collect();
        let nodes: BTreeSet<NodeId> = (0..self.hosts.len()).filter_map(node).collect();
        if leases != nodes {
            return Err(format!("the index has leases of {leases:?}, but the nodes are {nodes:?}"));
        }
        for room in rooms() {
            let present = oracle.present(&room);
            let owners: BTreeSet<NodeId> = present.iter().filter_map(|(host, _)| node(*host)).collect();
            let claimed =
                self.memory.owners(&room).now_or_never().expect(AT_ONCE).map_err(|error| error.to_string())?;
            let claimed: BTreeSet<NodeId> = claimed.nodes.into_iter().collect();
            if claimed != owners {
                return Err(format!("the index has {claimed:?} as owners of {room}, but the owners are {owners:?}"));
            }
            let owners: Vec<NodeId> = owners.into_iter().collect();
            let accounts = self.memory.leases_and_counts(&room, &owners).now_or_never().expect(AT_ONCE);
            let counted: u64 = accounts.map_err(|error| error.to_string())?.iter().map(|account| account.sockets).sum();
            if counted != present.len() as u64 {
                return Err(format!(
                    "the index counts {counted} sockets in {room}, but the number is {}",
                    present.len()
                ));
            }
        }
        Ok(())
    }

    fn note(&self, event: &str) {
        self.shared.note(event);
    }
}

impl Host {
    fn incarnation(&self) -> Option<NodeId> {
        self.life.borrow().as_ref().map(|Life { core, .. }| core.roster.incarnation())
    }

    fn order(&self, order: Order) {
        if let Some(life) = self.life.borrow().as_ref() {
            if !matches!(order, Order::Call { .. }) {
                self.shared.note(&format!("{}: {order:?}", self.name()));
            }
            // The send fails when the host is in its shutdown and executes no more orders.
            let _ = life.orders.send(order);
        }
    }
}

impl SharedState {
    /// Reports to the oracle which hosts are visible to which askers now.
    pub(crate) fn observe(&self) {
        let hosts = self.hosts.borrow();
        hosts.iter().for_each(|host| host.observe(&hosts));
    }

    /// Whether nodes may not have noticed yet that the content of the index was exchanged.
    pub(crate) fn is_exchanged(&self) -> bool {
        self.time.get() < self.exchanged_until.get()
    }

    /// Records an event for the report of a failure.
    pub(crate) fn note(&self, event: &str) {
        let time = self.time.get();
        tracing::info!(target: "simulation", "{time:?} {event}");
        self.events.borrow_mut().push(format!("{time:?} {event}"));
    }

    /// Records an error. The first one fails the seed.
    pub(crate) fn wrong(&self, error: &str) {
        self.note(&format!("WRONG: {error}"));
        self.wrong.borrow_mut().get_or_insert_with(|| error.to_owned());
    }

    fn last_events(&self) -> String {
        let events = self.events.borrow();
        let mut text = String::new();
        for line in &events[events.len().saturating_sub(MAX_REPORTED_EVENTS)..] {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.calls += other.calls;
        self.complete += other.complete;
        self.rows += other.rows;
        self.acknowledged += other.acknowledged;
        self.dropped += other.dropped;
        self.faults += other.faults;
        self.time += other.time;
    }

    pub(crate) fn called(&mut self, answer: &RollCallAnswer) {
        self.calls += 1;
        self.complete += u64::from(answer.complete);
        self.rows += answer.len() as u64;
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, calls, complete, rows, acknowledged, dropped, faults, time } = self;
        write!(
            f,
            "{seeds} seeds, {time:.0?} of simulated time, {faults} faults, {calls} roll calls judged, {complete} of them complete, {rows} rows, "
        )?;
        write!(f, "{acknowledged} joins acknowledged, {dropped} timed out")
    }
}

fn run_late(host: &Host) {
    host.directory.run_late().now_or_never().expect(AT_ONCE);
}

fn rooms() -> Vec<Room> {
    ROOMS.iter().map(|name| Room::parse(name).expect("a valid name")).collect()
}
