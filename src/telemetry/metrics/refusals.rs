//! The count of refused connects, joins and leaves of Socket.IO clients.

use prometheus::IntCounterVec;
use strum::IntoStaticStr;

use super::registry::MetricRegistry;

/// The event that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum RefusedEvent {
    Connect,
    Join,
    Leave,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct RefusalMetrics(IntCounterVec);

impl RefusalMetrics {
    pub(super) fn define(registry: &MetricRegistry) -> Self {
        Self(registry.counters(
            "rollcall_socket_refusals_total",
            "Refused connects, joins and leaves, by the error code that the client receives; gone: the socket disconnected \
             meanwhile, or waited too long and was disconnected.",
            &["event", "code"],
        ))
    }

    /// `code`: the error code that the client receives.
    pub fn count(&self, event: RefusedEvent, code: &'static str) {
        // Refusals are rare, so that this metric can afford to look up the label each time.
        self.0.with_label_values(&[event.into(), code]).inc();
    }
}
