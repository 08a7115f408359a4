//! Metrics of roll calls, in total and of the last minutes ([`super::recent`]).
//!
//! Callers that share one coalesced roll call count as one: the work is done once. Sharing has a counter of its own.

use std::time::Duration;

use prometheus::{Histogram, IntCounter};
use strum::IntoStaticStr;

use super::recent::Recent;
use super::registry::{DURATION_BUCKETS, MetricRegistry};

const USER_BUCKETS: [f64; 6] = [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0];

/// How the nodes to ask were chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum RollCallSource {
    /// The directory named the owners of the room.
    Directory,
    /// The directory could not be used, so every member was asked.
    Peers,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct RollCallMetrics {
    duration: Histogram,
    users: Histogram,
    /// By source, and then by whether they were complete.
    outcomes: [[IntCounter; 2]; 2],
    shared: IntCounter,
    strict_refused: IntCounter,
    recent: Recent,
}

impl RollCallMetrics {
    pub(super) fn define(registry: &MetricRegistry) -> Self {
        let outcomes = registry.counters(
            "rollcall_roll_calls_total",
            "Roll calls, by outcome (complete, incomplete) and by source: directory (the index named the owners) or peers \
             (every member was asked).",
            &["source", "outcome"],
        );
        let of =
            |source: &str| ["incomplete", "complete"].map(|outcome| outcomes.with_label_values(&[source, outcome]));
        Self {
            duration: registry.histogram(
                "rollcall_roll_call_duration_seconds",
                "Duration of roll calls, from the start to the answer.",
                &DURATION_BUCKETS,
            ),
            users: registry.histogram("rollcall_roll_call_users", "Sockets listed by a roll call.", &USER_BUCKETS),
            outcomes: [RollCallSource::Directory, RollCallSource::Peers].map(|source| of(source.into())),
            shared: registry.counter(
                "rollcall_roll_calls_shared_total",
                "Callers that shared a roll call which another caller started.",
            ),
            strict_refused: registry.counter(
                "rollcall_roll_calls_strict_refused_total",
                "Requests with strict=true that were refused because the answer was incomplete.",
            ),
            recent: Recent::default(),
        }
    }

    /// Records one roll call. `source`: whether the directory named the owners, or every member was asked.
    pub fn record(&self, took: Duration, rows: usize, source: RollCallSource, complete: bool) {
        self.duration.observe(took.as_secs_f64());
        self.users.observe(rows as f64);
        self.outcomes[source as usize][usize::from(complete)].inc();
        self.recent.note(took, complete);
    }

    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// Counts a caller that joined a roll call of another caller.
    pub fn shared(&self) {
        self.shared.inc();
    }

    /// Counts a request with strict=true that got no answer.
    pub fn strict_refused(&self) {
        self.strict_refused.inc();
    }
}
