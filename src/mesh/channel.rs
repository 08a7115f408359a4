//! The channel to one peer: an HTTP/2 connection that is made when a call needs one, and again after it is lost.
//!
//! Owns connecting, mTLS, keep-alive, and the transport of tonic's generated client. Never repeats a call, and owns no
//! deadline. tonic's own channel does the same work, but passes each call through two more tasks, and sends headers and
//! message in separate segments. Four nodes on two cores gave 16,000 answers per second with it, and 19,000 with this one
//! (room of 10, 16 connections). Tests: `tests/faults/hang.rs`.

use std::io;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::codegen::Service;
use tonic::codegen::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use tonic::codegen::http::uri::{Authority, InvalidUri, Scheme};
use tonic::codegen::http::{Method, Request, Response, Uri};
use tonic::metadata::GRPC_CONTENT_TYPE;
use tracing::warn;

use super::MAX_ANSWER_BYTES;
use super::io::{ByteCounter, ConnectionEnd};
use super::io::{ConnectionError, Io, ResponseBody, TimedOut};
use super::proto::mesh_service_client::MeshServiceClient;
use super::proto::{LookupSocketsResponse, RevalidateRequest};
use super::revalidation::RevalidationStream;
use super::security::{ConnectionProof, Security};
use crate::telemetry::anomalies::Anomalies;

/// Longer than a round trip around the earth, shorter than most deadlines.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(400);
/// Idle connections send pings too, so that a peer that hangs is detected before a call waits for it.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// HTTP/2 flow control: the bytes of one response, and of all responses, that a peer may send before this node reads them.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
const REVALIDATE_PATH: &str = "/rollcall.v1.MeshService/Revalidate";

/// Opens a byte stream to an address.
pub type Connect = fn(SmolStr) -> BoxFuture<'static, io::Result<Box<dyn Io>>>;

/// Cheap to clone; the connection is closed when the last clone is dropped.
#[derive(Clone)]
pub struct PeerChannel {
    mesh: SmolStr,
    authority: Authority,
    connect: Connect,
    security: Security,
    counter: ByteCounter,
    anomalies: Anomalies,
    /// The connection, or the attempt to connect: all callers wait for the same one.
    connection: Arc<Mutex<Option<SharedConnection>>>,
}

type SharedConnection = Shared<BoxFuture<'static, Result<Connection, ConnectionError>>>;

#[derive(Clone)]
struct Connection {
    requests: SendRequest<Bytes>,
    timed_out: TimedOut,
    proof: Option<ConnectionProof>,
    revalidation: Arc<Mutex<Arc<RevalidationStream>>>,
}

/// Connects by TCP.
pub fn connect_tcp(mesh: SmolStr) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
    async move {
        let stream = TcpStream::connect(mesh.as_str()).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream) as Box<dyn Io>)
    }
    .boxed()
}

/// A client of the node at `mesh`, without mTLS and without a token. It connects at its first call.
///
/// # Errors
/// When `mesh` is not an address.
pub fn client(mesh: &SmolStr, connect: Connect) -> Result<MeshServiceClient<PeerChannel>, InvalidUri> {
    Ok(PeerChannel::new(mesh, connect)?.client())
}

impl PeerChannel {
    /// A channel without mTLS and without a token.
    ///
    /// # Errors
    /// When `mesh` is not an address.
    pub fn new(mesh: &SmolStr, connect: Connect) -> Result<Self, InvalidUri> {
        Self::secured(mesh, connect, Security::default())
    }

    /// # Errors
    /// When `mesh` is not an address.
    pub fn secured(mesh: &SmolStr, connect: Connect, security: Security) -> Result<Self, InvalidUri> {
        Self::counted(mesh, connect, security, ByteCounter::default(), Anomalies::default())
    }

    /// A channel whose bytes are added to `counter`, and invalid answers to `anomalies`.
    pub(crate) fn counted(
        mesh: &SmolStr,
        connect: Connect,
        security: Security,
        counter: ByteCounter,
        anomalies: Anomalies,
    ) -> Result<Self, InvalidUri> {
        let (authority, connection) = (mesh.parse()?, Arc::default());
        Ok(Self { authority, mesh: mesh.clone(), connect, security, counter, anomalies, connection })
    }

