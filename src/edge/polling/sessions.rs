//! The long-polling sessions of this node.
//!
//! Owns what a session has here beside engineioxide's own state: its signed id, and its [`ConnectionHandle`], so that the
//! node closes it like any other client. Answers the requests of a session, whichever node they arrived on. A session
//! lasts here for as long as engineioxide keeps the request that opened it. Knows no other nodes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use tracing::debug;

use crate::edge::connections::handle::{ConnectionHandle, ConnectionRegistry, RegisteredHandle};
use crate::edge::polling::engine_io::{EngineError, session_uri};
use crate::edge::polling::signed_session_id::{SessionSigner, SignedSessionId};
use crate::names::NodeId;

/// Bytes of an open packet, which has about 150, or of an error.
const MAX_OPEN_PACKET: usize = 4 << 10;
/// The Engine.IO packet by which a client closes its session.
const CLOSE_PACKET: &str = "1";
/// Separates the packets of a payload.
const PACKET_SEPARATOR: u8 = 0x1e;
/// Checks of a session in the time that its client may stay away. Two checks in a row must find no request.
const CHECKS_PER_TIMEOUT: u32 = 8;
const NOOP_PACKET: &str = "6";
/// engineioxide's error for a session that has ended. Its code is a string, where Engine.IO has a number.
const SESSION_ENDED_BODY: &[u8] = br#"{"code":"1","message":"Session ID unknown"}"#;

/// The HTTP service that serves Socket.IO, long-polling included.
pub type EngineService = BoxCloneSyncService<Request<Body>, Response, Infallible>;

/// A client's request for its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionRequest {
    /// Returns the next packets for the client, as soon as there are any.
    Poll,
    /// Takes packets from the client.
    Post(Bytes),
    /// Answers the current poll at once with a no-op packet, or the next one if there is none.
    Release,
}

/// The polling sessions of this node, by session id.
pub struct PollingSessions {
    signer: SessionSigner,
    connections: ConnectionRegistry,
    engine: EngineService,
    open: Mutex<HashMap<String, PollingSession>>,
}

/// Cheap to clone.
#[derive(Clone)]
struct PollingSession {
    handle: ConnectionHandle,
    state: Arc<SessionState>,
}

struct SessionState {
    /// Set once engineioxide has answered the request that opened the session.
    sid: OnceLock<String>,
    sessions: Weak<PollingSessions>,
    /// Cancelled when this node closes the session.
    closed: CancellationToken,
    /// Notified to answer the current poll now.
    release: Notify,
    /// The connections of upgrades. A client may try several times, but at most one upgrade succeeds.
    websockets: Mutex<Vec<ConnectionHandle>>,
    activity: Mutex<ClientActivity>,
}

/// The requests of a session's client.
struct ClientActivity {
    /// Polls that wait for packets now. At most one, unless the client misbehaves.
    waiting_polls: usize,
    /// When the last request arrived or ended.
    last_request: Instant,
    /// The last check found that the client has stayed away for too long.
    missed: bool,
}

/// Counts a poll as waiting until it is dropped.
struct WaitingPoll<'a>(&'a SessionState);

/// Removes the session when it is dropped. Kept in the extensions of the request that opened the session, so engineioxide
/// drops it with the session.
struct SessionGuard {
    state: Arc<SessionState>,
    _registered: RegisteredHandle,
}

/// Closes the session if it is dropped before the poll was answered. The client has gone then and will not poll again,
/// so packets for it would be lost.
struct UnansweredPoll<'a>(Option<&'a ConnectionHandle>);

#[derive(Deserialize)]
struct OpenPacket<'a> {
    sid: &'a str,
}

impl PollingSessions {
    pub fn new(node: &NodeId, connections: ConnectionRegistry, engine: EngineService) -> Arc<Self> {
        Arc::new(Self { signer: SessionSigner::new(node), connections, engine, open: Mutex::default() })
    }

    pub fn count(&self) -> usize {
        self.open.lock().len()
    }

    /// Whether the id names this node as the holder of the session. Does not verify the id.
    pub fn is_local(&self, id: &SignedSessionId<'_>) -> bool {
        self.signer.is_named_by(id)
    }

