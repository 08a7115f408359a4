//! The accept loop of the public and admin ports, and HTTP over each accepted connection.
//!
//! Owns TCP and TLS below the request: the limit of open connections, the timeouts of handshakes and request heads, and
//! the [`ConnectionHandle`] that each request carries in its extensions. An upgraded WebSocket stays open when the server
//! stops: only its handle closes it. Knows no Socket.IO.

pub mod handle;
mod http2;
pub mod listener;
mod stream;

use std::convert::Infallible;
use std::error::Error as StdError;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};
use tracing::{debug, warn};

use crate::edge::limits::Limits;
use crate::edge::limits::connection_limiter::{ConnectionLimiter, ConnectionPermit, REJECTION_TIMEOUT, Rejection};
use crate::mesh::accept::PrefaceTimeout;
use handle::{ConnectionHandle, ConnectionRegistry};
use http2::{ChunkedBody, StreamExecutor};
use stream::TrackedStream;

/// The wait after a failed accept. The usual cause is a temporary lack of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Serves the connections of one port. Cheap to clone.
#[derive(Clone)]
pub struct ConnectionServer {
    registry: ConnectionRegistry,
    limiter: Arc<ConnectionLimiter>,
    settings: ConnectionSettings,
}

#[derive(Debug, Clone, Copy)]
struct ConnectionSettings {
    /// `TCP_USER_TIMEOUT`: how long sent data may stay unacknowledged.
    unacked_timeout: Duration,
    /// For a TLS handshake, and for each request head.
    head_timeout: Duration,
    max_head_size: u32,
    answer_timeout: Duration,
    /// For an HTTP/2 request with its answer.
    stream_timeout: Duration,
    websocket_read_rate: Option<NonZeroU32>,
}

/// An accepted connection.
struct AcceptedConnection {
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    server: ConnectionServer,
}

impl ConnectionServer {
    /// The kernel ends a connection whose peer takes nothing for `unacked_timeout`: the peer stopped reading, or cannot
    /// be reached. `max_wait` is the longest that the service waits before it answers.
    pub fn new(registry: ConnectionRegistry, unacked_timeout: Duration, max_wait: Duration, limits: &Limits) -> Self {
        let settings = ConnectionSettings {
            unacked_timeout,
            head_timeout: limits.head_timeout,
            max_head_size: limits.head_size,
            answer_timeout: limits.answer_timeout,
            stream_timeout: max_wait + limits.answer_timeout,
            websocket_read_rate: limits.websocket_read_rate,
        };
        Self { registry, limiter: Arc::new(ConnectionLimiter::new(limits)), settings }
    }

    /// Accepts connections and serves their requests until `stop`. Then closes idle connections, and returns when the
    /// requests in flight are answered. Upgraded connections stay open.
    pub async fn serve<S, B>(self, listener: TcpListener, tls: Option<TlsAcceptor>, service: S, stop: CancellationToken)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let tasks = TaskTracker::new();
        let mut is_failing = false;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !is_failing {
                        warn!(%error, "cannot accept connections; retrying");
                        is_failing = true;
                    }
                    sleep(ACCEPT_RETRY_DELAY).await;
                    continue;
                }
            };
            is_failing = false;
            let permit = match self.limiter.acquire(peer.ip()) {
                Ok(permit) => Ok(permit),
                Err(Some(rejection)) => Err(rejection),
                Err(None) => continue,
            };
            let connection = AcceptedConnection { stream, peer, tls: tls.clone(), server: self.clone() };
            match permit {
                Ok(permit) => tasks.spawn(connection.serve(permit, service.clone(), stop.clone())),
                Err(rejection) => tasks.spawn(connection.reject(rejection, stop.clone())),
            };
        }
        drop(listener);
        tasks.close();
        tasks.wait().await;
    }
}

