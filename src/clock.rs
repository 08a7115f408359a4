//! A monotonic clock that continues while the machine is suspended.
//!
//! Leases expire in Redis even if this machine sleeps, so times that are compared with a lease must include suspension:
//! `CLOCK_BOOTTIME` on Linux. `std::time::Instant` is `CLOCK_MONOTONIC` there, which stops during suspension. A simulation
//! replaces the clock of its process; production builds do not contain that hook.

#[cfg(any(test, feature = "testing"))]
use std::sync::OnceLock;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

// Global to the process: a `BootInstant` is made everywhere, and a clock that is passed down would be part of every
// constructor for the sake of one test program.
#[cfg(any(test, feature = "testing"))]
static SIMULATED: OnceLock<fn() -> Duration> = OnceLock::new();

/// Converts a duration to whole milliseconds, saturating.
pub fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Replaces the clock of this process by `time`, which returns the time since a fixed moment.
///
/// # Panics
/// If the clock was replaced before.
#[cfg(any(test, feature = "testing"))]
pub fn simulate(time: fn() -> Duration) {
    assert!(SIMULATED.set(time).is_ok(), "the clock can be replaced only once");
}

/// A moment on this clock. Comparable only within one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(Duration);

impl BootInstant {
    pub fn now() -> Self {
        #[cfg(any(test, feature = "testing"))]
        if let Some(time) = SIMULATED.get() {
            return Self(time());
        }
        let now = clock_gettime(CLOCK);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
        Self(Duration::new(seconds, nanoseconds))
    }

    /// The time since `self`; zero if `self` is in the future.
    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `age` before `self`, or the start of the clock if that is earlier.
    pub fn before(self, age: Duration) -> Self {
        Self(self.0.saturating_sub(age))
    }

    /// The moment `by` after `self`.
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}
