//! HTTP long-polling in front of Socket.IO, if it is enabled.
//!
//! Owns the routing of Engine.IO requests. A polling client gets a [`signed_session_id`], and every later request must
//! carry it. No part of a request reaches engineioxide's choice of a session: the request is rebuilt from the verified
//! id. [`sessions`] of this node answer it, or those of the node that the id names, over the mesh, so a load balancer
//! needs no sticky sessions. A client that connects by WebSocket directly passes unchanged.

pub mod engine_io;
pub mod forward;
pub mod sessions;
pub mod signed_session_id;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use futures::future::{BoxFuture, Either};
use tokio::time::timeout;
use tower::Service;
use tracing::debug;

use crate::edge::limits::Limits;
use crate::edge::polling::engine_io::{EngineError, EngineQuery};
use crate::edge::polling::sessions::{PollingSessions, SessionRequest};
use crate::edge::polling::signed_session_id::SignedSessionId;
use crate::membership::Membership;
use crate::mesh::answers::PeerError;
use crate::mesh::peers::Peers;

/// Handles the requests of polling clients. Passes all others to the inner service, which serves Socket.IO.
#[derive(Clone)]
pub struct PollingMiddleware<S> {
    router: Arc<SessionRouter>,
    inner: S,
}

/// Sends each polling request to the node that holds its session.
pub struct SessionRouter {
    sessions: Arc<PollingSessions>,
    membership: Arc<Membership>,
    peers: Peers,
    poll_timeout: Duration,
    max_payload: usize,
    payload_timeout: Duration,
}

impl SessionRouter {
    /// `poll_timeout` is the longest that a poll may wait: by then its session has ended by ping timeout.
    pub fn new(
        sessions: Arc<PollingSessions>,
        membership: Arc<Membership>,
        peers: Peers,
        poll_timeout: Duration,
        limits: &Limits,
    ) -> Self {
        let (max_payload, payload_timeout) = (limits.message_size as usize, limits.head_timeout);
        Self { sessions, membership, peers, poll_timeout, max_payload, payload_timeout }
    }

    /// Answers a request that opens a polling session or belongs to one.
    async fn answer(&self, request: Request<Body>) -> Result<Response, EngineError> {
        let uri = request.uri().clone();
        let query = EngineQuery::parse(&uri).unwrap_or_default();
        let Some(sid) = query.sid else {
            return match query.protocol_version {
                Some("3") => Err(EngineError::PollingTooOld),
                _ => Ok(self.sessions.open(request).await),
            };
        };
        let id = SignedSessionId::parse(sid).ok_or(EngineError::UnknownSession)?;
        let is_local = self.sessions.is_local(&id);
        match (query.transport, is_local) {
            (Some("websocket"), true) => Ok(self.sessions.upgrade(&id, request).await),
            (Some("websocket"), false) => Err(EngineError::UpgradeElsewhere),
            (_, true) => Ok(self.sessions.answer(&id, self.read(request).await?).await),
            (_, false) => self.forward(&id, self.read(request).await?).await,
        }
    }

    /// Forwards a request to the node that holds the session.
    ///
    /// If that node does not answer, the session is unknown, whatever the reason. Engine.IO has no way to repeat a request
    /// that may have carried packets, and official clients open a new session after this error.
    async fn forward(&self, id: &SignedSessionId<'_>, request: SessionRequest) -> Result<Response, EngineError> {
        let mesh = self.membership.mesh_of(id.process()).ok_or(EngineError::UnknownSession)?;
        let is_poll = request == SessionRequest::Poll;
        let send = |request| self.peers.forward(&mesh, forward::encode(id, request), self.poll_timeout);
        let mut response = pin!(send(request));
        let response = tokio::select! {
            response = &mut response => response,
            () = self.membership.drain_started(), if is_poll => {
                // This node is stopping. Have the poll answered now; the client sends its next one to another node.
                let _ = send(SessionRequest::Release).await;
                response.await
            }
        };
        let response = response.and_then(|response| forward::decode_response(response).ok_or(PeerError::Failed));
        response.map_err(|error| {
            debug!(%mesh, %error, "the node with a polling session does not answer; ending the session");
            EngineError::UnknownSession
        })
    }

    /// Reads what a request asks of its session.
    async fn read(&self, request: Request<Body>) -> Result<SessionRequest, EngineError> {
        match *request.method() {
            Method::GET => Ok(SessionRequest::Poll),
            Method::POST => {
                let payload = to_bytes(request.into_body(), self.max_payload);
                match timeout(self.payload_timeout, payload).await {
                    Ok(Ok(payload)) => Ok(SessionRequest::Post(payload)),
                    Ok(Err(_)) | Err(_) => Err(EngineError::Payload),
                }
            }
            _ => Err(EngineError::BadRequest),
        }
    }
}

impl<S> PollingMiddleware<S> {
    pub fn new(router: Arc<SessionRouter>, inner: S) -> Self {
        Self { router, inner }
    }
}

impl<S> Service<Request<Body>> for PollingMiddleware<S>
where
    S: Service<Request<Body>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // Every request with a session id is handled here, also one of a WebSocket, so no plain id gets past.
        let is_polling = EngineQuery::parse(request.uri()).is_some_and(|query| {
            query.sid.is_some() || (query.transport == Some("polling") && request.method() == Method::GET)
        });
        if !is_polling {
            return Either::Left(self.inner.call(request));
        }
        let router = Arc::clone(&self.router);
        let answered = async move { router.answer(request).await.unwrap_or_else(IntoResponse::into_response) };
        Either::Right(answered.map(Ok).boxed())
    }
}