impl AcceptedConnection {
    async fn serve<S, B>(self, permit: ConnectionPermit, service: S, stop: CancellationToken)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let Self { stream, peer, tls, server } = self;
        if let Err(error) = stream.set_nodelay(true) {
            debug!(client = %peer, %error, "cannot set TCP_NODELAY; small writes may be delayed");
        }
        let settings = server.settings;
        if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(settings.unacked_timeout)) {
            debug!(client = %peer, %error, "cannot set TCP_USER_TIMEOUT; a client that stops reading may be kept");
        }
        let handle = ConnectionHandle::of_connection(peer.ip());
        let registered = server.registry.register(handle.clone());
        let (answer_timeout, read_rate) = (settings.answer_timeout, settings.websocket_read_rate);
        let stream = TrackedStream::new(stream, registered, answer_timeout, read_rate, permit);
        let served: Result<(), Box<dyn StdError + Send + Sync>> = match tls {
            None => serve_http(stream, handle, service, false, settings, stop).await.map_err(Into::into),
            Some(tls) => {
                let handshake = tokio::select! {
                    handshake = timeout(settings.head_timeout, tls.accept(stream)) => handshake,
                    () = stop.cancelled() => return,
                };
                match handshake {
                    Ok(Ok(stream)) => {
                        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                        serve_http(stream, handle, service, is_http2, settings, stop).await.map_err(Into::into)
                    }
                    Ok(Err(error)) => Err(error.into()),
                    Err(elapsed) => Err(elapsed.into()),
                }
            }
        };
        if let Err(error) = served {
            debug!(client = %peer, error, "connection failed");
        }
    }

    /// Answers the first request with the rejection, if the client sends it in time.
    async fn reject(self, rejection: Rejection, stop: CancellationToken) {
        let answered = async {
            match self.tls {
                None => drop(rejection.answer(self.stream, false).await),
                Some(tls) => {
                    let Ok(stream) = tls.accept(self.stream).await else { return };
                    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    drop(rejection.answer(stream, is_http2).await);
                }
            }
        };
        tokio::select! {
            _ = timeout(REJECTION_TIMEOUT, answered) => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn serve_http<T, S, B>(
    stream: T,
    handle: ConnectionHandle,
    service: S,
    is_http2: bool,
    settings: ConnectionSettings,
    stop: CancellationToken,
) -> Result<(), hyper::Error>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let service = service.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(handle.clone());
        request
    });
    let (head_timeout, head_size) = (settings.head_timeout, settings.max_head_size);
    // Not hyper-util's builder for both protocols: it waits for the first byte of a connection without a timeout.
    if is_http2 {
        let service =
            service.map_response(|response: Response<B>| response.map(|body| ChunkedBody::new(Box::pin(body))));
        // hyper waits for the HTTP/2 preface without a timeout, too.
        let stream = TokioIo::new(PrefaceTimeout::new(stream, head_timeout));
        let executor = StreamExecutor { stream_timeout: settings.stream_timeout };
        let builder = http2::builder(executor, head_size, head_timeout);
        let connection = builder.serve_connection(stream, service_fn(move |request| service.clone().oneshot(request)));
        serve_until(pin!(connection), stop, |connection| connection.graceful_shutdown()).await
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(head_timeout).max_buf_size(head_size as usize);
        let connection =
            builder.serve_connection(TokioIo::new(stream), service_fn(move |request| service.clone().oneshot(request)));
        serve_until(pin!(connection.with_upgrades()), stop, |connection| connection.graceful_shutdown()).await
    }
}

/// Serves a connection until it ends. After `stop` it finishes the requests in progress only. hyper has no common trait for
/// connections with upgrades and HTTP/2, so `graceful_shutdown` calls the method of either.
async fn serve_until<C: Future>(
    mut connection: Pin<&mut C>,
    stop: CancellationToken,
    graceful_shutdown: impl FnOnce(Pin<&mut C>),
) -> C::Output {
    tokio::select! {
        served = connection.as_mut() => return served,
        () = stop.cancelled() => graceful_shutdown(connection.as_mut()),
    }
    connection.await
}
