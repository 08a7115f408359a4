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
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug};

use super::answer::{NodeResult, RollCallAnswer, VouchedRows};
use super::cache::SnapshotCache;
use super::plan::{AskPlan, PeerTarget, plan};
use super::rows::SerializedRows;
use super::silence::{Disposition, JudgedSilence, LeaseEvidence};
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

/// A lookup in progress, or its result.
type PendingLookup<'a> = MaybeDone<BoxFuture<'a, NodeResult>>;
type PendingLookups<'a> = IndexMap<NodeId, PendingLookup<'a>>;

/// The process at the address has another node id now.
struct Reincarnated(NodeId);

/// The moments until which the steps of an execution may last.
struct TimeBudget {
    started: Instant,
    directory_until: Instant,
    asking_until: Instant,
    until: Instant,
}

/// The plan, the owners that it does not know, and the lookups that were sent before it was made.
struct PlannedCall<'a> {
    plan: AskPlan,
    unknown_owners: UnknownOwners,
    early: PendingLookups<'a>,
}

/// The owners that are not in the member table, after their leases were read.
#[derive(Default)]
struct UnknownOwners {
    /// Owners with a lease. They are members now, and are asked.
    leased: Vec<PeerTarget>,
    /// Owners without a lease, or with one that could not be read. They cannot be asked, and count as silent.
    silent: Vec<NodeResult>,
}

impl FanOut {
    pub(crate) async fn execute(&self, room: &Room, until: Instant) -> RollCallAnswer {
        let (as_of, time) = (Timestamp::now(), TimeBudget::new(until));
        let PlannedCall { plan, unknown_owners, early } = self.plan_and_ask_early(room, &time).await;
        let own = self.own_rows(room);
        let targets: Vec<&PeerTarget> = plan.ask.iter().chain(&unknown_owners.leased).collect();
        let replies = self.ask_the_rest(room, &targets, early, &time).await;
        let results = [own].into_iter().chain(replies).chain(unknown_owners.silent).collect();
        let judged = self.judge(room, plan.can_be_complete, results, time.until).await;
        self.remove_dead_owners(room, plan.dead_owners, &judged);
        let mut answer = RollCallAnswer::join(room.clone(), as_of, plan.source, plan.can_be_complete, judged);
        answer.took = time.started.elapsed();
        self.record(&answer);
        answer
    }

    /// Copies the member table, reads the owners, and plans. Meanwhile it asks the members with cached rows: a node that had
    /// rows last time very likely still has some, and this makes one round trip of two.
    async fn plan_and_ask_early<'a>(&'a self, room: &'a Room, time: &TimeBudget) -> PlannedCall<'a> {
        // Before the directory is read: a node that joins in between is in the owner set.
        let view = self.membership.view();
        let cached = |member: &Member| Some((PeerTarget::from(member), Some(self.cache.get(room, &member.node)?)));
        let mut early = self.start_lookups(room, view.members.iter().filter_map(cached), time.asking_until);
        let planning = pin!(async {
            let plan = self.read_and_plan(room, &view, time.directory_until).await;
            let unknown_owners = self.resolve_unknown_owners(room, &plan.unknown_owners, time.directory_until).await;
            (plan, unknown_owners)
        });
        let (plan, unknown_owners) = match select(planning, pin!(all_done(early.values_mut()))).await {
            Either::Left((planned, _)) => planned,
            Either::Right((_, planning)) => planning.await,
        };
        PlannedCall { plan, unknown_owners, early }
    }

