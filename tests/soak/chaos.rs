//! The faults of the soak test, injected one after another with pauses. A fault of a node and one of Redis may overlap.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use testkit::process_cluster::ProcessCluster;
use testkit::redis_server::RedisServer;
use tokio::time::sleep;

use crate::churn::Scene;

/// The maximum duration from the start of a node until it is ready, without other faults.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
const READY_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Longer than the lifetime of every key.
const CLOCK_STEP: Duration = Duration::from_secs(700);
/// The maximum number of faults in the report of a failure.
const MAX_REPORTED_FAULTS: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A node is killed, and restarted after a while.
    Kill,
    /// A node is stopped for less than its lease.
    Stop,
    /// A node is stopped for longer than its lease.
    StopLong,
    /// A node gets SIGTERM, and is restarted when it has exited.
    Drain,
    /// Redis is flushed.
    Flush,
    /// Redis is stopped for a while.
    RedisStop,
    /// Redis is killed, and restarted without data.
    RedisKill,
    /// Redis gets the data of an earlier moment, as a replica that becomes the master again.
    RedisBack,
    /// The clock of Redis steps forward.
    ClockForward,
    /// The clock of Redis steps back.
    ClockBack,
}

/// The generator of faults, and the record of those injected so far.
pub(crate) struct Faults {
    random: StdRng,
    choice: Vec<Fault>,
    counts: BTreeMap<Fault, usize>,
    log: Vec<String>,
    /// The Redis from which the one of the cluster gets older data.
    older: Option<RedisServer>,
}

impl Fault {
    pub(crate) const ALL: [Self; 10] = [
        Self::Kill,
        Self::Stop,
        Self::StopLong,
        Self::Drain,
        Self::Flush,
        Self::RedisStop,
        Self::RedisKill,
        Self::RedisBack,
        Self::ClockForward,
        Self::ClockBack,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::StopLong => "stop-long",
            Self::Drain => "drain",
            Self::Flush => "flush",
            Self::RedisStop => "redis-stop",
            Self::RedisKill => "redis-kill",
            Self::RedisBack => "redis-back",
            Self::ClockForward => "clock-forward",
            Self::ClockBack => "clock-back",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    fn is_step(self) -> bool {
        matches!(self, Self::ClockForward | Self::ClockBack)
    }

    fn is_redis(self) -> bool {
        !matches!(self, Self::Kill | Self::Stop | Self::StopLong | Self::Drain)
    }
}

/// One fault with its random choices: the node, if it is a fault of a node, and the duration.
struct Act {
    fault: Fault,
    node: usize,
    lasts: Duration,
}

impl Faults {
    pub(crate) fn new(seed: u64, choice: &[Fault]) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { random, choice: choice.to_vec(), counts: BTreeMap::new(), log: Vec::new(), older: None }
    }

    /// Injects the next fault, or the next two. Ends after a pause when every node is ready again.
    ///
    /// # Errors
    /// When a restarted node does not become ready.
    pub(crate) async fn next(&mut self, cluster: &mut ProcessCluster, scene: &Scene) -> Result<(), String> {
        let first = self.choose(cluster, None);
        let other = !first.fault.is_redis();
        let second = self.random.random_bool(0.3).then(|| self.choose(cluster, Some(other)));
        let mut acts: Vec<Act> = [Some(first), second].into_iter().flatten().collect();
        acts.dedup_by(|second, first| second.fault.is_redis() == first.fault.is_redis());
        for act in &acts {
            self.begin(act, cluster, scene).await;
        }
        acts.sort_by_key(|act| act.lasts);
        let began = Instant::now();
        for act in &acts {
            let lasts = if act.fault.is_step() { Duration::ZERO } else { act.lasts };
            sleep(lasts.saturating_sub(began.elapsed())).await;
            self.end(act, cluster).await;
        }
        for act in acts.iter().filter(|act| matches!(act.fault, Fault::Kill | Fault::Drain)) {
            let began = Instant::now();
            while !cluster.ready(act.node).await {
                if began.elapsed() > READY_TIMEOUT {
                    return Err(format!("{} is not ready after {READY_TIMEOUT:?}", cluster.nodes[act.node].name));
                }
                sleep(READY_POLL_INTERVAL).await;
            }
            scene.set_down(act.node, false);
        }
        sleep(Duration::from_millis(self.random.random_range(300..3500))).await;
        Ok(())
    }

    /// Chooses a fault: of Redis or of a node if `of_redis` says so and the choice has one, else any.
    fn choose(&mut self, cluster: &ProcessCluster, of_redis: Option<bool>) -> Act {
        let fitting: Vec<Fault> = self
            .choice
            .iter()
            .copied()
            .filter(|fault| of_redis.is_none_or(|of_redis| fault.is_redis() == of_redis))
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
            // The duration is that of the step.
            Fault::ClockForward if share > 0.8 => CLOCK_STEP,
            Fault::ClockForward | Fault::ClockBack => lease.mul_f64(1.5 * share),
            Fault::RedisBack => lease.mul_f64(share),
            Fault::RedisStop | Fault::RedisKill => lease.mul_f64(2.5 * share * share),
        };
        Act { fault, node, lasts }
    }

    async fn begin(&mut self, act: &Act, cluster: &mut ProcessCluster, scene: &Scene) {
        *self.counts.entry(act.fault).or_default() += 1;
        let (at, name) = (cluster.oracle.clock(), act.fault.name());
        let node = if act.fault.is_redis() { String::new() } else { format!(" node-{}", act.node + 1) };
        self.log.push(format!("{at:.3} {name}{node} for {:.2?}", act.lasts));
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
            Fault::RedisBack => {
                let replica = RedisServer::replica_of(&cluster.redis).await;
                replica.promote().await;
                self.older = Some(replica);
            }
            Fault::ClockForward => cluster.redis.step_clock(act.lasts.as_secs_f64()).await,
            Fault::ClockBack => cluster.redis.step_clock(-act.lasts.as_secs_f64()).await,
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
            Fault::Flush | Fault::ClockForward | Fault::ClockBack => {}
            Fault::RedisBack => {
                if let Some(older) = self.older.take() {
                    cluster.redis.follow(&older).await;
                    cluster.redis.promote().await;
                }
            }
            Fault::RedisStop => cluster.redis.resume(),
            Fault::RedisKill => cluster.redis.restart_empty().await,
        }
    }

    /// The last faults, each with its time.
    pub(crate) fn last(&self) -> String {
        self.log[self.log.len().saturating_sub(MAX_REPORTED_FAULTS)..].join("; ")
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts.iter().map(|(fault, count)| format!("{count} {}", fault.name()));
        f.write_str(&counts.collect::<Vec<_>>().join(", "))
    }
}
