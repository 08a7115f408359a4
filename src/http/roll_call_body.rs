//! The two bodies of a roll call: the list of users, and the full document.
//!
//! The list joins JSON that was serialized when the rows arrived, so a large room costs no serialization per request. The
//! full document names the node of each socket, so each answer serializes its users again, one bucket of rows at a time. In
//! one step, 100,000 rows (7 MB) would block a worker thread.
//!
//! A large body is sent in chunks of 64 KiB, at most one per millisecond. Without this limit, a room of 100,000 sockets keeps a
//! core busy for milliseconds, in this process, in the kernel and in the reader. Measured on two cores, while one client read
//! a large room repeatedly: the p99 of small rooms was seven times that of an idle machine. With the limit, half a gigabit per
//! second, it is less than twice.

use std::convert::Infallible;
use std::iter;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::roll_call::answer::{NodeResult, RollCallAnswer};
use crate::roll_call::document::{LocatedSocketDocument, NodeDocument, RollCallDocument};
use crate::roll_call::rows::JsonArrayChunks;

/// The body of `GET /{room}/users`.
pub(super) fn users_body(answer: &RollCallAnswer) -> Body {
    let length = answer.users_length();
    if length <= MIN_LARGE_BYTES {
        return answer.users().into();
    }
    chunked_body(answer.users_chunks(), Some(length))
}

/// The body of `GET /{room}/rollcall`.
pub(super) fn document_body(answer: &Arc<RollCallAnswer>) -> Body {
    let mut chunks = document_chunks(Arc::clone(answer));
    if answer.users_length() > MIN_LARGE_BYTES {
        return chunked_body(chunks, None);
    }
    let mut document = Vec::new();
    while let Some(chunk) = chunks.next_chunk(CHUNK_BYTES) {
        document.extend_from_slice(&chunk);
    }
    document.into()
}

fn document_chunks(answer: Arc<RollCallAnswer>) -> JsonArrayChunks<impl Iterator<Item = Bytes> + Send + Unpin> {
    const END: &str = "]}";
    let mut prefix =
        serde_json::to_string(&document_without_users(&answer)).expect("strings and numbers can be serialized");
    // `users` is the last field, and empty here: its elements follow one chunk at a time.
    prefix.truncate(prefix.len() - END.len());
    let (mut node, mut bucket) = (0, 0);
    let users = iter::from_fn(move || {
        loop {
            let current = answer.nodes.get(node)?;
            if let Some(run) = serialize_bucket(current, bucket) {
                bucket += 1;
                return Some(run);
            }
            (node, bucket) = (node + 1, 0);
        }
    });
    JsonArrayChunks::new(prefix, users, END)
}

/// The sockets of one bucket of a node's rows, separated by commas. `None` after the last bucket.
fn serialize_bucket(node: &NodeResult, bucket: usize) -> Option<Bytes> {
    let rows = node.reply.as_ref().ok()?.rows.bucket(bucket)?;
    let mut run = Vec::with_capacity(rows.len() * 100);
    for row in rows {
        if !run.is_empty() {
            run.push(b',');
        }
        let user = LocatedSocketDocument {
            id_socket: row.id_socket.as_str().into(),
            id_user: row.id_user.as_str().into(),
            node: node.name.as_str().into(),
        };
        serde_json::to_writer(&mut run, &user).expect("strings can be written to memory");
    }
    Some(run.into())
}

fn document_without_users(answer: &RollCallAnswer) -> RollCallDocument<'_> {
    let nodes = answer.nodes.iter().map(|node| NodeDocument {
        id: node.node.as_str().into(),
        name: node.name.as_str().into(),
        vouched: node.reply.as_ref().map_or(0, |vouched| vouched.rows.len() as u64),
        unchanged: node.reply.as_ref().is_ok_and(|vouched| vouched.unchanged),
        error: node.reply.as_ref().err().map(|error| error.to_string().into()),
        took_ms: milliseconds(node.took),
    });
    let source: &'static str = answer.source.into();
    RollCallDocument {
        room: answer.room.as_str().into(),
        complete: answer.complete,
        as_of: format!("{:.3}", answer.as_of).into(),
        took_ms: milliseconds(answer.took),
        source: source.into(),
        nodes: nodes.collect(),
        unresolved: answer.unresolved,
        users: Vec::new(),
    }
}