    /// Asks the targets that were not asked early, and waits for all of them. Cancels the early lookups of other nodes.
    async fn ask_the_rest<'a>(
        &'a self,
        room: &'a Room,
        targets: &[&PeerTarget],
        mut early: PendingLookups<'a>,
        time: &TimeBudget,
    ) -> Vec<NodeResult> {
        // Dropping a lookup cancels it. Without a cache entry, the next roll call does not ask the node early again.
        early.retain(|node, _| {
            let needed = targets.iter().any(|target| target.node == *node);
            if !needed {
                self.cache.remove(room, node);
            }
            needed
        });
        let rest = targets.iter().filter(|target| !early.contains_key(&target.node));
        let rest = rest.map(|&target| (target.clone(), self.cache.get(room, &target.node)));
        let mut lookups = self.start_lookups(room, rest, time.asking_until);
        lookups.append(&mut early);
        all_done(lookups.values_mut()).await;
        lookups.values_mut().filter_map(|lookup| Pin::new(lookup).take_output()).collect()
    }

    fn record(&self, answer: &RollCallAnswer) {
        let (rows, source, complete, took) = (answer.len(), answer.source, answer.complete, answer.took);
        self.metrics.record(took, rows, source, complete);
        traces::record_roll_call(complete, source, answer.nodes.len(), rows);
        debug!(room = %answer.room, complete, rows, ?took, "called the roll");
    }

    async fn read_and_plan(&self, room: &Room, view: &MembershipView, until: Instant) -> AskPlan {
        let span = traces::directory_span(room);
        let owners = timeout_at(until, self.directory.owners(room)).instrument(span.clone()).await;
        let owners = owners.ok().and_then(Result::ok);
        traces::record_directory_read(&span, owners.as_ref().map(|owners| owners.nodes.len()));
        let incarnation = self.roster.incarnation();
        plan(view, owners.as_ref(), incarnation.process(), self.membership.lease(), BootInstant::now())
    }

    /// Reads the leases of owners that are not in the member table. An owner with a lease becomes a member.
    async fn resolve_unknown_owners(&self, room: &Room, owners: &[NodeId], until: Instant) -> UnknownOwners {
        let mut resolved = UnknownOwners::default();
        if owners.is_empty() {
            return resolved;
        }
        let leases = self.leases_and_counts(room, owners, until).await.unwrap_or_default();
        let mut entries = leases.into_iter().map(|lease| lease.entry);
        for node in owners.iter().cloned() {
            if let Some(entry) = entries.next().flatten() {
                self.membership.add_from_directory(&node, &entry);
                resolved.leased.push(PeerTarget { node, name: entry.name, mesh: entry.mesh });
            } else {
                let name = NodeName::from_any(node.as_str());
                resolved.silent.push(NodeResult { node, name, took: Duration::ZERO, reply: Err(PeerError::Failed) });
            }
        }
        resolved
    }

    /// The reply of this node, which is a peer like any other, without the network.
    fn own_rows(&self, room: &Room) -> NodeResult {
        let started = Instant::now();
        let cached = self.cache.get(room, &self.roster.incarnation());
        let known = cached.as_ref().map(|cached| CachedVersion { version: cached.version, accepts_delta: true });
        let snapshot = self.roster.snapshot(room, known);
        let (node, name) = (snapshot.node.clone(), self.membership.node_info().name.clone());
        let reply = self.cache.apply(room, cached, snapshot);
        NodeResult { node, name, took: started.elapsed(), reply }
    }

    /// Makes a lookup for each target. A lookup sends its request at the first poll.
    fn start_lookups<'a>(
        &'a self,
        room: &'a Room,
        targets: impl Iterator<Item = (PeerTarget, Option<Arc<SerializedRows>>)>,
        until: Instant,
    ) -> PendingLookups<'a> {
        let start = |(target, cached): (PeerTarget, _)| {
            (target.node.clone(), maybe_done(self.ask(room, target, cached, until).boxed()))
        };
        targets.map(start).collect()
    }

    /// Asks one node, and, if its process has another id now, that id instead. A reply that names another process is a
    /// refusal: an address speaks for one process, and the other one is asked at its own.
    async fn ask(
        &self,
        room: &Room,
        target: PeerTarget,
        cached: Option<Arc<SerializedRows>>,
        until: Instant,
    ) -> NodeResult {
        let PeerTarget { node, name, mesh } = &target;
        let started = Instant::now();
        let result = |node: &NodeId, reply| {
            let (node, name) = (node.clone(), name.clone());
            NodeResult { node, name, took: started.elapsed(), reply }
        };
        let new_id = match self.lookup(mesh, node, room, cached, until).await {
            Ok(Ok(vouched)) => {
                self.membership.record_contact(node);
                return result(node, Ok(vouched));
            }
            Ok(Err(Reincarnated(new_id))) if new_id.process() == node.process() => new_id,
            Ok(Err(Reincarnated(_))) => return result(node, Err(PeerError::Refused)),
            Err(error) => return result(node, Err(error)),
        };
        let reply = match self.lookup(mesh, &new_id, room, self.cache.get(room, &new_id), until).await {
            Ok(Ok(vouched)) => Ok(vouched),
            Ok(Err(Reincarnated(_))) => Err(PeerError::Failed),
            Err(error) => Err(error),
        };
        result(&new_id, reply)
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

    /// Judges the nodes that did not reply (rule 9). This is the only place that does, also for unknown owners.
    async fn judge(
        &self,
        room: &Room,
        can_be_complete: bool,
        results: Vec<NodeResult>,
        until: Instant,
    ) -> Vec<NodeResult<JudgedSilence>> {
        let is_silent = |result: &&NodeResult| result.reply.is_err();
        let silent: Vec<NodeId> = results.iter().filter(is_silent).map(|result| result.node.clone()).collect();
        // A missing lease proves a death only to a node that knows the members of the others. `can_be_complete` implies that
        // this node is synced; without it no lease is read.
        let leases = if can_be_complete { self.leases_and_counts(room, &silent, until).await } else { None };
        let mut leases = leases.iter().flatten();
        // Usually every node replies; then the member table is not copied.
        let view = if silent.is_empty() { MembershipView::default() } else { self.membership.view() };
        let steady = view.steady(self.membership.lease(), BootInstant::now());
        let judge = |NodeResult { node, name, took, reply }: NodeResult| {
            // The leases are in the order of the silent nodes.
            let reply = reply.map_err(|error| {
                let evidence = LeaseEvidence::of(&node, leases.next(), steady, &view);
                JudgedSilence { error, disposition: Disposition::of(evidence) }
            });
            NodeResult { node, name, took, reply }
        };
        results.into_iter().map(judge).collect()
    }

    async fn leases_and_counts(&self, room: &Room, nodes: &[NodeId], until: Instant) -> Option<Vec<LeaseAndCount>> {
        if nodes.is_empty() {
            return Some(Vec::new());
        }
        timeout_at(until, self.directory.leases_and_counts(room, nodes)).await.ok()?.ok()
    }

    /// Removes `dead_owners`, and the nodes that were judged dead, from the owner set of the room. Runs in the background;
    /// after a failure the next roll call of the room tries again.
    fn remove_dead_owners(&self, room: &Room, mut dead_owners: Vec<NodeId>, judged: &[NodeResult<JudgedSilence>]) {
        let is_dead = |result: &&NodeResult<JudgedSilence>| {
            result.reply.as_ref().is_err_and(|silence| silence.disposition == Disposition::Dead)
        };
        dead_owners.extend(judged.iter().filter(is_dead).map(|result| result.node.clone()));
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

impl TimeBudget {
    fn new(until: Instant) -> Self {
        let started = Instant::now();
        let deadline = until - started;
        let judging = (deadline / JUDGING_SHARE).min(MAX_JUDGING_TIME);
        Self { started, directory_until: started + deadline / DIRECTORY_SHARE, asking_until: until - judging, until }
    }
}

/// Waits until all lookups have ended. Yields to other tasks after each large reply: 25,000 rows take 6 ms, which must
/// not add up over several owners.
async fn all_done<'a: 'b, 'b>(lookups: impl Iterator<Item = &'b mut PendingLookup<'a>>) {
    let has_many_rows = async |lookup: &mut PendingLookup<'a>| {
        (&mut *lookup).await;
        let vouched = Pin::new(lookup).output_mut().and_then(|result| result.reply.as_ref().ok());
        vouched.is_some_and(|vouched| !vouched.unchanged && vouched.rows.len() > MANY_ROWS)
    };
    let mut lookups: FuturesUnordered<_> = lookups.map(has_many_rows).collect();
    while let Some(many) = lookups.next().await {
        if many {
            yield_now().await;
        }
    }
}
