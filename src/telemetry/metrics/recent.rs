//! Statistics of the roll calls of the last five minutes: number, completeness and quantiles of the duration.
//!
//! Owns one ring of five-second buckets per node, of 16 kB at any load, and the arithmetic of the quantiles. The status page
//! shows these statistics to operators without Prometheus. `/metrics` has the totals since the start.

use std::array;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::BootInstant;

pub const BUCKET_DURATION: Duration = Duration::from_secs(5);
/// Five minutes of complete buckets, and the running one.
pub const BUCKET_COUNT: usize = 61;
/// The number of classes that durations are sorted into.
pub const DURATION_CLASSES: usize = 32;

/// The upper bound of the first class, in milliseconds. The bound doubles every two classes.
const FIRST_BOUND_MS: f64 = 0.125;

/// The ring of one node. Cheap to clone.
#[derive(Clone)]
pub struct RecentRollCalls {
    started: BootInstant,
    ring: Arc<Mutex<Ring>>,
}

/// The roll calls that ended within one bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    pub incomplete: u64,
    /// The number of roll calls in each class of durations.
    pub durations: [u64; DURATION_CLASSES],
}

/// The buckets at one moment, latest first, without trailing empty buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Series {
    /// The time since the first bucket began; that bucket is not over yet.
    pub running: Duration,
    pub buckets: Vec<Bucket>,
}

struct Ring {
    /// The number of the running bucket, counted from the start of the node.
    newest: u64,
    buckets: [Bucket; BUCKET_COUNT],
}

impl Default for RecentRollCalls {
    fn default() -> Self {
        let ring = Ring { newest: 0, buckets: [Bucket::default(); BUCKET_COUNT] };
        Self { started: BootInstant::now(), ring: Arc::new(Mutex::new(ring)) }
    }
}

impl RecentRollCalls {
    /// Records a roll call that ended now. Holds the lock of the ring for about ten nanoseconds.
    pub fn record(&self, took: Duration, complete: bool) {
        let now = self.started.elapsed();
        self.ring.lock().record(now, took, complete);
    }

    pub fn series(&self) -> Series {
        let now = self.started.elapsed();
        self.ring.lock().series(now)
    }
}

impl Ring {
    fn record(&mut self, now: Duration, took: Duration, complete: bool) {
        self.advance_to(now);
        let bucket = self.bucket_mut(self.newest);
        bucket.incomplete += u64::from(!complete);
        bucket.durations[duration_class(took)] += 1;
    }

    fn series(&mut self, now: Duration) -> Series {
        self.advance_to(now);
        let running =
            now.saturating_sub(BUCKET_DURATION * u32::try_from(self.newest).unwrap_or(u32::MAX)).min(BUCKET_DURATION);
        let newest = self.newest;
        let numbers = (0..BUCKET_COUNT as u64).map_while(|age| newest.checked_sub(age));
        let mut buckets: Vec<Bucket> = numbers.map(|number| *self.bucket_mut(number)).collect();
        let used = buckets.iter().rposition(|bucket| *bucket != Bucket::default()).map_or(0, |last| last + 1);
        buckets.truncate(used);
        Series { running, buckets }
    }

    /// Clears the buckets that began since the last call.
    fn advance_to(&mut self, now: Duration) {
        let number = u64::try_from(now.as_millis() / BUCKET_DURATION.as_millis()).unwrap_or(u64::MAX);
        let behind = number.saturating_sub(self.newest).min(BUCKET_COUNT as u64);
        for step in 0..behind {
            *self.bucket_mut(number - step) = Bucket::default();
        }
        self.newest = self.newest.max(number);
    }

    fn bucket_mut(&mut self, number: u64) -> &mut Bucket {
        let index = number % BUCKET_COUNT as u64;
        &mut self.buckets[usize::try_from(index).expect("the index is less than the length of an array")]
    }
}

