//! The roll call: one question, "who is in this room", put to every node that must be asked.
//!
//! Owns the order of things: the table of members is taken, then the directory is read, then the peers are asked in
//! parallel, each once, and who stayed silent is judged. Whom to ask is decided in [`mod@plan`], and what the answers
//! amount to in [`answer`], both without I/O. Owns no rows: they come from rosters, this node's own among them, and what
//! is held of them in [`parts`] is reused on their word only. Callers who ask the same share a [flight](flights), and are
//! told one [`list`].

pub mod answer;
pub mod cache;
pub mod coalescer;
pub mod list;
pub mod plan;
pub mod rows;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Either, MaybeDone, maybe_done, select};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use indexmap::IndexMap;
use jiff::Timestamp;
use smol_str::SmolStr;
use thiserror::Error;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span, debug};

use crate::clock::BootInstant;
use crate::directory::{Directory, LeaseAndCount};
use crate::membership::{Member, Membership, MembershipView};
use crate::mesh::peers::{PeerError, PeerReply, Peers};
use crate::names::{NodeId, NodeName, Room};
use crate::roster::{CachedVersion, Roster};
use crate::telemetry::logging::request;
use crate::telemetry::metrics::roll_calls::RollCallMetrics;
use crate::telemetry::traces;
use crate::telemetry::traces::SharedSpan;
use answer::{Answer, Outcome, Verdict, Vouched};
use cache::Parts;
use coalescer::Flights;
use plan::{Plan, Target, plan};
use rows::Rows;

/// The deadline of a roll call whose caller names none, unless the node is configured otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_millis(500);
/// The longest deadline that a caller may ask for.
pub const MAX_DEADLINE: Duration = Duration::from_secs(5);
/// Boarding may take one part in this many of the deadline, where that is short.
const BOARDING_SHARE: u32 = 4;
/// The directory may take one part in this many of the deadline.
const DIRECTORY_SHARE: u32 = 3;
/// One part in this many of the deadline is kept for judging who stayed silent…
const JUDGING_SHARE: u32 = 10;
/// …and never more than this.
const JUDGING_MOST: Duration = Duration::from_millis(50);
/// Reading and writing so many rows keeps a thread busy for a quarter of a millisecond.
const MANY_ROWS: usize = 1_000;

/// Cheap to clone.
#[derive(Clone)]
pub struct RollCall {
    caller: Arc<Caller>,
    flights: Flights<(Room, Duration), Flown>,
}

/// Calls the roll, once for each time that it is asked.
struct Caller {
    roster: Arc<Roster>,
    membership: Arc<Membership>,
    directory: Arc<dyn Directory>,
    peers: Peers,
    parts: Parts,
    background: TaskTracker,
    metrics: RollCallMetrics,
}

/// Why there is no answer at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unanswerable {
    #[error("this node has not reached the directory since it started, so it knows no other node")]
    NotIntroduced,
    #[error("this node is stopping")]
    Stopping,
}

/// What a flight brings to all aboard.
#[derive(Clone)]
struct Flown {
    answer: Arc<Answer>,
    /// How those link to it who did not begin it; none where nothing is traced.
    traced: Option<SharedSpan>,
}

/// A node that is being asked.
type Asking<'a> = MaybeDone<BoxFuture<'a, Vec<Asked>>>;

/// The node goes by another id now.
struct Moved(NodeId);

/// One node that was asked, before its silence is judged.
struct Asked {
    node: NodeId,
    name: NodeName,
    took: Duration,
    reply: Result<Vouched, PeerError>,
}

impl RollCall {
    /// `background` owns the flights, and the repairs that they leave running.
    pub fn new(
        roster: Arc<Roster>,
        membership: Arc<Membership>,
        directory: Arc<dyn Directory>,
        peers: Peers,
        parts: Parts,
        background: TaskTracker,
        metrics: RollCallMetrics,
    ) -> Self {
        let flights = Flights::new(background.clone(), metrics.clone());
        let caller = Caller { roster, membership, directory, peers, parts, background, metrics };
        Self { caller: Arc::new(caller), flights }
    }

