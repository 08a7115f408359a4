//! HTTP/2 on the public and admin ports: settings, stream timeouts, and answers in chunks.
//!
//! Owns the limits that are set here rather than left to hyper's defaults, and the timeout of a stream. A peer that
//! reads nothing on one stream does not show at the connection, because other streams continue. An answer is handed to
//! the stream in chunks, each when there is room for it, so a stream that times out frees the rest of its answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::TokioTimer;
use tokio::time::timeout;

/// Concurrent streams of one connection.
const MAX_STREAMS: u32 = 100;
/// Streams that their client reset before they were processed; one more ends the connection (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;
/// Streams that this node reset because of a client's error; one more ends the connection.
const MAX_LOCAL_RESETS: usize = 256;
/// Bytes that a client may send ahead on one stream, and on all streams. Small, because no request has a large body.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;
/// Bytes of an answer that a stream buffers.
const MAX_CHUNK: usize = 64 << 10;
/// The interval of pings on an idle connection.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// Runs the streams of a connection, and drops each after `stream_timeout`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamExecutor {
    pub stream_timeout: Duration,
}

/// A body whose data frames have at most [`MAX_CHUNK`] bytes.
pub(crate) struct ChunkedBody<B> {
    body: B,
    /// The rest of the last frame of `body`.
    rest: Bytes,
}

/// Settings of an HTTP/2 server connection. `keep_alive_timeout` is how long a peer may take to answer a ping.
pub(crate) fn builder(
    executor: StreamExecutor,
    max_head_size: u32,
    keep_alive_timeout: Duration,
) -> http2::Builder<StreamExecutor> {
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(max_head_size)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_CHUNK)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(keep_alive_timeout);
    builder
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // hyper resets a stream that is dropped.
        tokio::spawn(timeout(self.stream_timeout, stream));
    }
}

impl<B> ChunkedBody<B> {
    pub(crate) fn new(body: B) -> Self {
        Self { body, rest: Bytes::new() }
    }
}

impl<B: Body + Unpin> Body for ChunkedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            match frame.into_data() {
                Ok(mut data) => self.rest = data.copy_to_bytes(data.remaining()),
                Err(frame) => return Poll::Ready(Some(Ok(frame.map_data(|_| Bytes::new())))),
            }
        }
        let length = self.rest.len().min(MAX_CHUNK);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (buffered, mut hint) = (self.rest.len() as u64, self.body.size_hint());
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + buffered);
        }
        hint.set_lower(hint.lower() + buffered);
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn a_chunked_body_has_the_same_bytes() {
        for length in [0, 1, MAX_CHUNK - 1, MAX_CHUNK, MAX_CHUNK + 1, 3 * MAX_CHUNK, 10 * MAX_CHUNK + 7] {
            let whole = Bytes::from((0..length).map(|index| (index % 251) as u8).collect::<Vec<_>>());
            let mut body = ChunkedBody::new(Full::new(whole.clone()));
            let mut seen = Vec::new();
            while !body.is_end_stream() {
                assert_eq!(body.size_hint().exact(), Some((length - seen.len()) as u64));
                let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
                assert!(data.len() <= MAX_CHUNK);
                seen.extend_from_slice(&data);
            }
            assert_eq!(seen, whole);
        }
    }
}
