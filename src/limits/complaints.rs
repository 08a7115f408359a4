//! What is logged of those who are turned away: one line for each address, reason and minute, and not many in all.
//!
//! Owns the choice, in a bounded memory: who is turned away a thousand times a second must not fill a disk.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use quick_cache::sync::Cache;
use tokio::time::Instant;
use tracing::warn;

use super::address::Address;

/// How long nothing more is logged of an address for the same reason.
const QUIET: Duration = Duration::from_secs(60);
/// How many addresses are remembered. Of the others it is forgotten that they were logged.
const REMEMBERED: usize = 1024;
/// How many lines a minute there are in all.
const LINES_PER_MINUTE: NonZeroU32 = NonZeroU32::new(60).expect("it is not 0");

pub struct Complaints {
    logged: Cache<(Address, &'static str), Instant>,
    lines: DefaultDirectRateLimiter,
}

impl Default for Complaints {
    fn default() -> Self {
        Self { logged: Cache::new(REMEMBERED), lines: RateLimiter::direct(Quota::per_minute(LINES_PER_MINUTE)) }
    }
}

impl Complaints {
    /// Somebody of this address was turned away.
    pub fn note(&self, address: Address, why: &'static str) {
        if self.is_news(address, why) {
            warn!(%address, why, "turned away; the next minute of this is not logged");
        }
    }

    fn is_news(&self, address: Address, why: &'static str) -> bool {
        let key = (address, why);
        if self.logged.get(&key).is_some_and(|logged| logged.elapsed() < QUIET) || self.lines.check().is_err() {
            return false;
        }
        self.logged.insert(key, Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u32) -> Address {
        Address::from(std::net::IpAddr::V4(Ipv4Addr::from_bits(number)))
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_logged_once_a_minute_for_each_reason() {
        let complaints = Complaints::default();
        assert!(complaints.is_news(address(1), "a") && complaints.is_news(address(1), "b"));
        assert!(complaints.is_news(address(2), "a"));
        tokio::time::advance(QUIET / 2).await;
        assert!(!complaints.is_news(address(1), "a"));
        tokio::time::advance(QUIET / 2).await;
        assert!(complaints.is_news(address(1), "a"));
    }

    #[test]
    fn a_crowd_of_addresses_does_not_fill_the_log() {
        let complaints = Complaints::default();
        let news = (0..100_000).filter(|&number| complaints.is_news(address(number), "a")).count();
        assert!((60..70).contains(&news), "{news}");
        assert!(complaints.logged.len() <= REMEMBERED);
    }
}
