//! One execution of a roll call: reads the directory, asks the nodes in parallel, and judges those that did not reply.
//!
//! An answer can be complete because of the order of two reads: first the member table, then the owner set. A node that
//! joins between the two is in the owner set. Owns the I/O and its time budget; [`plan`](super::plan) and
//! [`answer`](super::answer) own the decisions.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Either, MaybeDone, maybe_done, select};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use indexmap::IndexMap;
use jiff::Timestamp;
use smol_str::SmolStr;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug};

use super::answer::{Disposition, NodeOutcome, RollCallAnswer, VouchedRows};
use super::cache::SnapshotCache;
use super::plan::{AskPlan, PeerTarget, plan};
use super::rows::SerializedRows;
use crate::clock::BootInstant;
use crate::directory::{Directory, LeaseAndCount};
use crate::membership::{Member, Membership, MembershipView};
use crate::mesh::answers::{PeerError, PeerReply};
use crate::mesh::peers::Peers;
use crate::names::{NodeId, NodeName, Room};
use crate::roster::{CachedVersion, Roster};
use crate::telemetry::metrics::roll_calls::RollCallMetrics;
use crate::telemetry::traces;

/// The timeout of a directory read is the deadline divided by this, so that a hung Redis leaves time to ask all members.
const DIRECTORY_SHARE: u32 = 3;
/// The deadline divided by this is reserved for judging the nodes that did not reply, but at most [`MAX_JUDGING_TIME`].
const JUDGING_SHARE: u32 = 10;
const MAX_JUDGING_TIME: Duration = Duration::from_millis(50);
/// Deserializing and serializing this many rows keeps a thread busy for a quarter of a millisecond.
const MANY_ROWS: usize = 1_000;

/// The components that an execution uses.
pub(super) struct FanOut {
    pub roster: Arc<Roster>,
    pub membership: Arc<Membership>,
    pub directory: Arc<dyn Directory>,
    pub peers: Peers,
    pub cache: SnapshotCache,
    pub background: TaskTracker,
    pub metrics: RollCallMetrics,
}

/// A lookup in progress, or its replies.
type PendingLookup<'a> = MaybeDone<BoxFuture<'a, Vec<NodeReply>>>;

/// The process at the address has another node id now.
struct Reincarnated(NodeId);

/// The reply of one node, or the error. [`FanOut::judge`] turns an error into a [`Disposition`].
struct NodeReply {
    node: NodeId,
    name: NodeName,
    took: Duration,
    reply: Result<VouchedRows, PeerError>,
}

impl FanOut {
    pub(crate) async fn execute(&self, room: &Room, until: Instant) -> RollCallAnswer {
        let as_of = Timestamp::now();
        let started = Instant::now();
        let deadline = until - started;
        let asking_until = until - (deadline / JUDGING_SHARE).min(MAX_JUDGING_TIME);

        // Before the directory is read: a node that joins in between is in the owner set.
        let view = self.membership.view();
        // A node that had rows last time very likely still has some. Asking it in parallel with the directory makes one
        // round trip of two.
        let cached = |member: &Member| Some((PeerTarget::from(member), Some(self.cache.get(room, &member.node)?)));
        let mut early = self.start_lookups(room, view.members.iter().filter_map(cached), asking_until);
        let planning = pin!(async {
            let mut plan = self.read_and_plan(room, &view, deadline / DIRECTORY_SHARE).await;
            let unreachable = self.resolve_unknown_owners(room, &mut plan, started + deadline / DIRECTORY_SHARE).await;
            (plan, unreachable)
        });
        let (mut plan, unreachable) = match select(planning, pin!(all_done(early.values_mut()))).await {
            Either::Left((planned, _)) => planned,
            Either::Right((_, planning)) => planning.await,
        };
        let own = self.own_rows(room);
        // Dropping a lookup cancels it. Without a cache entry, the next roll call does not ask the node early again.
        early.retain(|node, _| {
            let needed = plan.ask.iter().any(|target| target.node == *node);
            if !needed {
                self.cache.remove(room, node);
            }
            needed
        });
        let rest = plan.ask.iter().filter(|target| !early.contains_key(&target.node));
        let rest = rest.map(|target| (target.clone(), self.cache.get(room, &target.node)));
        let mut lookups = self.start_lookups(room, rest, asking_until);
        lookups.append(&mut early);
        all_done(lookups.values_mut()).await;
        let replies = lookups.values_mut().filter_map(|lookup| Pin::new(lookup).take_output()).flatten();
        let replies: Vec<NodeReply> = [own].into_iter().chain(replies).chain(unreachable).collect();
        let outcomes = self.judge(room, &mut plan, replies, until).await;
        self.remove_dead_owners(room, plan.dead_owners);

        let mut answer = RollCallAnswer::join(room.clone(), as_of, plan.source, plan.can_be_complete, outcomes);
        answer.took = started.elapsed();
        let (rows, source) = (answer.len(), answer.source);
        self.metrics.record(answer.took, rows, source, answer.complete);
        traces::record_roll_call(answer.complete, source, answer.nodes.len(), rows);
        debug!(%room, complete = answer.complete, rows = answer.len(), took = ?answer.took, "called the roll");
        answer
    }

