//! The public face for Socket.IO clients: the accept loop, limits, the readiness gate, long-polling and the namespace.

pub mod connections;
pub mod limits;
pub mod polling;
pub mod readiness_gate;
pub mod socketio;
pub mod trim_request;
