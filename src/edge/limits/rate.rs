//! How often something may happen.
//!
//! Owns the form of a rate, the limiters made of it, and the rule for events: what comes too fast is refused, and who
//! goes on all the same is out. The counting is the `governor` crate's (GCRA): a limiter is a few words of memory, and
//! nothing runs while nothing happens.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::time::{MissedTickBehavior, interval};

/// How many seconds' worth may come at once, unless told otherwise.
const AT_ONCE: u32 = 10;
/// How often keys that were idle are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(10);

/// So many per second, of which so many may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_second: NonZeroU32,
    at_once: NonZeroU32,
}

/// A rate for each key.
pub struct PerKey<K: Hash + Eq + Clone>(DefaultKeyedRateLimiter<K>);

/// The events of one client.
pub struct Events {
    allowed: DefaultDirectRateLimiter,
    refused: DefaultDirectRateLimiter,
}

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// It is refused.
    TooMany,
    /// So are as many as were allowed: whoever sends them does not listen.
    Flood,
}

impl Rate {
    /// Zero counts as one.
    pub const fn new(per_second: u32, at_once: u32) -> Self {
        const fn at_least_one(number: u32) -> NonZeroU32 {
            match NonZeroU32::new(number) {
                Some(number) => number,
                None => NonZeroU32::MIN,
            }
        }
        Self { per_second: at_least_one(per_second), at_once: at_least_one(at_once) }
    }

    fn quota(self) -> Quota {
        Quota::per_second(self.per_second).allow_burst(self.at_once)
    }
}

impl FromStr for Rate {
    type Err = &'static str;

    /// `20`, or `20:200` with how many may come at once.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "must be COUNT or COUNT:AT_ONCE, each from 1 to 1000000, as in 20:200";
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| (1..=1_000_000).contains(number));
        let (per_second, at_once) = match text.split_once(':') {
            None => (number(text), number(text).map(|number| number.saturating_mul(AT_ONCE))),
            Some((per_second, at_once)) => (number(per_second), number(at_once)),
        };
        per_second.zip(at_once).map(|(per_second, at_once)| Self::new(per_second, at_once)).ok_or(wrong)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.per_second, self.at_once)
    }
}

impl<K: Hash + Eq + Clone> PerKey<K> {
    pub fn new(rate: Rate) -> Self {
        Self(RateLimiter::keyed(rate.quota()))
    }

    /// Once each in this time.
    pub fn once_each(time: Duration) -> Self {
        Self(RateLimiter::keyed(Quota::with_period(time).unwrap_or(Quota::per_second(NonZeroU32::MIN))))
    }

    /// One more.
    ///
    /// # Errors
    /// When it is too early: how long it will be so.
    pub fn one_more(&self, key: &K) -> Result<(), Duration> {
        self.0.check_key(key).map_err(|early| early.wait_time_from(DefaultClock::default().now()))
    }

    /// Forgets keys that would be allowed as much as new ones, for ever: what is kept are those of the last while.
    pub async fn forget_idle(&self) {
        let mut ticks = interval(FORGET_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.0.retain_recent();
            self.0.shrink_to_fit();
        }
    }
}

impl Events {
    pub fn new(rate: Rate) -> Self {
        Self { allowed: RateLimiter::direct(rate.quota()), refused: RateLimiter::direct(rate.quota()) }
    }

    pub fn one_more(&self) -> Verdict {
        match (self.allowed.check(), || self.refused.check()) {
            (Ok(()), _) => Verdict::Fine,
            (Err(_), refused) if refused().is_ok() => Verdict::TooMany,
            (Err(_), _) => Verdict::Flood,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_written_as_it_is_read() {
        assert_eq!("20".parse(), Ok(Rate::new(20, 200)));
        assert_eq!("20:5".parse(), Ok(Rate::new(20, 5)));
        assert_eq!(Rate::new(20, 5).to_string(), "20:5");
        for wrong in ["", "0", "20:0", "0:20", "-1", "1.5", "20:", ":20", "1000001", "20:5:5"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_too_fast_is_refused_and_who_goes_on_is_out() {
        let events = Events::new(Rate::new(1, 5));
        let verdicts: Vec<_> = (0..12).map(|_| events.one_more()).collect();
        assert_eq!(verdicts[..5], [Verdict::Fine; 5]);
        assert_eq!(verdicts[5..10], [Verdict::TooMany; 5]);
        assert_eq!(verdicts[10..], [Verdict::Flood; 2]);
    }

    #[test]
    fn keys_do_not_concern_each_other() {
        let rate = PerKey::new(Rate::new(1, 2));
        assert_eq!([rate.one_more(&"a"), rate.one_more(&"a"), rate.one_more(&"b")], [Ok(()); 3]);
        let wait = rate.one_more(&"a").unwrap_err();
        assert!(wait <= Duration::from_secs(1) && !wait.is_zero(), "{wait:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_keys_are_forgotten() {
        let rate = PerKey::new(Rate::new(1_000_000, 1));
        (0..100).for_each(|key| assert_eq!(rate.one_more(&key), Ok(())));
        let forgetting = tokio::time::timeout(FORGET_EVERY * 2, rate.forget_idle());
        assert!(forgetting.await.is_err());
        assert_eq!(rate.0.len(), 0);
    }
}