    /// Calls the roll of a room. Answers within `deadline`; what could not be had is named in the answer. The roll call
    /// begins after this was called, and callers of one moment share it.
    ///
    /// # Errors
    /// When there is nothing to begin with, see [`Unanswerable`].
    pub async fn call(&self, room: &Room, deadline: Duration) -> Result<Arc<Answer>, Unanswerable> {
        if !self.caller.membership.has_joined() {
            return Err(Unanswerable::NotIntroduced);
        }
        let (caller, asked) = (Arc::clone(&self.caller), room.clone());
        // Who boards first has the least time left of all aboard.
        let until = Instant::now() + deadline;
        let (asked_by, begun_by) = (Span::current(), request::current_id());
        let fly = move || async move {
            let span = traces::roll_call_span(&asked_by, &asked);
            let traced = traces::shared_span(&span, &asked_by);
            // What is logged of it is about the request that began it.
            let calling = request::with_id(begun_by, caller.call(&asked, until).instrument(span));
            Flown { answer: Arc::new(calling.await), traced }
        };
        let flown = self.flights.join(&(room.clone(), deadline), deadline / BOARDING_SHARE, fly).await;
        let Flown { answer, traced } = flown.ok_or(Unanswerable::Stopping)?;
        traces::link_shared_span(traced.as_ref());
        Ok(answer)
    }

    /// A caller wanted a complete answer or none, and gets none.
    pub fn withheld(&self) {
        self.caller.metrics.strict_refused();
    }
}

impl Caller {
    async fn call(&self, room: &Room, until: Instant) -> Answer {
        let as_of = Timestamp::now();
        let began = Instant::now();
        let deadline = until - began;
        let asking_until = until - (deadline / JUDGING_SHARE).min(JUDGING_MOST);

        // Before the directory is read: a node that joins in between is found in the owner set.
        let view = self.membership.view();
        // Who had rows last time has some now as a rule, and need not wait for the directory: two round trips become one.
        let held = |member: &Member| Some((Target::from(member), Some(self.parts.hold(room, &member.node)?)));
        let mut early = self.begin(room, view.members.iter().filter_map(held), asking_until);
        let planning = pin!(async {
            let mut plan = self.plan(room, &view, deadline / DIRECTORY_SHARE).await;
            let strangers = self.introduce(room, &mut plan, began + deadline / DIRECTORY_SHARE).await;
            (plan, strangers)
        });
        let (mut plan, strangers) = match select(planning, pin!(all_answer(early.values_mut()))).await {
            Either::Left((planned, _)) => planned,
            Either::Right((_, planning)) => planning.await,
        };
        let own = self.own_part(room);
        // Nobody waits for those that, as it turned out, need not be asked; nor are they asked early again.
        early.retain(|node, _| {
            let needed = plan.ask.iter().any(|target| target.node == *node);
            if !needed {
                self.parts.forget(room, node);
            }
            needed
        });
        let rest = plan.ask.iter().filter(|target| !early.contains_key(&target.node));
        let rest = rest.map(|target| (target.clone(), self.parts.hold(room, &target.node)));
        let mut asking = self.begin(room, rest, asking_until);
        asking.append(&mut early);
        all_answer(asking.values_mut()).await;
        let answers = asking.values_mut().filter_map(|asking| Pin::new(asking).take_output()).flatten();
        let asked: Vec<Asked> = [own].into_iter().chain(answers).chain(strangers).collect();
        let outcomes = self.judge(room, &mut plan, asked, until).await;
        self.repair(room, plan.gone);

        let mut answer = Answer::join(room.clone(), as_of, plan.source, plan.informed, outcomes);
        answer.took = began.elapsed();
        let (rows, source) = (answer.len(), answer.source.into());
        self.metrics.record(answer.took, rows, source, answer.complete);
        traces::record_roll_call(answer.complete, source, answer.nodes.len(), rows);
        debug!(%room, complete = answer.complete, rows = answer.len(), took = ?answer.took, "called the roll");
        answer
    }

