//! The connections that the mesh port accepts: without delay on small writes, proven where nodes show certificates, and
//! cut off where nothing is said.
//!
//! Owns the handshakes under way: each in a task of its own, bounded in time and in number, so that no peer waits for
//! another. Where there are too many, the oldest is given up: a peer that means it is done in milliseconds.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tonic::transport::server::Connected;
use tracing::warn;

use super::byte_counter::{End, metered};
use super::channel::Wire;
use super::preface::Prompt;
use super::security::{Peer, Security};

/// How long the other end of a connection may take to begin.
const PREFACE_WITHIN: Duration = Duration::from_secs(10);
/// How long a handshake may take. A node that connects gives up much earlier.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
const HANDSHAKES_MOST: usize = 256;

/// A connection that may be served.
pub struct Accepted {
    stream: Prompt<Box<dyn Wire>>,
    peer: Peer,
    /// Held by one of those that are counted.
    _one: Option<OwnedSemaphorePermit>,
}

struct Accepting {
    listener: TcpListener,
    security: Security,
    handshakes: JoinSet<Option<Accepted>>,
    /// The oldest first; those that are done are forgotten when there are many.
    started: VecDeque<AbortHandle>,
}

/// The connections that a listener accepts and `security` lets in. Who is not is logged, and is no error of the stream.
pub fn accepted(listener: TcpListener, security: Security) -> impl Stream<Item = io::Result<Accepted>> + Send {
    let accepting = Accepting { listener, security, handshakes: JoinSet::new(), started: VecDeque::new() };
    unfold(accepting, |mut accepting| async move {
        let next = accepting.next().await;
        Some((next, accepting))
    })
}

impl Accepting {
    async fn next(&mut self) -> io::Result<Accepted> {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => {
                    let (stream, address) = accepted?;
                    stream.set_nodelay(true)?;
                    let stream = metered(stream, End::Answering);
                    if !self.security.shows_certificates() {
                        return Ok(Accepted::new(Box::new(stream), Peer::unproven(address)));
                    }
                    self.begin(stream, address);
                }
                Some(done) = self.handshakes.join_next() => {
                    // One that was given up, or not let in, is none.
                    if let Ok(Some(accepted)) = done {
                        return Ok(accepted);
                    }
                }
            }
        }
    }

    fn begin(&mut self, stream: impl Wire + 'static, address: SocketAddr) {
        if self.started.len() >= HANDSHAKES_MOST {
            self.started.retain(|handshake| !handshake.is_finished());
        }
        if self.started.len() >= HANDSHAKES_MOST
            && let Some(oldest) = self.started.pop_front()
        {
            oldest.abort();
        }
        self.started.push_back(self.handshakes.spawn(prove(stream, address, self.security.clone())));
    }
}

async fn prove(stream: impl Wire + 'static, address: SocketAddr, security: Security) -> Option<Accepted> {
    let certificates = security.certificates()?;
    let error = match timeout(HANDSHAKE_WITHIN, certificates.accept(stream)).await {
        Ok(Ok((stream, chain))) => {
            return Some(Accepted::new(Box::new(stream), Peer::proven(address, chain, certificates)));
        }
        Ok(Err(error)) => error,
        Err(_elapsed) => io::ErrorKind::TimedOut.into(),
    };
    if security.refusals().is_first("connection", &address.ip().to_string()) {
        warn!(peer = %address, %error, "a connection to the mesh is refused");
    }
    None
}

impl Accepted {
    fn new(stream: Box<dyn Wire>, peer: Peer) -> Self {
        Self { stream: Prompt::new(stream, PREFACE_WITHIN), peer, _one: None }
    }

    /// It counts for as long as it is there.
    pub fn counted(self, one: OwnedSemaphorePermit) -> Self {
        Self { _one: Some(one), ..self }
    }
}

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for Accepted {
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
