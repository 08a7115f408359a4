//! A link to one peer: an HTTP/2 connection that is made when a call needs one, and anew when it was lost.
//!
//! Owns connecting and keeping alive, and carries the calls of tonic's generated client. tonic's own channel does that
//! too, but passes each call through two more tasks and sends its head and its message in segments of their own; without
//! them four nodes on two cores gave 19,000 answers per second instead of 16,000 (room of 10, 16 connections). Shows
//! what the mesh asks for ([`Security`]). Owns no deadline of a call, and never sends one twice.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong, RecvStream};
use http_body::Frame;
use http_body_util::BodyExt;
use smol_str::SmolStr;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
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
use super::byte_counter::{End, metered};
use super::proto::mesh_service_client::MeshServiceClient;
use super::proto::{LookupSocketsRequest, LookupSocketsResponse};
use super::revalidation::Revalidation;
use super::security::{Proof, Security};

/// How long connecting may take. Longer than a round trip to anywhere, shorter than most deadlines.
const CONNECT_WITHIN: Duration = Duration::from_millis(400);
/// A connection is asked for a sign of life this often, used or not…
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(5);
/// …and given up when none came within this time.
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(2);
/// How much a peer may send of one answer before it was read, and of all of one connection's.
const ANSWER_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// The path of the call that is a stream.
const REVALIDATE: &str = "/rollcall.v1.MeshService/Revalidate";

/// What carries the bytes of a connection.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// How an address is reached.
pub type Connect = fn(SmolStr) -> BoxFuture<'static, io::Result<Box<dyn Wire>>>;

/// Why a call was not carried to its end.
#[derive(Debug, Clone, Error)]
pub enum Broken {
    /// There is no connection, and none could be made.
    #[error("no connection: {0}")]
    Unreachable(Arc<io::Error>),
    /// One end does not trust the other.
    #[error("no trust: {0}")]
    Distrusted(Arc<io::Error>),
    /// The connection gave no sign of life.
    #[error("the connection was silent")]
    Silent,
    #[error("the connection was lost: {0}")]
    Lost(Arc<h2::Error>),
    #[error("the call could not be written down: {0}")]
    Unwritten(Arc<tonic::Status>),
}

/// Cheap to clone; the connection ends with the last of them.
#[derive(Clone)]
pub struct Link {
    mesh: SmolStr,
    authority: Authority,
    connect: Connect,
    security: Security,
    /// As it is now, or as it is being made: whoever needs it waits for the same.
    line: Arc<Mutex<Option<Line>>>,
}

type Line = Shared<BoxFuture<'static, Result<Connection, Broken>>>;

#[derive(Clone)]
struct Connection {
    requests: SendRequest<Bytes>,
    /// Set when it was given up.
    silent: Arc<OnceLock<()>>,
    proof: Option<Proof>,
    revalidation: Arc<Mutex<Arc<Revalidation>>>,
}

/// An answer as it arrives.
pub struct Incoming {
    stream: RecvStream,
    silent: Arc<OnceLock<()>>,
    next: Next,
}

enum Next {
    Data,
    Trailers,
    Nothing,
}

/// Reaches an address by TCP.
pub fn by_tcp(mesh: SmolStr) -> BoxFuture<'static, io::Result<Box<dyn Wire>>> {
    async move {
        let stream = TcpStream::connect(mesh.as_str()).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(metered(stream, End::Asking)) as Box<dyn Wire>)
    }
    .boxed()
}

/// A client of the node at `mesh`, in an open mesh, which connects when it is first used.
///
/// # Errors
/// When that is no address.
pub fn client(mesh: &SmolStr, connect: Connect) -> Result<MeshServiceClient<Link>, InvalidUri> {
    Ok(Link::to(mesh, connect)?.client())
}

impl Link {
    /// A link to `mesh`, in an open mesh, without a connection as yet.
    ///
    /// # Errors
    /// When that is no address.
    pub fn to(mesh: &SmolStr, connect: Connect) -> Result<Self, InvalidUri> {
        Self::secured(mesh, connect, Security::default())
    }

    /// The same in a mesh that is closed by `security`.
    ///
    /// # Errors
    /// When that is no address.
    pub fn secured(mesh: &SmolStr, connect: Connect, security: Security) -> Result<Self, InvalidUri> {
        Ok(Self { authority: mesh.parse()?, mesh: mesh.clone(), connect, security, line: Arc::default() })
    }