    async fn plan(&self, room: &Room, view: &MembershipView, within: Duration) -> Plan {
        let span = traces::directory_span(room);
        let owners = timeout(within, self.directory.owners(room)).instrument(span.clone()).await;
        let owners = owners.ok().and_then(Result::ok);
        traces::record_directory_read(&span, owners.as_ref().map(|owners| owners.nodes.len()));
        let incarnation = self.roster.incarnation();
        plan(view, owners.as_ref(), incarnation.process(), self.membership.lease(), BootInstant::now())
    }

    /// Turns strangers that have a lease into members to be asked, and those that have none into gone ones.
    /// Returns those that cannot be asked, and that nobody can say are gone.
    async fn introduce(&self, room: &Room, plan: &mut Plan, until: Instant) -> Vec<Asked> {
        if plan.strangers.is_empty() {
            return Vec::new();
        }
        let strangers = std::mem::take(&mut plan.strangers);
        let accounts = self.accounts(room, &strangers, until).await;
        let mut entries = accounts.iter().flatten().map(|account| account.entry.clone());
        // A node that has yet to hear what the others know cannot tell who is dead.
        let view = self.membership.view();
        let knows = view.synced && view.steady(self.membership.lease(), BootInstant::now());
        let mut unknown = Vec::new();
        for node in strangers {
            match entries.next() {
                Some(Some(entry)) => {
                    self.membership.add_from_directory(&node, &entry);
                    plan.ask.push(Target { node, name: entry.name, mesh: entry.mesh });
                }
                Some(None) if knows => plan.gone.push(node),
                Some(None) | None => {
                    let name = NodeName::from_any(node.as_str());
                    unknown.push(Asked { node, name, took: Duration::ZERO, reply: Err(PeerError::Failed) });
                }
            }
        }
        unknown
    }

    /// This node is a peer like any other, without the wire.
    fn own_part(&self, room: &Room) -> Asked {
        let began = Instant::now();
        let held = self.parts.hold(room, &self.roster.incarnation());
        let known = held.as_ref().map(|held| CachedVersion { version: held.version, accepts_delta: true });
        let part = self.roster.snapshot(room, known);
        let (node, name) = (part.node.clone(), self.membership.node_info().name.clone());
        let reply = self.parts.take(room, held, part);
        Asked { node, name, took: began.elapsed(), reply }
    }

