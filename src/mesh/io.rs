//! The byte stream of a mesh connection, the body of a response, and the errors of both.
//!
//! Owns the trait [`Io`], which TCP, TLS and simulated streams implement, and [`ConnectionError`]. Owns no connection:
//! [`super::channel`] makes and keeps them.
//!
//! [`ByteCounter`] counts the bytes of one node. Its stream wrapper is below TLS: it counts bytes on the network, not those of
//! messages.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::Frame;
use strum::IntoStaticStr;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::{InspectReader, InspectWriter};

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// The reason why a call got no response.
#[derive(Debug, Clone, Error)]
pub enum ConnectionError {
    #[error("cannot connect: {0}")]
    Unreachable(Arc<io::Error>),
    /// One end rejected the certificate of the other.
    #[error("mTLS handshake failed: {0}")]
    Untrusted(Arc<io::Error>),
    /// The peer did not answer a keep-alive ping, so this node closed the connection.
    #[error("keep-alive timeout")]
    KeepAliveTimeout,
    #[error("connection lost: {0}")]
    Lost(Arc<h2::Error>),
    #[error("cannot encode the request: {0}")]
    Encode(Arc<tonic::Status>),
}

/// Set when a connection was closed because the peer did not answer a keep-alive ping.
pub(crate) type TimedOut = Arc<OnceLock<()>>;

impl ConnectionError {
    /// An error from before the HTTP/2 handshake.
    pub(crate) fn connecting(error: impl Into<io::Error>) -> Self {
        let error = error.into();
        match error.kind() {
            // rustls reports a rejected certificate as invalid data.
            io::ErrorKind::InvalidData => Self::Untrusted(Arc::new(error)),
            _ => Self::Unreachable(Arc::new(error)),
        }
    }

    /// An error of HTTP/2.
    pub(crate) fn http2(error: h2::Error) -> Self {
        match error.get_io() {
            Some(io) if io.kind() == io::ErrorKind::InvalidData => {
                Self::Untrusted(Arc::new(io::Error::new(io.kind(), error)))
            }
            _ => Self::Lost(Arc::new(error)),
        }
    }

    /// An error of a call. After a keep-alive timeout, h2 reports a closed connection only; the timeout is the cause.
    pub(crate) fn of_call(timed_out: &OnceLock<()>, error: h2::Error) -> Self {
        match timed_out.get() {
            Some(()) => Self::KeepAliveTimeout,
            None => Self::http2(error),
        }
    }
}

/// The body of a response while it arrives.
pub struct ResponseBody {
    stream: RecvStream,
    timed_out: TimedOut,
    expects: Expects,
}

/// The next part of a body.
enum Expects {
    Data,
    Trailers,
    End,
}

impl ResponseBody {
    pub(crate) fn new(stream: RecvStream, timed_out: TimedOut) -> Self {
        Self { stream, timed_out, expects: Expects::Data }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = ConnectionError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ConnectionError>>> {
        loop {
            let frame = match self.expects {
                Expects::Data => match ready!(self.stream.poll_data(context)) {
                    None => {
                        self.expects = Expects::Trailers;
                        continue;
                    }
                    Some(data) => data.and_then(|data| {
                        self.stream.flow_control().release_capacity(data.len())?;
                        Ok(Some(Frame::data(data)))
                    }),
                },
                Expects::Trailers => {
                    let trailers = ready!(self.stream.poll_trailers(context));
                    self.expects = Expects::End;
                    trailers.map(|trailers| trailers.map(Frame::trailers))
                }
                Expects::End => Ok(None),
            };
            return Poll::Ready(frame.map_err(|error| ConnectionError::of_call(&self.timed_out, error)).transpose());
        }
    }
}

/// The end of a connection that this node is. The names are values of a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
pub enum ConnectionEnd {
    /// This node connected and sends the requests.
    #[strum(serialize = "asking")]
    Client,
    /// This node accepted the connection and sends the responses.
    #[strum(serialize = "answering")]
    Server,
}

/// The bytes of all mesh connections of a node, by end. Clones share the counts.
#[derive(Clone, Default)]
pub struct ByteCounter(Arc<ByteCounts>);

#[derive(Default)]
struct ByteCounts {
    sent: [AtomicU64; 2],
    received: [AtomicU64; 2],
}

impl ConnectionEnd {
    pub const ALL: [Self; 2] = [Self::Client, Self::Server];

    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl ByteCounter {
    pub fn sent(&self, end: ConnectionEnd) -> u64 {
        self.0.sent[end as usize].load(Ordering::Relaxed)
    }

    pub fn received(&self, end: ConnectionEnd) -> u64 {
        self.0.received[end as usize].load(Ordering::Relaxed)
    }

    /// Wraps a stream so that its bytes are counted.
    pub(crate) fn count<I: Io>(&self, stream: I, end: ConnectionEnd) -> impl Io + use<I> {
        let (received, sent) = (Arc::clone(&self.0), Arc::clone(&self.0));
        let reader = InspectReader::new(stream, move |bytes: &[u8]| {
            received.received[end as usize].fetch_add(bytes.len() as u64, Ordering::Relaxed);
        });
        InspectWriter::new(reader, move |bytes: &[u8]| {
            sent.sent[end as usize].fetch_add(bytes.len() as u64, Ordering::Relaxed);
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn bytes_are_counted_at_the_end_that_they_pass() {
        let (stream, mut remote) = duplex(64);
        let counter = ByteCounter::default();
        let mut stream = counter.count(stream, ConnectionEnd::Client);
        stream.write_all(b"abc").await.unwrap();
        remote.write_all(b"defgh").await.unwrap();
        let mut read = [0; 5];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(counter.sent(ConnectionEnd::Client), 3);
        assert_eq!(counter.received(ConnectionEnd::Client), 5);
        assert_eq!(counter.sent(ConnectionEnd::Server), 0);
        assert_eq!(&read, b"defgh");
    }
}
