//! The faults of the churn test, done one after another, or a node's and Redis's at once, with pauses between.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use testkit::process_cluster::ProcessCluster;
use tokio::time::sleep;

use crate::churn::Scene;

/// How long a node may take from its start until it is ready, everything else being well.
const READY_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How many faults the report of a failure names.
const TOLD: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A node is killed, and started again after a while.
    Kill,
    /// A node is stopped for less than its lease.
    Stop,
    /// A node is stopped for longer than its lease.
    StopLong,
    /// A node is told to end, and started again when it has.
    Drain,
    /// Redis is flushed.
    Flush,
    /// Redis is stopped for a while.
    RedisStop,
    /// Redis is killed, and started again with nothing in it.
    RedisKill,
}

/// What was done.
pub(crate) struct Faults {
    random: StdRng,
    choice: Vec<Fault>,
    done: BTreeMap<Fault, usize>,
    told: Vec<String>,
}

impl Fault {
    pub(crate) const ALL: [Self; 7] =
        [Self::Kill, Self::Stop, Self::StopLong, Self::Drain, Self::Flush, Self::RedisStop, Self::RedisKill];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::StopLong => "stop-long",
            Self::Drain => "drain",
            Self::Flush => "flush",
            Self::RedisStop => "redis-stop",
            Self::RedisKill => "redis-kill",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    fn is_redis(self) -> bool {
        matches!(self, Self::Flush | Self::RedisStop | Self::RedisKill)
    }
}

/// One fault with its choices made: what is begun, for how long, and how it ends.
struct Act {
    fault: Fault,
    node: usize,
    lasts: Duration,
}

impl Faults {
    pub(crate) fn new(seed: u64, choice: &[Fault]) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { random, choice: choice.to_vec(), done: BTreeMap::new(), told: Vec::new() }
    }

    /// Does the next one, or the next two, and ends after a pause when every node is ready again.
    ///
    /// # Errors
    /// When a node does not come back.
    pub(crate) async fn next(&mut self, cluster: &mut ProcessCluster, scene: &Scene) -> Result<(), String> {
        let first = self.act(cluster, None);
        let other = !first.fault.is_redis();
        let second = self.random.random_bool(0.3).then(|| self.act(cluster, Some(other)));
        let mut acts: Vec<Act> = [Some(first), second].into_iter().flatten().collect();
        acts.dedup_by(|second, first| second.fault.is_redis() == first.fault.is_redis());
        for act in &acts {
            self.begin(act, cluster, scene).await;
        }
        acts.sort_by_key(|act| act.lasts);
        let began = Instant::now();
        for act in &acts {
            sleep(act.lasts.saturating_sub(began.elapsed())).await;
            self.end(act, cluster).await;
        }
        for act in acts.iter().filter(|act| matches!(act.fault, Fault::Kill | Fault::Drain)) {
            let began = Instant::now();
            while !cluster.ready(act.node).await {
                if began.elapsed() > READY_WITHIN {
                    return Err(format!("{} is not ready after {READY_WITHIN:?}", cluster.nodes[act.node].name));
                }
                sleep(LOOK_EVERY).await;
            }
            scene.set_down(act.node, false);
        }
        sleep(Duration::from_millis(self.random.random_range(300..3500))).await;
        Ok(())
    }

    /// One of them, of Redis or of a node where that is wanted.
    fn act(&mut self, cluster: &ProcessCluster, of_redis: Option<bool>) -> Act {
        let fitting: Vec<Fault> = self
            .choice
            .iter()
            .copied()
            .filter(|fault| of_redis.is_none_or(|wanted| fault.is_redis() == wanted))
            .collect();
        let choice = if fitting.is_empty() { &self.choice } else { &fitting };
        let fault = choice[self.random.random_range(0..choice.len())];
        let node = self.random.random_range(0..cluster.nodes.len());
        let lease = cluster.options.lease;
        let share = self.random.random_range(0.0..1.0);
        let lasts = match fault {
            Fault::Kill => lease.mul_f64(2.0 * share),
            Fault::Stop => lease.mul_f64(0.1 + 0.5 * share),
            Fault::StopLong => lease.mul_f64(1.0 + share),
            Fault::Drain | Fault::Flush => Duration::ZERO,
            Fault::RedisStop | Fault::RedisKill => lease.mul_f64(2.5 * share * share),
        };
        Act { fault, node, lasts }
    }

    async fn begin(&mut self, act: &Act, cluster: &mut ProcessCluster, scene: &Scene) {
        *self.done.entry(act.fault).or_default() += 1;
        let (at, name) = (cluster.oracle.clock(), act.fault.name());
        let node = if act.fault.is_redis() { String::new() } else { format!(" node-{}", act.node + 1) };
        self.told.push(format!("{at:.3} {name}{node} for {:.2?}", act.lasts));
        match act.fault {
            Fault::Kill => {
                scene.set_down(act.node, true);
                cluster.kill(act.node);
            }
            Fault::Stop | Fault::StopLong => cluster.stop(act.node).await,
            Fault::Drain => {
                scene.set_down(act.node, true);
                cluster.terminate(act.node);
            }
            Fault::Flush => cluster.redis.flush().await,
            Fault::RedisStop => cluster.redis.stop().await,
            Fault::RedisKill => cluster.redis.kill(),
        }
    }

    async fn end(&mut self, act: &Act, cluster: &mut ProcessCluster) {
        match act.fault {
            Fault::Kill => cluster.restart(act.node),
            Fault::Stop | Fault::StopLong => cluster.resume(act.node),
            Fault::Drain => {
                cluster.exited(act.node).await;
                cluster.restart(act.node);
            }
            Fault::Flush => {}
            Fault::RedisStop => cluster.redis.resume(),
            Fault::RedisKill => cluster.redis.restart_empty().await,
        }
    }

    /// The faults that were done last, with when.
    pub(crate) fn last(&self) -> String {
        self.told[self.told.len().saturating_sub(TOLD)..].join("; ")
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.done.iter().map(|(fault, count)| format!("{count} {}", fault.name()));
        f.write_str(&counts.collect::<Vec<_>>().join(", "))
    }
}
