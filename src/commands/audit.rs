//! `rollcall audit`: compares the content of Redis with the rosters of all nodes.
//!
//! Asks every node for its whole roster ([`roster_client`]), reads all keys under the prefix, and compares both
//! ([`comparison`]). Writes to Redis are delayed, so only what differs in two passes in a row is reported.
//! The audit repairs nothing: roll calls and nodes do.

pub mod comparison;
pub mod roster_client;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use futures::{StreamExt, stream};
use smol_str::SmolStr;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::commands::args::values::pause;
use crate::commands::args::{ConfigFileArgs, MeshAuthArgs, RedisArgs};
use crate::commands::process::{run_until_signal, start_logging};
use crate::commands::serve::check_redis;
use crate::directory::redis::RedisDirectory;
use crate::directory::{Directory as _, DirectoryError};
use crate::mesh::security::Security;
use crate::names::{NodeId, NodeName};
use crate::telemetry::logging::{self, Logging};
use comparison::{AuditReport, AuditedNode};
use comparison::{Comparison, Difference};
use roster_client::{NodeRoster, RoomSockets, RosterError};

/// The exit code when Redis or a node could not be asked.
const EXIT_NOT_AUDITED: u8 = 2;
const MAX_CONCURRENT_REQUESTS: usize = 8;

#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(flatten)]
    file: ConfigFileArgs,

    #[command(flatten)]
    pub redis: RedisArgs,

    #[command(flatten)]
    pub mesh: MeshAuthArgs,

    /// Time between the two passes. A change in progress differs in one pass only. The default is longer than the delay
    /// with which a node gives up the ownership of an empty room
    #[arg(long, default_value = "4s", env = "ROLLCALL_AUDIT_PAUSE", value_name = "DURATION", value_parser = pause)]
    pub pause: Duration,

    /// Print JSON
    #[arg(long, env = "ROLLCALL_AUDIT_JSON")]
    pub json: bool,
}

/// The result of one pass.
struct AuditPass {
    nodes: Vec<AuditedNode>,
    rooms: usize,
    sockets: usize,
    differences: BTreeSet<Difference>,
}

/// A node to ask.
struct AuditCandidate {
    node: NodeId,
    name: NodeName,
    mesh: SmolStr,
    registered: bool,
}

impl AuditArgs {
    /// # Errors
    /// One line that names the flag to mend.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.redis.url.is_none() {
            return Err("--redis is missing: the audit compares Redis with the nodes".to_owned());
        }
        self.mesh.check()
    }
}

/// Runs the subcommand.
pub(super) fn run(args: AuditArgs, logging: Result<Logging, logging::Error>) -> ExitCode {
    run_until_signal(logging, None, EXIT_NOT_AUDITED, |logging, shutdown| async move {
        start_logging(logging, None);
        print_audit(args, shutdown).await
    })
}

async fn print_audit(args: AuditArgs, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let redis = args.redis.open()?.context("--redis is missing")?;
    let security = args.mesh.open_client()?;
    check_redis(&redis).await?;
    let report = tokio::select! {
        report = audit(&redis, &security, args.pause) => report,
        () = redis.maintain() => bail!("the task that keeps the connection to redis ended"),
        () = shutdown.cancelled() => return Ok(ExitCode::from(EXIT_NOT_AUDITED)),
    };
    let report = report.with_context(|| format!("cannot read the redis at {}", redis.address()))?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(match (report.differences.is_empty(), report.complete) {
        (true, true) => ExitCode::SUCCESS,
        (true, false) => ExitCode::from(EXIT_NOT_AUDITED),
        (false, _) => ExitCode::FAILURE,
    })
}

/// Compares once, and a second time after `pause` if anything differs.
///
/// # Errors
/// Redis cannot be read. A node that cannot be asked is part of the report.
async fn audit(redis: &RedisDirectory, security: &Security, pause: Duration) -> Result<AuditReport, DirectoryError> {
    let first = pass(redis, security).await?;
    if first.differences.is_empty() {
        return Ok(first.report(1));
    }
    info!(differences = first.differences.len(), pause = ?pause, "differences found; comparing again, since some may be changes in progress");
    sleep(pause).await;
    let mut second = pass(redis, security).await?;
    second.differences.retain(|difference| first.differences.contains(difference));
    Ok(second.report(2))
}

