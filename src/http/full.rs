//! The full answer: who is in the room and on which node, who was asked, and what became of it.
//!
//! Owns its JSON. That of a large room is written while it is told, a piece at a time: while it is written in one go,
//! nothing else has its turn on that thread, and 100,000 rows take 7 MB.

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use super::paced::{self, PIECE};
use crate::mesh::peers::PeerError;
use crate::names::{NodeId, NodeName, Room, SocketId, UserId};
use crate::roll_call::answer::{Answer, Source};

/// Who is in the room, who was asked, and what became of it.
#[derive(Serialize, ToSchema)]
#[schema(as = RollCall)]
pub struct Full<'a> {
    #[schema(value_type = String)]
    room: &'a Room,
    /// Every node that may have sockets of the room has answered.
    complete: bool,
    /// When it began.
    #[schema(format = DateTime)]
    as_of: String,
    /// How long it took, in milliseconds.
    #[schema(minimum = 0)]
    took_ms: f64,
    source: Source,
    /// Those that were asked.
    nodes: Vec<Node<'a>>,
    /// How many sockets are left open by nodes that did not answer; `null` when that cannot be known.
    unresolved: Option<u64>,
    /// In no particular order.
    // The last of all, since they follow when the rest has been told.
    users: Vec<User<'a>>,
}

/// A node that was asked.
#[derive(Serialize, ToSchema)]
pub struct Node<'a> {
    /// One run of a process.
    #[schema(value_type = String)]
    id: &'a NodeId,
    /// What people call it.
    #[schema(value_type = String)]
    name: &'a NodeName,
    /// How many sockets of the room it vouched for.
    vouched: usize,
    /// It said that they are those of the last time.
    unchanged: bool,
    /// Why its answer is missing, if it is.
    error: Option<PeerError>,
    /// How long it took, in milliseconds.
    #[schema(minimum = 0)]
    took_ms: f64,
}

/// One socket, and where it is.
#[derive(Serialize, ToSchema)]
#[schema(as = LocatedSocket)]
pub struct User<'a> {
    /// What its client sees as `socket.id`.
    #[schema(value_type = String)]
    id_socket: &'a SocketId,
    /// The user that it belongs to.
    #[schema(value_type = String)]
    id_user: &'a UserId,
    /// The name of the node that it is connected to.
    #[schema(value_type = String)]
    node: &'a NodeName,
}

/// The answer as JSON.
pub fn body(answer: &Arc<Answer>) -> Body {
    let pieces = pieces(Arc::clone(answer));
    if paced::is_large(answer) {
        return paced::told(pieces);
    }
    let mut told = Vec::new();
    pieces.for_each(|piece| told.extend_from_slice(&piece));
    told.into()
}

fn pieces(answer: Arc<Answer>) -> impl Iterator<Item = Bytes> {
    const END: &str = "]}";
    let mut head = serde_json::to_string(&Full::without_users(&answer)).expect("names and numbers can be written");
    head.truncate(head.len() - END.len());
    let users = Users { answer, node: 0, bucket: 0, begun: false };
    iter::once(head.into()).chain(users).chain([END.into()])
}

impl<'a> Full<'a> {
    fn without_users(answer: &'a Answer) -> Self {
        let nodes = answer.nodes.iter().map(|node| Node {
            id: &node.node,
            name: &node.name,
            vouched: node.said.as_ref().map_or(0, |vouched| vouched.rows.len()),
            unchanged: node.said.as_ref().is_ok_and(|vouched| vouched.unchanged),
            error: node.said.as_ref().err().copied(),
            took_ms: milliseconds(node.took),
        });
        Self {
            room: &answer.room,
            complete: answer.complete,
            as_of: format!("{:.3}", answer.as_of),
            took_ms: milliseconds(answer.took),
            source: answer.source,
            nodes: nodes.collect(),
            unresolved: answer.unresolved,
            users: Vec::new(),
        }
    }
}

/// What stands between the brackets of `users`, in pieces.
struct Users {
    answer: Arc<Answer>,
    /// Where the next piece begins: at which node, and at which bucket of its rows.
    node: usize,
    bucket: usize,
    /// There were some already.
    begun: bool,
}

