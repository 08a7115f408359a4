//! Limits the number of requests in progress.
//!
//! Owns a `tower` layer. It refuses a request over the limit with `503` at once, and queues none: a queue would add its
//! waiting time to every deadline. A request returns its permit when the connection has taken the last byte of the response.
//! Slow readers after that are the concern of `edge::connections`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{Request, header};
use axum::response::Response;
use futures::FutureExt;
use futures::future::{BoxFuture, Either, Ready, ready};
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::{Layer, Service};

use crate::problem::{Problem, SOON};

/// The layer. All clones share one limit.
#[derive(Clone)]
pub struct ConcurrencyLimit(Arc<Semaphore>);

/// The service that the layer builds.
#[derive(Clone)]
pub struct ConcurrencyLimited<S> {
    permits: Arc<Semaphore>,
    inner: S,
}

/// A body that holds the permit of its request until the connection has taken all of it.
struct PermitBody {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl ConcurrencyLimit {
    pub fn new(max_requests: u32) -> Self {
        Self(Arc::new(Semaphore::new(max_requests as usize)))
    }
}

impl<S> Layer<S> for ConcurrencyLimit {
    type Service = ConcurrencyLimited<S>;

    fn layer(&self, inner: S) -> ConcurrencyLimited<S> {
        ConcurrencyLimited { permits: Arc::clone(&self.0), inner }
    }
}

impl<S, B> Service<Request<B>> for ConcurrencyLimited<S>
where
    S: Service<Request<B>, Response = Response>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<BoxFuture<'static, Result<Response, S::Error>>, Ready<Result<Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            let problem = Problem::unavailable("too many concurrent roll calls on this node; try again");
            return Either::Right(ready(Ok(problem.with(header::RETRY_AFTER, SOON))));
        };
        let response = self.inner.call(request);
        Either::Left(
            async move { Ok(response.await?.map(|body| Body::new(PermitBody { body, _permit: permit }))) }.boxed(),
        )
    }
}

impl http_body::Body for PermitBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
