//! Limits the rate of log lines, so that an attack or an outage does not fill the disk.
//!
//! Owns the decision whether to write a line, in bounded memory. Owns no text: the callers log the line themselves.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use quick_cache::sync::Cache;
use tokio::time::Instant;

/// The throttle forgets keys above this limit. A forgotten key is logged once more than necessary.
const MAX_KEYS: usize = 1024;
/// The same limit for states, of which a component has few.
const MAX_STATES: usize = 16;
/// The limit of all keys together.
const MAX_LINES_PER_MINUTE: NonZeroU32 = NonZeroU32::new(60).expect("it is not 0");

/// Permits one line per key and interval. A key identifies the subject of a line, for example an address and a reason.
pub struct LogThrottle<K> {
    /// `None`: a key is logged again only after [`Self::reset`].
    interval: Option<Duration>,
    logged: Cache<K, Instant>,
    lines: DefaultDirectRateLimiter,
}

impl<K: Clone + Eq + Hash> LogThrottle<K> {
    pub fn per_interval(interval: Duration) -> Self {
        Self::new(Some(interval), MAX_KEYS)
    }

    /// For a state such as "the collector is down": permits the first failure, and the next one after a recovery.
    pub fn until_reset() -> Self {
        Self::new(None, MAX_STATES)
    }

    fn new(interval: Option<Duration>, max_keys: usize) -> Self {
        let lines = RateLimiter::direct(Quota::per_minute(MAX_LINES_PER_MINUTE));
        Self { interval, logged: Cache::new(max_keys), lines }
    }

    /// Whether the caller may write the line now. The throttle assumes that the caller then writes it.
    pub fn permits(&self, key: K) -> bool {
        let is_recent = |logged: Instant| self.interval.is_none_or(|interval| logged.elapsed() < interval);
        if self.logged.get(&key).is_some_and(is_recent) || self.lines.check().is_err() {
            return false;
        }
        self.logged.insert(key, Instant::now());
        true
    }

    /// Forgets all keys. Returns whether any was logged: if so, the recovery is worth a line too.
    pub fn reset(&self) -> bool {
        let was_logged = !self.logged.is_empty();
        if was_logged {
            self.logged.clear();
        }
        was_logged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn each_key_is_logged_once_per_interval() {
        let throttle = LogThrottle::per_interval(INTERVAL);
        assert!(throttle.permits((1, "a")) && throttle.permits((1, "b")));
        assert!(throttle.permits((2, "a")));
        tokio::time::advance(INTERVAL / 2).await;
        assert!(!throttle.permits((1, "a")));
        tokio::time::advance(INTERVAL / 2).await;
        assert!(throttle.permits((1, "a")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_is_logged_again_after_a_reset_only() {
        let throttle = LogThrottle::until_reset();
        assert!(!throttle.reset());
        assert!(throttle.permits("down"));
        tokio::time::advance(INTERVAL * 1000).await;
        assert!(!throttle.permits("down"));
        assert!(throttle.reset() && !throttle.reset());
        assert!(throttle.permits("down"));
    }

    #[test]
    fn many_keys_do_not_fill_the_log() {
        let throttle = LogThrottle::per_interval(INTERVAL);
        let logged = (0..100_000).filter(|&key| throttle.permits(key)).count();
        assert!((60..70).contains(&logged), "{logged}");
        assert!(throttle.logged.len() <= MAX_KEYS);
    }
}
