//! Metrics of roll calls: totals, and statistics of the last minutes ([`super::recent`]).
//!
//! Several callers that share one coalesced roll call are counted as one roll call, because the nodes do the work once. A
//! counter of its own counts the callers that share.

use std::time::Duration;

use prometheus::{Histogram, IntCounter};
use serde::Serialize;
use strum::IntoStaticStr;
use utoipa::ToSchema;

use super::recent::RecentRollCalls;
use super::registry::{DURATION_BUCKETS, MetricRegistry};

const USER_BUCKETS: [f64; 6] = [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0];

/// The source of the list of nodes to ask: a label of the metric, an attribute of the span, and a field of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, IntoStaticStr, ToSchema)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[schema(as = Source)]
pub enum RollCallSource {
    /// The directory permitted to skip the nodes that own no sockets of the room.
    Directory,
    /// No node could be skipped, so every member was asked.
    Peers,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct RollCallMetrics {
    duration: Histogram,
    users: Histogram,
    /// Indexed by source, and then by completeness (0 incomplete, 1 complete).
    outcomes: [[IntCounter; 2]; 2],
    shared: IntCounter,
    strict_refused: IntCounter,
    recent: RecentRollCalls,
}

impl RollCallMetrics {
    pub(super) fn define(registry: &MetricRegistry) -> Self {
        let outcomes = registry.counters(
            "rollcall_roll_calls_total",
            "Roll calls, by outcome (complete, incomplete) and by source: directory (nodes without sockets of the room were \
             skipped) or peers (every member was asked).",
            &["source", "outcome"],
        );
        let of_source =
            |source: &str| ["incomplete", "complete"].map(|outcome| outcomes.with_label_values(&[source, outcome]));
        Self {
            duration: registry.histogram(
                "rollcall_roll_call_duration_seconds",
                "Duration of roll calls, from the start to the answer, in seconds.",
                &DURATION_BUCKETS,
            ),
            users: registry.histogram(
                "rollcall_roll_call_users",
                "Number of sockets that a roll call listed.",
                &USER_BUCKETS,
            ),
            outcomes: [RollCallSource::Directory, RollCallSource::Peers].map(|source| of_source(source.into())),
            shared: registry.counter(
                "rollcall_roll_calls_shared_total",
                "Callers that received the answer of a roll call that another caller started.",
            ),
            strict_refused: registry.counter(
                "rollcall_roll_calls_strict_refused_total",
                "Requests with strict=true that were refused an incomplete answer.",
            ),
            recent: RecentRollCalls::default(),
        }
    }

    pub fn record(&self, took: Duration, rows: usize, source: RollCallSource, complete: bool) {
        self.duration.observe(took.as_secs_f64());
        self.users.observe(rows as f64);
        self.outcomes[source as usize][usize::from(complete)].inc();
        self.recent.record(took, complete);
    }

    pub fn recent(&self) -> &RecentRollCalls {
        &self.recent
    }

    /// Counts a caller that joined a roll call of another caller.
    pub fn shared(&self) {
        self.shared.inc();
    }

    /// Counts a request with strict=true that was refused an incomplete answer.
    pub fn strict_refused(&self) {
        self.strict_refused.inc();
    }
}
