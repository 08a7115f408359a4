//! One seed: hosts, an index, everything that happens to them, and how it must end.
//!
//! Owns the choice of what happens, which is the seed's, and the end: with every fault mended, each node answers completely
//! with exactly the sockets there are, and the index equals the rosters. Owns no judgement of answers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
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
use rollcall::names::{NodeId, NodeName, Room, SocketId};
use rollcall::roll_call::answer::RollCallAnswer;
use turmoil::Sim;

use crate::host::{Host, Life, Order};
use crate::network;
use crate::oracle::{Flaw, Oracle};

/// Finer ticks find nothing more, and take longer.
const TICK: Duration = Duration::from_millis(5);
/// How long things break.
const BREAKING: Duration = Duration::from_secs(6);
/// How long healing may take: a connection that lost segments is given up 7 s later, and what ran late is put right with
/// the next assertion of claims.
const HEALING: Duration = Duration::from_secs(40);
/// How often it is looked whether everything is well.
const LOOK_EVERY: Duration = Duration::from_millis(600);
/// The longest time between two things that happen.
const PAUSE_MOST_MS: u64 = 60;
const ROOMS: [&str; 3] = ["Maths", "Physics", "Art"];
/// One in so many that come brings a crowd of so many along: changes of a room that has many rows are told alone.
const CROWD_EVERY: u32 = 50;
const CROWD: usize = 24;
const DEADLINES_MS: [u64; 3] = [200, 500, 1_000];
/// One of these is the longest that a segment travels.
const LATENCIES_MS: [u64; 4] = [1, 5, 20, 60];
/// The longest way to the directory.
const DIRECTORY_MOST_MS: u64 = 20;
/// What an index in memory does.
const AT_ONCE: &str = "an index in memory answers at once";
/// The last of what happened, told with what is wrong.
const TOLD_MOST: usize = 150;

/// What the hosts of one simulation share.
pub(crate) struct Shared {
    pub flaw: Flaw,
    pub oracle: RefCell<Oracle>,
    pub tally: RefCell<Tally>,
    /// Answers since they were looked at last.
    pub records: RefCell<Vec<Record>>,
    hosts: RefCell<Vec<Host>>,
    time: Cell<Duration>,
    happened: RefCell<Vec<String>>,
    wrong: RefCell<Option<String>>,
}

pub(crate) struct Record {
    pub host: usize,
    pub answer: Arc<RollCallAnswer>,
}

/// What was simulated.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub seeds: u64,
    pub calls: u64,
    pub complete: u64,
    pub rows: u64,
    /// Clients that were told that they are in, and that were let go because they could not be told.
    pub told: u64,
    pub dropped: u64,
    pub faults: u64,
    pub time: Duration,
}

struct World {
    /// Where each happening's own choices come from: what one draws, by the state of things, does not change the next.
    seeds: StdRng,
    random: StdRng,
    memory: Arc<MemoryDirectory>,
    snapshot: Option<MemorySnapshot>,
    hosts: Vec<Host>,
    shared: Rc<Shared>,
    last_socket: u64,
}

/// Runs one seed.
///
/// # Errors
/// What went wrong, and what had happened.
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
    for host in &world.hosts {
        let software = host.clone();
        sim.host(host.name(), move || software.clone().run());
    }
    let ended = world.live(&mut sim);
    let shared = Rc::clone(&world.shared);
    // The lives hold the world, which holds them.
    for host in world.hosts {
        drop(host.life.borrow_mut().take());
    }
    shared.hosts.borrow_mut().clear();
    match ended {
        Ok(()) => {
            shared.tally.borrow_mut().time = sim.elapsed();
            Ok(shared.tally.take())
        }
        Err(wrong) => Err(format!(
            "seed {seed} with {latency} ms: {wrong}\n\n{}\nrun it again with ROLLCALL_SEED={seed}",
            shared.story()
        )),
    }
}

