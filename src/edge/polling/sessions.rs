//! The polling sessions of this node.
//!
//! Owns what a session is here beside engineioxide's own: its seal, its [`ConnectionHandle`], by which it is let go like any
//! client, and the answers to its requests, whichever node they came in on. A session is here for as long as engineioxide
//! keeps the request that opened it. Knows nothing of other nodes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::FutureExt;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use tracing::debug;

use crate::edge::connections::handle::{ConnectionHandle, ConnectionRegistry, RegisteredHandle};
use crate::edge::polling::engine_error::EngineError;
use crate::edge::polling::query;
use crate::edge::polling::signed_session_id::{SessionSigner, SignedSessionId};
use crate::names::NodeId;

/// The most bytes of an open packet, which has about 150, or of a refusal.
const OPEN_PACKET_MOST: usize = 4 << 10;
/// What closes an Engine.IO session when its client says it.
const CLOSE_PACKET: &str = "1";
/// What engineioxide says of a session that has ended; the code is a number everywhere else.
const HAS_ENDED: &[u8] = br#"{"code":"1","message":"Session ID unknown"}"#;
/// What says nothing.
const NOOP_PACKET: &str = "6";

/// What holds Socket.IO.
pub type Engine = BoxCloneSyncService<Request<Body>, Response, Infallible>;

/// What is asked for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// What there is for its client, as soon as there is something.
    Poll,
    /// To take what its client says.
    Post(Bytes),
    /// To answer the poll under way at once, with nothing; or else the next one.
    Release,
}

/// Shared by `Arc`.
pub struct Sessions {
    signer: SessionSigner,
    connections: ConnectionRegistry,
    engine: Engine,
    /// By session id.
    open: Mutex<HashMap<String, Session>>,
}

/// One session. Cheap to clone.
#[derive(Clone)]
struct Session {
    switch: ConnectionHandle,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Known as soon as engineioxide has answered the request that opened it.
    sid: OnceLock<String>,
    sessions: Weak<Sessions>,
    /// Let go by this node.
    ended: CancellationToken,
    /// Its poll is to be answered now.
    released: Notify,
    /// The connections that it has been or is being upgraded to, of which one at most lives for long.
    websockets: Mutex<Vec<ConnectionHandle>>,
}

/// Kept in the extensions of the request that opened the session, and so for as long as engineioxide keeps the session.
struct Held {
    state: Arc<State>,
    _registered: RegisteredHandle,
}

/// Ends the session if it is dropped before the poll was answered: no client polls again after that, so nobody would
/// hear what is said to it from now on.
struct Unanswered<'a>(Option<&'a ConnectionHandle>);

/// The open packet, as far as it matters here.
#[derive(Deserialize)]
struct Opened<'a> {
    sid: &'a str,
}

