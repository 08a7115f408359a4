//! The log lines about rejected clients: one per address, reason and minute.

use std::time::Duration;

use tracing::warn;

use super::address::AddressKey;
use crate::telemetry::logging::throttle::LogThrottle;

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
            warn!(%address, reason, "rejected a client; further ones are not logged for a minute");
        }
    }
}
