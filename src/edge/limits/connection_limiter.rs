//! Limits on the number of open connections of a port: in all, and of one address.
//!
//! Owns the [`ConnectionLimiter`] of the HTTP ports, which answers some of the rejected connections with an HTTP error,
//! and [`limit_connections`] for the mesh port, which closes them. Most rejected connections are closed without an answer,
//! or answering them would take the memory that the limit protects.

use std::convert::Infallible;
use std::future::ready;
use std::io;
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
use tokio_stream::{Stream, StreamExt};
use tracing::warn;

use super::Limits;
use super::address::{AddressKey, TrustedProxies};
use super::keyed_semaphore::{KeyedPermit, KeyedSemaphore};
use super::rate::RejectionLog;
use crate::problem::{Problem, SOON};

/// Rejected connections that are answered at the same time; the others are closed at once.
const MAX_ANSWERED_REJECTIONS: usize = 64;
/// For the answer to a rejected connection, with its TLS handshake.
pub const REJECTION_TIMEOUT: Duration = Duration::from_secs(2);

/// Counts the open connections of one port.
pub struct ConnectionLimiter {
    open: Arc<Semaphore>,
    rejections: Arc<Semaphore>,
    by_address: KeyedSemaphore<AddressKey>,
    max_per_address: u32,
    trusted_proxies: TrustedProxies,
    rejection_log: RejectionLog,
}

/// Allows one connection until it is dropped.
pub struct ConnectionPermit {
    _permit: OwnedSemaphorePermit,
    _address_permit: Option<KeyedPermit<AddressKey>>,
}

/// The answer to a connection beyond the limit.
pub struct Rejection {
    status: StatusCode,
    _permit: OwnedSemaphorePermit,
}

impl ConnectionLimiter {
    pub fn new(limits: &Limits) -> Self {
        let max_open = limits.connections.map_or(Semaphore::MAX_PERMITS, |max_open| max_open as usize);
        Self {
            open: Arc::new(Semaphore::new(max_open.min(Semaphore::MAX_PERMITS))),
            rejections: Arc::new(Semaphore::new(MAX_ANSWERED_REJECTIONS)),
            by_address: KeyedSemaphore::default(),
            max_per_address: limits.connections_per_address.unwrap_or(u32::MAX),
            trusted_proxies: limits.trusted_proxies.clone(),
            rejection_log: RejectionLog::default(),
        }
    }

    /// # Errors
    /// When the connection is beyond a limit. `None`: close it without an answer.
    pub fn acquire(&self, peer: IpAddr) -> Result<ConnectionPermit, Option<Rejection>> {
        let address = AddressKey::from(peer);
        let is_limited = self.max_per_address < u32::MAX && !self.trusted_proxies.contain(peer);
        let address_permit = is_limited.then(|| self.by_address.try_acquire(&address, self.max_per_address));
        let reject = |status, reason| {
            self.rejection_log.warn(address, reason);
            let permit = Arc::clone(&self.rejections).try_acquire_owned().ok();
            Err(permit.map(|permit| Rejection { status, _permit: permit }))
        };
        if address_permit.as_ref().is_some_and(Option::is_none) {
            return reject(StatusCode::TOO_MANY_REQUESTS, "too many connections of this address");
        }
        match Arc::clone(&self.open).try_acquire_owned() {
            Ok(permit) => Ok(ConnectionPermit { _permit: permit, _address_permit: address_permit.flatten() }),
            Err(_) => reject(StatusCode::SERVICE_UNAVAILABLE, "too many connections"),
        }
    }
}

impl Rejection {
    /// Answers the first request, whatever it is, and closes the connection. The caller sets the timeout.
    pub async fn answer<T>(self, stream: T, is_http2: bool) -> Result<(), hyper::Error>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = service_fn(|_request: hyper::Request<Incoming>| ready(Ok::<_, Infallible>(self.response())));
        let stream = TokioIo::new(stream);
        if is_http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            return builder.max_concurrent_streams(1).serve_connection(stream, service).await;
        }
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(REJECTION_TIMEOUT).keep_alive(false);
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

/// Limits a listener to `max_open` open connections; further ones are closed at once. `attach` must keep the permit for
/// as long as the connection lasts.
///
/// For the mesh, whose peers are few and known, and expect gRPC instead of an HTTP error.
pub fn limit_connections<T, C>(
    accepted: impl Stream<Item = io::Result<T>>,
    max_open: usize,
    attach: impl Fn(T, OwnedSemaphorePermit) -> C,
) -> impl Stream<Item = io::Result<C>> {
    let open = Arc::new(Semaphore::new(max_open));
    let mut is_full = false;
    accepted.filter_map(move |accepted| {
        let connection = match accepted {
            Ok(connection) => connection,
            Err(error) => return Some(Err(error)),
        };
        let Ok(permit) = Arc::clone(&open).try_acquire_owned() else {
            if !is_full {
                warn!(max_open, "too many mesh connections; closing new ones until others end");
                is_full = true;
            }
            return None;
        };
        is_full = false;
        Some(Ok(attach(connection, permit)))
    })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, duplex};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    #[tokio::test]
    async fn a_connection_beyond_the_limit_is_closed() {
        let (connections, accepting) = mpsc::unbounded_channel();
        let accepting = UnboundedReceiverStream::new(accepting);
        let mut accepted = Box::pin(limit_connections(accepting, 2, |stream, permit| (stream, permit)));
        let connect = || {
            let (client, stream) = duplex(1);
            connections.send(Ok(stream)).unwrap();
            client
        };
        let _clients = [connect(), connect()];
        let first = accepted.next().await.unwrap().unwrap();
        let _second = accepted.next().await.unwrap().unwrap();
        let mut closed = connect();
        assert!(accepted.next().now_or_never().is_none(), "it is beyond the limit");
        assert_eq!(closed.read(&mut [0]).await.unwrap(), 0);
        drop(first);
        let _client = connect();
        assert!(accepted.next().await.is_some_and(|accepted| accepted.is_ok()));
    }
}
