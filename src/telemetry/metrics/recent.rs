//! The roll calls of the last minutes, as an operator looks at them: how many, how complete, how long they took.
//!
//! Owns one ring of buckets of five seconds for each node, 16 kB whatever happens, and the arithmetic of how long so many
//! in a hundred took at most. `/metrics` counts the same without an end; this is for who has no Prometheus at hand.

use std::array;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::BootInstant;

/// How long a bucket lasts.
pub const BUCKET: Duration = Duration::from_secs(5);
/// Five minutes that are over, and the bucket that runs.
pub const BUCKETS: usize = 61;
/// How many durations are told apart.
pub const DURATIONS: usize = 32;

/// What the first of them is up to, in milliseconds. Each two are twice as long.
const SHORTEST_MS: f64 = 0.125;

/// The ring of one node. Cheap to clone.
#[derive(Clone)]
pub struct Recent {
    began: BootInstant,
    ring: Arc<Mutex<Ring>>,
}

/// The roll calls that ended within one bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    pub incomplete: u64,
    pub durations: [u64; DURATIONS],
}

/// The buckets at one moment, the latest first, without the empty ones at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Series {
    /// How long the first of them has lasted yet.
    pub running: Duration,
    pub buckets: Vec<Bucket>,
}

struct Ring {
    /// The number of the bucket that runs, counted from the beginning.
    newest: u64,
    buckets: [Bucket; BUCKETS],
}

impl Default for Recent {
    fn default() -> Self {
        let ring = Ring { newest: 0, buckets: [Bucket::default(); BUCKETS] };
        Self { began: BootInstant::now(), ring: Arc::new(Mutex::new(ring)) }
    }
}

impl Recent {
    /// A roll call ended. Holds the ring for some ten nanoseconds.
    pub fn note(&self, took: Duration, complete: bool) {
        let now = self.began.elapsed();
        self.lock().note(now, took, complete);
    }

    pub fn series(&self) -> Series {
        let now = self.began.elapsed();
        self.lock().series(now)
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().expect("no code panics while it holds the ring")
    }
}

impl Ring {
    fn note(&mut self, now: Duration, took: Duration, complete: bool) {
        self.turn(now);
        let bucket = self.at(self.newest);
        bucket.incomplete += u64::from(!complete);
        bucket.durations[place(took)] += 1;
    }

    fn series(&mut self, now: Duration) -> Series {
        self.turn(now);
        let running = now.saturating_sub(BUCKET * u32::try_from(self.newest).unwrap_or(u32::MAX)).min(BUCKET);
        let newest = self.newest;
        let numbers = (0..BUCKETS as u64).map_while(|age| newest.checked_sub(age));
        let mut buckets: Vec<Bucket> = numbers.map(|number| *self.at(number)).collect();
        let used = buckets.iter().rposition(|bucket| *bucket != Bucket::default()).map_or(0, |last| last + 1);
        buckets.truncate(used);
        Series { running, buckets }
    }

    /// Empties the buckets that begin since the last time.
    fn turn(&mut self, now: Duration) {
        let number = u64::try_from(now.as_millis() / BUCKET.as_millis()).unwrap_or(u64::MAX);
        let behind = number.saturating_sub(self.newest).min(BUCKETS as u64);
        for step in 0..behind {
            *self.at(number - step) = Bucket::default();
        }
        self.newest = self.newest.max(number);
    }

    fn at(&mut self, number: u64) -> &mut Bucket {
        let place = number % BUCKETS as u64;
        &mut self.buckets[usize::try_from(place).expect("it is less than the length of an array")]
    }
}

