//! Rates: how often something may happen.
//!
//! Owns the text form of a [`Rate`], the rate limiters, and the log of their rejections. The limiters use the `governor` crate (GCRA): a limiter is a few words
//! of memory and has no timer.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::edge::limits::address::AddressKey;
use crate::telemetry::logging::throttle::LogThrottle;

/// The burst of a rate that names none, in seconds' worth.
const DEFAULT_BURST_SECONDS: u32 = 10;
const FORGET_INTERVAL: Duration = Duration::from_secs(10);

/// A number per second, and how many may come in a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_second: NonZeroU32,
    burst: NonZeroU32,
}

/// Limits each key to the same rate.
pub struct KeyedRateLimiter<K: Hash + Eq + Clone>(DefaultKeyedRateLimiter<K>);

/// Limits the events of one client, and detects a client that ignores the refusals.
pub struct EventLimiter {
    allowed: DefaultDirectRateLimiter,
    refused: DefaultDirectRateLimiter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventVerdict {
    Allowed,
    /// Refuse the event.
    TooMany,
    /// Disconnect the client: it also exceeded the rate of refused events.
    Flood,
}

impl Rate {
    /// Zero is taken for one.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        const fn at_least_one(number: u32) -> NonZeroU32 {
            match NonZeroU32::new(number) {
                Some(number) => number,
                None => NonZeroU32::MIN,
            }
        }
        Self { per_second: at_least_one(per_second), burst: at_least_one(burst) }
    }

    fn quota(self) -> Quota {
        Quota::per_second(self.per_second).allow_burst(self.burst)
    }
}

impl FromStr for Rate {
    type Err = &'static str;

    /// `20`, or `20:200` with the burst.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = "must be COUNT or COUNT:AT_ONCE, each from 1 to 1000000, as in 20:200";
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| (1..=1_000_000).contains(number));
        let (per_second, burst) = match text.split_once(':') {
            None => (number(text), number(text).map(|number| number.saturating_mul(DEFAULT_BURST_SECONDS))),
            Some((per_second, burst)) => (number(per_second), number(burst)),
        };
        per_second.zip(burst).map(|(per_second, burst)| Self::new(per_second, burst)).ok_or(invalid)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.per_second, self.burst)
    }
}

impl<K: Hash + Eq + Clone> KeyedRateLimiter<K> {
    pub fn new(rate: Rate) -> Self {
        Self(RateLimiter::keyed(rate.quota()))
    }

    /// Counts one more for the key.
    ///
    /// # Errors
    /// When the key exceeds the rate: how long to wait.
    pub fn check(&self, key: &K) -> Result<(), Duration> {
        self.0.check_key(key).map_err(|early| early.wait_time_from(DefaultClock::default().now()))
    }

    /// Drops the keys whose burst is full again, so that memory is bounded by recent keys. Runs forever.
    pub async fn forget_idle_keys(&self) {
        let mut ticks = interval(FORGET_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.0.retain_recent();
            self.0.shrink_to_fit();
        }
    }
}

impl EventLimiter {
    pub fn new(rate: Rate) -> Self {
        Self { allowed: RateLimiter::direct(rate.quota()), refused: RateLimiter::direct(rate.quota()) }
    }

    /// Counts one more event.
    pub fn check(&self) -> EventVerdict {
        if self.allowed.check().is_ok() {
            EventVerdict::Allowed
        } else if self.refused.check().is_ok() {
            EventVerdict::TooMany
        } else {
            EventVerdict::Flood
        }
    }
}

const LOG_INTERVAL: Duration = Duration::from_secs(60);

pub struct RejectionLog(LogThrottle<(AddressKey, &'static str)>);

impl Default for RejectionLog {
    fn default() -> Self {
        Self(LogThrottle::per_interval(LOG_INTERVAL))
    }
}

impl RejectionLog {
    pub fn warn(&self, address: AddressKey, reason: &'static str) {
        if self.0.permits((address, reason)) {
            warn!(client = %address, reason, "rejected a client; more of this address and reason are not logged for a minute");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_printed_as_it_is_parsed() {
        assert_eq!("20".parse(), Ok(Rate::new(20, 200)));
        assert_eq!("20:5".parse(), Ok(Rate::new(20, 5)));
        assert_eq!(Rate::new(20, 5).to_string(), "20:5");
        for invalid in ["", "0", "20:0", "0:20", "-1", "1.5", "20:", ":20", "1000001", "20:5:5"] {
            assert!(invalid.parse::<Rate>().is_err(), "{invalid}");
        }
    }

    #[test]
    fn events_are_refused_first_and_then_a_flood() {
        let events = EventLimiter::new(Rate::new(1, 5));
        let verdicts: Vec<_> = (0..12).map(|_| events.check()).collect();
        assert_eq!(verdicts[..5], [EventVerdict::Allowed; 5]);
        assert_eq!(verdicts[5..10], [EventVerdict::TooMany; 5]);
        assert_eq!(verdicts[10..], [EventVerdict::Flood; 2]);
    }

    #[test]
    fn each_key_has_its_own_rate() {
        let limiter = KeyedRateLimiter::new(Rate::new(1, 2));
        assert_eq!([limiter.check(&"a"), limiter.check(&"a"), limiter.check(&"b")], [Ok(()); 3]);
        let wait = limiter.check(&"a").unwrap_err();
        assert!(wait <= Duration::from_secs(1) && !wait.is_zero(), "{wait:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_keys_are_forgotten() {
        let limiter = KeyedRateLimiter::new(Rate::new(1_000_000, 1));
        (0..100).for_each(|key| assert_eq!(limiter.check(&key), Ok(())));
        let forgetting = tokio::time::timeout(FORGET_INTERVAL * 2, limiter.forget_idle_keys());
        assert!(forgetting.await.is_err());
        assert_eq!(limiter.0.len(), 0);
    }
}
