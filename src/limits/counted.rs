//! So many connections of a listener that others serve: one more is closed as it comes.
//!
//! Owns the counting for the mesh, whose callers are few and known, and whom nobody has to tell anything in HTTP/1.1.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::Connected;
use tracing::warn;

/// A connection that counts for as long as it is there.
pub struct Counted<T> {
    stream: T,
    _one: OwnedSemaphorePermit,
}

/// The connections that are accepted while there are fewer than `most`.
pub fn so_many<T>(
    accepted: impl Stream<Item = io::Result<T>>,
    most: usize,
) -> impl Stream<Item = io::Result<Counted<T>>> {
    let open = Arc::new(Semaphore::new(most));
    let mut complained = false;
    accepted.filter_map(move |accepted| {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => return Some(Err(error)),
        };
        let Ok(one) = Arc::clone(&open).try_acquire_owned() else {
            if !complained {
                warn!(most, "too many connections to the mesh, closing those that come until there is room");
                complained = true;
            }
            return None;
        };
        complained = false;
        Some(Ok(Counted { stream, _one: one }))
    })
}

impl<T: Connected> Connected for Counted<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
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
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, duplex};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    #[tokio::test]
    async fn one_too_many_is_closed_and_there_is_room_when_another_has_gone() {
        let (come, coming) = mpsc::unbounded_channel();
        let mut accepted = Box::pin(so_many(UnboundedReceiverStream::new(coming), 2));
        let come = || {
            let (client, stream) = duplex(1);
            come.send(Ok(stream)).unwrap();
            client
        };
        let _clients = [come(), come()];
        let one = accepted.next().await.unwrap().unwrap();
        let _other = accepted.next().await.unwrap().unwrap();
        let mut closed = come();
        assert!(accepted.next().now_or_never().is_none(), "it is one too many");
        assert_eq!(closed.read(&mut [0]).await.unwrap(), 0);
        drop(one);
        let _client = come();
        assert!(accepted.next().await.is_some_and(|accepted| accepted.is_ok()));
    }
}