    pub fn client(self) -> MeshServiceClient<Self> {
        MeshServiceClient::new(self).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Sends a lookup with a known version over the revalidation stream. `None`: the stream is not open, or the peer
    /// wants a unary call for this lookup.
    pub(crate) async fn revalidate(&self, request: RevalidateRequest) -> Option<LookupSocketsResponse> {
        let stream = self.established(|_, stream| stream)?;
        stream.ask(request).await
    }

    /// Opens the revalidation stream in the background, on the established connection.
    pub(crate) fn prepare_revalidation(&self) {
        self.established(|requests, stream| stream.open(requests, || self.revalidation_head(), &self.anomalies));
    }

    fn revalidation_head(&self) -> Request<()> {
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.uri_mut() = Uri::from_static(REVALIDATE_PATH);
        head.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
        head.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        self.address(head)
    }

    /// Adds the authority of this peer, and the token.
    fn address<T>(&self, mut request: Request<T>) -> Request<T> {
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        let scheme = if self.security.shows_certificates() { Scheme::HTTPS } else { Scheme::HTTP };
        (uri.scheme, uri.authority) = (Some(scheme), Some(self.authority.clone()));
        *request.uri_mut() = Uri::from_parts(uri).expect("a path with a scheme and an authority is a URI");
        if let Some(bearer) = self.security.bearer() {
            request.headers_mut().insert(AUTHORIZATION, bearer);
        }
        request
    }

    async fn call(self, request: Request<tonic::body::Body>) -> Result<Response<ResponseBody>, ConnectionError> {
        let (head, body) = self.address(request).into_parts();
        let message = body.collect().await.map_err(|status| ConnectionError::Encode(Arc::new(status)))?.to_bytes();
        let Connection { mut requests, timed_out, .. } = self.connection().await?;
        let failed = |error| ConnectionError::of_call(&timed_out, error);
        let (response, mut sending) = requests.send_request(Request::from_parts(head, ()), false).map_err(failed)?;
        // h2 buffers the message, so it leaves in one segment with the headers. A peer that rejects the headers may have
        // reset the stream before: then this fails, and the response says why.
        let _ = sending.send_data(message, true);
        let response = response.await.map_err(failed)?;
        if !self.security.is_open() {
            self.log_rejected_call(response.headers());
        }
        Ok(response.map(|stream| ResponseBody::new(stream, timed_out)))
    }

    /// Applies `take` to the established connection. `None`: no connection is established, or its certificates are old.
    fn established<T>(&self, take: impl FnOnce(&SendRequest<Bytes>, Arc<RevalidationStream>) -> T) -> Option<T> {
        let connection = self.connection.lock();
        let Connection { requests, proof, revalidation, .. } = connection.as_ref()?.peek()?.as_ref().ok()?;
        if !self.security.is_current(proof.as_ref()) {
            return None;
        }
        let stream = RevalidationStream::with_bearer(&mut revalidation.lock(), self.security.bearer());
        Some(take(requests, stream))
    }

    /// A connection that accepts a request now.
    async fn connection(&self) -> Result<Connection, ConnectionError> {
        match self.try_connection().await {
            // The connection was lost before this call, which has sent nothing: trying again cannot send it twice.
            Err(ConnectionError::Lost(_) | ConnectionError::KeepAliveTimeout) => self.try_connection().await,
            connected => connected,
        }
    }

    /// The current connection. If it fails or its certificates are old, the next call makes a new one.
    async fn try_connection(&self) -> Result<Connection, ConnectionError> {
        let mut shared = self.shared_connection();
        let mut connected = ready_to_send(&shared).await;
        if connected.as_ref().is_ok_and(|connection| !self.security.is_current(connection.proof.as_ref())) {
            // Calls in flight finish on the old connection, which then closes.
            self.disconnect(&shared);
            shared = self.shared_connection();
            connected = ready_to_send(&shared).await;
        }
        if connected.is_err() {
            self.disconnect(&shared);
        }
        connected
    }

    /// Logs, with a throttle, that the peer rejected this node's token or certificate.
    fn log_rejected_call(&self, headers: &HeaderMap) {
        let code = headers.get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()));
        if code == Some(Code::Unauthenticated) && self.security.permits_log("call", &self.mesh) {
            warn!(mesh = %self.mesh, "a peer rejected the mesh token or certificate of this node (UNAUTHENTICATED)");
        }
    }

    fn shared_connection(&self) -> SharedConnection {
        self.connection.lock().get_or_insert_with(|| dial(self)).clone()
    }

    /// Forgets the connection, unless another call has replaced it already.
    fn disconnect(&self, shared: &SharedConnection) {
        self.connection.lock().take_if(|current| current.ptr_eq(shared));
    }
}

