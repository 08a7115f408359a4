//! The door: which connections are let in, by how many there are, in all and of one address.
//!
//! Owns their counting and the answer to those that are too many. A few of these are told so, as long as they are quick
//! about it; the rest are closed as they come, so that nobody who is turned away can take what the limit protects.

use std::convert::Infallible;
use std::future::ready;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;
use super::address::{Address, Proxies};
use super::complaints::Complaints;
use super::counts::{Counts, Place};
use crate::problem::{Problem, SOON};

/// How many of those that are too many are told so at the same time.
const TOLD_MOST: usize = 64;
/// How long that may take, a TLS handshake included.
pub const TELL_WITHIN: Duration = Duration::from_secs(2);

/// Counts the connections of one port.
pub struct Door {
    open: Arc<Semaphore>,
    told: Arc<Semaphore>,
    of_address: Counts<Address>,
    per_address: u32,
    proxies: Proxies,
    complaints: Complaints,
}

/// A connection is let in for as long as this is kept.
pub struct Pass {
    _one: OwnedSemaphorePermit,
    _of_address: Option<Place<Address>>,
}

/// One too many, which is to be told.
pub struct TurnedAway {
    status: StatusCode,
    _one: OwnedSemaphorePermit,
}

impl Door {
    pub fn new(limits: &Limits) -> Self {
        let most = limits.connections.map_or(Semaphore::MAX_PERMITS, |most| most as usize);
        Self {
            open: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            told: Arc::new(Semaphore::new(TOLD_MOST)),
            of_address: Counts::default(),
            per_address: limits.connections_per_address.unwrap_or(u32::MAX),
            proxies: limits.proxies.clone(),
            complaints: Complaints::default(),
        }
    }

    /// Lets a connection in.
    ///
    /// # Errors
    /// When it is one too many; `None` when it is not even to be told.
    pub fn enter(&self, peer: IpAddr) -> Result<Pass, Option<TurnedAway>> {
        let address = Address::from(peer);
        let counted = self.per_address < u32::MAX && !self.proxies.contain(peer);
        let of_address = counted.then(|| self.of_address.take(&address, self.per_address));
        let refused = |status, why| {
            self.complaints.note(address, why);
            Err(Arc::clone(&self.told).try_acquire_owned().ok().map(|one| TurnedAway { status, _one: one }))
        };
        if of_address.as_ref().is_some_and(Option::is_none) {
            return refused(StatusCode::TOO_MANY_REQUESTS, "too many connections of this address");
        }
        match Arc::clone(&self.open).try_acquire_owned() {
            Ok(one) => Ok(Pass { _one: one, _of_address: of_address.flatten() }),
            Err(_) => refused(StatusCode::SERVICE_UNAVAILABLE, "too many connections of all together"),
        }
    }
}

impl TurnedAway {
    /// Answers the first request, whatever it is, and closes the connection. The caller bounds how long that takes.
    pub async fn tell<T>(self, stream: T, http2: bool) -> Result<(), hyper::Error>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = service_fn(|_request: hyper::Request<Incoming>| ready(Ok::<_, Infallible>(self.response())));
        let stream = TokioIo::new(stream);
        if http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            return builder.max_concurrent_streams(1).serve_connection(stream, service).await;
        }
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(TELL_WITHIN).keep_alive(false);
        builder.serve_connection(stream, service).await
    }

    fn response(&self) -> Response<Body> {
        let problem = match self.status {
            StatusCode::TOO_MANY_REQUESTS => Problem::too_many("too many connections of this address are open"),
            _ => Problem::unavailable("too many connections are open; another node may have room"),
        };
        problem.with(header::RETRY_AFTER, SOON)
    }
}
