//! Metrics of the reconciler: how much the directory lags behind the roster, and for how long.
//!
//! Owns the gauges and the histogram. Owns no queue: the reconciler reports its pending writes after each step.

use prometheus::{Histogram, IntGauge};
use tokio::time::Instant;

use super::registry::{DURATION_BUCKETS, MetricRegistry};

/// Cheap to clone.
#[derive(Clone)]
pub struct DirectoryLagMetrics {
    due: [IntGauge; 3],
    duration: Histogram,
}

/// The writes to the directory that are pending at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DirectoryLag {
    /// Rooms to register.
    pub claims: usize,
    /// Rooms to release, including those within the release delay.
    pub removals: usize,
    /// Socket entries to write or remove.
    pub seats: usize,
    /// No write is pending, except for rooms within the release delay.
    pub level: bool,
}

/// Measures how long writes are pending.
pub struct LagTimer {
    metrics: DirectoryLagMetrics,
    /// `None` while no write is pending.
    started: Option<Instant>,
}

impl DirectoryLagMetrics {
    pub(super) fn define(registry: &MetricRegistry) -> Self {
        let due = registry.gauges(
            "rollcall_registrar_due",
            "Pending writes to Redis: rooms to register (claims), rooms to release (removals, including those within the \
             release delay), sockets to list or unlist (seats).",
            &["kind"],
        );
        Self {
            due: ["claims", "removals", "seats"].map(|kind| due.with_label_values(&[kind])),
            duration: registry.histogram(
                "rollcall_registrar_flush_duration_seconds",
                "Time that the directory lagged behind the roster, from the first change until all writes were acknowledged.",
                &DURATION_BUCKETS,
            ),
        }
    }

    pub fn timer(&self) -> LagTimer {
        LagTimer { metrics: self.clone(), started: None }
    }
}

impl LagTimer {
    pub fn record(&mut self, lag: DirectoryLag) {
        for (gauge, count) in self.metrics.due.iter().zip([lag.claims, lag.removals, lag.seats]) {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        if !lag.level {
            self.started.get_or_insert_with(Instant::now);
        } else if let Some(started) = self.started.take() {
            self.metrics.duration.observe(started.elapsed().as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn a_lag_lasts_from_the_first_change_to_the_last_write() {
        let metrics = Metrics::default().directory_lag;
        let mut timer = metrics.timer();
        let level = DirectoryLag { removals: 1, level: true, ..DirectoryLag::default() };
        timer.record(level);
        assert_eq!(metrics.duration.get_sample_count(), 0, "no write was pending");
        for seats in [1, 5, 3] {
            timer.record(DirectoryLag { seats, ..DirectoryLag::default() });
            advance(Duration::from_secs(1)).await;
            assert_eq!(metrics.due[2].get(), seats as i64);
        }
        timer.record(level);
        timer.record(level);
        assert_eq!((metrics.duration.get_sample_count(), metrics.duration.get_sample_sum()), (1, 3.0));
        assert_eq!(metrics.due.each_ref().map(IntGauge::get), [0, 1, 0]);
    }
}
