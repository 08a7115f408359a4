//! A watch: roll calls of some rooms on some nodes, all the time, from its start to its end, every one of them judged.
//!
//! Owns the asking and the figures. Scenarios keep one running while they break things, so that "not one answer in
//! between was wrong" is part of each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::oracle::{Call, Oracle, SEEING_WITHIN};
use crate::process_cluster::{Asker, ProcessCluster};
use crate::tracked_client::Door;
use crate::until;

/// How long each asker rests between two roll calls.
const PAUSE: Duration = Duration::from_millis(10);
/// No answer is later than its deadline by more than this, on a machine that has other things to do.
pub const SLACK: Duration = Duration::from_millis(750);

/// One roll call that was answered with a roll.
pub struct Answered {
    pub call: Call,
    pub full: Value,
}

#[derive(Default)]
struct Seen {
    answered: Vec<Answered>,
    /// Statuses other than 200, with when they were asked for.
    other: Vec<(Instant, SocketAddr, u16)>,
    /// Requests whose connection failed.
    failed: Vec<(Instant, SocketAddr)>,
}

/// See the module.
pub struct Watch {
    oracle: Oracle,
    asking: Vec<Asking>,
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// What a watch saw.
pub struct Report {
    pub answered: Vec<Answered>,
    pub other: Vec<(Instant, SocketAddr, u16)>,
    pub failed: Vec<(Instant, SocketAddr)>,
}

impl Watch {
    /// Asks each of these nodes about each of these rooms in turn. A node that is stopped is not asked.
    pub fn start(cluster: &ProcessCluster, nodes: &[usize], rooms: &[&str]) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let asking = |node: &usize| Asking {
            asker: cluster.asker(),
            oracle: cluster.oracle.clone(),
            door: cluster.nodes[*node].door(),
            rooms: rooms.iter().map(|room| (*room).to_owned()).collect(),
            seen: Arc::clone(&seen),
        };
        let asking: Vec<Asking> = nodes.iter().map(asking).collect();
        for asking in asking.clone() {
            tasks.spawn(asking.run(stop.clone()));
        }
        Self { oracle: cluster.oracle.clone(), asking, seen, stop, tasks }
    }

    /// Asks each of its nodes about this room at once, besides what it asks anyway.
    pub async fn asks_now(&self, room: &str) {
        join_all(self.asking.iter().map(|asking| asking.ask(room))).await;
    }

    /// Ends when one more answer has come, so that the next question is on its way or about to be.
    pub async fn sees_another(&self) {
        let count = || self.seen.lock().unwrap().answered.len();
        let before = count();
        until("another answer", || async { count() > before }).await;
    }

    /// Stops asking, and fails if any answer was wrong or late.
    pub async fn end(self) -> Report {
        self.end_within(SLACK).await
    }

    /// Stops asking, and fails if any answer was wrong, or later than its deadline by more than this.
    pub async fn end_within(mut self, slack: Duration) -> Report {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        let Seen { answered, other, failed } = std::mem::take(&mut *self.seen.lock().unwrap());
        if let Some(last) = answered.iter().map(|answered| answered.call.answered).max() {
            // Clients may see only now that they had been let go before.
            sleep(SEEING_WITHIN.saturating_sub(last.elapsed())).await;
        }
        let wrong: Vec<String> =
            answered.iter().flat_map(|answered| self.oracle.judge(&answered.call, slack)).collect();
        assert!(wrong.is_empty(), "{} of {} answers are wrong:\n{}", wrong.len(), answered.len(), wrong.join("\n"));
        assert!(!answered.is_empty(), "nothing was asked");
        Report { answered, other, failed }
    }
}

#[derive(Clone)]
struct Asking {
    asker: Asker,
    oracle: Oracle,
    door: Door,
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

    /// Asks, unless the node is stopped.
    async fn ask(&self, room: &str) {
        if self.oracle.is_stopped(self.door.process.get()) {
            return;
        }
        let asked = Instant::now();
        let answer = self.asker.ask(&self.door, room).await;
        let mut seen = self.seen.lock().unwrap();
        match answer {
            Ok((200, full, call)) => seen.answered.push(Answered { call, full }),
            Ok((status, ..)) => seen.other.push((asked, self.door.address, status)),
            Err(_) => seen.failed.push((asked, self.door.address)),
        }
    }
}

impl Report {
    /// Those that were asked between these two moments.
    pub fn between(&self, from: Instant, to: Instant) -> impl Iterator<Item = &Answered> {
        self.answered.iter().filter(move |answered| answered.call.asked >= from && answered.call.answered <= to)
    }

    /// Everything that was asked was answered with a roll.
    pub fn all_answered(&self) {
        assert!(self.other.is_empty(), "statuses: {:?}", self.other);
        assert!(self.failed.is_empty(), "failed: {:?}", self.failed);
    }
}

impl Answered {
    pub fn took(&self) -> Duration {
        self.call.answered - self.call.asked
    }

    /// Who did not answer, and why.
    pub fn unanswered(&self) -> BTreeMap<String, String> {
        unanswered(&self.full)
    }
}

/// Who did not answer, and why, in a full answer.
pub fn unanswered(full: &Value) -> BTreeMap<String, String> {
    let nodes = full["nodes"].as_array().into_iter().flatten();
    let silent = nodes.filter_map(|node| Some((node["name"].as_str()?.to_owned(), node["error"].as_str()?.to_owned())));
    silent.collect()
}

/// The time that so many in a hundred did not exceed.
pub fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    assert!(!times.is_empty(), "nothing was measured");
    times.sort_unstable();
    times[(times.len() * percent).div_ceil(100).max(1) - 1]
}
