//! Compares the directory's clock, by which leases expire, with the clock of this node.
//!
//! Owns the listings of the last lease, each with the time that the directory reported and the time of this node at which
//! the read started and ended. Both clocks must have advanced by the same time between two listings, within the duration
//! of the reads and a tolerance. Owns the age of the epoch as far as it is certain after a step. Owns no conclusion about
//! leases ([`super::table`]), and reads no clock itself.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::clock::BootInstant;
use crate::directory::NodeListing;
use crate::index::Epoch;

/// A lease divided by this is the tolerance. A smaller step takes too little from a lease to matter.
const TOLERANCES_PER_LEASE: u32 = 10;

/// A step of the directory's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockStep {
    Forward(Duration),
    Backward(Duration),
}

/// One listing: what the directory's clock showed between two moments of this node.
#[derive(Debug, Clone, Copy)]
struct ClockReading {
    time: Duration,
    started: BootInstant,
    ended: BootInstant,
}

/// The clock of the directory, as this node observes it.
pub struct IndexClock {
    lease: Duration,
    /// The readings of the last lease, and the last older one.
    readings: VecDeque<ClockReading>,
    epoch: Option<ObservedEpoch>,
}

struct ObservedEpoch {
    epoch: Epoch,
    /// When the read of the first listing with this epoch started. The epoch is at least this old, whatever the directory
    /// says.
    seen: BootInstant,
    /// The clock has stepped since the epoch was created, or perhaps just before.
    is_age_doubtful: bool,
}

impl IndexClock {
    pub fn new(lease: Duration) -> Self {
        Self { lease, readings: VecDeque::new(), epoch: None }
    }

    /// Takes in a listing that was read between `started` and `ended`, and corrects the age of its epoch. Returns the step
    /// since one of the previous listings, if there was one.
    pub fn observe(
        &mut self,
        listing: &mut NodeListing,
        started: BootInstant,
        ended: BootInstant,
    ) -> Option<ClockStep> {
        let step = self.add_reading(listing.time, started, ended);
        listing.age = self.epoch_age(listing, started, step.is_some());
        step
    }

    /// The first epoch of an index in memory has no age, whatever its clock does.
    fn epoch_age(&mut self, listing: &NodeListing, started: BootInstant, has_stepped: bool) -> Option<Duration> {
        let reported = listing.age?;
        let Some(epoch) = &listing.epoch else { return Some(Duration::ZERO) };
        let seen = ObservedEpoch { epoch: epoch.clone(), seen: started, is_age_doubtful: false };
        let mut observed = self.epoch.take().filter(|observed| observed.epoch == *epoch).unwrap_or(seen);
        observed.is_age_doubtful |= has_stepped;
        let reported = if observed.is_age_doubtful { Duration::ZERO } else { reported };
        let age = reported.max(started.since(observed.seen));
        self.epoch = Some(observed);
        Some(age)
    }

    fn add_reading(&mut self, time: Duration, started: BootInstant, ended: BootInstant) -> Option<ClockStep> {
        let reading = ClockReading { time, started, ended };
        let tolerance = self.lease / TOLERANCES_PER_LEASE;
        let step = self.readings.iter().find_map(|previous| reading.step_since(previous, tolerance));
        if step.is_some() {
            // Otherwise the following readings would report the same step.
            self.readings.clear();
        }
        while self.readings.get(1).is_some_and(|second| started.since(second.started) >= self.lease) {
            self.readings.pop_front();
        }
        self.readings.push_back(reading);
        step
    }
}

impl ClockReading {
    fn step_since(&self, previous: &Self, tolerance: Duration) -> Option<ClockStep> {
        let advanced = self.time.saturating_sub(previous.time);
        let fastest = self.ended.since(previous.started);
        if advanced > fastest + tolerance {
            return Some(ClockStep::Forward(advanced - fastest));
        }
        // It went back if it shows less than the previous time, and also if it advanced too little.
        let expected = previous.time + self.started.since(previous.ended);
        let missing = expected.saturating_sub(self.time);
        (missing > tolerance).then_some(ClockStep::Backward(missing))
    }
}

