//! What the answers amount to: parts joined, silence named and counted.
//!
//! Owns the table "What silence means" and the rule "one part per process, the latest". Pure and synchronous: it is
//! given every outcome, and keeps each.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::list::List;
use super::rows::Rows;
use crate::directory::LeaseAndCount;
use crate::mesh::peers::PeerError;
use crate::names::{NodeId, NodeName, Room};
use crate::roster::Row;
use crate::telemetry::metrics::roll_calls::RollCallSource;

/// What the choice of whom to ask rested on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The directory permitted to skip the nodes that do not own sockets of the room.
    Directory,
    /// Nobody could be skipped.
    Peers,
}

impl From<Source> for RollCallSource {
    fn from(source: Source) -> Self {
        match source {
            Source::Directory => Self::Directory,
            Source::Peers => Self::Peers,
        }
    }
}

/// What a node's silence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may have sockets of the room: so many, as far as the index could be read.
    Unanswered { unresolved: Option<u64> },
    /// It has no lease and was not heard for a whole one: it has no sockets.
    Dead,
}

/// What a node vouched for.
#[derive(Debug, Clone)]
pub struct Vouched {
    pub rows: Arc<Rows>,
    /// It said that its rows are those that were held here.
    pub unchanged: bool,
}

/// What became of asking one node.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub node: NodeId,
    pub name: NodeName,
    pub took: Duration,
    pub reply: Result<Vouched, (PeerError, Verdict)>,
}

/// The answer to a roll call.
#[derive(Debug)]
pub struct Answer {
    pub room: Room,
    /// Every node that may have sockets of the room has answered.
    pub complete: bool,
    /// When the roll call began.
    pub as_of: Timestamp,
    pub took: Duration,
    pub source: Source,
    /// How many sockets are left open by nodes that did not answer; `None` when that cannot be known.
    pub unresolved: Option<u64>,
    /// The nodes asked, this one first.
    pub nodes: Vec<NodeAnswer>,
    users: OnceLock<Bytes>,
}

/// One node's share of an answer.
#[derive(Debug, Clone)]
pub struct NodeAnswer {
    pub node: NodeId,
    pub name: NodeName,
    pub took: Duration,
    pub said: Result<Vouched, PeerError>,
}

impl Verdict {
    /// Judges a node that was asked and did not answer. `account` is what the index says of it, `None` where the
    /// index could not be read; `alive` is whether there is another reason to think it lives than a lease: it is a member
    /// still, or the index is too young to tell; `gone` is whether it said goodbye.
    pub fn of(account: Option<&LeaseAndCount>, alive: bool, gone: bool) -> Self {
        match account {
            _ if gone => Self::Dead,
            None => Self::Unanswered { unresolved: None },
            Some(account) if account.entry.is_some() || alive => Self::Unanswered { unresolved: Some(account.sockets) },
            Some(_) => Self::Dead,
        }
    }
}

impl Answer {
    /// Joins the outcomes. `informed` is whether who was not asked was skipped with permission.
    pub fn join(room: Room, as_of: Timestamp, source: Source, informed: bool, outcomes: Vec<Outcome>) -> Self {
        let mut complete = informed;
        let mut unresolved = if informed { Some(0) } else { None };
        let mut nodes: Vec<NodeAnswer> = Vec::with_capacity(outcomes.len());
        for outcome in latest(outcomes) {
            let said = match outcome.reply {
                Ok(vouched) => Ok(vouched),
                Err((_, Verdict::Dead)) => continue,
                Err((silence, Verdict::Unanswered { unresolved: open })) => {
                    complete = false;
                    unresolved = unresolved.zip(open).map(|(sum, open)| sum + open);
                    Err(silence)
                }
            };
            nodes.push(NodeAnswer { node: outcome.node, name: outcome.name, took: outcome.took, said });
        }
        Self { room, complete, as_of, took: Duration::ZERO, source, unresolved, nodes, users: OnceLock::new() }
    }

    /// Every row, with the name of the node that vouched for it.
    pub fn rows(&self) -> impl Iterator<Item = (&NodeName, &Row)> {
        let parts = self.nodes.iter().filter_map(|node| Some((&node.name, node.said.as_ref().ok()?)));
        parts.flat_map(|(name, vouched)| vouched.rows.iter().map(move |row| (name, row)))
    }

    /// The rows as one array of JSON, written once for all who share this answer.
    pub fn users(&self) -> Bytes {
        self.users.get_or_init(|| self.list().join(usize::MAX).unwrap_or_default()).clone()
    }

    /// How many bytes that has, about.
    pub fn json_bytes(&self) -> usize {
        self.vouched().map(|rows| rows.json_bytes()).sum()
    }

    /// The same, to be joined a piece at a time.
    pub fn list(&self) -> List {
        List::of(self.vouched().flat_map(|rows| rows.json()).cloned().collect())
    }