impl Iterator for Users {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut piece = Vec::new();
        while piece.len() < PIECE
            && let Some(node) = self.answer.nodes.get(self.node)
        {
            let Some(rows) = node.said.as_ref().ok().and_then(|vouched| vouched.rows.bucket(self.bucket)) else {
                (self.node, self.bucket) = (self.node + 1, 0);
                continue;
            };
            self.bucket += 1;
            for row in rows {
                if self.begun {
                    piece.push(b',');
                }
                self.begun = true;
                let user = User { id_socket: &row.id_socket, id_user: &row.id_user, node: &node.name };
                serde_json::to_writer(&mut piece, &user).expect("names can be written");
            }
        }
        (!piece.is_empty()).then(|| piece.into())
    }
}

/// To the microsecond: more would be noise.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use jiff::Timestamp;
    use serde_json::Value;

    use super::*;
    use crate::roll_call::answer::{Outcome, Verdict, Vouched};
    use crate::roll_call::rows::Rows;
    use crate::roster::Row;

    /// Nodes with so many rows each; one of `None` did not answer.
    fn answer(counts: &[Option<usize>]) -> Arc<Answer> {
        let row = |node: usize, number: usize| Row {
            id_socket: SocketId::parse(&format!("socket-{node}-{number}")).unwrap(),
            id_user: UserId::parse("f\"oo").unwrap(),
        };
        let outcomes = counts.iter().enumerate().map(|(node, count)| {
            let rows = count.map(|count| Rows::new(1, (0..count).map(|number| row(node, number)).collect()));
            Outcome {
                node: NodeId::new_process(),
                name: NodeName::from_any(&format!("node-{node}")),
                took: Duration::from_millis(1),
                reply: rows
                    .map(|rows| Vouched { rows: Arc::new(rows), unchanged: false })
                    .ok_or((PeerError::Deadline, Verdict::Unanswered { unresolved: Some(3) })),
            }
        });
        let (room, outcomes) = (Room::parse("a").unwrap(), outcomes.collect());
        Arc::new(Answer::join(room, Timestamp::UNIX_EPOCH, Source::Directory, true, outcomes))
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_is_told_with_their_node_however_many_there_are() {
        for counts in [
            vec![],
            vec![Some(0)],
            vec![Some(1)],
            vec![Some(0), Some(2), None, Some(1)],
            vec![Some(30_000), None, Some(0), Some(1)],
        ] {
            let answer = answer(&counts);
            let told = body(&answer).collect().await.unwrap().to_bytes();
            let told: Value = serde_json::from_slice(&told).unwrap();
            let complete = !counts.contains(&None);
            let unresolved = if complete { 0 } else { 3 };
            assert_eq!((&told["room"], &told["complete"]), (&"a".into(), &complete.into()));
            assert_eq!((&told["as_of"], &told["unresolved"]), (&"1970-01-01T00:00:00.000Z".into(), &unresolved.into()));
            let vouched: Vec<_> = told["nodes"].as_array().unwrap().iter().map(|node| &node["vouched"]).collect();
            assert_eq!(vouched, counts.iter().map(|count| count.unwrap_or(0)).collect::<Vec<_>>());
            let text = |user: &Value, name| user[name].as_str().unwrap().to_owned();
            let users = told["users"].as_array().unwrap().iter();
            let users = users.map(|user| ["id_socket", "id_user", "node"].map(|name| text(user, name)));
            let expected =
                answer.rows().map(|(node, row)| [row.id_socket.to_string(), row.id_user.to_string(), node.to_string()]);
            assert!(users.eq(expected), "{counts:?}");
        }
    }

    #[test]
    fn a_large_room_is_told_in_pieces_that_are_not() {
        let pieces: Vec<_> = pieces(answer(&[Some(20_000), Some(20_000)])).collect();
        let whole: usize = pieces.iter().map(Bytes::len).sum();
        // One bucket more than fits, as long as the longest that chance makes.
        assert!(pieces.iter().all(|piece| piece.len() < PIECE + PIECE / 4));
        assert!(pieces.len() >= whole / PIECE && whole > 30 * PIECE, "{whole} bytes in {}", pieces.len());
    }
}
