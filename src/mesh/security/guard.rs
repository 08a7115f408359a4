//! The tower layer in front of every gRPC service of the mesh. It answers calls without valid credentials with
//! `UNAUTHENTICATED`, so that no service receives them.
//!
//! Owns only the layer; [`Security`] checks the credentials.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures::future::Either;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tower::Layer;

use super::{PeerIdentity, Security};

#[derive(Clone)]
pub struct AuthenticationLayer(pub Security);

/// A service that only authenticated calls reach.
#[derive(Clone)]
pub struct Authenticated<S> {
    security: Security,
    inner: S,
}

impl<S> Layer<S> for AuthenticationLayer {
    type Service = Authenticated<S>;

    fn layer(&self, inner: S) -> Authenticated<S> {
        Authenticated { security: self.0.clone(), inner }
    }
}

impl<S, B> Service<Request<B>> for Authenticated<S>
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
        match self.security.authenticate(request.extensions().get::<PeerIdentity>(), request.headers()) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}
