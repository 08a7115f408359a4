//! How many requests are answered at the same time: one more is refused at once, and never waits.
//!
//! Owns the counting, from the request until its answer was handed over to whoever writes it to the connection. How fast
//! a reader takes it from there is the connection's.

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

/// A layer. All clones share the limit.
#[derive(Clone)]
pub struct AtOnce(Arc<Semaphore>);

#[derive(Clone)]
pub struct Limited<S> {
    free: Arc<Semaphore>,
    inner: S,
}

/// A body that counts until it was handed over.
struct Counted {
    body: Body,
    _one: OwnedSemaphorePermit,
}

impl AtOnce {
    pub fn new(most: u32) -> Self {
        Self(Arc::new(Semaphore::new(most as usize)))
    }
}

impl<S> Layer<S> for AtOnce {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { free: Arc::clone(&self.0), inner }
    }
}

impl<S, B> Service<Request<B>> for Limited<S>
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
        let Ok(one) = Arc::clone(&self.free).try_acquire_owned() else {
            let problem = Problem::unavailable("too many roll calls at the same time; try again");
            return Either::Right(ready(Ok(problem.with(header::RETRY_AFTER, SOON))));
        };
        let answer = self.inner.call(request);
        Either::Left(async move { Ok(answer.await?.map(|body| Body::new(Counted { body, _one: one }))) }.boxed())
    }
}

impl http_body::Body for Counted {
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
