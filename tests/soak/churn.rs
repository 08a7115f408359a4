//! The churn: clients that connect, move between rooms and disconnect at random, and callers that request roll calls of
//! random rooms from random nodes.
//!
//! Owns the tasks of clients and callers, and the oracle's verdicts on the answers. Owns no faults.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use testkit::oracle::{Call, Oracle, TRANSPORT_END_TIMEOUT};
use testkit::process_cluster::{CachedAnswer, ProcessCluster, RollCallClient};
use testkit::tracked_client::{Disconnection, Endpoint, TrackedClient};
use testkit::watch::{SLACK, percentile};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Large rooms always have a socket. Small rooms often become empty and fill again.
const LARGE_ROOMS: usize = 4;
const SMALL_ROOMS: usize = 12;
/// The interval between two requests of a caller.
const ASK_INTERVAL: Duration = Duration::from_millis(20);
/// The maximum number of questions of a caller that wait in the kernels of stopped nodes.
const MAX_WAITING_QUESTIONS: usize = 8;
/// The maximum number of violations that the report shows in full.
const MAX_REPORTED_VIOLATIONS: usize = 20;

/// The state that clients, callers and faults share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Scene(Arc<Shared>);

struct Shared {
    endpoints: Vec<Endpoint>,
    /// By node: whether it is down, from the signal that ends it until it is ready again.
    down: Vec<AtomicBool>,
    /// Whether clients stop moving and disconnecting.
    rest: AtomicBool,
    connections: AtomicUsize,
    oracle: Oracle,
    client: RollCallClient,
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
            endpoints: cluster.endpoints(),
            down: cluster.nodes.iter().map(|_| AtomicBool::new(false)).collect(),
            rest: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            oracle: cluster.oracle.clone(),
            client: cluster.roll_call_client(),
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
        let node = random.random_range(0..scene.0.endpoints.len());
        let mut rooms = vec![format!("large-{}", random.random_range(0..LARGE_ROOMS))];
        if random.random_bool(0.2) {
            rooms.push(format!("small-{}", random.random_range(0..SMALL_ROOMS)));
        }
        let names: Vec<&str> = rooms.iter().map(String::as_str).collect();
        let connected = tokio::select! {
            connected = TrackedClient::connect(&scene.0.oracle, &scene.0.endpoints[node], &user, &names) => connected,
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
                let ways = [Disconnection::Close, Disconnection::Leave, Disconnection::Drop, Disconnection::Reset];
                client.go(ways[random.random_range(0..ways.len())]).await;
                return;
            }
            _ => {}
        }
    }
}

/// Requests roll calls, also from stopped nodes, which answer after they resume. The oracle judges each answer only after
/// a delay, when it knows every event that affects it.
pub(crate) async fn ask(scene: Scene, checked: Arc<Mutex<Checked>>, seed: u64, stop: CancellationToken) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut unjudged: Vec<Call> = Vec::new();
    let mut cached: HashMap<(usize, String), CachedAnswer> = HashMap::new();
    let mut waiting: JoinSet<Option<Call>> = JoinSet::new();
    while !stop.is_cancelled() {
        sleep(ASK_INTERVAL).await;
        while let Some(Ok(answer)) = waiting.try_join_next() {
            unjudged.extend(answer);
        }
        let (due, later): (Vec<Call>, Vec<Call>) =
            unjudged.into_iter().partition(|call| call.answered.elapsed() > TRANSPORT_END_TIMEOUT);
        unjudged = later;
        checked.lock().unwrap().judge(&scene, &due);
        scene.0.oracle.forget_old();

        let node = random.random_range(0..scene.0.endpoints.len());
        let (endpoint, room) = (&scene.0.endpoints[node], random_room(&mut random));
        let process = endpoint.process.get();
        if scene.is_down(node) {
            continue;
        }
        if scene.0.oracle.is_stopped(process) {
            if waiting.len() < MAX_WAITING_QUESTIONS {
                let (client, endpoint) = (scene.0.client.clone(), endpoint.clone());
                // The node may be killed before it answers.
                waiting.spawn(async move {
                    let (status, _, call) = client.ask(&endpoint, &room).await.ok()?;
                    (status == 200).then_some(call)
                });
            }
            continue;
        }
        let asked = Instant::now();
        let answer = if random.random_bool(0.5) {
            scene.0.client.ask(endpoint, &room).await.map(|(status, _, call)| (status, call))
        } else {
            let key = (node, room.clone());
            scene.0.client.ask_users(endpoint, &room, cached.get(&key)).await.map(|(status, call, answer)| {
                cached.extend(answer.map(|answer| (key, answer)));
                (status, call)
            })
        };
        match answer {
            Ok((200, call)) => unjudged.push(call),
            _ if scene.is_down(node) || endpoint.process.get() != process => checked.lock().unwrap().failed += 1,
            other => {
                let failure = other.map_or_else(|error| error.to_string(), |(status, _)| format!("status {status}"));
                let at = scene.0.oracle.clock() - asked.elapsed().as_secs_f64();
                let violation = format!("{failure} from node-{} for {room}, requested at {at:.3}", node + 1);
                checked.lock().unwrap().violate(violation);
            }
        }
    }
    sleep(TRANSPORT_END_TIMEOUT).await;
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