async fn pass(redis: &RedisDirectory, security: &Security) -> Result<AuditPass, DirectoryError> {
    let registered = redis.registered().await?;
    info!(nodes = registered.len(), "asking the nodes for their rosters");
    let candidates = registered.into_iter().map(|(node, entry)| AuditCandidate {
        node,
        name: entry.name,
        mesh: entry.mesh,
        registered: true,
    });
    let mut collected = CollectedRosters::default();
    collected.ask_all(candidates.collect(), security).await;
    let unheard = collected.nodes.iter().filter(|node| node.error.is_some()).map(|node| node.id.clone());
    let unheard: HashSet<NodeId> = unheard.collect();
    info!(redis = redis.address(), "reading the keys in redis");
    let mut comparison = Comparison::new(&collected.rosters, &unheard);
    redis.scan(|found| comparison.compare_key(found)).await?;
    let mut differences = comparison.finish();
    differences.extend(collected.unregistered.into_iter().map(|node| Difference::Unregistered { node }));
    let rooms: HashSet<_> = collected.rosters.values().flat_map(RoomSockets::keys).collect();
    let sockets = collected.nodes.iter().map(|node| node.sockets).sum();
    Ok(AuditPass { rooms: rooms.len(), sockets, nodes: collected.nodes, differences })
}

/// The answers of all nodes.
#[derive(Default)]
struct CollectedRosters {
    nodes: Vec<AuditedNode>,
    rosters: HashMap<NodeId, RoomSockets>,
    /// Nodes that other nodes know as members, and that are not registered in Redis.
    unregistered: Vec<NodeId>,
}

impl CollectedRosters {
    /// Asks these nodes, and then the further members that they name.
    async fn ask_all(&mut self, candidates: Vec<AuditCandidate>, security: &Security) {
        let mut known: BTreeSet<String> = candidates.iter().map(|one| one.node.process().to_owned()).collect();
        let mut candidates = VecDeque::from(candidates);
        while !candidates.is_empty() {
            let asking = stream::iter(candidates.drain(..).collect::<Vec<_>>())
                .map(|candidate| async move { (roster_client::fetch(&candidate.mesh, security).await, candidate) });
            let mut answers = asking.buffer_unordered(MAX_CONCURRENT_REQUESTS);
            while let Some((answer, candidate)) = answers.next().await {
                for other in answer.iter().flat_map(|answer| &answer.members) {
                    if known.insert(other.node.process().to_owned()) {
                        let (node, name, mesh) = (other.node.clone(), other.name.clone(), other.mesh.clone());
                        candidates.push_back(AuditCandidate { node, name, mesh, registered: false });
                    }
                }
                self.add(candidate, answer);
            }
        }
        self.nodes.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
    }

    fn add(&mut self, candidate: AuditCandidate, answer: Result<NodeRoster, RosterError>) {
        let AuditCandidate { node, name, mesh, registered } = candidate;
        match answer {
            Ok(answer) => {
                let (rooms, sockets) = (answer.rooms.len(), answer.sockets());
                if !registered {
                    self.unregistered.push(answer.node.clone());
                }
                self.nodes.push(AuditedNode { id: answer.node.clone(), name, mesh, rooms, sockets, error: None });
                self.rosters.insert(answer.node, answer.rooms);
            }
            // Neither Redis nor the node itself confirms that it runs: a stale member of another node.
            Err(_) if !registered => {}
            Err(error) => {
                let error = Some(error.to_string());
                self.nodes.push(AuditedNode { id: node, name, mesh, rooms: 0, sockets: 0, error });
            }
        }
    }
}

impl AuditPass {
    fn report(self, passes: u8) -> AuditReport {
        let Self { nodes, rooms, sockets, differences } = self;
        let complete = nodes.iter().all(|node| node.error.is_none());
        AuditReport { complete, looks: passes, rooms, sockets, nodes, differences: differences.into_iter().collect() }
    }
}