    /// Opens a session and answers with its open packet.
    pub async fn open(self: &Arc<Self>, mut request: Request<Body>) -> Response {
        let state = Arc::new(SessionState::new(Arc::downgrade(self)));
        let registered = self.connections.register_session({
            let state = Arc::clone(&state);
            move || state.close()
        });
        let session = PollingSession { handle: registered.handle().clone(), state: Arc::clone(&state) };
        // Replaces the connection's handle: another client's requests may share this connection, and the session's next
        // request may use another one.
        request.extensions_mut().insert(session.handle.clone());
        // This function keeps a clone until the session is in the map. If engineioxide drops the session earlier, the
        // entry is removed at the end of this function.
        let guard = Arc::new(SessionGuard { state, _registered: registered });
        request.extensions_mut().insert(Arc::clone(&guard));
        let response = self.call_engine(request).await.unwrap_or_else(IntoResponse::into_response);
        if response.status() != StatusCode::OK {
            return response;
        }
        let body = to_bytes(response.into_body(), MAX_OPEN_PACKET).await.ok();
        self.sign_open_packet(body.as_deref().unwrap_or_default(), &session).unwrap_or_else(|| {
            debug!("cannot parse the open packet of a polling session; it ends by its ping timeout");
            EngineError::UnknownSession.into_response()
        })
    }

    /// Puts the signed id in place of the plain one, and enters the session.
    fn sign_open_packet(&self, packet: &[u8], session: &PollingSession) -> Option<Response> {
        let packet = str::from_utf8(packet).ok()?;
        let OpenPacket { sid } = serde_json::from_str(packet.strip_prefix('0')?).ok()?;
        let signed = packet.replacen(sid, &self.signer.sign(sid)?, 1);
        session.state.sid.set(sid.to_owned()).ok()?;
        self.open.lock().insert(sid.to_owned(), session.clone());
        if session.state.closed.is_cancelled() {
            // The node closed the session before its id was known. Close it again, now in engineioxide too.
            session.state.close();
        }
        // A cached copy of the signed id could be used to act as this client.
        let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
        Some((headers, packet_response(signed)).into_response())
    }

    /// Answers a request of a session. A poll waits for packets; the session closes if the poll is dropped before.
    pub async fn answer(&self, id: &SignedSessionId<'_>, request: SessionRequest) -> Response {
        let Some((sid, session)) = self.find(id) else {
            return EngineError::UnknownSession.into_response();
        };
        match request {
            SessionRequest::Poll => self.poll(sid, &session).await,
            SessionRequest::Post(payload) => self.post(sid, &session, payload).await,
            SessionRequest::Release => {
                session.state.release.notify_one();
                packet_response(NOOP_PACKET).into_response()
            }
        }
    }

    async fn post(&self, sid: &str, session: &PollingSession, payload: Bytes) -> Response {
        session.state.activity.lock().record_request();
        let closes = payload.split(|byte| *byte == PACKET_SEPARATOR).any(|packet| packet == CLOSE_PACKET.as_bytes());
        let response = self.call_session(session, session_request(Method::POST, sid, payload)).await;
        // An upgraded session takes no packets by polling.
        if closes && response.status() == StatusCode::OK {
            session.handle.set_gone();
        }
        response
    }

    async fn poll(&self, sid: &str, session: &PollingSession) -> Response {
        let _waiting = WaitingPoll::new(&session.state);
        let mut unanswered = UnansweredPoll(Some(&session.handle));
        let response = tokio::select! {
            biased;
            // An error and not a close packet, because official clients reconnect only after a failed poll.
            () = session.state.closed.cancelled() => EngineError::UnknownSession.into_response(),
            response = self.call_session(session, session_request(Method::GET, sid, Bytes::new())) => response,
            // Loses no packet: engineioxide takes packets from its queue only to answer with them.
            () = session.state.release.notified() => packet_response(NOOP_PACKET).into_response(),
        };
        unanswered.0 = None;
        response
    }

    /// Upgrades a session to the WebSocket that this request opens.
    pub async fn upgrade(&self, id: &SignedSessionId<'_>, mut request: Request<Body>) -> Response {
        let Some((sid, session)) = self.find(id) else {
            return EngineError::UnknownSession.into_response();
        };
        *request.uri_mut() = session_uri("websocket", sid);
        if let Some(connection) = request.extensions().get::<ConnectionHandle>() {
            session.state.add_websocket(connection);
        }
        self.call_session(&session, request).await
    }