    async fn read_and_plan(&self, room: &Room, view: &MembershipView, directory_timeout: Duration) -> AskPlan {
        let span = traces::directory_span(room);
        let owners = timeout(directory_timeout, self.directory.owners(room)).instrument(span.clone()).await;
        let owners = owners.ok().and_then(Result::ok);
        traces::record_directory_read(&span, owners.as_ref().map(|owners| owners.nodes.len()));
        let incarnation = self.roster.incarnation();
        plan(view, owners.as_ref(), incarnation.process(), self.membership.lease(), BootInstant::now())
    }

    /// Reads the leases of owners that are not in the member table. The plan then asks the owners with a lease, and its dead
    /// owners include those without one. Returns the owners whose state is unknown, as failed replies.
    async fn resolve_unknown_owners(&self, room: &Room, plan: &mut AskPlan, until: Instant) -> Vec<NodeReply> {
        if plan.unknown_owners.is_empty() {
            return Vec::new();
        }
        let owners = std::mem::take(&mut plan.unknown_owners);
        let leases = self.leases_and_counts(room, &owners, until).await;
        let mut entries = leases.iter().flatten().map(|lease| lease.entry.clone());
        // Without the member lists of the others, a missing lease does not prove a death.
        let view = self.membership.view();
        let can_declare_dead = view.synced && view.steady(self.membership.lease(), BootInstant::now());
        let mut unreachable = Vec::new();
        for node in owners {
            match entries.next() {
                Some(Some(entry)) => {
                    self.membership.add_from_directory(&node, &entry);
                    plan.ask.push(PeerTarget { node, name: entry.name, mesh: entry.mesh });
                }
                Some(None) if can_declare_dead => plan.dead_owners.push(node),
                Some(None) | None => {
                    let name = NodeName::from_any(node.as_str());
                    unreachable.push(NodeReply { node, name, took: Duration::ZERO, reply: Err(PeerError::Failed) });
                }
            }
        }
        unreachable
    }

    /// The reply of this node, which is a peer like any other, without the network.
    fn own_rows(&self, room: &Room) -> NodeReply {
        let started = Instant::now();
        let cached = self.cache.get(room, &self.roster.incarnation());
        let known = cached.as_ref().map(|cached| CachedVersion { version: cached.version, accepts_delta: true });
        let snapshot = self.roster.snapshot(room, known);
        let (node, name) = (snapshot.node.clone(), self.membership.node_info().name.clone());
        let reply = self.cache.apply(room, cached, snapshot);
        NodeReply { node, name, took: started.elapsed(), reply }
    }