impl World {
    fn new(mut random: StdRng, flaw: Flaw) -> Self {
        let memory = MemoryDirectory::new();
        // Not its first life: that is known to be the only one.
        let before = NodeId::new_process();
        let entry =
            NodeEntry { name: NodeName::from_any("before"), mesh: "".into(), since: "".into(), draining: false };
        memory.register(&before, &entry, Duration::ZERO).now_or_never().expect(AT_ONCE).expect("an index in memory");
        memory.flush();
        let shared = Rc::new(Shared {
            flaw,
            oracle: RefCell::default(),
            tally: RefCell::new(Tally { seeds: 1, ..Tally::default() }),
            records: RefCell::default(),
            hosts: RefCell::default(),
            time: Cell::default(),
            happened: RefCell::default(),
            wrong: RefCell::default(),
        });
        let host = |number| Host {
            number,
            directory: FaultyDirectory::new(Arc::clone(&memory) as Arc<dyn Directory>),
            life: Rc::default(),
            shared: Rc::clone(&shared),
        };
        let hosts: Vec<Host> = (0..random.random_range(3..=4)).map(host).collect();
        for host in &hosts {
            host.directory.set_latency(Duration::from_millis(random.random_range(0..=DIRECTORY_MOST_MS)));
        }
        shared.hosts.borrow_mut().clone_from(&hosts);
        let seeds = StdRng::from_rng(&mut random);
        Self { seeds, random, memory, snapshot: None, hosts, shared, last_socket: 0 }
    }

    fn live(&mut self, sim: &mut Sim<'_>) -> Result<(), String> {
        while sim.elapsed() < BREAKING {
            self.random = StdRng::from_rng(&mut self.seeds);
            self.something_happens(sim);
            let pause = self.random.random_range(0..=PAUSE_MOST_MS);
            self.pass(sim, Duration::from_millis(pause))?;
        }
        self.mend(sim);
        let until = sim.elapsed() + HEALING;
        loop {
            // Those that were stopping when everything was mended.
            self.start_the_crashed(sim);
            self.shared.records.borrow_mut().clear();
            for host in &self.hosts {
                for room in rooms() {
                    host.order(Order::Call { room, deadline: Duration::from_millis(500) });
                }
            }
            self.pass(sim, LOOK_EVERY)?;
            let Err(ill) = self.is_well() else { return Ok(()) };
            if sim.elapsed() > until {
                return Err(format!("{HEALING:?} after everything was mended, {ill}"));
            }
        }
    }

    /// Lets time pass.
    fn pass(&self, sim: &mut Sim<'_>, time: Duration) -> Result<(), String> {
        let until = sim.elapsed() + time;
        while sim.elapsed() < until {
            sim.step().map_err(|error| error.to_string())?;
            self.shared.time.set(sim.elapsed());
            self.shared.look();
            if let Some(wrong) = self.shared.wrong.take() {
                return Err(wrong);
            }
        }
        Ok(())
    }

