//! A timeout for the HTTP/2 connection preface.
//!
//! Owns only this timeout. tonic sends keep-alive pings only after it has read the preface, and waits for the preface
//! without a limit: a client that sends nothing would keep its connection forever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

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
