//! The two bodies of a roll call: the list of users, and the full document.
//!
//! The list joins JSON that was serialized when the rows arrived, so a large room costs no serialization per request. The
//! full document names the node of each socket, so each answer serializes its users again, one bucket of rows at a time. In
//! one step, 100,000 rows (7 MB) would block a worker thread. Owns no rate limit ([`super::chunked_body`]).

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;

use super::chunked_body::{CHUNK_BYTES, MIN_LARGE_BYTES, chunked_body};
use crate::roll_call::answer::{NodeAnswer, RollCallAnswer};
use crate::roll_call::document::{LocatedSocketDocument, NodeDocument, RollCallDocument};
use crate::roll_call::json_array::JsonArrayChunks;

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
fn serialize_bucket(node: &NodeAnswer, bucket: usize) -> Option<Bytes> {
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

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use jiff::Timestamp;
    use serde_json::Value;

    use super::*;
    use crate::mesh::answers::PeerError;
    use crate::names::{NodeId, NodeName, Room, SocketId, UserId};
    use crate::roll_call::answer::{Disposition, NodeOutcome, VouchedRows};
    use crate::roll_call::rows::SerializedRows;
    use crate::roster::Row;
    use crate::telemetry::metrics::roll_calls::RollCallSource;

    /// An answer of nodes with these numbers of rows; `None` is a node that did not reply.
    fn answer(counts: &[Option<usize>]) -> Arc<RollCallAnswer> {
        let row = |node: usize, number: usize| Row {
            id_socket: SocketId::parse(&format!("socket-{node}-{number}")).unwrap(),
            id_user: UserId::parse("f\"oo").unwrap(),
        };
        let outcomes = counts.iter().enumerate().map(|(node, count)| {
            let rows = count.map(|count| SerializedRows::new(1, (0..count).map(|number| row(node, number)).collect()));
            NodeOutcome {
                node: NodeId::new_process(),
                name: NodeName::from_any(&format!("node-{node}")),
                took: Duration::from_millis(1),
                reply: rows
                    .map(|rows| VouchedRows { rows: Arc::new(rows), unchanged: false })
                    .ok_or((PeerError::Deadline, Disposition::Unanswered { unresolved: Some(3) })),
            }
        });
        let (room, outcomes) = (Room::parse("a").unwrap(), outcomes.collect());
        Arc::new(RollCallAnswer::join(room, Timestamp::UNIX_EPOCH, RollCallSource::Directory, true, outcomes))
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
}