    /// Closes the sessions whose clients have sent no request for `timeout`: a client that polls again cannot have received
    /// a ping in that time either. A client learns nothing of a request that a balancer or a stopping node refused, and
    /// opens a new session. Runs forever.
    pub async fn close_abandoned(&self, timeout: Duration) {
        let mut checks = interval((timeout / CHECKS_PER_TIMEOUT).max(Duration::from_millis(1)));
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            checks.tick().await;
            let sessions: Vec<_> = self.open.lock().values().cloned().collect();
            for PollingSession { handle, state } in sessions {
                if !state.has_websocket() && state.activity.lock().is_abandoned(timeout) {
                    debug!("closing a polling session whose client sends no more requests");
                    handle.close();
                }
            }
        }
    }

    /// The plain id and the session. `None` if the signature is wrong, or the session has ended.
    fn find<'a>(&self, id: &SignedSessionId<'a>) -> Option<(&'a str, PollingSession)> {
        let sid = self.signer.verify(id)?;
        let session = self.open.lock().get(sid).cloned()?;
        (!session.state.closed.is_cancelled()).then_some((sid, session))
    }

    /// Passes a request of a session to engineioxide. If that has ended the session, its rows go at once: a handler that
    /// waits on behalf of the client may keep the socket.
    async fn call_session(&self, session: &PollingSession, request: Request<Body>) -> Response {
        self.call_engine(request).await.unwrap_or_else(|error| {
            session.handle.set_gone();
            error.into_response()
        })
    }

    /// The error is [`EngineError::UnknownSession`].
    async fn call_engine(&self, request: Request<Body>) -> Result<Response, EngineError> {
        let Ok(response) = self.engine.clone().oneshot(request).await;
        if response.status() != StatusCode::BAD_REQUEST {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, MAX_OPEN_PACKET).await.unwrap_or_default();
        match *body == *SESSION_ENDED_BODY {
            true => Err(EngineError::UnknownSession),
            false => Ok(Response::from_parts(parts, body.into())),
        }
    }

    /// Closes a session in engineioxide as if its client had. This is the only way to close it that runs the disconnect
    /// handler and sends the client no Socket.IO disconnect.
    fn close_in_engine(&self, sid: &str) {
        let request = session_request(Method::POST, sid, Bytes::from_static(CLOSE_PACKET.as_bytes()));
        // The body is complete, so engineioxide answers without waiting.
        if self.call_engine(request).now_or_never().is_none() {
            debug!(sid, "cannot close a polling session; it ends by its ping timeout");
        }
    }
}

impl SessionState {
    fn new(sessions: Weak<PollingSessions>) -> Self {
        let activity = ClientActivity { waiting_polls: 0, last_request: Instant::now(), missed: false };
        Self {
            sid: OnceLock::new(),
            sessions,
            closed: CancellationToken::new(),
            release: Notify::new(),
            websockets: Mutex::default(),
            activity: Mutex::new(activity),
        }
    }

    fn has_websocket(&self) -> bool {
        self.websockets.lock().iter().any(|websocket| !websocket.is_gone())
    }

    /// Answers the current poll, closes the WebSocket and the session. May be called again.
    fn close(&self) {
        self.closed.cancel();
        let websockets = std::mem::take(&mut *self.websockets.lock());
        websockets.iter().for_each(ConnectionHandle::close);
        if let (Some(sid), Some(sessions)) = (self.sid.get(), self.sessions.upgrade()) {
            sessions.close_in_engine(sid);
        }
    }

    fn add_websocket(&self, websocket: &ConnectionHandle) {
        let mut websockets = self.websockets.lock();
        websockets.retain(|websocket| !websocket.is_gone());
        websockets.push(websocket.clone());
        drop(websockets);
        if self.closed.is_cancelled() {
            websocket.close();
        }
    }
}

impl ClientActivity {
    fn record_request(&mut self) {
        self.last_request = Instant::now();
        self.missed = false;
    }

    /// Whether this check and the one before found no request within `timeout`. After a stop of this process, requests may
    /// still wait in the kernel at the first check.
    fn is_abandoned(&mut self, timeout: Duration) -> bool {
        let is_missed = self.waiting_polls == 0 && self.last_request.elapsed() >= timeout;
        std::mem::replace(&mut self.missed, is_missed) && is_missed
    }
}

impl<'a> WaitingPoll<'a> {
    fn new(state: &'a SessionState) -> Self {
        let mut activity = state.activity.lock();
        activity.waiting_polls += 1;
        activity.record_request();
        drop(activity);
        Self(state)
    }
}

impl Drop for WaitingPoll<'_> {
    fn drop(&mut self) {
        let mut activity = self.0.activity.lock();
        activity.waiting_polls -= 1;
        activity.record_request();
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        if let (Some(sid), Some(sessions)) = (self.state.sid.get(), self.state.sessions.upgrade()) {
            sessions.open.lock().remove(sid);
        }
    }
}

impl Drop for UnansweredPoll<'_> {
    fn drop(&mut self) {
        if let Some(handle) = self.0 {
            handle.close();
        }
    }
}

/// An Engine.IO packet in the form in which engineioxide sends it.
fn packet_response(packet: impl Into<Body>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"))], packet.into())
}

fn session_request(method: Method, sid: &str, payload: Bytes) -> Request<Body> {
    let mut request = Request::new(Body::from(payload));
    *request.method_mut() = method;
    *request.uri_mut() = session_uri("polling", sid);
    request
}
