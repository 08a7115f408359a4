//! What is measured of the registrar: how much it still has to carry to the directory, and how long that takes.

use prometheus::{Histogram, IntGauge};
use tokio::time::Instant;

use super::{DURATIONS, Definitions};

/// Cheap to clone.
#[derive(Clone)]
pub struct Flushes {
    due: [IntGauge; 3],
    duration: Histogram,
}

/// What the directory is behind by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Behind {
    /// Rooms to be claimed.
    pub claims: usize,
    /// Rooms to be given back, those that linger included.
    pub removals: usize,
    /// Sockets to be listed, or to be taken from the list.
    pub seats: usize,
    /// Nothing but what lingers is left to be done.
    pub level: bool,
}

/// The stretch of time in which the directory is behind. Owned by who carries.
pub struct Flush {
    flushes: Flushes,
    began: Option<Instant>,
}

impl Flushes {
    pub(super) fn define(definitions: &Definitions) -> Self {
        let due = definitions.gauges(
            "rollcall_registrar_due",
            "What the registrar still has to carry to the directory: rooms to be claimed (claims), rooms to be given \
             back (removals, lingering ones included), sockets to be listed or unlisted (seats).",
            &["kind"],
        );
        Self {
            due: ["claims", "removals", "seats"].map(|kind| due.with_label_values(&[kind])),
            duration: definitions.histogram(
                "rollcall_registrar_flush_duration_seconds",
                "How long the directory was behind the roster, from the first change until all was carried there.",
                &DURATIONS,
            ),
        }
    }

    pub fn watch(&self) -> Flush {
        Flush { flushes: self.clone(), began: None }
    }
}

impl Flush {
    /// This is what the directory is behind by now.
    pub fn note(&mut self, behind: Behind) {
        for (gauge, count) in self.flushes.due.iter().zip([behind.claims, behind.removals, behind.seats]) {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        if !behind.level {
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
    async fn a_flush_lasts_from_the_first_change_until_all_is_carried() {
        let flushes = Metrics::default().flushes;
        let mut flush = flushes.watch();
        let level = Behind { removals: 1, level: true, ..Behind::default() };
        flush.note(level);
        assert_eq!(flushes.duration.get_sample_count(), 0, "there was nothing to be carried");
        for seats in [1, 5, 3] {
            flush.note(Behind { seats, ..Behind::default() });
            advance(Duration::from_secs(1)).await;
            assert_eq!(flushes.due[2].get(), seats as i64);
        }
        flush.note(level);
        flush.note(level);
        assert_eq!((flushes.duration.get_sample_count(), flushes.duration.get_sample_sum()), (1, 3.0));
        assert_eq!(flushes.due.each_ref().map(IntGauge::get), [0, 1, 0]);
    }
}