    fn something_happens(&mut self, sim: &mut Sim<'_>) {
        let number = self.random.random_range(0..self.hosts.len());
        let host = self.hosts[number].clone();
        match self.random.random_range(0..1000) {
            0..250 => {
                let count = self.random.random_range(1..=2);
                let rooms: Vec<Room> = rooms().choose_multiple(&mut self.random, count).cloned().collect();
                let crowd = if self.random.random_ratio(1, CROWD_EVERY) { CROWD } else { 1 };
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
                host.order(Order::Call { room, deadline: Duration::from_millis(deadline) });
            }
            _ => {
                self.shared.tally.borrow_mut().faults += 1;
                self.something_breaks(sim, &host);
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

    fn something_breaks(&mut self, sim: &mut Sim<'_>, host: &Host) {
        let name = host.name();
        let other = self.hosts.choose(&mut self.random).expect("not empty").name();
        let waiting = Duration::from_millis(*[0, 300].choose(&mut self.random).expect("not empty"));
        match self.random.random_range(0..100) {
            0..8 if name != other => {
                self.note(&format!("{name} and {other} lose what they send each other"));
                sim.partition(name, other);
            }
            8..18 if name != other => {
                self.note(&format!("what {name} and {other} send each other is held"));
                sim.hold(name, other);
            }
            0..30 if name != other => {
                self.note(&format!("{name} and {other} reach each other"));
                sim.release(name, other);
            }
            30..34 => {
                self.note(&format!("what {name} and all others send each other is held"));
                for other in self.hosts.iter().filter(|other| other.number != host.number) {
                    sim.hold(name.clone(), other.name());
                }
            }
            34..38 => {
                self.note("all links are mended");
                self.mend_links(sim);
            }
            38..43 if host.life.borrow().is_some() => {
                self.note(&format!("{name} crashes"));
                sim.crash(name);
                host.ended();
            }
            43..46 if host.life.borrow().is_some() => host.order(Order::Stop),
            38..50 => self.start_the_crashed(sim),
            50..56 => {
                self.note(&format!("the directory is away for {name}, waiting {waiting:?}"));
                host.directory.disconnect(waiting);
            }
            56..59 => {
                self.note(&format!("the directory is away, waiting {waiting:?}"));
                self.hosts.iter().for_each(|host| host.directory.disconnect(waiting));
            }
            59..66 => {
                self.note(&format!("the directory is back for {name}"));
                host.directory.reconnect();
            }
            66..72 => {
                self.note("the directory is back");
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
            78..93 => self.a_call_will_fail(host),
            _ => {
                self.note(&format!("what was to run late of {name} runs"));
                run_late(host);
            }
        }
    }

    fn flush(&self) {
        if self.shared.flaw != Flaw::ForgetfulIndex {
            return self.memory.flush();
        }
        for node in self.hosts.iter().filter_map(Host::incarnation) {
            let released = self.memory.remove_owner(&node, &rooms()).now_or_never();
            released.expect(AT_ONCE).expect("an index in memory refuses nothing");
        }
    }

    fn a_call_will_fail(&mut self, host: &Host) {
        let (call, fault) = match self.random.random_range(0..6) {
            0 => (DirectoryCall::ALL.choose(&mut self.random), Fault::LoseRequest),
            1 => (DirectoryCall::WRITES.choose(&mut self.random), Fault::LoseAnswer),
            2 => (DirectoryCall::WRITES.choose(&mut self.random), Fault::Refuse),
            _ => (DirectoryCall::WRITES.choose(&mut self.random), Fault::RunLate),
        };
        let call = *call.expect("not empty");
        self.note(&format!("the next {call:?} of {} will {fault:?}", host.name()));
        host.directory.inject(call, fault);
    }

    fn start_the_crashed(&self, sim: &mut Sim<'_>) {
        for host in &self.hosts {
            if !sim.is_host_running(host.name()) {
                self.note(&format!("{} starts again", host.name()));
                sim.bounce(host.name());
            }
        }
    }

    fn mend_links(&self, sim: &Sim<'_>) {
        for (place, one) in self.hosts.iter().enumerate() {
            for other in &self.hosts[place + 1..] {
                sim.release(one.name(), other.name());
            }
        }
    }

    fn mend(&self, sim: &mut Sim<'_>) {
        self.note("everything is mended");
        self.mend_links(sim);
        for host in &self.hosts {
            run_late(host);
            host.directory.reconnect();
        }
        self.start_the_crashed(sim);
    }

    /// Whether every node answered completely with who is there, and the index says the same.
    fn is_well(&self) -> Result<(), String> {
        let records = self.shared.records.borrow();
        let oracle = self.shared.oracle.borrow();
        for host in &self.hosts {
            for room in rooms() {
                let present: BTreeSet<SocketId> = oracle.present(&room).into_iter().map(|(_, socket)| socket).collect();
                let asked = |record: &&Record| record.host == host.number && record.answer.room == room;
                let Some(Record { answer, .. }) = records.iter().find(asked) else {
                    return Err(format!("{} does not answer for {room}", host.name()));
                };
                let listed: BTreeSet<SocketId> = answer.rows().map(|(_, row)| row.id_socket.clone()).collect();
                if !answer.complete || listed != present {
                    let (name, complete) = (host.name(), answer.complete);
                    let silent: Vec<_> = answer.unanswered().collect();
                    return Err(format!(
                        "{name} says that {listed:?} are in {room} (complete: {complete}, {silent:?}), and there are {present:?}"
                    ));
                }
            }
        }
        self.is_index_equal(&oracle)
    }

    fn is_index_equal(&self, oracle: &Oracle) -> Result<(), String> {
        let node = |number: usize| self.hosts[number].incarnation();
        let listing = self.memory.nodes().now_or_never().expect(AT_ONCE).map_err(|error| error.to_string())?;
        let leases: BTreeSet<NodeId> = listing.nodes.into_iter().map(|(node, _)| node).collect();
        let nodes: BTreeSet<NodeId> = (0..self.hosts.len()).filter_map(node).collect();
        if leases != nodes {
            return Err(format!("leases are held by {leases:?}, and the nodes are {nodes:?}"));
        }
        for room in rooms() {
            let present = oracle.present(&room);
            let owners: BTreeSet<NodeId> = present.iter().filter_map(|(host, _)| node(*host)).collect();
            let said = self.memory.owners(&room).now_or_never().expect(AT_ONCE).map_err(|error| error.to_string())?;
            let said: BTreeSet<NodeId> = said.nodes.into_iter().collect();
            if said != owners {
                return Err(format!("the index says that {room} is owned by {said:?}, and it is by {owners:?}"));
            }
            let owners: Vec<NodeId> = owners.into_iter().collect();
            let accounts = self.memory.leases_and_counts(&room, &owners).now_or_never().expect(AT_ONCE);
            let counted: u64 = accounts.map_err(|error| error.to_string())?.iter().map(|account| account.sockets).sum();
            if counted != present.len() as u64 {
                return Err(format!("the index lists {counted} sockets in {room}, and there are {}", present.len()));
            }
        }
        Ok(())
    }

    fn note(&self, what: &str) {
        self.shared.note(what);
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
            // Who does not run any more takes no orders.
            let _ = life.orders.send(order);
        }
    }
}

impl Shared {
    /// Looks at which hosts count.
    pub(crate) fn look(&self) {
        let hosts = self.hosts.borrow();
        hosts.iter().for_each(|host| host.look(&hosts));
    }

    /// Remembers what happened, to be told if something goes wrong.
    pub(crate) fn note(&self, what: &str) {
        let time = self.time.get();
        tracing::info!(target: "simulation", "{time:?} {what}");
        self.happened.borrow_mut().push(format!("{time:?} {what}"));
    }

    /// Something is wrong; the first counts.
    pub(crate) fn wrong(&self, what: &str) {
        self.note(&format!("WRONG: {what}"));
        self.wrong.borrow_mut().get_or_insert_with(|| what.to_owned());
    }

    fn story(&self) -> String {
        let happened = self.happened.borrow();
        let mut story = String::new();
        for line in &happened[happened.len().saturating_sub(TOLD_MOST)..] {
            // Writing to a string cannot fail.
            let _ = writeln!(story, "{line}");
        }
        story
    }
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.calls += other.calls;
        self.complete += other.complete;
        self.rows += other.rows;
        self.told += other.told;
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
        let Self { seeds, calls, complete, rows, told, dropped, faults, time } = self;
        write!(
            f,
            "{seeds} seeds, {time:.0?} of simulated time, {faults} faults, {calls} roll calls judged, {complete} of them complete, {rows} rows, "
        )?;
        write!(f, "{told} joins acknowledged, {dropped} given up")
    }
}

fn run_late(host: &Host) {
    host.directory.run_late().now_or_never().expect(AT_ONCE);
}

fn rooms() -> Vec<Room> {
    ROOMS.iter().map(|name| Room::parse(name).expect("a valid name")).collect()
}
