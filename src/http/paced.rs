//! How a large list is told: a piece at a time, and no faster than leaves its turn to whoever asks for a small one.
//!
//! Owns the pace, and which lists have one. Told in one go, a room of 100,000 keeps a core busy in this process, in
//! the kernel and in its reader for milliseconds: on two cores the 99th percentile of small rooms was seven times that
//! of an idle machine while it was read again and again, and at this pace it is less than twice. That is half a
//! gigabit per second.

use std::convert::Infallible;
use std::iter;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::roll_call::answer::Answer;

/// A list of more bytes is told at a pace: that of a room of about 18,000.
const LARGE: usize = 1 << 20;
/// So many bytes are told at once…
pub const PIECE: usize = 64 << 10;
/// …and no more before so long.
const EVERY: Duration = Duration::from_millis(1);

/// Whether the rows of an answer are told at a pace.
pub fn is_large(answer: &Answer) -> bool {
    answer.json_bytes() > LARGE
}

/// The rows of an answer as one array of JSON.
pub fn body(answer: &Answer) -> axum::body::Body {
    if !is_large(answer) {
        return answer.users().into();
    }
    let mut list = answer.list();
    let length = list.left();
    axum::body::Body::new(Paced::new(iter::from_fn(move || list.join(PIECE)), Some(length)))
}

/// These pieces, at the pace of a large list.
pub fn told(pieces: impl Iterator<Item = Bytes> + Send + Unpin + 'static) -> axum::body::Body {
    axum::body::Body::new(Paced::new(pieces, None))
}

/// A body that is told at a pace.
struct Paced<P> {
    pieces: P,
    /// How many bytes are left, where that is known.
    left: Option<usize>,
    turns: Interval,
}

impl<P> Paced<P> {
    fn new(pieces: P, left: Option<usize>) -> Self {
        let mut turns = interval(EVERY);
        // Who reads slowly has none to catch up with.
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { pieces, left, turns }
    }
}

impl<P: Iterator<Item = Bytes> + Unpin> Body for Paced<P> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        ready!(self.turns.poll_tick(context));
        let piece = self.pieces.next();
        self.left = self.left.zip(piece.as_ref()).map(|(left, piece)| left - piece.len());
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, |left| SizeHint::with_exact(left as u64))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::time::Instant;

    use super::*;
    use crate::roll_call::list::List;

    #[tokio::test(start_paused = true)]
    async fn a_megabyte_takes_sixteen_milliseconds_and_no_piece_is_large() {
        let object = Bytes::from(vec![b'1'; (4 << 10) - 1]);
        let mut list = List::of(vec![object; 5 * 256]);
        let length = list.left();
        let (mut body, began) = (Paced::new(iter::from_fn(|| list.join(PIECE)), Some(length)), Instant::now());
        let mut told = Vec::new();
        while !body.is_end_stream() {
            assert_eq!(body.size_hint().exact(), Some((5 * LARGE + 1 - told.len()) as u64));
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE + 1, "{}", piece.len());
            told.extend_from_slice(&piece);
        }
        assert!(body.frame().await.is_none());
        assert_eq!((told.len(), told[0], told[told.len() - 1]), (5 * LARGE + 1, b'[', b']'));
        // The first piece is not waited for.
        assert_eq!(began.elapsed().as_millis(), 79);
    }
}