impl Bucket {
    /// How many roll calls ended.
    pub fn calls(&self) -> u64 {
        self.durations.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Both together. What others tell may be any number.
    pub fn and(&self, other: &Self) -> Self {
        Self {
            incomplete: self.incomplete.saturating_add(other.incomplete),
            durations: array::from_fn(|place| self.durations[place].saturating_add(other.durations[place])),
        }
    }

    /// How many milliseconds the fastest `share` of them took at most, about: within a place they are taken to be spread
    /// evenly. `None` without any.
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        let calls = self.calls();
        if calls == 0 {
            return None;
        }
        let rank = share * calls as f64;
        let mut before = 0.0;
        for (place, &count) in self.durations.iter().enumerate() {
            let count = count as f64;
            if count > 0.0 && before + count >= rank {
                let least = if place == 0 { 0.0 } else { bound_ms(place - 1) };
                return Some(least + (bound_ms(place) - least) * ((rank - before) / count).clamp(0.0, 1.0));
            }
            before += count;
        }
        Some(bound_ms(DURATIONS - 1))
    }
}

/// Up to how many milliseconds a place is of.
fn bound_ms(place: usize) -> f64 {
    SHORTEST_MS * (place as f64 / 2.0).exp2()
}

fn place(took: Duration) -> usize {
    let ms = took.as_secs_f64() * 1000.0;
    (0..DURATIONS - 1).find(|&place| ms <= bound_ms(place)).unwrap_or(DURATIONS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ring() -> Ring {
        Ring { newest: 0, buckets: [Bucket::default(); BUCKETS] }
    }

    fn calls(series: &Series) -> Vec<u64> {
        series.buckets.iter().map(Bucket::calls).collect()
    }

    #[test]
    fn what_ended_is_in_the_bucket_of_its_time_and_goes_after_five_minutes() {
        let mut ring = ring();
        ring.note(BUCKET / 2, MS, true);
        ring.note(BUCKET / 2, MS, false);
        ring.note(BUCKET * 2 + MS, MS, true);
        let series = ring.series(BUCKET * 2 + 2 * MS);
        assert_eq!((series.running, calls(&series)), (2 * MS, vec![1, 0, 2]));
        assert_eq!(series.buckets[2].incomplete, 1);
        assert_eq!(calls(&ring.series(BUCKET * 3)), [0, 1, 0, 2]);
        assert_eq!(ring.series(BUCKET * 60).buckets.len(), BUCKETS);
        assert_eq!(
            ring.series(BUCKET * 61).buckets.len(),
            BUCKETS - 1,
            "the first bucket is gone, and the empty next one"
        );
        assert!(ring.series(BUCKET * 1_000).buckets.is_empty(), "after a long silence");
        ring.note(BUCKET * 1_000, MS, true);
        assert_eq!(calls(&ring.series(BUCKET * 1_000)), [1]);
    }

    #[test]
    fn a_clock_that_goes_back_loses_nothing() {
        let mut ring = ring();
        ring.note(BUCKET * 5, MS, true);
        ring.note(BUCKET * 3, MS, true);
        assert_eq!(calls(&ring.series(BUCKET * 2)), [2]);
    }

    #[test]
    fn quantiles_are_within_a_place_of_the_truth() {
        let mut ring = ring();
        assert_eq!(ring.series(MS).buckets.len(), 0);
        assert_eq!(Bucket::default().quantile_ms(0.5), None);
        (1..=1_000).for_each(|number| ring.note(MS, MS * number, true));
        let bucket = ring.series(MS).buckets[0];
        for (share, truth) in [(0.01, 10.0), (0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let about = bucket.quantile_ms(share).unwrap();
            assert!((truth / 1.5..=truth * 1.5).contains(&about), "{share}: {about} instead of {truth}");
        }
        let mut long = self::ring();
        long.note(MS, Duration::from_secs(60), true);
        assert!(long.series(MS).buckets[0].quantile_ms(0.99).unwrap() > 5_000.0);
    }

    #[test]
    fn sums_of_whatever_others_tell_do_not_overflow() {
        let most = Bucket { incomplete: u64::MAX, durations: [u64::MAX; DURATIONS] };
        assert_eq!((most.and(&most), most.calls()), (most, u64::MAX));
        assert!(most.quantile_ms(0.99).unwrap().is_finite());
    }
}
