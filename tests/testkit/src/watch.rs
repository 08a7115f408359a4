//! A watch requests roll calls of given rooms on given nodes, continuously from its start to its end, and judges each.
//!
//! Owns the requests and their results. A scenario keeps a watch running while it injects faults. The watch then asserts
//! that no answer in between was wrong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::oracle::{Call, Oracle, TRANSPORT_END_TIMEOUT};
use crate::process_cluster::{ProcessCluster, RollCallClient};
use crate::tracked_client::Endpoint;
use crate::until;

/// The pause between two requests to the same node.
const PAUSE: Duration = Duration::from_millis(10);
/// An answer exceeds its deadline by at most this, on a loaded machine.
pub const SLACK: Duration = Duration::from_millis(750);

/// One roll call that the node answered with status 200.
pub struct Answered {
    pub call: Call,
    pub full: Value,
}

#[derive(Default)]
struct Seen {
    answered: Vec<Answered>,
    /// Statuses other than 200, with the time of the request.
    other: Vec<(Instant, SocketAddr, u16)>,
    /// Requests whose connection failed, with their time.
    failed: Vec<(Instant, SocketAddr)>,
}

/// A running watch.
pub struct Watch {
    oracle: Oracle,
    asking: Vec<Asking>,
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// The results of a watch.
pub struct Report {
    pub answered: Vec<Answered>,
    pub other: Vec<(Instant, SocketAddr, u16)>,
    pub failed: Vec<(Instant, SocketAddr)>,
}

impl Watch {
    /// Requests the rooms in turn from each of these nodes. A stopped node gets no request.
    pub fn start(cluster: &ProcessCluster, nodes: &[usize], rooms: &[&str]) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let asking = |node: &usize| Asking {
            client: cluster.roll_call_client(),
            oracle: cluster.oracle.clone(),
            endpoint: cluster.nodes[*node].endpoint(),
            rooms: rooms.iter().map(|room| (*room).to_owned()).collect(),
            seen: Arc::clone(&seen),
        };
        let asking: Vec<Asking> = nodes.iter().map(asking).collect();
        for asking in asking.clone() {
            tasks.spawn(asking.run(stop.clone()));
        }
        Self { oracle: cluster.oracle.clone(), asking, seen, stop, tasks }
    }

    /// Requests this room from all nodes at once, in addition to the requests of the watch.
    pub async fn asks_now(&self, room: &str) {
        join_all(self.asking.iter().map(|asking| asking.ask(room))).await;
    }

    /// Waits for one more answer. The next request then has been sent or is about to be sent.
    pub async fn sees_another(&self) {
        let count = || self.seen.lock().unwrap().answered.len();
        let before = count();
        until("another answer", || async { count() > before }).await;
    }

    /// Stops the requests, and fails if any answer was wrong or late.
    pub async fn end(self) -> Report {
        self.end_within(SLACK).await
    }

    /// Stops the requests, and fails if any answer was wrong or exceeded its deadline by more than `slack`.
    pub async fn end_within(mut self, slack: Duration) -> Report {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        let Seen { answered, other, failed } = std::mem::take(&mut *self.seen.lock().unwrap());
        if let Some(last) = answered.iter().map(|answered| answered.call.answered).max() {
            // A client may see the end of its transport some time after its node released the socket.
            sleep(TRANSPORT_END_TIMEOUT.saturating_sub(last.elapsed())).await;
        }
        let wrong: Vec<String> =
            answered.iter().flat_map(|answered| self.oracle.judge(&answered.call, slack)).collect();
        assert!(wrong.is_empty(), "{} of {} answers are wrong:\n{}", wrong.len(), answered.len(), wrong.join("\n"));
        assert!(!answered.is_empty(), "the watch got no answer");
        Report { answered, other, failed }
    }
}

#[derive(Clone)]
struct Asking {
    client: RollCallClient,
    oracle: Oracle,
    endpoint: Endpoint,
    rooms: Vec<String>,
    seen: Arc<Mutex<Seen>>,
}

impl Asking {
    async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            for room in &self.rooms {
                self.ask(room).await;
                sleep(PAUSE).await;
            }
        }
    }

    /// Sends one request, unless the node is stopped.
    async fn ask(&self, room: &str) {
        if self.oracle.is_stopped(self.endpoint.process.get()) {
            return;
        }
        let asked = Instant::now();
        let answer = self.client.ask(&self.endpoint, room).await;
        let mut seen = self.seen.lock().unwrap();
        match answer {
            Ok((200, full, call)) => seen.answered.push(Answered { call, full }),
            Ok((status, ..)) => seen.other.push((asked, self.endpoint.address, status)),
            Err(_) => seen.failed.push((asked, self.endpoint.address)),
        }
    }
}

impl Report {
    /// The roll calls that were requested and answered from `from` to `to`.
    pub fn between(&self, from: Instant, to: Instant) -> impl Iterator<Item = &Answered> {
        self.answered.iter().filter(move |answered| answered.call.asked >= from && answered.call.answered <= to)
    }

    /// Asserts that every request was answered with status 200.
    pub fn all_answered(&self) {
        assert!(self.other.is_empty(), "statuses: {:?}", self.other);
        assert!(self.failed.is_empty(), "failed: {:?}", self.failed);
    }
}

impl Answered {
    pub fn took(&self) -> Duration {
        self.call.answered - self.call.asked
    }

    /// The nodes that did not answer, with reasons.
    pub fn unanswered(&self) -> BTreeMap<String, String> {
        unanswered(&self.full)
    }
}

/// The nodes that did not answer, with reasons, in a full answer.
pub fn unanswered(full: &Value) -> BTreeMap<String, String> {
    let nodes = full["nodes"].as_array().into_iter().flatten();
    let silent = nodes.filter_map(|node| Some((node["name"].as_str()?.to_owned(), node["error"].as_str()?.to_owned())));
    silent.collect()
}

/// The percentile of the times, by the nearest-rank method.
pub fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    assert!(!times.is_empty(), "no time was measured");
    times.sort_unstable();
    times[(times.len() * percent).div_ceil(100).max(1) - 1]
}