    /// What calls a node over this link.
    pub fn client(self) -> MeshServiceClient<Self> {
        MeshServiceClient::new(self).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// What the peer says to a question whose asker holds a version, without a call of its own. `None`: it takes one.
    pub async fn revalidate(&self, question: &LookupSocketsRequest) -> Option<LookupSocketsResponse> {
        let revalidation = self.established(|_, revalidation| revalidation)?;
        revalidation.ask(question).await
    }

    /// Sees to it that [`Link::revalidate`] has something to ask over, of a peer that has answered.
    pub fn prepare_revalidation(&self) {
        self.established(|requests, revalidation| revalidation.open(requests, || self.streaming_head()));
    }

    fn streaming_head(&self) -> Request<()> {
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.uri_mut() = Uri::from_static(REVALIDATE);
        head.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
        head.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        self.address(head)
    }

    /// The request, as one to this peer.
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

    async fn call(self, request: Request<tonic::body::Body>) -> Result<Response<Incoming>, Broken> {
        let (head, body) = self.address(request).into_parts();
        let message = body.collect().await.map_err(|status| Broken::Unwritten(Arc::new(status)))?.to_bytes();
        let Connection { mut requests, silent, .. } = self.connection().await?;
        let lost = |error| broken(&silent, error);
        let (answer, mut sending) = requests.send_request(Request::from_parts(head, ()), false).map_err(lost)?;
        // Without waiting for permission, so that it goes out together with its head. A peer that refuses the head may
        // have done so already: then there is nothing more to send, and the answer is the refusal.
        let _ = sending.send_data(message, true);
        let answer = answer.await.map_err(lost)?;
        if !self.security.is_open() {
            self.note_refusal(answer.headers());
        }
        Ok(answer.map(|stream| Incoming::new(stream, silent)))
    }

    /// Takes of the connection, where there is one that would be made the same way now.
    fn established<T>(&self, take: impl FnOnce(&SendRequest<Bytes>, Arc<Revalidation>) -> T) -> Option<T> {
        let line = self.lock();
        let Connection { requests, proof, revalidation, .. } = line.as_ref()?.peek()?.as_ref().ok()?;
        if !self.security.is_current(proof.as_ref()) {
            return None;
        }
        let mut current = revalidation.lock().expect("no code panics while it holds a revalidation");
        Some(take(requests, Revalidation::with(&mut current, self.security.bearer())))
    }

    /// A connection that takes calls.
    async fn connection(&self) -> Result<Connection, Broken> {
        match self.ready().await {
            // It was lost some time before this call, of which nothing has been sent.
            Err(Broken::Lost(_) | Broken::Silent) => self.ready().await,
            connected => connected,
        }
    }

    /// The connection that there is, or that is being made; if it takes no calls, the next one will be another.
    async fn ready(&self) -> Result<Connection, Broken> {
        let mut line = self.line();
        let mut connected = take_turn(&line).await;
        if connected.as_ref().is_ok_and(|connection| !self.security.is_current(connection.proof.as_ref())) {
            // What is under way on it goes on, and it ends with that.
            self.hang_up(&line);
            line = self.line();
            connected = take_turn(&line).await;
        }
        if connected.is_err() {
            self.hang_up(&line);
        }
        connected
    }

    /// A peer that asks for another token than this node's says so to each call.
    fn note_refusal(&self, answer: &HeaderMap) {
        let code = answer.get("grpc-status").map(|status| Code::from_bytes(status.as_bytes()));
        if code == Some(Code::Unauthenticated) && self.security.refusals().is_first("call", &self.mesh) {
            warn!(peer = %self.mesh, "a peer refuses this node's calls: it does not accept its token or certificate");
        }
    }

    fn line(&self) -> Line {
        self.lock().get_or_insert_with(|| dial(self)).clone()
    }

    /// The next call makes a new connection, unless another call has seen to that.
    fn hang_up(&self, line: &Line) {
        self.lock().take_if(|current| current.ptr_eq(line));
    }

    fn lock(&self) -> MutexGuard<'_, Option<Line>> {
        self.line.lock().expect("no code panics while it holds a line")
    }
}

impl Service<Request<tonic::body::Body>> for Link {
    type Response = Response<Incoming>;
    type Error = Broken;
    type Future = BoxFuture<'static, Result<Self::Response, Broken>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        self.clone().call(request).boxed()
    }
}

async fn take_turn(line: &Line) -> Result<Connection, Broken> {
    let connection = line.clone().await?;
    let requests = connection.requests.ready().await.map_err(|error| broken(&connection.silent, error))?;
    Ok(Connection { requests, ..connection })
}