impl fmt::Display for ClockStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward(by) => write!(f, "forward by {by:.1?}"),
            Self::Backward(by) => write!(f, "backward by {by:.1?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(5);

    fn listing(time: u64, epoch: &str, age: Duration) -> NodeListing {
        let time = Duration::from_millis(1_000_000 + time);
        NodeListing { nodes: vec![], epoch: Some(Epoch(epoch.into())), age: Some(age), time }
    }

    /// The step that is detected at the last of these readings: the directory's time, and the time of this node at which the
    /// read started and ended, in milliseconds.
    fn last_step(readings: &[(u64, u64, u64)]) -> Option<ClockStep> {
        let mut clock = IndexClock::new(LEASE);
        let began = BootInstant::now();
        let at = |milliseconds| began.after(Duration::from_millis(milliseconds));
        let observe = |(time, started, ended): &(u64, u64, u64)| {
            clock.observe(&mut listing(*time, "E", Duration::ZERO), at(*started), at(*ended))
        };
        readings.iter().map(observe).last().flatten()
    }

    #[test]
    fn a_step_of_more_than_a_tenth_of_a_lease_is_detected() {
        assert_eq!(last_step(&[(0, 0, 1), (1000, 1000, 1001)]), None);
        assert_eq!(last_step(&[(0, 0, 1), (1400, 1000, 1001)]), None, "within the tolerance");
        let forward = |milliseconds| Some(ClockStep::Forward(Duration::from_millis(milliseconds)));
        let backward = |milliseconds| Some(ClockStep::Backward(Duration::from_millis(milliseconds)));
        assert_eq!(last_step(&[(0, 0, 1), (4001, 1000, 1001)]), forward(3000));
        assert_eq!(last_step(&[(10_000, 0, 1), (1001, 1001, 1002)]), backward(9999));
        assert_eq!(last_step(&[(0, 0, 1), (0, 1001, 1002)]), backward(1000));
        assert_eq!(last_step(&[(0, 0, 1), (4000, 1000, 1001), (5000, 2000, 2001)]), None, "reported once");
        assert_eq!(forward(3000).map(|step| step.to_string()).as_deref(), Some("forward by 3.0s"));
    }

    #[test]
    fn a_slow_read_is_no_step() {
        assert_eq!(last_step(&[(0, 0, 900), (2000, 1000, 2000)]), None, "read at the end of the second");
        assert_eq!(last_step(&[(900, 0, 900), (1000, 1000, 2000)]), None, "read at the end, then at the begin");
    }

    #[test]
    fn small_steps_of_one_lease_add_up() {
        assert_eq!(last_step(&[(0, 0, 1), (1300, 1000, 1001)]), None);
        let step = last_step(&[(0, 0, 1), (1300, 1000, 1001), (2600, 2000, 2001)]);
        assert_eq!(step, Some(ClockStep::Forward(Duration::from_millis(599))));
        let drifting: Vec<(u64, u64, u64)> =
            (0..60).map(|second| (second * 1010, second * 1000, second * 1000 + 1)).collect();
        assert_eq!(last_step(&drifting), None, "a clock that runs one percent too fast");
    }

    #[test]
    fn the_age_of_an_epoch_does_not_depend_on_a_step() {
        let mut clock = IndexClock::new(LEASE);
        let began = BootInstant::now();
        let mut age = |time: u64, epoch: &str, reported: u64| {
            let now = began.after(Duration::from_secs(time % 1000));
            let mut listing = listing(time * 1000, epoch, Duration::from_secs(reported));
            clock.observe(&mut listing, now, now);
            listing.age.unwrap().as_secs()
        };
        assert_eq!(age(0, "E", 3), 3);
        assert_eq!(age(1, "E", 4), 4);
        assert_eq!(age(1002, "E", 1005), 2, "after a step forward only the observed time is certain");
        assert_eq!(age(3, "E", 0), 3, "after a step backward the epoch seems to be new");
        assert_eq!(age(4, "F", 1), 1, "an epoch that began after the step");
        assert_eq!(age(1005, "G", 600), 0, "an epoch that may have begun before the step");
    }
}
