//! HTTP long-polling in front of Socket.IO, where it is let in at all.
//!
//! Owns what becomes of each Engine.IO request: whoever opens a session by polling is given a signed id ([`crate::edge::polling::signed_session_id`])
//! for it, and whatever names a session must name it so. Nothing that a client says gets to engineioxide's choice of a
//! session: these requests are written anew. What cannot be is refused here; the rest is answered by [`crate::edge::polling::sessions`],
//! of this node or, over the mesh, of the one that the signed id names, so that it does not matter where a request comes
//! in. WebSockets that are opened as such pass as they are.

pub mod engine_error;
pub mod forward;
pub mod query;
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
use crate::edge::polling::engine_error::EngineError;
use crate::edge::polling::query::Query;
use crate::edge::polling::sessions::{Asked, Sessions};
use crate::edge::polling::signed_session_id::SignedSessionId;
use crate::membership::Membership;
use crate::mesh::peers::{PeerError, Peers};

/// Around a service that holds Socket.IO; requests of other paths pass.
#[derive(Clone)]
pub struct Polling<S> {
    cluster: Arc<Cluster>,
    inner: S,
}

/// The sessions of this node, and the way to those of the others.
pub struct Cluster {
    pub sessions: Arc<Sessions>,
    pub membership: Arc<Membership>,
    pub peers: Peers,
    /// The longest that a poll may take to be answered: by then its session would have ended.
    pub poll_most: Duration,
    pub payload: Payload,
}

/// What a client may say in one request.
#[derive(Debug, Clone, Copy)]
pub struct Payload {
    /// In bytes.
    most: usize,
    /// How long it may take to come.
    within: Duration,
}

impl Payload {
    pub fn of(limits: &Limits) -> Self {
        Self { most: limits.message_size as usize, within: limits.head_timeout }
    }
}

impl<S> Polling<S> {
    pub fn new(cluster: Arc<Cluster>, inner: S) -> Self {
        Self { cluster, inner }
    }
}

impl<S> Service<Request<Body>> for Polling<S>
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
        let opens_otherwise = match Query::read(request.uri()) {
            None => true,
            Some(query) => {
                query.sid.is_none() && !(query.transport == Some("polling") && request.method() == Method::GET)
            }
        };
        if opens_otherwise {
            return Either::Left(self.inner.call(request));
        }
        let cluster = Arc::clone(&self.cluster);
        let answered = async move { cluster.answer(request).await.unwrap_or_else(IntoResponse::into_response) };
        Either::Right(answered.map(Ok).boxed())
    }
}

impl Cluster {
    /// Answers a request that opens a polling session or belongs to one.
    async fn answer(&self, request: Request<Body>) -> Result<Response, EngineError> {
        let uri = request.uri().clone();
        let query = Query::read(&uri).unwrap_or_default();
        let Some(sid) = query.sid else {
            return match query.version {
                Some("3") => Err(EngineError::PollingTooOld),
                _ => Ok(self.sessions.open(request).await),
            };
        };
        let id = SignedSessionId::parse(sid).ok_or(EngineError::UnknownSession)?;
        let here = self.sessions.are_local(&id);
        match (query.transport, here) {
            (Some("websocket"), true) => Ok(self.sessions.upgrade(&id, request).await),
            (Some("websocket"), false) => Err(EngineError::UpgradeElsewhere),
            (_, true) => Ok(self.sessions.answer(&id, self.asked(request).await?).await),
            (_, false) => self.forward(&id, self.asked(request).await?).await,
        }
    }

    /// Has a request answered by the node that is said to have the session.
    ///
    /// A session whose node does not answer is as good as gone, whatever the reason: Engine.IO has no way to ask again for
    /// what a broken request may have carried. So its client is told at once what has official clients begin anew.
    async fn forward(&self, id: &SignedSessionId<'_>, asked: Asked) -> Result<Response, EngineError> {
        let mesh = self.membership.mesh_of(id.process()).ok_or(EngineError::UnknownSession)?;
        let polls = asked == Asked::Poll;
        let hand_on = |asked| self.peers.forward(&mesh, forward::encode(id, asked), self.poll_most);
        let mut answer = pin!(hand_on(asked));
        let answer = tokio::select! {
            answer = &mut answer => answer,
            () = self.membership.left(), if polls => {
                // The poll is answered as it stands, and the next one comes in on another node.
                let _ = hand_on(Asked::Release).await;
                answer.await
            }
        };
        let answer = answer.and_then(|answer| forward::decode_response(answer).ok_or(PeerError::Failed));
        answer.map_err(|error| {
            debug!(mesh = %mesh, %error, "the node with a polling session does not answer; ending the session");
            EngineError::UnknownSession
        })
    }

    /// What a request asks for its session.
    async fn asked(&self, request: Request<Body>) -> Result<Asked, EngineError> {
        match *request.method() {
            Method::GET => Ok(Asked::Poll),
            Method::POST => {
                let payload = to_bytes(request.into_body(), self.payload.most);
                match timeout(self.payload.within, payload).await {
                    Ok(Ok(payload)) => Ok(Asked::Post(payload)),
                    Ok(Err(_)) | Err(_) => Err(EngineError::Payload),
                }
            }
            _ => Err(EngineError::BadRequest),
        }
    }
}
