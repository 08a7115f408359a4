//! The audit: does Redis say what the nodes say?
//!
//! Owns the question and what is made of the answers: every node is asked for its whole roster ([`ask`]), everything under
//! the prefix in Redis is read, and both are compared ([`comparison`]). What is written behind, or lingers for a moment, is
//! no difference: only what differs in two looks in a row is reported ([`report`]). Mends nothing: roll calls and nodes do.

pub mod ask;
pub mod comparison;
pub mod report;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use futures::{StreamExt, stream};
use smol_str::SmolStr;
use tokio::time::sleep;
use tracing::info;

use crate::directory::Error;
use crate::directory::redis::Redis;
use crate::mesh::security::Security;
use crate::names::{NodeId, NodeName};
use ask::{Roster, Unheard};
use comparison::{Comparison, Difference};
use report::{Asked, Report};

/// Between the two looks, unless told otherwise: longer than a claim lingers after the last socket of its room.
pub const PAUSE: Duration = Duration::from_secs(4);
/// Nodes that are asked at the same time.
const AT_ONCE: usize = 8;

/// What one look has found.
struct Look {
    nodes: Vec<Asked>,
    rooms: usize,
    sockets: usize,
    differences: BTreeSet<Difference>,
}

/// A node that may be asked.
struct Candidate {
    node: NodeId,
    name: NodeName,
    mesh: SmolStr,
    registered: bool,
}

/// Compares twice, `pause` apart; once where nothing differs at first. `redis` must be kept connected meanwhile.
///
/// # Errors
/// When Redis cannot be read. A node that cannot be asked is in the report.
pub async fn run(redis: &Redis, security: &Security, pause: Duration) -> Result<Report, Error> {
    let first = look(redis, security).await?;
    if first.differences.is_empty() {
        return Ok(first.report(1));
    }
    info!(differences = first.differences.len(), again_in = ?pause, "something differs, which may be under way");
    sleep(pause).await;
    let mut second = look(redis, security).await?;
    second.differences.retain(|difference| first.differences.contains(difference));
    Ok(second.report(2))
}

async fn look(redis: &Redis, security: &Security) -> Result<Look, Error> {
    let registered = redis.registered().await?;
    info!(nodes = registered.len(), "asking the nodes for what they have");
    let candidates = registered.into_iter().map(|(node, entry)| Candidate {
        node,
        name: entry.name,
        mesh: entry.mesh,
        registered: true,
    });
    let mut heard = Heard::default();
    heard.ask(candidates.collect(), security).await;
    let unheard = heard.nodes.iter().filter(|node| node.error.is_some()).map(|node| node.id.clone());
    let unheard: HashSet<NodeId> = unheard.collect();
    info!(redis = redis.address(), "reading what redis says");
    let mut comparison = Comparison::new(&heard.rosters, &unheard);
    redis.scan(|found| comparison.see(found)).await?;
    let mut differences = comparison.end();
    differences.extend(heard.unregistered.into_iter().map(|node| Difference::Unregistered { node }));
    let rooms: HashSet<_> = heard.rosters.values().flat_map(Roster::keys).collect();
    let sockets = heard.nodes.iter().map(|node| node.sockets).sum();
    Ok(Look { rooms: rooms.len(), sockets, nodes: heard.nodes, differences })
}

/// What the nodes have said.
#[derive(Default)]
struct Heard {
    nodes: Vec<Asked>,
    rosters: HashMap<NodeId, Roster>,
    /// Those that others know and Redis does not.
    unregistered: Vec<NodeId>,
}

impl Heard {
    /// Asks these, and then whoever they know besides.
    async fn ask(&mut self, candidates: Vec<Candidate>, security: &Security) {
        let mut known: BTreeSet<String> = candidates.iter().map(|one| one.node.process().to_owned()).collect();
        let mut candidates = VecDeque::from(candidates);
        while !candidates.is_empty() {
            let asking = stream::iter(candidates.drain(..).collect::<Vec<_>>())
                .map(|candidate| async move { (ask::whole(&candidate.mesh, security).await, candidate) });
            let mut answers = asking.buffer_unordered(AT_ONCE);
            while let Some((answer, candidate)) = answers.next().await {
                for other in answer.iter().flat_map(|told| &told.members) {
                    if known.insert(other.node.process().to_owned()) {
                        let (node, name, mesh) = (other.node.clone(), other.name.clone(), other.mesh.clone());
                        candidates.push_back(Candidate { node, name, mesh, registered: false });
                    }
                }
                self.note(candidate, answer);
            }
        }
        self.nodes.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
    }

    fn note(&mut self, candidate: Candidate, answer: Result<ask::Told, Unheard>) {
        let Candidate { node, name, mesh, registered } = candidate;
        match answer {
            Ok(told) => {
                let (rooms, sockets) = (told.roster.len(), told.sockets());
                if !registered {
                    self.unregistered.push(told.node.clone());
                }
                self.nodes.push(Asked { id: told.node.clone(), name, mesh, rooms, sockets, error: None });
                self.rosters.insert(told.node, told.roster);
            }
            // Redis does not say that it is there, and it does not either.
            Err(_) if !registered => {}
            Err(error) => {
                let error = Some(error.to_string());
                self.nodes.push(Asked { id: node, name, mesh, rooms: 0, sockets: 0, error });
            }
        }
    }
}

impl Look {
    fn report(self, looks: u8) -> Report {
        let Self { nodes, rooms, sockets, differences } = self;
        let complete = nodes.iter().all(|node| node.error.is_none());
        Report { complete, looks, rooms, sockets, nodes, differences: differences.into_iter().collect() }
    }
}
