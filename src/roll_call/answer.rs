//! The answer to a roll call: the rows of all nodes joined, and the nodes that did not reply.
//!
//! Owns the meaning of a missing reply ([`Disposition`], rule 9), and the rule that each process has one set of rows, that of
//! its latest incarnation. Pure and synchronous: it gets the outcomes of all lookups, and the answer accounts for each.

use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::vec;

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::rows::SerializedRows;
use super::rows::{JsonArrayChunks, array_length};
use crate::directory::LeaseAndCount;
use crate::mesh::answers::PeerError;
use crate::names::{NodeId, NodeName, Room};
use crate::roster::Row;
use crate::telemetry::metrics::roll_calls::RollCallSource;

/// The meaning of a missing reply of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The node may have sockets in the room. `unresolved`: their number in the index, `None` if it could not be read.
    Unanswered { unresolved: Option<u64> },
    /// The node said goodbye, was replaced, or was removed from the member table. It has no sockets that may be listed.
    Dead,
}

/// The rows that a node vouched for during this roll call.
#[derive(Debug, Clone)]
pub struct VouchedRows {
    pub rows: Arc<SerializedRows>,
    /// The node confirmed the cached rows.
    pub unchanged: bool,
}

/// The outcome of asking one node.
#[derive(Debug, Clone)]
pub struct NodeOutcome {
    pub node: NodeId,
    pub name: NodeName,
    pub took: Duration,
    pub reply: Result<VouchedRows, (PeerError, Disposition)>,
}

/// The answer to a roll call.
#[derive(Debug)]
pub struct RollCallAnswer {
    pub room: Room,
    /// Every node that may have sockets in the room has replied.
    pub complete: bool,
    /// When the roll call started.
    pub as_of: Timestamp,
    pub took: Duration,
    pub source: RollCallSource,
    /// The number of sockets of nodes that did not reply; `None` if it cannot be known.
    pub unresolved: Option<u64>,
    /// The nodes asked, this one first.
    pub nodes: Vec<NodeAnswer>,
    /// The JSON of [`RollCallAnswer::users`], serialized at most once for all callers that share the answer.
    users: OnceLock<Bytes>,
}

/// The rows of one node in an answer, or the error.
#[derive(Debug, Clone)]
pub struct NodeAnswer {
    pub node: NodeId,
    pub name: NodeName,
    pub took: Duration,
    pub reply: Result<VouchedRows, PeerError>,
}

impl Disposition {
    /// Judges a node that did not reply.
    ///
    /// `lease`: its lease and socket count in the index; `None` if they could not be read. `alive`: there is evidence of
    /// life other than a lease, because the node is still a member, or the index is too young to show a death.
    /// `departed`: the node has said goodbye or was replaced, and no incarnation of its process is a member.
    pub fn of(lease: Option<&LeaseAndCount>, alive: bool, departed: bool) -> Self {
        match lease {
            _ if departed => Self::Dead,
            None => Self::Unanswered { unresolved: None },
            Some(lease) if lease.entry.is_some() || alive => Self::Unanswered { unresolved: Some(lease.sockets) },
            Some(_) => Self::Dead,
        }
    }
}

