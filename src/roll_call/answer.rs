//! The answer to a roll call: the rows of all nodes joined, and the nodes that did not reply.
//!
//! Owns the rule that each process has one set of rows, that of its latest incarnation. [`silence`](super::silence) judges
//! the nodes that did not reply. Pure and synchronous: it gets the results of all lookups, and the answer accounts for each.

use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::vec;

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::rows::SerializedRows;
use super::rows::{JsonArrayChunks, array_length};
use super::silence::{Disposition, JudgedSilence};
use crate::mesh::answers::PeerError;
use crate::names::{NodeId, NodeName, Room};
use crate::roster::Row;
use crate::telemetry::metrics::roll_calls::RollCallSource;

/// The rows that a node vouched for during this roll call.
#[derive(Debug, Clone)]
pub struct VouchedRows {
    pub rows: Arc<SerializedRows>,
    /// The node confirmed the cached rows.
    pub unchanged: bool,
}

/// The rows of one node, or the reason why there are none: a [`PeerError`], or a [`JudgedSilence`].
#[derive(Debug, Clone)]
pub struct NodeResult<E = PeerError> {
    pub node: NodeId,
    pub name: NodeName,
    pub took: Duration,
    pub reply: Result<VouchedRows, E>,
}

/// The answer to a roll call.
#[derive(Debug)]
pub struct RollCallAnswer {
    pub room: Room,
    /// Every node that may have sockets in the room has replied, or is dead.
    pub complete: bool,
    /// When the roll call started.
    pub as_of: Timestamp,
    pub took: Duration,
    pub source: RollCallSource,
    /// The number of sockets of nodes that did not reply; `None` if it cannot be known.
    pub unresolved: Option<u64>,
    /// The nodes asked, this one first.
    pub nodes: Vec<NodeResult>,
    /// The JSON of [`RollCallAnswer::users`], serialized at most once for all callers that share the answer.
    users: OnceLock<Bytes>,
}

impl RollCallAnswer {
    /// Joins the results. `can_be_complete`: every node that was not asked was skipped with the permission of the index.
    pub fn join(
        room: Room,
        as_of: Timestamp,
        source: RollCallSource,
        can_be_complete: bool,
        results: Vec<NodeResult<JudgedSilence>>,
    ) -> Self {
        let mut complete = can_be_complete;
        let mut unresolved = if can_be_complete { Some(0) } else { None };
        let mut nodes: Vec<NodeResult> = Vec::with_capacity(results.len());
        for NodeResult { node, name, took, reply } in latest_incarnations(results) {
            let reply = match reply {
                Ok(vouched) => Ok(vouched),
                Err(JudgedSilence { disposition: Disposition::Dead, .. }) => continue,
                Err(JudgedSilence { error, disposition: Disposition::Unanswered { unresolved: sockets } }) => {
                    complete = false;
                    unresolved = unresolved.zip(sockets).map(|(sum, sockets)| sum + sockets);
                    Err(error)
                }
            };
            nodes.push(NodeResult { node, name, took, reply });
        }
        Self { room, complete, as_of, took: Duration::ZERO, source, unresolved, nodes, users: OnceLock::new() }
    }

    /// Every row, with the name of the node that vouched for it.
    pub fn rows(&self) -> impl Iterator<Item = (&NodeName, &Row)> {
        let replies = self.nodes.iter().filter_map(|node| Some((&node.name, node.reply.as_ref().ok()?)));
        replies.flat_map(|(name, vouched)| vouched.rows.iter().map(move |row| (name, row)))
    }

    /// The JSON array of all rows. This joins JSON that was serialized when the rows arrived ([`SerializedRows`]).
    pub fn users(&self) -> Bytes {
        let join = || self.users_chunks().next_chunk(self.users_length()).unwrap_or_default();
        self.users.get_or_init(join).clone()
    }

    /// The length of [`Self::users`], in bytes.
    pub fn users_length(&self) -> usize {
        array_length(self.json_runs().map(Bytes::len))
    }

    /// The same array as [`Self::users`], joined one chunk at a time.
    pub fn users_chunks(&self) -> JsonArrayChunks<vec::IntoIter<Bytes>> {
        let runs: Vec<_> = self.json_runs().cloned().collect();
        JsonArrayChunks::new("[", runs.into_iter(), "]")
    }

