//! Connections: the accept loop of the HTTP ports, TLS included, and a switch for every connection.
//!
//! Owns TCP and TLS up to the request: no delay on small writes, limits on how many connections there are, on how long a
//! request head may take and on how slowly an answer may be taken, and one [`Switch`] per connection in its requests'
//! extensions. The switch ends the transport itself, a WebSocket that was upgraded long ago too: what stands above can
//! neither close one transport from outside nor be asked to. A client that comes by many connections has a switch of its
//! own, found among those of the others.

mod backlog;
mod pace;
mod streams;
mod switched;
mod terms;

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Context;
use std::time::Duration;

use axum::http::{Request, Response};
use futures::task::AtomicWaker;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};
use tracing::{debug, warn};

use crate::edge::limits::Limits;
use crate::edge::limits::door;
use crate::edge::limits::door::{Door, Pass, TurnedAway};
use crate::mesh::preface::Prompt;
use streams::{Pieces, Streams};
use switched::Switched;
use terms::Terms;

/// How many connections may wait to be accepted, as far as the kernel allows: a cluster that reconnects comes at once.
const BACKLOG: i32 = 4096;
/// How long to wait when no connection can be accepted, which passes when file descriptors are free again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Ends one connection, from anywhere. Cheap to clone.
#[derive(Clone, Default)]
pub struct Switch(Arc<SwitchState>);

