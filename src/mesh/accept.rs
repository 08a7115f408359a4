//! Accepts the connections of the mesh port: TCP, the mTLS handshake, and the HTTP/2 preface.
//!
//! Owns the handshakes in progress. Each runs in a task of its own with a timeout, so that a slow peer delays no other. Their
//! number is limited. Above the limit, the oldest one is aborted, because an honest peer finishes within milliseconds. Owns
//! no limit of connections ([`MeshConnection::with_permit`]).
//!
//! [`PrefaceTimeout`] ends a connection without a preface. tonic sends keep-alive pings only after it has read the preface, and
//! waits for the preface without a limit: a client that sends nothing would keep its connection forever. Tests:
//! `tests/processes/trust/outsiders.rs`.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Sleep, sleep, timeout};
use tonic::transport::server::Connected;
use tracing::warn;

use crate::mesh::io::Io;
use crate::mesh::io::{ByteCounter, ConnectionEnd};
use crate::mesh::security::{PeerIdentity, Security};

/// The time for a client to send the HTTP/2 preface.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// A node that connects gives up much earlier, see `channel::CONNECT_TIMEOUT`.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HANDSHAKES: usize = 256;

/// A connection that is ready for gRPC.
pub struct MeshConnection {
    stream: PrefaceTimeout<Box<dyn Io>>,
    peer: PeerIdentity,
    /// A permit of the connection limit, held while the connection is open.
    _permit: Option<OwnedSemaphorePermit>,
}

struct Acceptor {
    listener: TcpListener,
    security: Security,
    counter: ByteCounter,
    handshakes: JoinSet<Option<MeshConnection>>,
    /// In the order of their start. Finished handshakes are removed when the limit is reached.
    started: VecDeque<AbortHandle>,
}

/// The connections that `listener` accepts and `security` does not reject. A rejected connection is logged, and does not end
/// the stream. `counter` counts their bytes.
pub fn accept_connections(
    listener: TcpListener,
    security: Security,
    counter: ByteCounter,
) -> impl Stream<Item = io::Result<MeshConnection>> + Send {
    let acceptor = Acceptor { listener, security, counter, handshakes: JoinSet::new(), started: VecDeque::new() };
    unfold(acceptor, |mut acceptor| async move {
        let next = acceptor.next().await;
        Some((next, acceptor))
    })
}

impl Acceptor {
    async fn next(&mut self) -> io::Result<MeshConnection> {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => {
                    let (stream, address) = accepted?;
                    stream.set_nodelay(true)?;
                    let stream = self.counter.count(stream, ConnectionEnd::Server);
                    if !self.security.shows_certificates() {
                        return Ok(MeshConnection::new(Box::new(stream), PeerIdentity::without_certificate(address)));
                    }
                    self.start_handshake(stream, address);
                }
                Some(done) = self.handshakes.join_next() => {
                    // An aborted or rejected handshake gives no connection.
                    if let Ok(Some(accepted)) = done {
                        return Ok(accepted);
                    }
                }
            }
        }
    }

    fn start_handshake(&mut self, stream: impl Io + 'static, address: SocketAddr) {
        if self.started.len() >= MAX_HANDSHAKES {
            self.started.retain(|handshake| !handshake.is_finished());
        }
        if self.started.len() >= MAX_HANDSHAKES
            && let Some(oldest) = self.started.pop_front()
        {
            oldest.abort();
        }
        self.started.push_back(self.handshakes.spawn(handshake(stream, address, self.security.clone())));
    }
}

async fn handshake(stream: impl Io + 'static, address: SocketAddr, security: Security) -> Option<MeshConnection> {
    let certificates = security.certificates()?;
    let error = match timeout(HANDSHAKE_TIMEOUT, certificates.accept(stream)).await {
        Ok(Ok((stream, chain))) => {
            return Some(MeshConnection::new(
                Box::new(stream),
                PeerIdentity::with_certificate(address, chain, certificates),
            ));
        }
        Ok(Err(error)) => error,
        Err(_elapsed) => io::ErrorKind::TimedOut.into(),
    };
    if security.permits_log("connection", &address.ip().to_string()) {
        warn!(client = %address, %error, "rejected a mesh connection: mTLS handshake failed");
    }
    None
}

impl MeshConnection {
    fn new(stream: Box<dyn Io>, peer: PeerIdentity) -> Self {
        Self { stream: PrefaceTimeout::new(stream, PREFACE_TIMEOUT), peer, _permit: None }
    }

    /// Holds `permit` until the connection is closed.
    pub fn with_permit(self, permit: OwnedSemaphorePermit) -> Self {
        Self { _permit: Some(permit), ..self }
    }
}

impl Connected for MeshConnection {
    type ConnectInfo = PeerIdentity;

    fn connect_info(&self) -> PeerIdentity {
        self.peer.clone()
    }
}

impl AsyncRead for MeshConnection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for MeshConnection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The length of the preface: <https://www.rfc-editor.org/rfc/rfc9113#section-3.4>.
const PREFACE_BYTES: usize = 24;

/// A stream whose reads fail with `TimedOut` if the preface does not arrive in time.
pub struct PrefaceTimeout<T> {
    stream: T,
    awaited: Option<AwaitedPreface>,
}

struct AwaitedPreface {
    deadline: Pin<Box<Sleep>>,
    missing_bytes: usize,
}

impl<T> PrefaceTimeout<T> {
    pub fn new(stream: T, timeout: Duration) -> Self {
        Self {
            stream,
            awaited: Some(AwaitedPreface { deadline: Box::pin(sleep(timeout)), missing_bytes: PREFACE_BYTES }),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for PrefaceTimeout<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(awaited) = &mut self.awaited
            && awaited.deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buf))?;
        let read = buf.filled().len() - before;
        self.awaited = self.awaited.take().filter(|awaited| awaited.missing_bytes > read).map(|mut awaited| {
            awaited.missing_bytes -= read;
            awaited
        });
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for PrefaceTimeout<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::{Instant, advance};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_missing_or_partial_preface_ends_in_a_timeout() {
        for sent in [0, 1, PREFACE_BYTES - 1] {
            let (mut client, server) = duplex(64);
            let mut server = PrefaceTimeout::new(server, TIMEOUT);
            client.write_all(&vec![b'x'; sent]).await.unwrap();
            let started = Instant::now();
            let mut bytes = Vec::new();
            let error = server.read_to_end(&mut bytes).await.unwrap_err();
            assert_eq!((error.kind(), bytes.len(), started.elapsed().as_secs()), (io::ErrorKind::TimedOut, sent, 10));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_may_be_idle_after_the_preface() {
        let (mut client, server) = duplex(64);
        let mut server = PrefaceTimeout::new(server, TIMEOUT);
        let mut bytes = [0; PREFACE_BYTES];
        client.write_all(&bytes[..10]).await.unwrap();
        advance(TIMEOUT / 2).await;
        client.write_all(&bytes[10..]).await.unwrap();
        server.read_exact(&mut bytes).await.unwrap();
        advance(TIMEOUT * 100).await;
        client.write_all(b"later").await.unwrap();
        let mut later = [0; 5];
        server.read_exact(&mut later).await.unwrap();
        assert_eq!(&later, b"later");
    }
}
