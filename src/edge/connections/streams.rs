//! The streams of an HTTP/2 connection: how many, how long, and how much each may keep in memory.
//!
//! Owns the settings that are spelled out here instead of being left to a default, and the bound on a stream whose other
//! end takes nothing: over HTTP/2 that cannot be seen at the connection, which goes on. An answer is handed over in
//! pieces, the next when there is room for it, so that a stream that is given up takes its answer along.

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

/// Streams of one connection at the same time.
const STREAMS_MOST: u32 = 100;
/// Streams that were reset by their client before anybody looked at them: one more ends the connection (CVE-2023-44487).
const RESETS_UNSEEN_MOST: usize = 20;
/// Streams that were reset here because of what their client did: one more ends the connection.
const RESETS_MADE_MOST: usize = 256;
/// What a client may send on a stream, and on all of them, before it is read. Nothing here reads much.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;
/// How much of an answer a stream holds on its way out.
const PIECE: usize = 64 << 10;
/// A connection that stays silent is asked for a sign of life this often.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(20);

/// Runs each stream, for so long at most.
#[derive(Debug, Clone, Copy)]
pub struct Streams {
    pub within: Duration,
}

/// A body in pieces.
pub struct Pieces<B> {
    body: B,
    piece: Bytes,
}

/// HTTP/2 for a connection: a head may have so many bytes, and a sign of life take so long.
pub fn builder(streams: Streams, head_size: u32, sign_within: Duration) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(head_size)
        .max_concurrent_streams(STREAMS_MOST)
        .max_pending_accept_reset_streams(RESETS_UNSEEN_MOST)
        .max_local_error_reset_streams(RESETS_MADE_MOST)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(PIECE)
        .keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(sign_within);
    builder
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    /// A stream that is dropped is reset.
    fn execute(&self, stream: F) {
        tokio::spawn(timeout(self.within, stream));
    }
}

impl<B> Pieces<B> {
    pub fn new(body: B) -> Self {
        Self { body, piece: Bytes::new() }
    }
}

impl<B: Body + Unpin> Body for Pieces<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.piece.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            match frame.into_data() {
                Ok(mut data) => self.piece = data.copy_to_bytes(data.remaining()),
                Err(frame) => return Poll::Ready(Some(Ok(frame.map_data(|_| Bytes::new())))),
            }
        }
        let most = self.piece.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.piece.split_to(most)))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, mut hint) = (self.piece.len() as u64, self.body.size_hint());
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn a_body_in_pieces_is_the_same_body() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 10 * PIECE + 7] {
            let whole = Bytes::from((0..length).map(|place| (place % 251) as u8).collect::<Vec<_>>());
            let mut body = Pieces::new(Full::new(whole.clone()));
            let mut seen = Vec::new();
            while !body.is_end_stream() {
                assert_eq!(body.size_hint().exact(), Some((length - seen.len()) as u64));
                let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
                assert!(data.len() <= PIECE);
                seen.extend_from_slice(&data);
            }
            assert_eq!(seen, whole);
        }
    }
}
