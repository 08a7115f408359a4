//! What was logged a while ago: who is turned away a thousand times a second must not fill a disk.
//!
//! Owns the choice of what is worth a line, in a bounded memory: one for each who, why and while, and not many in all.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use quick_cache::sync::Cache;
use tokio::time::Instant;

/// Of so many it is remembered that they were logged.
const REMEMBERED: usize = 1024;
/// How many lines a minute there are in all.
const LINES_PER_MINUTE: NonZeroU32 = NonZeroU32::new(60).expect("it is not 0");

/// Of those who are named by a `Who`.
pub struct News<Who> {
    again_after: Duration,
    logged: Cache<(Who, &'static str), Instant>,
    lines: DefaultDirectRateLimiter,
}

impl<Who: Clone + Eq + Hash> News<Who> {
    /// The same is news again after this time.
    pub fn again_after(again_after: Duration) -> Self {
        let lines = RateLimiter::direct(Quota::per_minute(LINES_PER_MINUTE));
        Self { again_after, logged: Cache::new(REMEMBERED), lines }
    }

    /// Whether this is to be logged; it is, now.
    pub fn is_news(&self, who: Who, why: &'static str) -> bool {
        let key = (who, why);
        if self.logged.get(&key).is_some_and(|logged| logged.elapsed() < self.again_after)
            || self.lines.check().is_err()
        {
            return false;
        }
        self.logged.insert(key, Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHILE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn each_is_logged_once_in_a_while_for_each_reason() {
        let news = News::again_after(WHILE);
        assert!(news.is_news(1, "a") && news.is_news(1, "b"));
        assert!(news.is_news(2, "a"));
        tokio::time::advance(WHILE / 2).await;
        assert!(!news.is_news(1, "a"));
        tokio::time::advance(WHILE / 2).await;
        assert!(news.is_news(1, "a"));
    }

    #[test]
    fn a_crowd_does_not_fill_the_log() {
        let news = News::again_after(WHILE);
        let told = (0..100_000).filter(|&number| news.is_news(number, "a")).count();
        assert!((60..70).contains(&told), "{told}");
        assert!(news.logged.len() <= REMEMBERED);
    }
}