impl Bucket {
    /// The number of roll calls that ended.
    pub fn calls(&self) -> u64 {
        self.durations.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The sum of two buckets. It saturates, because counts from other nodes may be any number.
    pub fn sum(&self, other: &Self) -> Self {
        Self {
            incomplete: self.incomplete.saturating_add(other.incomplete),
            durations: array::from_fn(|class| self.durations[class].saturating_add(other.durations[class])),
        }
    }

    /// The approximate duration that the fastest `share` of the roll calls did not exceed, in milliseconds. It interpolates
    /// linearly within a class. `None` without roll calls.
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        let calls = self.calls();
        if calls == 0 {
            return None;
        }
        let rank = share * calls as f64;
        let mut before = 0.0;
        for (class, &count) in self.durations.iter().enumerate() {
            let count = count as f64;
            if count > 0.0 && before + count >= rank {
                let lower = if class == 0 { 0.0 } else { bound_ms(class - 1) };
                return Some(lower + (bound_ms(class) - lower) * ((rank - before) / count).clamp(0.0, 1.0));
            }
            before += count;
        }
        Some(bound_ms(DURATION_CLASSES - 1))
    }
}

/// The upper bound of a class of durations.
fn bound_ms(class: usize) -> f64 {
    FIRST_BOUND_MS * (class as f64 / 2.0).exp2()
}

/// The last class also has all durations above its bound.
fn duration_class(took: Duration) -> usize {
    let ms = took.as_secs_f64() * 1000.0;
    (0..DURATION_CLASSES - 1).find(|&class| ms <= bound_ms(class)).unwrap_or(DURATION_CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ring() -> Ring {
        Ring { newest: 0, buckets: [Bucket::default(); BUCKET_COUNT] }
    }

    fn calls(series: &Series) -> Vec<u64> {
        series.buckets.iter().map(Bucket::calls).collect()
    }

    #[test]
    fn a_bucket_disappears_after_five_minutes() {
        let mut ring = ring();
        ring.record(BUCKET_DURATION / 2, MS, true);
        ring.record(BUCKET_DURATION / 2, MS, false);
        ring.record(BUCKET_DURATION * 2 + MS, MS, true);
        let series = ring.series(BUCKET_DURATION * 2 + 2 * MS);
        assert_eq!((series.running, calls(&series)), (2 * MS, vec![1, 0, 2]));
        assert_eq!(series.buckets[2].incomplete, 1);
        assert_eq!(calls(&ring.series(BUCKET_DURATION * 3)), [0, 1, 0, 2]);
        assert_eq!(ring.series(BUCKET_DURATION * 60).buckets.len(), BUCKET_COUNT);
        assert_eq!(
            ring.series(BUCKET_DURATION * 61).buckets.len(),
            BUCKET_COUNT - 1,
            "the first bucket is gone, and the empty next one"
        );
        assert!(ring.series(BUCKET_DURATION * 1_000).buckets.is_empty(), "after a long time without roll calls");
        ring.record(BUCKET_DURATION * 1_000, MS, true);
        assert_eq!(calls(&ring.series(BUCKET_DURATION * 1_000)), [1]);
    }

    #[test]
    fn roll_calls_are_counted_when_the_clock_goes_back() {
        let mut ring = ring();
        ring.record(BUCKET_DURATION * 5, MS, true);
        ring.record(BUCKET_DURATION * 3, MS, true);
        assert_eq!(calls(&ring.series(BUCKET_DURATION * 2)), [2]);
    }

    #[test]
    fn quantiles_are_accurate_to_one_class_of_durations() {
        let mut ring = ring();
        assert_eq!(ring.series(MS).buckets.len(), 0);
        assert_eq!(Bucket::default().quantile_ms(0.5), None);
        (1..=1_000).for_each(|number| ring.record(MS, MS * number, true));
        let bucket = ring.series(MS).buckets[0];
        for (share, expected) in [(0.01, 10.0), (0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let estimate = bucket.quantile_ms(share).unwrap();
            assert!((expected / 1.5..=expected * 1.5).contains(&estimate), "{share}: {estimate} instead of {expected}");
        }
        let mut long = self::ring();
        long.record(MS, Duration::from_secs(60), true);
        assert!(long.series(MS).buckets[0].quantile_ms(0.99).unwrap() > 5_000.0);
    }

    #[test]
    fn sums_of_counts_from_other_nodes_do_not_overflow() {
        let max = Bucket { incomplete: u64::MAX, durations: [u64::MAX; DURATION_CLASSES] };
        assert_eq!((max.sum(&max), max.calls()), (max, u64::MAX));
        assert!(max.quantile_ms(0.99).unwrap().is_finite());
    }
}