type BeforeEnd = Box<dyn FnOnce() + Send + Sync>;
type AtEnd = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct SwitchState {
    ended: AtomicBool,
    /// The stream was dropped.
    gone: AtomicBool,
    /// A Socket.IO client came in on it.
    client: AtomicBool,
    /// It becomes a WebSocket.
    websocket: AtomicBool,
    /// What must be done before its end can be seen at the other end.
    before_end: Mutex<Option<BeforeEnd>>,
    /// The other end of the connection.
    peer: Option<IpAddr>,
    /// How to end what is no connection.
    at_end: Option<AtEnd>,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

/// Every connection that is open now, upgraded ones included. Cheap to clone.
#[derive(Clone)]
pub struct Connections(Arc<Registry>);

struct Registry {
    terms: Terms,
    door: Door,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Switch>>,
}

/// A switch that is found among the others for as long as this is there.
pub struct Tracked {
    switch: Switch,
    id: u64,
    registry: Arc<Registry>,
}

impl Switch {
    /// Ends the connection: its reads and writes fail from now on, so whoever holds it lets go.
    pub fn end(&self) {
        if let Some(before_end) = self.0.before_end().take() {
            before_end();
        }
        self.0.ended.store(true, Ordering::Release);
        self.0.reader.wake();
        self.0.writer.wake();
        if let Some(at_end) = &self.0.at_end {
            at_end();
        }
    }

    /// Whether the connection has ended, from whichever side.
    pub fn is_gone(&self) -> bool {
        self.0.gone.load(Ordering::Acquire)
    }

    /// When the connection is ended from here, this is done first, and nothing that was to be done before.
    pub fn before_end(&self, act: impl FnOnce() + Send + Sync + 'static) {
        *self.0.before_end() = Some(Box::new(act));
    }

    /// The other end of the connection; `None` where it is on none.
    pub fn peer(&self) -> Option<IpAddr> {
        self.0.peer
    }

    /// A Socket.IO client came in on this connection.
    pub fn mark_client(&self) {
        self.0.client.store(true, Ordering::Release);
    }

    /// This connection becomes a WebSocket, and is read as slowly as one from now on.
    pub fn mark_websocket(&self) {
        self.0.websocket.store(true, Ordering::Relaxed);
    }

    fn check(&self, waker: &AtomicWaker, context: &Context<'_>) -> io::Result<()> {
        // Registered first: an end between the two lines wakes this task again.
        waker.register(context.waker());
        if self.0.ended.load(Ordering::Acquire) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl SwitchState {
    fn before_end(&self) -> MutexGuard<'_, Option<BeforeEnd>> {
        self.before_end.lock().expect("no code panics before the end of a connection")
    }
}

impl Connections {
    /// A connection whose other end takes nothing of what was sent to it for `stuck_after` is ended by the kernel: who
    /// stopped reading, and who is unreachable. No answer here is waited for longer than `longest_wait`.
    pub fn new(stuck_after: Duration, longest_wait: Duration, limits: &Limits) -> Self {
        let terms = Terms::new(stuck_after, longest_wait, limits);
        let door = Door::new(limits);
        Self(Arc::new(Registry { terms, door, next: AtomicU64::default(), open: Mutex::default() }))
    }

    /// The switches of the Socket.IO clients that are there.
    pub fn clients(&self) -> Vec<Switch> {
        self.0.lock().values().filter(|switch| switch.0.client.load(Ordering::Acquire)).cloned().collect()
    }

    /// How many connections are open, and clients that are not on one.
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// A switch for a Socket.IO client that is not on one connection. `end` lets it go, and may be called again.
    pub fn client(&self, end: impl Fn() + Send + Sync + 'static) -> Tracked {
        let state = SwitchState { at_end: Some(Box::new(end)), ..SwitchState::default() };
        let switch = Switch(Arc::new(state));
        switch.mark_client();
        self.track(switch)
    }

    fn track(&self, switch: Switch) -> Tracked {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.lock().insert(id, switch.clone());
        Tracked { switch, id, registry: Arc::clone(&self.0) }
    }
}

impl Tracked {
    pub fn switch(&self) -> &Switch {
        &self.switch
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.switch.0.gone.store(true, Ordering::Release);
        self.registry.lock().remove(&self.id);
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Switch>> {
        self.open.lock().expect("no code panics while it holds the connections")
    }
}

/// Accepts connections and serves their requests until `stop`; then closes idle connections at once and ends when the
/// requests under way have been answered. Upgraded connections stay open: they end by their switches.
pub async fn serve<S, B>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: S,
    connections: Connections,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let tasks = TaskTracker::new();
    let mut complained = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !complained {
                    warn!(%error, "no connection can be accepted, trying again until one can");
                    complained = true;
                }
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        complained = false;
        let pass = match connections.0.door.enter(peer.ip()) {
            Ok(pass) => Ok(pass),
            Err(Some(turned_away)) => Err(turned_away),
            Err(None) => continue,
        };
        let connection = Connection { stream, peer, tls: tls.clone(), connections: connections.clone() };
        match pass {
            Ok(pass) => tasks.spawn(connection.serve(pass, service.clone(), stop.clone())),
            Err(turned_away) => tasks.spawn(connection.turn_away(turned_away, stop.clone())),
        };
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    connections: Connections,
}

impl Connection {
    async fn serve<S, B>(self, pass: Pass, service: S, stop: CancellationToken)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        if let Err(error) = self.stream.set_nodelay(true) {
            debug!(peer = %self.peer, %error, "small writes may be delayed");
        }
        let terms = self.connections.0.terms;
        if let Err(error) = SockRef::from(&self.stream).set_tcp_user_timeout(Some(terms.stuck_after)) {
            debug!(peer = %self.peer, %error, "a client that stops reading may be kept");
        }
        let peer = self.peer;
        let switch = Switch(Arc::new(SwitchState { peer: Some(peer.ip()), ..SwitchState::default() }));
        let tracked = self.connections.track(switch.clone());
        let tracked = Switched::new(self.stream, tracked, &terms, pass);
        let served: Result<(), Box<dyn StdError + Send + Sync>> = match self.tls {
            None => serve_http(tracked, switch, service, false, terms, stop).await.map_err(Into::into),
            Some(tls) => {
                let handshake = tokio::select! {
                    handshake = timeout(terms.head_within, tls.accept(tracked)) => handshake,
                    () = stop.cancelled() => return,
                };
                match handshake {
                    Ok(Ok(stream)) => {
                        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                        serve_http(stream, switch, service, http2, terms, stop).await.map_err(Into::into)
                    }
                    Ok(Err(error)) => Err(error.into()),
                    Err(elapsed) => Err(elapsed.into()),
                }
            }
        };
        if let Err(error) = served {
            debug!(%peer, error, "a connection ended early");
        }
    }

    /// Tells the other end, if it is quick, that it is one too many.
    async fn turn_away(self, turned_away: TurnedAway, stop: CancellationToken) {
        let told = async {
            match self.tls {
                None => drop(turned_away.tell(self.stream, false).await),
                Some(tls) => {
                    let Ok(stream) = tls.accept(self.stream).await else { return };
                    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    drop(turned_away.tell(stream, http2).await);
                }
            }
        };
        tokio::select! {
            _ = timeout(door::TELL_WITHIN, told) => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn serve_http<T, S, B>(
    stream: T,
    switch: Switch,
    service: S,
    http2: bool,
    terms: Terms,
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
        request.extensions_mut().insert(switch.clone());
        request
    });
    // hyper-util's builder that serves either protocol would wait for the first byte of a connection without a limit.
    if http2 {
        let service = service.map_response(|response: Response<B>| response.map(|body| Pieces::new(Box::pin(body))));
        // And hyper waits for the preface of HTTP/2 without one.
        let stream = TokioIo::new(Prompt::new(stream, terms.head_within));
        let streams = Streams { within: terms.stream_within };
        let builder = streams::builder(streams, terms.head_size, terms.head_within);
        let mut connection =
            pin!(builder.serve_connection(stream, service_fn(move |request| service.clone().oneshot(request))));
        tokio::select! {
            served = connection.as_mut() => return served,
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(terms.head_within).max_buf_size(terms.head_size as usize);
        let connection =
            builder.serve_connection(TokioIo::new(stream), service_fn(move |request| service.clone().oneshot(request)));
        let mut connection = pin!(connection.with_upgrades());
        tokio::select! {
            served = connection.as_mut() => return served,
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }
}

/// Listens on an address. `shared`: others of this user may listen on it too, and connections are spread over them.
///
/// # Errors
/// When the address is taken or not of this machine.
pub fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Raises this process's limit of open files, and so of connections, as far as it may without privileges. Returns it.
pub fn raise_file_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "the limit of open files stays as it is");
    }
    file_limit()
}

/// How many files this process may have open, connections included. `None`: any number.
pub fn file_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}
