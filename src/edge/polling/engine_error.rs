//! Why an Engine.IO request is not done, in Engine.IO's own words.
//!
//! Owns the codes and their form, which official clients and their users know; the numbers are those of
//! <https://github.com/socketio/socket.io/blob/main/packages/engine.io/lib/server.ts>.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineError {
    /// There is no such session, or no longer, or the id is not what its client was given.
    UnknownSession,
    /// The session is on another node, where a WebSocket cannot be handed on to.
    UpgradeElsewhere,
    /// The request makes no sense for a session.
    BadRequest,
    /// Engine.IO 3, whose clients take the session id for `socket.id`.
    PollingTooOld,
    /// More than a message, or it did not come in time.
    Payload,
}

#[derive(Serialize)]
struct Document {
    code: u8,
    message: &'static str,
}

impl IntoResponse for EngineError {
    fn into_response(self) -> Response {
        let (status, code, message) = match self {
            Self::UnknownSession => (StatusCode::BAD_REQUEST, 1, "Session ID unknown"),
            Self::UpgradeElsewhere => {
                (StatusCode::BAD_REQUEST, 3, "Bad request: this session is on another node; stay on polling")
            }
            Self::BadRequest => (StatusCode::BAD_REQUEST, 3, "Bad request"),
            Self::PollingTooOld => (
                StatusCode::BAD_REQUEST,
                5,
                "Unsupported protocol version: clients of Socket.IO 2 connect with transports: [\"websocket\"]",
            ),
            Self::Payload => (StatusCode::PAYLOAD_TOO_LARGE, 3, "Bad request: the payload is too large"),
        };
        (status, Json(Document { code, message })).into_response()
    }
}
