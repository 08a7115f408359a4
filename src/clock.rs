//! A clock that goes on while the machine sleeps.
//!
//! Leases run out in Redis whatever happens to this machine, so what is compared with a lease must count suspension:
//! `CLOCK_BOOTTIME` on Linux. `std::time::Instant` is `CLOCK_MONOTONIC` there, which stands still in a suspended machine.
//! A simulation replaces the clock, for the whole process and once, by one that it can wind forward.

use std::sync::OnceLock;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

static SIMULATED: OnceLock<fn() -> Duration> = OnceLock::new();

/// A duration as it is told and written elsewhere: in whole milliseconds, and the most there are where it has more.
pub fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// From now on this process's time is what `time` says: the time since a moment that never changes.
///
/// # Panics
/// When the clock was replaced before.
pub fn simulate(time: fn() -> Duration) {
    assert!(SIMULATED.set(time).is_ok(), "the clock can be replaced once");
}

/// A moment on the clock above. Meaningful within this process only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(Duration);

impl BootInstant {
    pub fn now() -> Self {
        if let Some(time) = SIMULATED.get() {
            return Self(time());
        }
        let now = clock_gettime(CLOCK);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
        Self(Duration::new(seconds, nanoseconds))
    }

    /// Time passed since `self`; zero when `self` lies ahead.
    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// Time from `earlier` to `self`; zero when `earlier` is the later one.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `age` before `self`, or the start of the clock where that is too far back.
    pub fn before(self, age: Duration) -> Self {
        Self(self.0.saturating_sub(age))
    }

    /// The moment `by` after `self`.
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}
