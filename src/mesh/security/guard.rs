//! What stands in front of every service of the mesh: a call that is not let in gets `UNAUTHENTICATED`, and nothing
//! behind this has seen it.
//!
//! Owns only that place; who is let in is decided by [`Security`].

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures::future::Either;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tower::Layer;

use super::{Peer, Security};

/// Puts a [`Guarded`] around each service.
#[derive(Clone)]
pub struct Guard(pub Security);

/// A service behind the guard.
#[derive(Clone)]
pub struct Guarded<S> {
    security: Security,
    inner: S,
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { security: self.0.clone(), inner }
    }
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if self.security.is_open() {
            return Either::Left(self.inner.call(request));
        }
        match self.security.admit(request.extensions().get::<Peer>(), request.headers()) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}