    /// Identifies the rows of a complete answer: answers with equal tags have equal rows. `None` for an incomplete answer.
    ///
    /// The tag is a SHA-256 of the owners' versions, cut to 128 bits. Every node computes the same tag for the same rows,
    /// also if the nodes run different releases.
    pub fn tag(&self) -> Option<u128> {
        if !self.complete {
            return None;
        }
        let versions =
            self.nodes.iter().filter_map(|node| Some((node.node.as_str(), node.reply.as_ref().ok()?.rows.version)));
        // Version 0 is a node without rows: whether it was asked must not change the tag.
        let mut versions: Vec<_> = versions.filter(|(_, version)| *version != 0).collect();
        versions.sort_unstable();
        let mut hash = Sha256::new();
        for (node, version) in versions {
            // The length makes the encoding unambiguous.
            hash.update((node.len() as u64).to_be_bytes());
            hash.update(node);
            hash.update(version.to_be_bytes());
        }
        let digest: [u8; 32] = hash.finalize().into();
        let (tag, _) = digest.split_first_chunk::<16>()?;
        Some(u128::from_be_bytes(*tag))
    }

    fn json_runs(&self) -> impl Iterator<Item = &Bytes> {
        self.vouched().flat_map(|rows| rows.json())
    }

    fn vouched(&self) -> impl Iterator<Item = &Arc<SerializedRows>> {
        self.nodes.iter().filter_map(|node| Some(&node.reply.as_ref().ok()?.rows))
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.vouched().map(|rows| rows.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The nodes that did not reply, each with its error.
    pub fn unanswered(&self) -> impl Iterator<Item = (&NodeName, PeerError)> {
        self.nodes.iter().filter_map(|node| Some((&node.name, *node.reply.as_ref().err()?)))
    }
}

/// Keeps one result for each process: that of the latest incarnation that replied, or of the latest if none did. An answer
/// with two incarnations of one process would list its sockets twice.
fn latest_incarnations<E>(results: Vec<NodeResult<E>>) -> Vec<NodeResult<E>> {
    let rank = |result: &NodeResult<E>| (result.reply.is_ok(), result.node.incarnation());
    let mut kept: Vec<NodeResult<E>> = Vec::with_capacity(results.len());
    for result in results {
        match kept.iter_mut().find(|other| other.node.process() == result.node.process()) {
            Some(other) if rank(other) < rank(&result) => *other = result,
            Some(_) => {}
            None => kept.push(result),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{SocketId, UserId};

    fn result(node: &NodeId, reply: Result<&[&str], JudgedSilence>) -> NodeResult<JudgedSilence> {
        let rows = |ids: &[&str]| {
            let row =
                |id: &&str| Row { id_socket: SocketId::parse(id).unwrap(), id_user: UserId::parse("foo").unwrap() };
            VouchedRows { rows: Arc::new(SerializedRows::new(1, ids.iter().map(row).collect())), unchanged: false }
        };
        NodeResult {
            node: node.clone(),
            name: NodeName::from_any(&format!("node-{node}")),
            took: Duration::ZERO,
            reply: reply.map(rows),
        }
    }

    fn join(results: Vec<NodeResult<JudgedSilence>>) -> RollCallAnswer {
        let room = Room::parse("a").unwrap();
        RollCallAnswer::join(room, Timestamp::now(), RollCallSource::Directory, true, results)
    }

    fn ids(answer: &RollCallAnswer) -> Vec<&str> {
        answer.rows().map(|(_, row)| row.id_socket.as_str()).collect()
    }

    fn unanswered(unresolved: Option<u64>) -> JudgedSilence {
        JudgedSilence { error: PeerError::Deadline, disposition: Disposition::Unanswered { unresolved } }
    }

    #[test]
    fn rows_are_joined_and_silent_nodes_are_named_and_counted() {
        let [one, two, three] = [(); 3].map(|()| NodeId::new_process());
        let answer = join(vec![result(&one, Ok(&["s1", "s2"])), result(&two, Ok(&["s3"]))]);
        assert_eq!((answer.complete, answer.unresolved, ids(&answer)), (true, Some(0), vec!["s1", "s2", "s3"]));
        let answer = join(vec![
            result(&one, Ok(&["s1"])),
            result(&two, Err(unanswered(Some(3)))),
            result(&three, Err(unanswered(Some(4)))),
        ]);
        assert_eq!((answer.complete, answer.unresolved, answer.unanswered().count()), (false, Some(7), 2));
        let answer = join(vec![result(&two, Err(unanswered(Some(3)))), result(&three, Err(unanswered(None)))]);
        assert_eq!((answer.complete, answer.unresolved), (false, None), "one unknown count makes the sum unknown");
    }

    #[test]
    fn the_json_joins_the_rows_of_all_nodes() {
        let [one, two, three] = [(); 3].map(|()| NodeId::new_process());
        let (row, rows): (&[&str], &[&str]) = (&["s1"], &["s2", "s3"]);
        for (parts, expected) in
            [([&[], row, rows], vec!["s1", "s2", "s3"]), ([row, &[], &[]], vec!["s1"]), ([&[]; 3], vec![])]
        {
            let results = [&one, &two, &three].into_iter().zip(parts).map(|(node, ids)| result(node, Ok(ids)));
            let users: Vec<serde_json::Value> = serde_json::from_slice(&join(results.collect()).users()).unwrap();
            let ids: Vec<_> = users.iter().map(|user| user["id_socket"].as_str().unwrap()).collect();
            assert_eq!(ids, expected);
        }
    }

    #[test]
    fn equal_tags_mean_equal_rows_and_incomplete_has_none() {
        let [one, two] = [(); 2].map(|()| NodeId::new_process());
        let part = |node: &NodeId, version, ids| {
            let Ok(vouched) = result(node, Ok(ids)).reply else { unreachable!("the result has rows") };
            let rows = Arc::new(SerializedRows::new(version, vouched.rows.iter().cloned().collect()));
            NodeResult { reply: Ok(VouchedRows { rows, unchanged: false }), ..result(node, Ok(ids)) }
        };
        let ids: &[&str] = &["s1"];
        let tag = join(vec![part(&one, 7, ids), part(&two, 9, ids)]).tag();
        assert!(tag.is_some());
        assert_eq!(
            join(vec![part(&two, 9, ids), part(&one, 7, ids)]).tag(),
            tag,
            "the order of the nodes does not matter"
        );
        let three = NodeId::new_process();
        assert_eq!(
            join(vec![part(&one, 7, ids), part(&two, 9, ids), part(&three, 0, &[])]).tag(),
            tag,
            "a node without rows does not matter"
        );
        for other in [
            vec![part(&one, 8, ids), part(&two, 9, ids)],
            vec![part(&one, 9, ids), part(&two, 7, ids)],
            vec![part(&one, 7, ids)],
            vec![part(&one, 7, ids), part(&three, 9, ids)],
        ] {
            assert_ne!(join(other).tag(), tag);
        }
        assert_eq!(join(vec![part(&one, 7, ids), result(&two, Err(unanswered(Some(1))))]).tag(), None, "incomplete");
    }

    #[test]
    fn the_tag_is_the_same_in_every_release() {
        let part = |process: &str, version| {
            let node = NodeId::parse(process).unwrap();
            let rows = Arc::new(SerializedRows::new(version, Vec::new()));
            let reply = Ok(VouchedRows { rows, unchanged: false });
            NodeResult { node, name: NodeName::from_any("node"), took: Duration::ZERO, reply }
        };
        let answer = join(vec![part("000000000000000a-1", 7), part("000000000000000b-1", 9)]);
        assert_eq!(answer.tag(), Some(0xf755_8c12_366a_2215_22cf_338f_ff4d_51b6));
    }

    #[test]
    fn dead_nodes_are_left_out_and_the_answer_is_complete() {
        let [one, dead] = [(); 2].map(|()| NodeId::new_process());
        let answer = join(vec![
            result(&one, Ok(&["s1"])),
            result(&dead, Err(JudgedSilence { error: PeerError::Refused, disposition: Disposition::Dead })),
        ]);
        assert_eq!((answer.complete, ids(&answer), answer.nodes.len()), (true, vec!["s1"], 1));
    }

    #[test]
    fn each_process_has_the_rows_of_its_latest_incarnation() {
        let first = NodeId::new_process();
        let second = first.next_incarnation();
        let (old, new): (&[&str], &[&str]) = (&["old"], &["new"]);
        for results in [
            vec![result(&first, Ok(old)), result(&second, Ok(new))],
            vec![result(&second, Ok(new)), result(&first, Ok(old))],
            vec![result(&first, Err(unanswered(Some(1)))), result(&second, Ok(new))],
        ] {
            let answer = join(results);
            assert_eq!((answer.complete, ids(&answer)), (true, vec!["new"]));
        }
        let answer = join(vec![result(&first, Ok(old)), result(&second, Err(unanswered(None)))]);
        assert_eq!(ids(&answer), ["old"], "it vouched for them during this roll call");
    }
}