    /// Makes a lookup for each target. A lookup sends its request at the first poll.
    fn start_lookups<'a>(
        &'a self,
        room: &'a Room,
        targets: impl Iterator<Item = (PeerTarget, Option<Arc<SerializedRows>>)>,
        until: Instant,
    ) -> IndexMap<NodeId, PendingLookup<'a>> {
        let start = |(target, cached): (PeerTarget, _)| {
            (target.node.clone(), maybe_done(self.ask(room, target, cached, until).boxed()))
        };
        targets.map(start).collect()
    }

    /// Asks one node, and, if its process has another id now, that id as well. Returns two replies only if another process
    /// has taken over the address.
    async fn ask(
        &self,
        room: &Room,
        target: PeerTarget,
        cached: Option<Arc<SerializedRows>>,
        until: Instant,
    ) -> Vec<NodeReply> {
        let PeerTarget { node, name, mesh } = &target;
        let started = Instant::now();
        let node_reply =
            |node: &NodeId, reply| NodeReply { node: node.clone(), name: name.clone(), took: started.elapsed(), reply };
        let new_id = match self.lookup(mesh, node, room, cached, until).await {
            Ok(Ok(vouched)) => {
                self.membership.record_contact(node);
                return vec![node_reply(node, Ok(vouched))];
            }
            Ok(Err(Reincarnated(new_id))) => new_id,
            Err(error) => return vec![node_reply(node, Err(error))],
        };
        let reply = match self.lookup(mesh, &new_id, room, self.cache.get(room, &new_id), until).await {
            Ok(Ok(vouched)) => Ok(vouched),
            Ok(Err(Reincarnated(_))) => Err(PeerError::Failed),
            Err(error) => Err(error),
        };
        let is_this_process = new_id.process() == self.roster.incarnation().process();
        let mut replies = Vec::with_capacity(2);
        // A process vouches for its own rows only, and here another process has replied.
        if new_id.process() != node.process() {
            replies.push(node_reply(node, Err(PeerError::Refused)));
        }
        // The reply of this process is `own_rows`.
        if !is_this_process {
            replies.push(node_reply(&new_id, reply));
        }
        replies
    }

    async fn lookup(
        &self,
        mesh: &SmolStr,
        node: &NodeId,
        room: &Room,
        cached: Option<Arc<SerializedRows>>,
        until: Instant,
    ) -> Result<Result<VouchedRows, Reincarnated>, PeerError> {
        let known = cached.as_ref().map(|cached| cached.version);
        let remaining = until.saturating_duration_since(Instant::now());
        Ok(match self.peers.lookup(mesh, node, room, known, remaining).await? {
            PeerReply::NodeIdChanged(new_id) => Err(Reincarnated(new_id)),
            PeerReply::Snapshot(snapshot) => Ok(self.cache.apply(room, cached, snapshot)?),
        })
    }

    /// Judges the nodes that did not reply, and adds the dead among them to the plan's dead owners.
    async fn judge(
        &self,
        room: &Room,
        plan: &mut AskPlan,
        replies: Vec<NodeReply>,
        until: Instant,
    ) -> Vec<NodeOutcome> {
        let silent: Vec<NodeId> =
            replies.iter().filter(|reply| reply.reply.is_err()).map(|reply| reply.node.clone()).collect();
        let leases = if plan.can_be_complete { self.leases_and_counts(room, &silent, until).await } else { None };
        let lease_of = |node: &NodeId| {
            let index = silent.iter().position(|other| other == node)?;
            leases.as_ref()?.get(index)
        };
        // Usually every node replies; then the member table is not copied.
        let view = if silent.is_empty() { MembershipView::default() } else { self.membership.view() };
        let steady = view.steady(self.membership.lease(), BootInstant::now());
        // An incarnation of the process is a member: the node itself, or a later one under an id that was not asked.
        let is_process_member =
            |node: &NodeId| view.members.iter().any(|member| member.node.process() == node.process());
        // A member is alive even if its lease is missing: the index may have been flushed since the member was listed.
        let alive = |node: &NodeId| !steady || is_process_member(node);
        let departed = |node: &NodeId| view.departed.contains(node) && !is_process_member(node);
        let mut outcomes = Vec::with_capacity(replies.len());
        for NodeReply { node, name, took, reply } in replies {
            let dispose = |error| (error, Disposition::of(lease_of(&node), alive(&node), departed(&node)));
            let reply = reply.map_err(dispose);
            if let Err((_, Disposition::Dead)) = reply {
                plan.dead_owners.push(node.clone());
            }
            outcomes.push(NodeOutcome { node, name, took, reply });
        }
        outcomes
    }

    async fn leases_and_counts(&self, room: &Room, nodes: &[NodeId], until: Instant) -> Option<Vec<LeaseAndCount>> {
        if nodes.is_empty() {
            return Some(Vec::new());
        }
        timeout_at(until, self.directory.leases_and_counts(room, nodes)).await.ok()?.ok()
    }

    /// Removes dead owners from the room in the background. After a failure the next roll call of the room tries again.
    fn remove_dead_owners(&self, room: &Room, dead_owners: Vec<NodeId>) {
        if dead_owners.is_empty() {
            return;
        }
        let (directory, room) = (Arc::clone(&self.directory), room.clone());
        self.background.spawn(async move {
            match directory.remove_dead_owners(&room, &dead_owners).await {
                Ok(()) => debug!(%room, ?dead_owners, "removed dead nodes from the owner set"),
                Err(error) => debug!(%room, %error, "cannot remove dead nodes from the owner set"),
            }
        });
    }
}

/// Waits until all lookups have ended. Yields to other tasks after each large reply: 25,000 rows take 6 ms, which must
/// not add up over several owners.
async fn all_done<'a: 'b, 'b>(lookups: impl Iterator<Item = &'b mut PendingLookup<'a>>) {
    let has_many_rows = async |lookup: &mut PendingLookup<'a>| {
        (&mut *lookup).await;
        let replies = Pin::new(lookup).output_mut().map(|replies| &**replies).unwrap_or_default();
        let changed = replies.iter().filter_map(|reply| reply.reply.as_ref().ok()).filter(|rows| !rows.unchanged);
        changed.map(|vouched| vouched.rows.len()).sum::<usize>() > MANY_ROWS
    };
    let mut lookups: FuturesUnordered<_> = lookups.map(has_many_rows).collect();
    while let Some(many) = lookups.next().await {
        if many {
            yield_now().await;
        }
    }
}
