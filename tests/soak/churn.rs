//! The churn: clients that connect, move between rooms and disconnect at random, and askers that request roll calls of
//! random rooms from random nodes.
//!
//! Owns the tasks of clients and askers, and the oracle's verdicts on the answers. Owns no faults.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use testkit::oracle::{Call, Oracle, SEEING_WITHIN};
use testkit::process_cluster::{Asker, Held, ProcessCluster};
use testkit::tracked_client::{Door, Going, TrackedClient};
use testkit::watch::{SLACK, percentile};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Large rooms always have a socket. Small rooms often become empty and fill again.
const LARGE_ROOMS: usize = 4;
const SMALL_ROOMS: usize = 12;
/// The interval between two requests of an asker.
const ASK_INTERVAL: Duration = Duration::from_millis(20);
/// The maximum number of violations that the report shows in full.
const MAX_REPORTED_VIOLATIONS: usize = 20;

/// The state that clients, askers and faults share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Scene(Arc<Shared>);

struct Shared {
    doors: Vec<Door>,
    /// By node: whether it is down, from the signal that ends it until it is ready again.
    down: Vec<AtomicBool>,
    /// Whether clients stop moving and disconnecting.
    rest: AtomicBool,
    connections: AtomicUsize,
    oracle: Oracle,
    asker: Asker,
}

/// The results of the roll calls.
#[derive(Default)]
pub(crate) struct Checked {
    calls: usize,
    complete: usize,
    /// Requests that failed because the node was shutting down or starting.
    failed: usize,
    took: Vec<Duration>,
    violations: Vec<String>,
    violated: usize,
}

impl Scene {
    pub(crate) fn new(cluster: &ProcessCluster) -> Self {
        Self(Arc::new(Shared {
            doors: cluster.doors(),
            down: cluster.nodes.iter().map(|_| AtomicBool::new(false)).collect(),
            rest: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            oracle: cluster.oracle.clone(),
            asker: cluster.asker(),
        }))
    }

    pub(crate) fn set_down(&self, node: usize, down: bool) {
        self.0.down[node].store(down, Ordering::SeqCst);
    }

    fn is_down(&self, node: usize) -> bool {
        self.0.down[node].load(Ordering::SeqCst)
    }

    /// From now on clients keep their rooms and connections. A client that loses its connection still reconnects.
    pub(crate) fn rest(&self) {
        self.0.rest.store(true, Ordering::SeqCst);
    }

    fn rests(&self) -> bool {
        self.0.rest.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.0.connections.load(Ordering::Relaxed)
    }
}

fn random_room(random: &mut StdRng) -> String {
    if random.random_bool(0.5) {
        format!("large-{}", random.random_range(0..LARGE_ROOMS))
    } else {
        format!("small-{}", random.random_range(0..SMALL_ROOMS))
    }
}

fn random_duration(random: &mut StdRng, min_ms: u64, max_ms: u64) -> Duration {
    Duration::from_millis(random.random_range(min_ms..=max_ms))
}

/// One user, who connects to a random node, moves between rooms until the connection ends, and connects again.
pub(crate) async fn client(scene: Scene, seed: u64, stop: CancellationToken) {
    let mut random = StdRng::seed_from_u64(seed);
    let user = format!("user-{seed}");
    while !stop.is_cancelled() {
        let node = random.random_range(0..scene.0.doors.len());
        let mut rooms = vec![format!("large-{}", random.random_range(0..LARGE_ROOMS))];
        if random.random_bool(0.2) {
            rooms.push(format!("small-{}", random.random_range(0..SMALL_ROOMS)));
        }
        let names: Vec<&str> = rooms.iter().map(String::as_str).collect();
        let connected = tokio::select! {
            connected = TrackedClient::connect(&scene.0.oracle, &scene.0.doors[node], &user, &names) => connected,
            () = stop.cancelled() => return,
        };
        let Ok(client) = connected else {
            sleep(random_duration(&mut random, 20, 300)).await;
            continue;
        };
        scene.0.connections.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            () = live(&scene, client, rooms, &mut random) => {}
            () = stop.cancelled() => return,
        }
        sleep(random_duration(&mut random, 10, 500)).await;
    }
}