    /// Names the rows of a complete answer: two answers of one name have the same rows. `None`: not complete.
    ///
    /// It is made of the versions that the owners vouched for, and is the same on every node.
    pub fn tag(&self) -> Option<u128> {
        if !self.complete {
            return None;
        }
        let said =
            self.nodes.iter().filter_map(|node| Some((node.node.as_str(), node.said.as_ref().ok()?.rows.version)));
        let mut versions: Vec<_> = said.filter(|(_, version)| *version != 0).collect();
        versions.sort_unstable();
        let half = |seed: u64| {
            let mut hasher = DefaultHasher::new();
            (seed, &versions).hash(&mut hasher);
            u128::from(hasher.finish())
        };
        Some(half(0) << 64 | half(1))
    }

    fn vouched(&self) -> impl Iterator<Item = &Arc<Rows>> {
        self.nodes.iter().filter_map(|node| Some(&node.said.as_ref().ok()?.rows))
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.vouched().map(|rows| rows.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The nodes that did not answer, and why.
    pub fn unanswered(&self) -> impl Iterator<Item = (&NodeName, PeerError)> {
        self.nodes.iter().filter_map(|node| Some((&node.name, *node.said.as_ref().err()?)))
    }
}

/// Where one process was asked under several incarnations, keeps the latest that answered, or the latest if none did:
/// the process has left the others behind.
fn latest(outcomes: Vec<Outcome>) -> Vec<Outcome> {
    let rank = |outcome: &Outcome| (outcome.reply.is_ok(), outcome.node.incarnation());
    let mut kept: Vec<Outcome> = Vec::with_capacity(outcomes.len());
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

    fn outcome(node: &NodeId, reply: Result<&[&str], (PeerError, Verdict)>) -> Outcome {
        let rows = |ids: &[&str]| {
            let row =
                |id: &&str| Row { id_socket: SocketId::parse(id).unwrap(), id_user: UserId::parse("foo").unwrap() };
            Vouched { rows: Arc::new(Rows::new(1, ids.iter().map(row).collect())), unchanged: false }
        };
        Outcome {
            node: node.clone(),
            name: NodeName::from_any(&format!("node-{node}")),
            took: Duration::ZERO,
            reply: reply.map(rows),
        }
    }

    fn join(outcomes: Vec<Outcome>) -> Answer {
        let room = Room::parse("a").unwrap();
        Answer::join(room, Timestamp::now(), Source::Directory, true, outcomes)
    }

    fn ids(answer: &Answer) -> Vec<&str> {
        answer.rows().map(|(_, row)| row.id_socket.as_str()).collect()
    }

    const OPEN: fn(Option<u64>) -> (PeerError, Verdict) =
        |unresolved| (PeerError::Deadline, Verdict::Unanswered { unresolved });

    #[test]
    fn parts_are_joined_and_every_silence_is_named_and_counted() {
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
        assert_eq!((answer.complete, answer.unresolved), (false, None), "one unknown makes the sum unknown");
    }

    #[test]
    fn the_json_is_every_part_joined() {
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
    fn a_tag_names_the_rows_of_a_complete_answer() {
        let [one, two] = [(); 2].map(|()| NodeId::new_process());
        let part = |node: &NodeId, version, ids| {
            let Ok(vouched) = outcome(node, Ok(ids)).reply else { unreachable!("it answered") };
            let rows = Arc::new(Rows::new(version, vouched.rows.iter().cloned().collect()));
            Outcome { reply: Ok(Vouched { rows, unchanged: false }), ..outcome(node, Ok(ids)) }
        };
        let ids: &[&str] = &["s1"];
        let tag = join(vec![part(&one, 7, ids), part(&two, 9, ids)]).tag();
        assert!(tag.is_some());
        assert_eq!(join(vec![part(&two, 9, ids), part(&one, 7, ids)]).tag(), tag, "whoever is asked");
        let three = NodeId::new_process();
        assert_eq!(join(vec![part(&one, 7, ids), part(&two, 9, ids), part(&three, 0, &[])]).tag(), tag, "nothing more");
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
    fn the_dead_are_left_out_and_the_answer_is_complete() {
        let [one, dead] = [(); 2].map(|()| NodeId::new_process());
        let answer = join(vec![outcome(&one, Ok(&["s1"])), outcome(&dead, Err((PeerError::Refused, Verdict::Dead)))]);
        assert_eq!((answer.complete, ids(&answer), answer.nodes.len()), (true, vec!["s1"], 1));
    }

    #[test]
    fn one_process_has_one_part_the_latest() {
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
    fn what_silence_means_is_what_the_table_says() {
        let entry = NodeEntry {
            name: NodeName::from_any("node"),
            mesh: SmolStr::default(),
            since: SmolStr::default(),
            draining: false,
        };
        let leased = LeaseAndCount { entry: Some(entry), sockets: 5 };
        let unleased = LeaseAndCount { entry: None, sockets: 5 };
        let open = |unresolved| Verdict::Unanswered { unresolved };
        for (account, alive, gone, verdict) in [
            (Some(&leased), false, false, open(Some(5))),
            (Some(&unleased), true, false, open(Some(5))),
            (Some(&unleased), false, false, Verdict::Dead),
            (None, false, false, open(None)),
            (None, true, false, open(None)),
            (Some(&leased), true, true, Verdict::Dead),
        ] {
            assert_eq!(Verdict::of(account, alive, gone), verdict, "{account:?} {alive} {gone}");
        }
    }
}
