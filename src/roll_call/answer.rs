//! What the answers amount to: parts joined, silence named and counted.
//!
//! Owns the table "What silence means" and the rule "one part per process, the latest". Pure and synchronous: it is
//! given every outcome, and keeps each.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::directory::Account;
use crate::mesh::peers::Silence;
use crate::names::{NodeId, NodeName, Room};
use crate::roster::{Part, Row};

/// What the choice of whom to ask rested on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The directory permitted to skip the nodes that do not own sockets of the room.
    Directory,
    /// Nobody could be skipped.
    Peers,
}

/// What a node's silence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may have sockets of the room: so many, as far as the index could be read.
    Unanswered { unresolved: Option<u64> },
    /// It has no lease and was not heard for a whole one: it has no sockets.
    Dead,
}

/// What became of asking one node.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub node: NodeId,
    pub name: NodeName,
    pub took: Duration,
    pub reply: Result<Part, (Silence, Verdict)>,
}

/// The answer to a roll call.
#[derive(Debug, Clone)]
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
}

/// One node's share of an answer.
#[derive(Debug, Clone)]
pub struct NodeAnswer {
    pub node: NodeId,
    pub name: NodeName,
    pub took: Duration,
    pub said: Result<Vec<Row>, Silence>,
}

impl Verdict {
    /// Judges a node that was asked and did not answer. `account` is what the index says of it, `None` where the
    /// index could not be read; `heard` is whether it was heard over the mesh within a lease; `gone` whether it said
    /// goodbye or was replaced by a later incarnation.
    pub fn of(account: Option<&Account>, heard: bool, gone: bool) -> Self {
        match account {
            _ if gone => Self::Dead,
            None => Self::Unanswered { unresolved: None },
            Some(account) if account.entry.is_some() || heard => Self::Unanswered { unresolved: Some(account.sockets) },
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
                Ok(part) => Ok(part.rows.unwrap_or_default()),
                Err((_, Verdict::Dead)) => continue,
                Err((silence, Verdict::Unanswered { unresolved: open })) => {
                    complete = false;
                    unresolved = unresolved.zip(open).map(|(sum, open)| sum + open);
                    Err(silence)
                }
            };
            nodes.push(NodeAnswer { node: outcome.node, name: outcome.name, took: outcome.took, said });
        }
        Self { room, complete, as_of, took: Duration::ZERO, source, unresolved, nodes }
    }

    /// Every row, with the name of the node that vouched for it.
    pub fn rows(&self) -> impl Iterator<Item = (&NodeName, &Row)> {
        self.nodes.iter().flat_map(|node| node.said.iter().flatten().map(|row| (&node.name, row)))
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.nodes.iter().map(|node| node.said.as_ref().map_or(0, Vec::len)).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The nodes that did not answer, and why.
    pub fn unanswered(&self) -> impl Iterator<Item = (&NodeName, Silence)> {
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
