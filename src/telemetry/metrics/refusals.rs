//! What is counted of Socket.IO clients that are refused something.

use prometheus::IntCounterVec;

use super::Definitions;
use crate::edge::socketio::handshake::ClientError;

/// What a client wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Connect,
    Join,
    Leave,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Refusals(IntCounterVec);

impl Refusals {
    pub(super) fn define(definitions: &Definitions) -> Self {
        Self(definitions.counters(
            "rollcall_socket_refusals_total",
            "Connects, joins and leaves of Socket.IO clients that were refused, by the code of the refusal; gone: the \
             client left meanwhile, or waited in vain and was dropped.",
            &["event", "code"],
        ))
    }

    /// Refusals are no part of any fast path, so the label is looked up; its values are the codes in this program.
    pub fn count(&self, wanted: Wanted, error: &ClientError) {
        let event = match wanted {
            Wanted::Connect => "connect",
            Wanted::Join => "join",
            Wanted::Leave => "leave",
        };
        self.0.with_label_values(&[event, error.code]).inc();
    }
}
