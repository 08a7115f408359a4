//! Refusals that were logged a while ago: whoever tries again and again fills no log.
//!
//! Owns the memory of who was refused for what. It is bounded: when there are too many to remember, those that come on
//! top of them are not told one by one.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// After this time the same refusal is told again.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
const REMEMBERED_MOST: usize = 1024;
/// The longest name that is remembered, in bytes: of a peer that was told about, it can be anything.
const WHO_MOST: usize = 260;

/// Shared by reference.
#[derive(Default)]
pub struct Refusals(Mutex<HashMap<(&'static str, String), Instant>>);

impl Refusals {
    /// Whether it has not been told for a while that this peer is refused, or refuses, for this. It is told now.
    pub fn is_first(&self, what: &'static str, who: &str) -> bool {
        let mut remembered = self.0.lock().expect("no code panics while it holds the refusals");
        let now = Instant::now();
        let key = (what, who.chars().take(WHO_MOST / 4).collect());
        if remembered.get(&key).is_some_and(|told| now.duration_since(*told) < AGAIN_AFTER) {
            return false;
        }
        if remembered.len() >= REMEMBERED_MOST {
            remembered.retain(|_, told| now.duration_since(*told) < AGAIN_AFTER);
        }
        let room = remembered.len() < REMEMBERED_MOST;
        if room {
            remembered.insert(key, now);
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_is_told_once_and_again_after_a_while() {
        let refusals = Refusals::default();
        assert!(refusals.is_first("token", "10.0.0.1"));
        assert!(!refusals.is_first("token", "10.0.0.1"));
        assert!(refusals.is_first("certificate", "10.0.0.1") && refusals.is_first("token", "10.0.0.2"));
        advance(AGAIN_AFTER).await;
        assert!(refusals.is_first("token", "10.0.0.1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_not_remembered_without_end() {
        let refusals = Refusals::default();
        let told = (0..REMEMBERED_MOST * 2).filter(|number| refusals.is_first("token", &number.to_string()));
        assert_eq!(told.count(), REMEMBERED_MOST);
        advance(AGAIN_AFTER).await;
        assert!(refusals.is_first("token", "another"), "the old ones made room");
        assert_eq!(refusals.0.lock().unwrap().len(), 1);
    }
}
