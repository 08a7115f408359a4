//! Metrics of the reconciler: how much the directory lags behind the roster, and for how long.

use prometheus::{Histogram, IntGauge};
use tokio::time::Instant;

use super::registry::{DURATION_BUCKETS, MetricRegistry};

/// Cheap to clone.
#[derive(Clone)]
pub struct FlushMetrics {
    due: [IntGauge; 3],
    duration: Histogram,
}

/// How much the directory lags behind the roster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DirectoryLag {
    /// Rooms whose ownership is to be written.
    pub claims: usize,
    /// Rooms whose ownership is to be removed, including those within the release delay.
    pub removals: usize,
    /// Socket entries to be written or removed.
    pub seats: usize,
    /// Nothing is left to write, except for rooms within the release delay.
    pub level: bool,
}

/// Measures how long the directory lags behind.
pub struct FlushTimer {
    flushes: FlushMetrics,
    began: Option<Instant>,
}

impl FlushMetrics {
    pub(super) fn define(registry: &MetricRegistry) -> Self {
        let due = registry.gauges(
            "rollcall_registrar_due",
            "Writes to the directory that are due: rooms whose ownership is to be written (claims) or removed (removals, \
             including those within the release delay), socket entries to be written or removed (seats).",
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

    pub fn timer(&self) -> FlushTimer {
        FlushTimer { flushes: self.clone(), began: None }
    }
}

impl FlushTimer {
    pub fn record(&mut self, lag: DirectoryLag) {
        for (gauge, count) in self.flushes.due.iter().zip([lag.claims, lag.removals, lag.seats]) {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        if !lag.level {
            self.began.get_or_insert_with(Instant::now);
        } else if let Some(began) = self.began.take() {
            self.flushes.duration.observe(began.elapsed().as_secs_f64());
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
    async fn a_flush_lasts_from_the_first_change_to_the_last_write() {
        let flushes = Metrics::default().flushes;
        let mut flush = flushes.timer();
        let level = DirectoryLag { removals: 1, level: true, ..DirectoryLag::default() };
        flush.record(level);
        assert_eq!(flushes.duration.get_sample_count(), 0, "nothing was due");
        for seats in [1, 5, 3] {
            flush.record(DirectoryLag { seats, ..DirectoryLag::default() });
            advance(Duration::from_secs(1)).await;
            assert_eq!(flushes.due[2].get(), seats as i64);
        }
        flush.record(level);
        flush.record(level);
        assert_eq!((flushes.duration.get_sample_count(), flushes.duration.get_sample_sum()), (1, 3.0));
        assert_eq!(flushes.due.each_ref().map(IntGauge::get), [0, 1, 0]);
    }
}