async fn live(scene: &Scene, client: TrackedClient, mut rooms: Vec<String>, random: &mut StdRng) {
    loop {
        let pause = random_duration(random, 50, 3000);
        if timeout(pause, client.ended()).await.is_ok() {
            return;
        }
        if scene.rests() {
            continue;
        }
        match random.random_range(0..10) {
            0..4 => {
                let room = random_room(random);
                if !rooms.contains(&room) && client.join(&room).await {
                    rooms.push(room);
                }
            }
            4..8 if rooms.len() > 1 => {
                let room = rooms.swap_remove(random.random_range(0..rooms.len()));
                client.leave(&room).await;
            }
            8 => {
                let ways = [Going::Close, Going::Leave, Going::Drop, Going::Reset];
                client.go(ways[random.random_range(0..ways.len())]).await;
                return;
            }
            _ => {}
        }
    }
}

/// Requests roll calls. The oracle judges each answer only after a delay, when it knows every event that affects it.
pub(crate) async fn ask(scene: Scene, checked: Arc<Mutex<Checked>>, seed: u64, stop: CancellationToken) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut unjudged: Vec<Call> = Vec::new();
    let mut held: HashMap<(usize, String), Held> = HashMap::new();
    while !stop.is_cancelled() {
        sleep(ASK_INTERVAL).await;
        let (due, later): (Vec<Call>, Vec<Call>) =
            unjudged.into_iter().partition(|call| call.answered.elapsed() > SEEING_WITHIN);
        unjudged = later;
        checked.lock().unwrap().judge(&scene, &due);
        scene.0.oracle.forget_old();

        let node = random.random_range(0..scene.0.doors.len());
        let (door, room) = (&scene.0.doors[node], random_room(&mut random));
        let process = door.process.get();
        if scene.is_down(node) || scene.0.oracle.is_stopped(process) {
            continue;
        }
        let asked = Instant::now();
        let answer = if random.random_bool(0.5) {
            scene.0.asker.ask(door, &room).await.map(|(status, _, call)| (status, call))
        } else {
            let key = (node, room.clone());
            scene.0.asker.ask_briefly(door, &room, held.get(&key)).await.map(|(status, call, hold)| {
                held.extend(hold.map(|hold| (key, hold)));
                (status, call)
            })
        };
        match answer {
            Ok((200, call)) => unjudged.push(call),
            _ if scene.is_down(node) || door.process.get() != process => checked.lock().unwrap().failed += 1,
            other => {
                let failure = other.map_or_else(|error| error.to_string(), |(status, _)| format!("status {status}"));
                let at = scene.0.oracle.clock() - asked.elapsed().as_secs_f64();
                let violation = format!("{failure} from node-{} for {room}, requested at {at:.3}", node + 1);
                checked.lock().unwrap().violate(violation);
            }
        }
    }
    sleep(SEEING_WITHIN).await;
    checked.lock().unwrap().judge(&scene, &unjudged);
}

impl Checked {
    fn judge(&mut self, scene: &Scene, calls: &[Call]) {
        for call in calls {
            self.calls += 1;
            self.complete += usize::from(call.complete);
            if !scene.0.oracle.was_disturbed(call.node, call.asked, call.answered) {
                self.took.push(call.answered - call.asked);
            }
            for violation in scene.0.oracle.judge(call, SLACK) {
                self.violate(violation);
            }
        }
    }

    fn violate(&mut self, violation: String) {
        self.violated += 1;
        if self.violations.len() < MAX_REPORTED_VIOLATIONS {
            self.violations.push(violation);
        }
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls
    }

    pub(crate) fn complete(&self) -> usize {
        self.complete
    }

    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, complete, failed, took, violated, .. } = self;
        let incomplete = calls - complete;
        write!(f, "roll calls checked: {calls} ({complete} complete, {incomplete} incomplete; {failed} not answered ")?;
        write!(f, "by nodes that were shutting down or starting)")?;
        if !took.is_empty() {
            let [half, most, all] = [50, 99, 100].map(|percent| percentile(took.clone(), percent));
            write!(f, "\nanswer times: half within {half:.1?}, 99 % within {most:.1?}, all within {all:.1?}")?;
        }
        write!(f, "\nviolations: {violated}")
    }
}