impl RollCallAnswer {
    /// Joins the outcomes. `can_be_complete`: every node that was not asked was skipped with the permission of the index.
    pub fn join(
        room: Room,
        as_of: Timestamp,
        source: RollCallSource,
        can_be_complete: bool,
        outcomes: Vec<NodeOutcome>,
    ) -> Self {
        let mut complete = can_be_complete;
        let mut unresolved = if can_be_complete { Some(0) } else { None };
        let mut nodes: Vec<NodeAnswer> = Vec::with_capacity(outcomes.len());
        for outcome in latest_incarnations(outcomes) {
            let reply = match outcome.reply {
                Ok(vouched) => Ok(vouched),
                Err((_, Disposition::Dead)) => continue,
                Err((error, Disposition::Unanswered { unresolved: sockets })) => {
                    complete = false;
                    unresolved = unresolved.zip(sockets).map(|(sum, sockets)| sum + sockets);
                    Err(error)
                }
            };
            nodes.push(NodeAnswer { node: outcome.node, name: outcome.name, took: outcome.took, reply });
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

/// Keeps one outcome for each process: that of the latest incarnation that replied, or of the latest if none did. An answer
/// with two incarnations of one process would list its sockets twice.
fn latest_incarnations(outcomes: Vec<NodeOutcome>) -> Vec<NodeOutcome> {
    let rank = |outcome: &NodeOutcome| (outcome.reply.is_ok(), outcome.node.incarnation());
    let mut kept: Vec<NodeOutcome> = Vec::with_capacity(outcomes.len());
    for outcome in outcomes {
        match kept.iter_mut().find(|other| other.node.process() == outcome.node.process()) {
            Some(other) if rank(other) < rank(&outcome) => *other = outcome,
            Some(_) => {}
            None => kept.push(outcome),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use smol_str::SmolStr;

    use super::*;
    use crate::directory::NodeEntry;
    use crate::names::{SocketId, UserId};

    fn outcome(node: &NodeId, reply: Result<&[&str], (PeerError, Disposition)>) -> NodeOutcome {
        let rows = |ids: &[&str]| {
            let row =
                |id: &&str| Row { id_socket: SocketId::parse(id).unwrap(), id_user: UserId::parse("foo").unwrap() };
            VouchedRows { rows: Arc::new(SerializedRows::new(1, ids.iter().map(row).collect())), unchanged: false }
        };
        NodeOutcome {
            node: node.clone(),
            name: NodeName::from_any(&format!("node-{node}")),
            took: Duration::ZERO,
            reply: reply.map(rows),
        }
    }

    fn join(outcomes: Vec<NodeOutcome>) -> RollCallAnswer {
        let room = Room::parse("a").unwrap();
        RollCallAnswer::join(room, Timestamp::now(), RollCallSource::Directory, true, outcomes)
    }

    fn ids(answer: &RollCallAnswer) -> Vec<&str> {
        answer.rows().map(|(_, row)| row.id_socket.as_str()).collect()
    }

    const OPEN: fn(Option<u64>) -> (PeerError, Disposition) =
        |unresolved| (PeerError::Deadline, Disposition::Unanswered { unresolved });

    #[test]
    fn rows_are_joined_and_silent_nodes_are_named_and_counted() {
        let [one, two, three] = [(); 3].map(|()| NodeId::new_process());
        let answer = join(vec![outcome(&one, Ok(&["s1", "s2"])), outcome(&two, Ok(&["s3"]))]);
        assert_eq!((answer.complete, answer.unresolved, ids(&answer)), (true, Some(0), vec!["s1", "s2", "s3"]));
        let answer = join(vec![
            outcome(&one, Ok(&["s1"])),
            outcome(&two, Err(OPEN(Some(3)))),
            outcome(&three, Err(OPEN(Some(4)))),
        ]);
        assert_eq!((answer.complete, answer.unresolved, answer.unanswered().count()), (false, Some(7), 2));
        let answer = join(vec![outcome(&two, Err(OPEN(Some(3)))), outcome(&three, Err(OPEN(None)))]);
        assert_eq!((answer.complete, answer.unresolved), (false, None), "one unknown count makes the sum unknown");
    }

    #[test]
    fn the_json_joins_the_rows_of_all_nodes() {
        let [one, two, three] = [(); 3].map(|()| NodeId::new_process());
        let (row, rows): (&[&str], &[&str]) = (&["s1"], &["s2", "s3"]);
        for (parts, expected) in
            [([&[], row, rows], vec!["s1", "s2", "s3"]), ([row, &[], &[]], vec!["s1"]), ([&[]; 3], vec![])]
        {
            let outcomes = [&one, &two, &three].into_iter().zip(parts).map(|(node, ids)| outcome(node, Ok(ids)));
            let users: Vec<serde_json::Value> = serde_json::from_slice(&join(outcomes.collect()).users()).unwrap();
            let ids: Vec<_> = users.iter().map(|user| user["id_socket"].as_str().unwrap()).collect();
            assert_eq!(ids, expected);
        }
    }

    #[test]
    fn equal_tags_mean_equal_rows_and_incomplete_has_none() {
        let [one, two] = [(); 2].map(|()| NodeId::new_process());
        let part = |node: &NodeId, version, ids| {
            let Ok(vouched) = outcome(node, Ok(ids)).reply else { unreachable!("the outcome is a reply") };
            let rows = Arc::new(SerializedRows::new(version, vouched.rows.iter().cloned().collect()));
            NodeOutcome { reply: Ok(VouchedRows { rows, unchanged: false }), ..outcome(node, Ok(ids)) }
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
        assert_eq!(join(vec![part(&one, 7, ids), outcome(&two, Err(OPEN(Some(1))))]).tag(), None, "incomplete");
    }

    #[test]
    fn the_tag_is_the_same_in_every_release() {
        let part = |process: &str, version| {
            let node = NodeId::parse(process).unwrap();
            let rows = Arc::new(SerializedRows::new(version, Vec::new()));
            let reply = Ok(VouchedRows { rows, unchanged: false });
            NodeOutcome { node, name: NodeName::from_any("node"), took: Duration::ZERO, reply }
        };
        let answer = join(vec![part("000000000000000a-1", 7), part("000000000000000b-1", 9)]);
        assert_eq!(answer.tag(), Some(0xf755_8c12_366a_2215_22cf_338f_ff4d_51b6));
    }

    #[test]
    fn dead_nodes_are_left_out_and_the_answer_is_complete() {
        let [one, dead] = [(); 2].map(|()| NodeId::new_process());
        let answer =
            join(vec![outcome(&one, Ok(&["s1"])), outcome(&dead, Err((PeerError::Refused, Disposition::Dead)))]);
        assert_eq!((answer.complete, ids(&answer), answer.nodes.len()), (true, vec!["s1"], 1));
    }

    #[test]
    fn each_process_has_the_rows_of_its_latest_incarnation() {
        let first = NodeId::new_process();
        let second = first.next_incarnation();
        let (old, new): (&[&str], &[&str]) = (&["old"], &["new"]);
        for outcomes in [
            vec![outcome(&first, Ok(old)), outcome(&second, Ok(new))],
            vec![outcome(&second, Ok(new)), outcome(&first, Ok(old))],
            vec![outcome(&first, Err(OPEN(Some(1)))), outcome(&second, Ok(new))],
        ] {
            let answer = join(outcomes);
            assert_eq!((answer.complete, ids(&answer)), (true, vec!["new"]));
        }
        let answer = join(vec![outcome(&first, Ok(old)), outcome(&second, Err(OPEN(None)))]);
        assert_eq!(ids(&answer), ["old"], "it vouched for them during this roll call");
    }

    #[test]
    fn the_disposition_follows_the_table_of_silence() {
        let entry = NodeEntry {
            name: NodeName::from_any("node"),
            mesh: SmolStr::default(),
            since: SmolStr::default(),
            draining: false,
        };
        let leased = LeaseAndCount { entry: Some(entry), sockets: 5 };
        let unleased = LeaseAndCount { entry: None, sockets: 5 };
        let open = |unresolved| Disposition::Unanswered { unresolved };
        for (lease, alive, departed, disposition) in [
            (Some(&leased), false, false, open(Some(5))),
            (Some(&unleased), true, false, open(Some(5))),
            (Some(&unleased), false, false, Disposition::Dead),
            (None, false, false, open(None)),
            (None, true, false, open(None)),
            (Some(&leased), true, true, Disposition::Dead),
        ] {
            assert_eq!(Disposition::of(lease, alive, departed), disposition, "{lease:?} {alive} {departed}");
        }
    }
}
