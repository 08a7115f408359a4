//! HTTP long-polling in front of Socket.IO, where it is let in at all.
//!
//! Owns what becomes of each Engine.IO request: whoever opens a session by polling is given a sealed id ([`super::seal`])
//! for it, and whatever names a session must name it so. Nothing that a client says gets to engineioxide's choice of a
//! session: these requests are written anew. What it cannot be is refused here; the rest are answered by
//! [`super::sessions`]. WebSockets that are opened as such pass as they are.

use std::convert::Infallible;
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

use super::MESSAGE_MOST;
use super::engine_error::EngineError;
use super::query::Query;
use super::seal::Sealed;
use super::sessions::{Asked, Sessions};

/// How long the payload of a request may take to come.
const PAYLOAD_WITHIN: Duration = Duration::from_secs(10);

/// Around a service that holds Socket.IO; requests of other paths pass.
#[derive(Clone)]
pub struct Polling<S> {
    sessions: Arc<Sessions>,
    inner: S,
}

impl<S> Polling<S> {
    pub fn new(sessions: Arc<Sessions>, inner: S) -> Self {
        Self { sessions, inner }
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
        let sessions = Arc::clone(&self.sessions);
        Either::Right(
            async move { Ok(answer(&sessions, request).await.unwrap_or_else(IntoResponse::into_response)) }.boxed(),
        )
    }
}

/// Answers a request that opens a polling session or belongs to one.
async fn answer(sessions: &Arc<Sessions>, request: Request<Body>) -> Result<Response, EngineError> {
    let uri = request.uri().clone();
    let query = Query::read(&uri).unwrap_or_default();
    let Some(sid) = query.sid else {
        return match query.version {
            Some("3") => Err(EngineError::PollingTooOld),
            _ => Ok(sessions.open(request).await),
        };
    };
    let sealed = Sealed::parse(sid).ok_or(EngineError::UnknownSession)?;
    if query.transport == Some("websocket") {
        return match sessions.are_here(&sealed) {
            true => Ok(sessions.upgrade(&sealed, request).await),
            false => Err(EngineError::UpgradeElsewhere),
        };
    }
    let asked = asked(request).await?;
    Ok(sessions.answer(&sealed, asked).await)
}

/// What a request asks for its session.
async fn asked(request: Request<Body>) -> Result<Asked, EngineError> {
    match *request.method() {
        Method::GET => Ok(Asked::Poll),
        Method::POST => match timeout(PAYLOAD_WITHIN, to_bytes(request.into_body(), MESSAGE_MOST)).await {
            Ok(Ok(payload)) => Ok(Asked::Post(payload)),
            Ok(Err(_)) | Err(_) => Err(EngineError::Payload),
        },
        _ => Err(EngineError::BadRequest),
    }
}