/// Connects. The connection is made whether or not somebody still waits for it, and lasts as long as somebody may use it.
fn dial(link: &Link) -> Line {
    let (mesh, host, security) = (link.mesh.clone(), link.authority.host().to_owned(), link.security.clone());
    let connect = link.connect;
    let (connected, connecting) = oneshot::channel();
    tokio::spawn(async move {
        let opened = timeout(CONNECT_WITHIN, open(&mesh, &host, connect, &security));
        match opened.await.unwrap_or_else(|_| Err(unreachable(io::ErrorKind::TimedOut.into()))) {
            Err(error) => {
                if let Broken::Distrusted(error) = &error
                    && security.refusals().is_first("peer", &mesh)
                {
                    warn!(peer = %mesh, %error, "a peer does not trust this node, or cannot be trusted");
                }
                // Nobody waits any more, or everybody hears of it.
                let _ = connected.send(Err(error));
            }
            Ok(Opened { requests, mut connection, pings, proof }) => {
                let silent = Arc::new(OnceLock::new());
                let (silence, revalidation) = (Arc::clone(&silent), Arc::default());
                if connected.send(Ok(Connection { requests, silent, proof, revalidation })).is_ok() {
                    tokio::select! {
                        // How it ended, its calls hear.
                        _ = &mut connection => {}
                        () = falls_silent(pings) => { let _ = silence.set(()); }
                    }
                }
            }
        }
    });
    let ended = || unreachable(io::ErrorKind::ConnectionAborted.into());
    connecting.map(move |connection| connection.unwrap_or_else(|_| Err(ended()))).boxed().shared()
}

type Http2 = h2::client::Connection<Box<dyn Wire>>;

/// A connection that was just made.
struct Opened {
    requests: SendRequest<Bytes>,
    connection: Http2,
    pings: PingPong,
    proof: Option<Proof>,
}

async fn open(mesh: &SmolStr, host: &str, connect: Connect, security: &Security) -> Result<Opened, Broken> {
    let wire = connect(mesh.clone()).await.map_err(unreachable)?;
    let (wire, proof) = security.secure(host, wire).await.map_err(unreachable)?;
    let handshake = Builder::new()
        .initial_window_size(ANSWER_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .enable_push(false)
        .handshake(wire)
        .await;
    let (requests, mut connection) = handshake.map_err(lost)?;
    let mut pings = connection.ping_pong().expect("nobody has taken it before");
    if proof.is_some() {
        accepted(&mut connection, &mut pings).await?;
    }
    Ok(Opened { requests, connection, pings, proof })
}

/// Waits for what the other end says first: only that tells whether it accepts this node's certificate.
async fn accepted(connection: &mut Http2, pings: &mut PingPong) -> Result<(), Broken> {
    let ended = tokio::select! {
        ended = &mut *connection => ended,
        pong = pings.ping(Ping::opaque()) => match pong {
            Ok(_) => return Ok(()),
            // Why, the connection knows.
            Err(_) => connection.await,
        },
    };
    Err(ended.err().map_or_else(|| unreachable(io::ErrorKind::ConnectionAborted.into()), lost))
}

fn unreachable(error: io::Error) -> Broken {
    match error.kind() {
        // So TLS calls whatever it does not accept.
        io::ErrorKind::InvalidData => Broken::Distrusted(Arc::new(error)),
        _ => Broken::Unreachable(Arc::new(error)),
    }
}

fn lost(error: h2::Error) -> Broken {
    match error.get_io() {
        Some(io) if io.kind() == io::ErrorKind::InvalidData => {
            Broken::Distrusted(Arc::new(io::Error::new(io.kind(), error)))
        }
        _ => Broken::Lost(Arc::new(error)),
    }
}

/// Ends when a sign of life did not come.
async fn falls_silent(mut pings: PingPong) {
    loop {
        sleep(KEEP_ALIVE_EVERY).await;
        match timeout(KEEP_ALIVE_WITHIN, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection is ending by itself.
            Ok(Err(_)) => std::future::pending().await,
            Err(_elapsed) => return,
        }
    }
}

fn broken(silent: &OnceLock<()>, error: h2::Error) -> Broken {
    match silent.get() {
        Some(()) => Broken::Silent,
        None => lost(error),
    }
}

impl Incoming {
    /// `silent`: set when the connection was given up.
    pub fn new(stream: RecvStream, silent: Arc<OnceLock<()>>) -> Self {
        Self { stream, silent, next: Next::Data }
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            let frame = match self.next {
                Next::Data => match ready!(self.stream.poll_data(context)) {
                    None => {
                        self.next = Next::Trailers;
                        continue;
                    }
                    Some(data) => data.and_then(|data| {
                        self.stream.flow_control().release_capacity(data.len())?;
                        Ok(Some(Frame::data(data)))
                    }),
                },
                Next::Trailers => {
                    let trailers = ready!(self.stream.poll_trailers(context));
                    self.next = Next::Nothing;
                    trailers.map(|trailers| trailers.map(Frame::trailers))
                }
                Next::Nothing => Ok(None),
            };
            return Poll::Ready(frame.map_err(|error| broken(&self.silent, error)).transpose());
        }
    }
}
