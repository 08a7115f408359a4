//! What is logged of those who are turned away: one line for each address, reason and minute, and not many in all.

use std::time::Duration;

use tracing::warn;

use super::address::AddressKey;
use crate::telemetry::logging::throttle::News;

/// How long nothing more is logged of an address for the same reason.
const QUIET: Duration = Duration::from_secs(60);

pub struct Complaints(News<AddressKey>);

impl Default for Complaints {
    fn default() -> Self {
        Self(News::again_after(QUIET))
    }
}

impl Complaints {
    /// Somebody of this address was turned away.
    pub fn note(&self, address: AddressKey, why: &'static str) {
        if self.0.is_news(address, why) {
            warn!(%address, why, "turned away; the next minute of this is not logged");
        }
    }
}
