//! The body of a large response: sent in chunks of 64 KiB, at most one per millisecond.
//!
//! Owns the rate limit, and the size from which it applies. Without a limit, a room of 100,000 sockets keeps a core busy for
//! milliseconds, in this process, in the kernel and in the reader. Measured on two cores, while one client read a large room
//! repeatedly: the p99 of small rooms was seven times that of an idle machine. With this limit, half a gigabit per second, it
//! is less than twice.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::roll_call::json_array::JsonArrayChunks;

/// The rate limit applies to responses with more bytes of rows, which is a room of about 18,000 sockets.
pub const MIN_LARGE_BYTES: usize = 1 << 20;
/// The size of a chunk.
pub const CHUNK_BYTES: usize = 64 << 10;
const CHUNK_INTERVAL: Duration = Duration::from_millis(1);

/// A body of these chunks. `length`: the total in bytes, if it is known.
pub fn chunked_body<I>(chunks: JsonArrayChunks<I>, length: Option<usize>) -> Body
where
    I: Iterator<Item = Bytes> + Send + Unpin + 'static,
{
    Body::new(RateLimitedBody::new(chunks, length))
}

struct RateLimitedBody<I: Iterator<Item = Bytes>> {
    chunks: JsonArrayChunks<I>,
    /// The bytes that are not sent yet, if the total is known.
    remaining: Option<usize>,
    ticks: Interval,
}

impl<I: Iterator<Item = Bytes>> RateLimitedBody<I> {
    fn new(chunks: JsonArrayChunks<I>, remaining: Option<usize>) -> Self {
        let mut ticks = interval(CHUNK_INTERVAL);
        // A slow reader must not get a burst of the ticks that it missed.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { chunks, remaining, ticks }
    }
}

impl<I: Iterator<Item = Bytes> + Unpin> http_body::Body for RateLimitedBody<I> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        ready!(self.ticks.poll_tick(context));
        let chunk = self.chunks.next_chunk(CHUNK_BYTES);
        self.remaining = self.remaining.zip(chunk.as_ref()).map(|(remaining, chunk)| remaining - chunk.len());
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, |remaining| SizeHint::with_exact(remaining as u64))
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt;
    use tokio::time::Instant;

    use super::*;
    use crate::roll_call::json_array::array_length;

    #[tokio::test(start_paused = true)]
    async fn five_megabytes_take_eighty_milliseconds() {
        let runs = vec![Bytes::from(vec![b'1'; (4 << 10) - 1]); 5 * 256];
        let length = array_length(runs.iter().map(Bytes::len));
        let chunks = JsonArrayChunks::new("[", runs.into_iter(), "]");
        let (mut body, started) = (RateLimitedBody::new(chunks, Some(length)), Instant::now());
        let mut received = Vec::new();
        while !body.is_end_stream() {
            assert_eq!(body.size_hint().exact(), Some((5 * MIN_LARGE_BYTES + 1 - received.len()) as u64));
            let chunk = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(chunk.len() <= CHUNK_BYTES + 1, "{}", chunk.len());
            received.extend_from_slice(&chunk);
        }
        assert!(body.frame().await.is_none());
        assert_eq!(received.len(), 5 * MIN_LARGE_BYTES + 1);
        assert_eq!(received[0], b'[');
        assert_eq!(received[received.len() - 1], b']');
        // The first chunk does not wait for a tick.
        assert_eq!(started.elapsed().as_millis(), 79);
    }
}