    /// Asks these, of which that is held; nothing is sent before the first poll.
    fn begin<'a>(
        &'a self,
        room: &'a Room,
        targets: impl Iterator<Item = (Target, Option<Arc<Rows>>)>,
        until: Instant,
    ) -> IndexMap<NodeId, Asking<'a>> {
        let ask = |(target, held): (Target, _)| {
            (target.node.clone(), maybe_done(self.ask(room, target, held, until).boxed()))
        };
        targets.map(ask).collect()
    }

    /// Asks one node, and the one that it says it is now. Two answers only where another process took over its address.
    async fn ask(&self, room: &Room, target: Target, held: Option<Arc<Rows>>, until: Instant) -> Vec<Asked> {
        let Target { node, name, mesh } = &target;
        let began = Instant::now();
        let asked =
            |node: &NodeId, reply| Asked { node: node.clone(), name: name.clone(), took: began.elapsed(), reply };
        let now = match self.lookup(mesh, node, room, held, until).await {
            Ok(Ok(vouched)) => {
                self.membership.record_contact(node);
                return vec![asked(node, Ok(vouched))];
            }
            Ok(Err(Moved(now))) => now,
            Err(silence) => return vec![asked(node, Err(silence))],
        };
        let reply = match self.lookup(mesh, &now, room, self.parts.hold(room, &now), until).await {
            Ok(Ok(vouched)) => Ok(vouched),
            Ok(Err(Moved(_))) => Err(PeerError::Failed),
            Err(silence) => Err(silence),
        };
        let own = now.process() == self.roster.incarnation().process();
        let mut answers = Vec::with_capacity(2);
        if now.process() != node.process() {
            answers.push(asked(node, Err(PeerError::Refused)));
        }
        if !own {
            answers.push(asked(&now, reply));
        }
        answers
    }

    async fn lookup(
        &self,
        mesh: &SmolStr,
        node: &NodeId,
        room: &Room,
        held: Option<Arc<Rows>>,
        until: Instant,
    ) -> Result<Result<Vouched, Moved>, PeerError> {
        let known = held.as_ref().map(|held| held.version);
        let within = until.saturating_duration_since(Instant::now());
        Ok(match self.peers.lookup(mesh, node, room, known, within).await? {
            PeerReply::NodeIdChanged(now) => Err(Moved(now)),
            PeerReply::Snapshot(part) => Ok(self.parts.take(room, held, part)?),
        })
    }

    /// Judges those that stayed silent; the dead among them are added to those that are gone.
    async fn judge(&self, room: &Room, plan: &mut Plan, asked: Vec<Asked>, until: Instant) -> Vec<Outcome> {
        let silent: Vec<NodeId> =
            asked.iter().filter(|asked| asked.reply.is_err()).map(|asked| asked.node.clone()).collect();
        let accounts = if plan.informed { self.accounts(room, &silent, until).await } else { None };
        let account = |node: &NodeId| {
            let place = silent.iter().position(|other| other == node)?;
            accounts.as_ref()?.get(place)
        };
        // Copying the table is for those who stayed silent, and mostly there are none.
        let view = if silent.is_empty() { MembershipView::default() } else { self.membership.view() };
        let lease = self.membership.lease();
        let steady = view.steady(lease, BootInstant::now());
        // Replaced while it was asked: the process lives, under an id that was not asked.
        let replaced = |node: &NodeId| view.members.iter().any(|member| member.node.process() == node.process());
        // Who is still a member was not found dead, whatever the account says: the index may have been flushed since.
        let alive = |node: &NodeId| !steady || view.get(node).is_some() || replaced(node);
        let gone = |node: &NodeId| view.departed.contains(node) && !replaced(node);
        let mut outcomes = Vec::with_capacity(asked.len());
        for Asked { node, name, took, reply } in asked {
            let reply = reply.map_err(|silence| (silence, Verdict::of(account(&node), alive(&node), gone(&node))));
            if let Err((_, Verdict::Dead)) = reply {
                plan.gone.push(node.clone());
            }
            outcomes.push(Outcome { node, name, took, reply });
        }
        outcomes
    }

    async fn accounts(&self, room: &Room, nodes: &[NodeId], until: Instant) -> Option<Vec<LeaseAndCount>> {
        if nodes.is_empty() {
            return Some(Vec::new());
        }
        timeout_at(until, self.directory.leases_and_counts(room, nodes)).await.ok()?.ok()
    }

    /// Removes what the dead have left in the room. Nobody waits for it: the next roll call would do it again.
    fn repair(&self, room: &Room, gone: Vec<NodeId>) {
        if gone.is_empty() {
            return;
        }
        let (directory, room) = (Arc::clone(&self.directory), room.clone());
        self.background.spawn(async move {
            match directory.remove_dead_owners(&room, &gone).await {
                Ok(()) => debug!(%room, ?gone, "repaired the room's owner set"),
                Err(error) => debug!(%room, %error, "the room's owner set could not be repaired"),
            }
        });
    }
}

/// Ends when all have answered. Other tasks have their turn after each large part: one of 25,000 rows costs 6 ms, and
/// those of several owners must not add up.
async fn all_answer<'a: 'b, 'b>(asking: impl Iterator<Item = &'b mut Asking<'a>>) {
    let told_many = async |asking: &mut Asking<'a>| {
        (&mut *asking).await;
        let answers = Pin::new(asking).output_mut().map(|answers| &**answers).unwrap_or_default();
        let told = answers.iter().filter_map(|asked| asked.reply.as_ref().ok()).filter(|vouched| !vouched.unchanged);
        told.map(|vouched| vouched.rows.len()).sum::<usize>() > MANY_ROWS
    };
    let mut asking: FuturesUnordered<_> = asking.map(told_many).collect();
    while let Some(many) = asking.next().await {
        if many {
            yield_now().await;
        }
    }
}
