//! What goes over the mesh, counted in bytes.
//!
//! Owns the counts, for the whole process, and the stream that counts: below TLS, so that what is counted is what the
//! network carries.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Which end of a connection this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It connected, and asks.
    Asking,
    /// It accepted, and answers.
    Answering,
}

/// What was sent and received, by end.
pub struct Traffic {
    sent: [AtomicU64; 2],
    received: [AtomicU64; 2],
}

/// That of this process.
pub static TRAFFIC: Traffic =
    Traffic { sent: [const { AtomicU64::new(0) }; 2], received: [const { AtomicU64::new(0) }; 2] };

/// Counts what passes.
pub struct Metered<T> {
    stream: T,
    end: End,
}

impl End {
    pub const ALL: [Self; 2] = [Self::Asking, Self::Answering];

    pub fn name(self) -> &'static str {
        match self {
            Self::Asking => "asking",
            Self::Answering => "answering",
        }
    }
}

impl Traffic {
    /// Bytes.
    pub fn sent(&self, end: End) -> u64 {
        self.sent[end as usize].load(Ordering::Relaxed)
    }

    /// Bytes.
    pub fn received(&self, end: End) -> u64 {
        self.received[end as usize].load(Ordering::Relaxed)
    }
}

impl<T> Metered<T> {
    pub fn new(stream: T, end: End) -> Self {
        Self { stream, end }
    }

    fn count_sent(&self, written: &io::Result<usize>) {
        if let Ok(bytes) = written {
            TRAFFIC.sent[self.end as usize].fetch_add(*bytes as u64, Ordering::Relaxed);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buf))?;
        let read = buf.filled().len() - before;
        TRAFFIC.received[self.end as usize].fetch_add(read as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, buf));
        self.count_sent(&written);
        Poll::Ready(written)
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
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, bufs));
        self.count_sent(&written);
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<T: Connected> Connected for Metered<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn what_passes_is_counted_at_its_end() {
        let (one, mut other) = duplex(64);
        let mut metered = Metered::new(one, End::Asking);
        let before = [TRAFFIC.sent(End::Asking), TRAFFIC.received(End::Asking)];
        metered.write_all(b"abc").await.unwrap();
        other.write_all(b"defgh").await.unwrap();
        let mut read = [0; 5];
        metered.read_exact(&mut read).await.unwrap();
        // Other tests of this process may count as well.
        assert!(TRAFFIC.sent(End::Asking) >= before[0] + 3);
        assert!(TRAFFIC.received(End::Asking) >= before[1] + 5);
        assert_eq!(&read, b"defgh");
    }
}
