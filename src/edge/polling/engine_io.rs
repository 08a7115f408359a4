//! The Engine.IO protocol of HTTP long-polling: the query of a request, and the errors.
//!
//! Owns the parsing of the query, which must agree with engineioxide exactly: if only one of the two found a session id,
//! a client could bypass the signature. Owns the error codes too, which official clients know from
//! <https://github.com/socketio/socket.io/blob/main/packages/engine.io/lib/server.ts>. Knows no sessions. Pure.

use axum::Json;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

const SOCKET_IO_PATH: &str = "/socket.io";

/// The Engine.IO parameters of a query: the first of each name, not percent-decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineQuery<'a> {
    pub protocol_version: Option<&'a str>,
    pub transport: Option<&'a str>,
    /// A request without a session id opens a session.
    pub sid: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineError {
    /// The session does not exist or has ended, or the id is not the signed one that its client got.
    UnknownSession,
    /// The session is on another node. Requests are forwarded, but a WebSocket cannot be.
    UpgradeElsewhere,
    BadRequest,
    /// Engine.IO 3, whose clients use the session id as `socket.id`. They would get the signed id there.
    PollingTooOld,
    /// The body is larger than a message may be, or did not arrive in time.
    Payload,
}

#[derive(Serialize)]
struct EngineErrorBody {
    code: u8,
    message: &'static str,
}

impl<'a> EngineQuery<'a> {
    /// `None` if the path is not that of Socket.IO.
    pub fn parse(uri: &'a Uri) -> Option<Self> {
        let rest = uri.path().strip_prefix(SOCKET_IO_PATH)?;
        if !(rest.is_empty() || rest.starts_with('/')) {
            return None;
        }
        let pairs = uri.query().unwrap_or_default();
        let first = |key| pairs.split('&').find_map(|pair| pair.strip_prefix(key));
        // engineioxide cuts these two at a second `=`, and `sid` not.
        let up_to_equals = |value: &'a str| value.split('=').next();
        Some(Self {
            protocol_version: first("EIO=").and_then(up_to_equals),
            transport: first("transport=").and_then(up_to_equals),
            sid: first("sid="),
        })
    }
}

/// The URI by which engineioxide finds a session. `sid` is the plain session id.
pub fn session_uri(transport: &str, sid: &str) -> Uri {
    let uri = Uri::try_from(format!("{SOCKET_IO_PATH}/?EIO=4&transport={transport}&sid={sid}"));
    uri.expect("a session id has no character that a URI cannot have")
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
        (status, Json(EngineErrorBody { code, message })).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(uri: &str) -> Option<(Option<&str>, Option<&str>, Option<&str>)> {
        // Leaked, because the parsed query borrows the URI.
        let uri: &'static Uri = Box::leak(Box::new(uri.parse().unwrap()));
        EngineQuery::parse(uri).map(|query| (query.protocol_version, query.transport, query.sid))
    }

    #[test]
    fn the_first_of_each_name_is_taken_undecoded() {
        let all = Some((Some("4"), Some("polling"), Some("a=b")));
        assert_eq!(parse("/socket.io/?EIO=4&transport=polling&sid=a=b&sid=c&EIO=3&transport=websocket"), all);
        assert_eq!(parse("/socket.io?EIO=4=5&transport=polling=x&sid=a=b"), all);
        assert_eq!(parse("/socket.io/any/?s%69d=a&%45IO=4&SID=b&xsid=c"), Some((None, None, None)));
        assert_eq!(parse("/socket.io/?sid=&sid=a"), Some((None, None, Some(""))));
        assert_eq!(parse("/socket.io"), Some((None, None, None)));
        for other in ["/", "/socket.iox/?sid=a", "/socket.io-fans", "/a/socket.io/", "/socket%2Eio/"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_session_uri_is_parsed_back() {
        let uri = session_uri("polling", "FWHKDkMSQS-LgF5_");
        let query =
            EngineQuery { protocol_version: Some("4"), transport: Some("polling"), sid: Some("FWHKDkMSQS-LgF5_") };
        assert_eq!(EngineQuery::parse(&uri), Some(query));
    }
}
