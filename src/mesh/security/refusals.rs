//! Refusals between nodes: whoever tries again and again fills no log.

use std::time::Duration;

use crate::telemetry::logging::throttle::News;

/// After this time the same refusal is told again.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
/// The longest name that is remembered, in characters: of a peer that was told about, it can be anything.
const WHO_MOST: usize = 64;

/// Shared by reference.
pub struct Refusals(News<String>);

impl Default for Refusals {
    fn default() -> Self {
        Self(News::again_after(AGAIN_AFTER))
    }
}

impl Refusals {
    /// Whether it has not been told for a while that this peer is refused, or refuses, for this. It is told now.
    pub fn is_first(&self, what: &'static str, who: &str) -> bool {
        self.0.is_news(who.chars().take(WHO_MOST).collect(), what)
    }
}