/// Cut to microseconds: more digits would be noise.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// The rate limit applies to responses with more bytes of rows, which is a room of about 18,000 sockets.
pub(crate) const MIN_LARGE_BYTES: usize = 1 << 20;
/// The size of a chunk.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;
const CHUNK_INTERVAL: Duration = Duration::from_millis(1);

/// A body of these chunks. `length`: the total in bytes, if it is known.
pub(crate) fn chunked_body<I>(chunks: JsonArrayChunks<I>, length: Option<usize>) -> Body
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
    use http_body_util::BodyExt as _;
    use jiff::Timestamp;
    use serde_json::Value;
    use tokio::time::Instant;

    use super::*;
    use crate::mesh::answers::PeerError;
    use crate::names::{NodeId, NodeName, Room, SocketId, UserId};
    use crate::roll_call::answer::VouchedRows;
    use crate::roll_call::rows::SerializedRows;
    use crate::roll_call::rows::array_length;
    use crate::roll_call::silence::{Disposition, JudgedSilence};
    use crate::roster::Row;
    use crate::telemetry::metrics::roll_calls::RollCallSource;

    /// An answer of nodes with these numbers of rows; `None` is a node that did not reply.
    fn answer(counts: &[Option<usize>]) -> Arc<RollCallAnswer> {
        let row = |node: usize, number: usize| Row {
            id_socket: SocketId::parse(&format!("socket-{node}-{number}")).unwrap(),
            id_user: UserId::parse("f\"oo").unwrap(),
        };
        let disposition = Disposition::Unanswered { unresolved: Some(3) };
        let silence = JudgedSilence { error: PeerError::Deadline, disposition };
        let results = counts.iter().enumerate().map(|(node, count)| {
            let rows = count.map(|count| SerializedRows::new(1, (0..count).map(|number| row(node, number)).collect()));
            NodeResult {
                node: NodeId::new_process(),
                name: NodeName::from_any(&format!("node-{node}")),
                took: Duration::from_millis(1),
                reply: rows.map(|rows| VouchedRows { rows: Arc::new(rows), unchanged: false }).ok_or(silence),
            }
        });
        let (room, results) = (Room::parse("a").unwrap(), results.collect());
        Arc::new(RollCallAnswer::join(room, Timestamp::UNIX_EPOCH, RollCallSource::Directory, true, results))
    }

    #[tokio::test(start_paused = true)]
    async fn the_document_has_every_socket_with_its_node() {
        for counts in [
            vec![],
            vec![Some(0)],
            vec![Some(1)],
            vec![Some(0), Some(2), None, Some(1)],
            vec![Some(30_000), None, Some(0), Some(1)],
        ] {
            let answer = answer(&counts);
            let document = document_body(&answer).collect().await.unwrap().to_bytes();
            let document: Value = serde_json::from_slice(&document).unwrap();
            let complete = !counts.contains(&None);
            let unresolved = if complete { 0 } else { 3 };
            assert_eq!((&document["room"], &document["complete"]), (&"a".into(), &complete.into()));
            assert_eq!(
                (&document["as_of"], &document["unresolved"]),
                (&"1970-01-01T00:00:00.000Z".into(), &unresolved.into())
            );
            let vouched: Vec<_> = document["nodes"].as_array().unwrap().iter().map(|node| &node["vouched"]).collect();
            assert_eq!(vouched, counts.iter().map(|count| count.unwrap_or(0)).collect::<Vec<_>>());
            let text = |user: &Value, name| user[name].as_str().unwrap().to_owned();
            let users = document["users"].as_array().unwrap().iter();
            let users = users.map(|user| ["id_socket", "id_user", "node"].map(|name| text(user, name)));
            let expected =
                answer.rows().map(|(node, row)| [row.id_socket.to_string(), row.id_user.to_string(), node.to_string()]);
            assert!(users.eq(expected), "{counts:?}");
        }
    }

    #[test]
    fn the_document_of_a_large_room_comes_in_small_chunks() {
        let mut chunks = document_chunks(answer(&[Some(20_000), Some(20_000)]));
        let chunks: Vec<_> = iter::from_fn(|| chunks.next_chunk(CHUNK_BYTES)).collect();
        let whole: usize = chunks.iter().map(Bytes::len).sum();
        assert!(chunks.iter().all(|chunk| chunk.len() <= CHUNK_BYTES + 2));
        assert!(chunks.len() >= whole / CHUNK_BYTES && whole > 30 * CHUNK_BYTES, "{whole} bytes in {}", chunks.len());
    }

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
