//! A connection whose other end must begin to speak HTTP/2 before long.
//!
//! Owns that one bound: tonic sends its keep-alive pings once it has read the connection preface, and waits for that
//! without a limit, so a connection on which nothing is ever said would stay for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How many bytes an HTTP/2 client sends first: <https://www.rfc-editor.org/rfc/rfc9113#section-3.4>.
const PREFACE: usize = 24;

/// Fails to read when the preface did not come in time.
pub struct Prompt<T> {
    stream: T,
    waiting: Option<Waiting>,
}

struct Waiting {
    until: Pin<Box<Sleep>>,
    missing: usize,
}

impl<T> Prompt<T> {
    pub fn new(stream: T, within: Duration) -> Self {
        Self { stream, waiting: Some(Waiting { until: Box::pin(sleep(within)), missing: PREFACE }) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Prompt<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(waiting) = &mut self.waiting
            && waiting.until.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buf))?;
        let read = buf.filled().len() - before;
        self.waiting = self.waiting.take().filter(|waiting| waiting.missing > read).map(|mut waiting| {
            waiting.missing -= read;
            waiting
        });
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Prompt<T> {
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

    const WITHIN: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_too_little_is_cut_off_in_time() {
        for said in [0, 1, PREFACE - 1] {
            let (mut client, server) = duplex(64);
            let mut server = Prompt::new(server, WITHIN);
            client.write_all(&vec![b'x'; said]).await.unwrap();
            let began = Instant::now();
            let mut bytes = Vec::new();
            let error = server.read_to_end(&mut bytes).await.unwrap_err();
            assert_eq!((error.kind(), bytes.len(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, said, 10));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_begun_may_be_silent_afterwards() {
        let (mut client, server) = duplex(64);
        let mut server = Prompt::new(server, WITHIN);
        let mut bytes = [0; PREFACE];
        client.write_all(&bytes[..10]).await.unwrap();
        advance(WITHIN / 2).await;
        client.write_all(&bytes[10..]).await.unwrap();
        server.read_exact(&mut bytes).await.unwrap();
        advance(WITHIN * 100).await;
        client.write_all(b"later").await.unwrap();
        let mut later = [0; 5];
        server.read_exact(&mut later).await.unwrap();
        assert_eq!(&later, b"later");
    }
}