impl Service<Request<tonic::body::Body>> for PeerChannel {
    type Response = Response<ResponseBody>;
    type Error = ConnectionError;
    type Future = BoxFuture<'static, Result<Self::Response, ConnectionError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        self.clone().call(request).boxed()
    }
}

async fn ready_to_send(shared: &SharedConnection) -> Result<Connection, ConnectionError> {
    let connection = shared.clone().await?;
    let requests = connection.requests.ready().await;
    let requests = requests.map_err(|error| ConnectionError::of_call(&connection.timed_out, error))?;
    Ok(Connection { requests, ..connection })
}

/// Connects in a task, so that a caller that stops waiting does not abort the attempt of the others.
fn dial(channel: &PeerChannel) -> SharedConnection {
    let channel = (
        channel.mesh.clone(),
        channel.authority.host().to_owned(),
        channel.connect,
        channel.security.clone(),
        channel.counter.clone(),
    );
    let (mesh, host, connect, security, counter) = channel;
    let (connected, connecting) = oneshot::channel();
    tokio::spawn(async move {
        let handshaken = timeout(CONNECT_TIMEOUT, handshake(&mesh, &host, connect, &security, &counter)).await;
        match handshaken.unwrap_or_else(|_| Err(ConnectionError::connecting(io::ErrorKind::TimedOut))) {
            Err(error) => {
                if let ConnectionError::Untrusted(error) = &error
                    && security.permits_log("peer", &mesh)
                {
                    warn!(%mesh, %error, "mTLS handshake with a peer failed");
                }
                // No receiver: every caller has stopped waiting.
                let _ = connected.send(Err(error));
            }
            Ok(Handshaken { requests, mut connection, pings, proof }) => {
                let timed_out = Arc::new(OnceLock::new());
                let (set_timed_out, revalidation) = (Arc::clone(&timed_out), Arc::default());
                if connected.send(Ok(Connection { requests, timed_out, proof, revalidation })).is_ok() {
                    tokio::select! {
                        // The calls on it get the error.
                        _ = &mut connection => {}
                        () = keep_alive_fails(pings) => { let _ = set_timed_out.set(()); }
                    }
                }
            }
        }
    });
    let aborted = || ConnectionError::connecting(io::ErrorKind::ConnectionAborted);
    connecting.map(move |connection| connection.unwrap_or_else(|_| Err(aborted()))).boxed().shared()
}

type Http2Connection = h2::client::Connection<Box<dyn Io>>;

/// A connection after TLS and the HTTP/2 handshake.
struct Handshaken {
    requests: SendRequest<Bytes>,
    connection: Http2Connection,
    pings: PingPong,
    proof: Option<ConnectionProof>,
}

async fn handshake(
    mesh: &SmolStr,
    host: &str,
    connect: Connect,
    security: &Security,
    counter: &ByteCounter,
) -> Result<Handshaken, ConnectionError> {
    let io = connect(mesh.clone()).await.map_err(ConnectionError::connecting)?;
    let io = Box::new(counter.count(io, ConnectionEnd::Client));
    let (io, proof) = security.secure(host, io).await.map_err(ConnectionError::connecting)?;
    let http2 = Builder::new()
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .enable_push(false)
        .handshake(io)
        .await;
    let (requests, mut connection) = http2.map_err(ConnectionError::http2)?;
    let mut pings = connection.ping_pong().expect("a new connection still has its ping handle");
    if proof.is_some() {
        wait_until_accepted(&mut connection, &mut pings).await?;
    }
    Ok(Handshaken { requests, connection, pings, proof })
}

/// Waits for the first message of the server. In TLS 1.3 the client's handshake ends before the server has checked the
/// client's certificate, so only that message proves that the server accepts this node.
async fn wait_until_accepted(connection: &mut Http2Connection, pings: &mut PingPong) -> Result<(), ConnectionError> {
    let ended = tokio::select! {
        ended = &mut *connection => ended,
        pong = pings.ping(Ping::opaque()) => match pong {
            Ok(_) => return Ok(()),
            // The connection has the cause of the failed ping.
            Err(_) => connection.await,
        },
    };
    let aborted = || ConnectionError::connecting(io::ErrorKind::ConnectionAborted);
    Err(ended.err().map_or_else(aborted, ConnectionError::http2))
}

/// Returns when a keep-alive ping times out.
async fn keep_alive_fails(mut pings: PingPong) {
    loop {
        sleep(KEEP_ALIVE_INTERVAL).await;
        match timeout(KEEP_ALIVE_TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection is closing for another reason.
            Ok(Err(_)) => std::future::pending().await,
            Err(_elapsed) => return,
        }
    }
}
