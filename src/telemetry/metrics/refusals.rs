//! The count of refused Socket.IO clients.

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
            "Refused connects, joins and leaves of Socket.IO clients, by error code; gone: the client left, or the node \
             dropped it after a timeout.",
            &["event", "code"],
        ))
    }

    /// `code`: the error code that the client gets. Refusals are rare, so the label is looked up each time.
    pub fn count(&self, event: RefusedEvent, code: &'static str) {
        self.0.with_label_values(&[event.into(), code]).inc();
    }
}