impl Sessions {
    /// `engine` holds Socket.IO, and takes long-polling.
    pub fn new(node: &NodeId, connections: ConnectionRegistry, engine: Engine) -> Arc<Self> {
        Arc::new(Self { signer: SessionSigner::new(node), connections, engine, open: Mutex::default() })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Whether a session is said to be on this node.
    pub fn are_local(&self, id: &SignedSessionId<'_>) -> bool {
        self.signer.is_named_by(id)
    }

    /// Opens a session for whoever sent this request, and answers with its open packet.
    pub async fn open(self: &Arc<Self>, mut request: Request<Body>) -> Response {
        let state = Arc::new(State { sessions: Arc::downgrade(self), ..State::default() });
        let registered = self.connections.register_session({
            let state = Arc::clone(&state);
            move || state.let_go()
        });
        let session = Session { switch: registered.handle().clone(), state: Arc::clone(&state) };
        // In place of the connection's: the next request may come on another one, and this one carry another client's.
        request.extensions_mut().insert(session.switch.clone());
        // Kept here, too, until the session is entered.
        let held = Arc::new(Held { state, _registered: registered });
        request.extensions_mut().insert(Arc::clone(&held));
        let response = self.ask(request).await;
        if response.status() != StatusCode::OK {
            return response;
        }
        let opened = to_bytes(response.into_body(), OPEN_PACKET_MOST).await.ok();
        self.open_packet_with_signed_id(opened.as_deref().unwrap_or_default(), &session).unwrap_or_else(|| {
            debug!("an open packet cannot be read, and its session is left to run out");
            EngineError::UnknownSession.into_response()
        })
    }

    /// The open packet with the signed id in place of the bare one.
    fn open_packet_with_signed_id(&self, opened: &[u8], session: &Session) -> Option<Response> {
        let opened = str::from_utf8(opened).ok()?;
        let Opened { sid } = serde_json::from_str(opened.strip_prefix('0')?).ok()?;
        let opened = opened.replacen(sid, &self.signer.sign(sid)?, 1);
        session.state.sid.set(sid.to_owned()).ok()?;
        self.lock().insert(sid.to_owned(), session.clone());
        if session.state.ended.is_cancelled() {
            // It was let go before it was known by which id.
            session.state.let_go();
        }
        // Whoever has it can act as this client.
        let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
        Some((headers, packet(opened)).into_response())
    }

    /// Answers a request of a session. A poll takes until there is something to say; if it is dropped before, its
    /// session ends.
    pub async fn answer(&self, id: &SignedSessionId<'_>, asked: Asked) -> Response {
        let Some((sid, session)) = self.find(id) else {
            return EngineError::UnknownSession.into_response();
        };
        match asked {
            Asked::Poll => self.poll(sid, &session).await,
            Asked::Post(payload) => self.ask(of_session(Method::POST, sid, payload)).await,
            Asked::Release => {
                session.state.released.notify_one();
                packet(NOOP_PACKET).into_response()
            }
        }
    }

    async fn poll(&self, sid: &str, session: &Session) -> Response {
        let mut unanswered = Unanswered(Some(&session.switch));
        let response = tokio::select! {
            biased;
            // Not a close packet: it is after a failed poll that every official client comes back.
            () = session.state.ended.cancelled() => EngineError::UnknownSession.into_response(),
            response = self.ask(of_session(Method::GET, sid, Bytes::new())) => response,
            // engineioxide takes a packet only when it answers with it, so none is lost.
            () = session.state.released.notified() => packet(NOOP_PACKET).into_response(),
        };
        unanswered.0 = None;
        response
    }

    /// Hands a session over to the WebSocket that this request asks for.
    pub async fn upgrade(&self, id: &SignedSessionId<'_>, mut request: Request<Body>) -> Response {
        let Some((sid, session)) = self.find(id) else {
            return EngineError::UnknownSession.into_response();
        };
        *request.uri_mut() = query::of_session("websocket", sid);
        if let Some(connection) = request.extensions().get::<ConnectionHandle>() {
            session.state.goes_on(connection);
        }
        self.ask(request).await
    }

    /// The session and its id, if this id was given to its client and it has not been let go.
    fn find<'a>(&self, id: &SignedSessionId<'a>) -> Option<(&'a str, Session)> {
        let sid = self.signer.verify(id)?;
        let session = self.lock().get(sid).cloned()?;
        (!session.state.ended.is_cancelled()).then_some((sid, session))
    }

    async fn ask(&self, request: Request<Body>) -> Response {
        let Ok(response) = self.engine.clone().oneshot(request).await;
        if response.status() != StatusCode::BAD_REQUEST {
            return response;
        }
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, OPEN_PACKET_MOST).await.unwrap_or_default();
        match *body == *HAS_ENDED {
            true => EngineError::UnknownSession.into_response(),
            false => Response::from_parts(parts, body.into()),
        }
    }

    /// Closes a session in engineioxide, in the one way that has it run its course there and says nothing to the
    /// client: as if the client had.
    fn close(&self, sid: &str) {
        let asked = self.ask(of_session(Method::POST, sid, Bytes::from_static(CLOSE_PACKET.as_bytes())));
        // What was sent is all there, so there is nothing to wait for.
        if asked.now_or_never().is_none() {
            debug!(sid, "a session that was let go is left to run out");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.open.lock().expect("no code panics while it holds the sessions")
    }
}

impl State {
    /// Answers the poll under way, ends the WebSocket, and closes the session. Doing it again is fine.
    fn let_go(&self) {
        self.ended.cancel();
        self.websockets().drain(..).for_each(|websocket| websocket.close());
        if let (Some(sid), Some(sessions)) = (self.sid.get(), self.sessions.upgrade()) {
            sessions.close(sid);
        }
    }

    fn goes_on(&self, websocket: &ConnectionHandle) {
        let mut websockets = self.websockets();
        websockets.retain(|websocket| !websocket.is_gone());
        websockets.push(websocket.clone());
        drop(websockets);
        if self.ended.is_cancelled() {
            websocket.close();
        }
    }

    fn websockets(&self) -> MutexGuard<'_, Vec<ConnectionHandle>> {
        self.websockets.lock().expect("no code panics while it holds the WebSockets of a session")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let (Some(sid), Some(sessions)) = (self.state.sid.get(), self.state.sessions.upgrade()) {
            sessions.lock().remove(sid);
        }
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(switch) = self.0 {
            switch.close();
        }
    }
}

/// A packet for a polling client, as engineioxide answers with it.
fn packet(packet: impl Into<Body>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"))], packet.into())
}

fn of_session(method: Method, sid: &str, payload: Bytes) -> Request<Body> {
    let mut request = Request::new(Body::from(payload));
    *request.method_mut() = method;
    *request.uri_mut() = query::of_session("polling", sid);
    request
}
