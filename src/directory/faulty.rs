//! A directory that fails as it is told, around one that does not: for tests of what stands on a directory.
//!
//! Owns what the next call of each kind does instead of its work, the state of being away, and the writes that run
//! late. Owns no index: several of these may stand around one, each the path of one node to it, so that one node can
//! be cut off alone. What happens to the index itself, a flush say, is done to it directly.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::{Directory, Error, LeaseAndCount, LeaseRenewal, NodeEntry, NodeListing, Result, RoomOwners};
use crate::index::{Epoch, SocketWrite};
use crate::names::{NodeId, Room};

/// The kinds of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    Enter,
    Renew,
    Nodes,
    Claim,
    Release,
    Owners,
    Account,
    Repair,
    List,
    Forget,
}

/// What a call does instead of its work.
#[derive(Debug)]
pub enum Fault {
    /// Nothing is done, and no answer comes.
    FailBefore,
    /// It is done, and no answer comes.
    FailAfter,
    /// Not done, and said so.
    Refuse,
    /// Done and answered when it is told to go on.
    Hold(oneshot::Receiver<()>),
    /// No answer comes, and it is done later: at [`Faulty::run_late`].
    RunLate,
}

/// One path to a directory.
pub struct Faulty {
    inner: Arc<dyn Directory>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    faults: HashMap<Call, VecDeque<Fault>>,
    /// How long a call is on its way, each way.
    way: Duration,
    /// How long a call waits in vain, while the directory is away.
    away: Option<Duration>,
    late: Vec<BoxFuture<'static, ()>>,
    /// The sizes of the calls that were made.
    calls: HashMap<Call, Vec<usize>>,
}

impl Call {
    pub const WRITES: [Self; 7] =
        [Self::Enter, Self::Renew, Self::Claim, Self::Release, Self::Repair, Self::List, Self::Forget];
    pub const ALL: [Self; 10] = [
        Self::Enter,
        Self::Renew,
        Self::Nodes,
        Self::Claim,
        Self::Release,
        Self::Owners,
        Self::Account,
        Self::Repair,
        Self::List,
        Self::Forget,
    ];
}

impl Faulty {
    pub fn new(inner: Arc<dyn Directory>) -> Arc<Self> {
        Arc::new(Self { inner, state: Mutex::default() })
    }

    /// The next call of this kind that has no fault yet has this one.
    pub fn will(&self, call: Call, fault: Fault) {
        self.lock().faults.entry(call).or_default().push_back(fault);
    }

    /// From now on a call takes this long to arrive, and its answer again.
    pub fn be_far(&self, way: Duration) {
        self.lock().way = way;
    }

    /// From now on no call is carried out, or answered: each fails after `waiting`.
    pub fn go_away(&self, waiting: Duration) {
        self.lock().away = Some(waiting);
    }

    /// The directory is there again, and no fault is left to come.
    pub fn come_back(&self) {
        let mut state = self.lock();
        state.away = None;
        state.faults.clear();
    }

    /// Carries out what is to run late, in the order in which it was asked for. Returns how much that was.
    pub async fn run_late(&self) -> usize {
        let late = mem::take(&mut self.lock().late);
        let count = late.len();
        for work in late {
            work.await;
        }
        count
    }

    /// On how many rooms, nodes or seats each call of this kind was, so far.
    pub fn calls(&self, call: Call) -> Vec<usize> {
        self.lock().calls.get(&call).cloned().unwrap_or_default()
    }

    async fn play<T: 'static>(
        &self,
        call: Call,
        size: usize,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (way, away, fault) = {
            let mut state = self.lock();
            state.calls.entry(call).or_default().push(size);
            let fault = state.faults.get_mut(&call).and_then(VecDeque::pop_front);
            (state.way, state.away, fault)
        };
        if let Some(waiting) = away {
            sleep(waiting).await;
            return Err(unanswered());
        }
        travel(way).await;
        let answer = self.work(fault, work).await;
        travel(way).await;
        answer
    }

    async fn work<T: 'static>(
        &self,
        fault: Option<Fault>,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match fault {
            None => work.await,
            Some(Fault::FailBefore) => Err(unanswered()),
            Some(Fault::FailAfter) => work.await.and(Err(unanswered())),
            Some(Fault::Refuse) => Err(Error::Refused("as told".to_owned())),
            Some(Fault::Hold(go)) => {
                // Who forgets to tell it lets it go.
                let _ = go.await;
                work.await
            }
            Some(Fault::RunLate) => {
                // Nobody is there any more to hear the answer.
                let work = async { drop(work.await) };
                self.lock().late.push(Box::pin(work));
                Err(unanswered())
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the faults")
    }
}

/// Even the shortest sleep takes a millisecond.
async fn travel(way: Duration) {
    if !way.is_zero() {
        sleep(way).await;
    }
}

fn unanswered() -> Error {
    Error::Unanswered("as told".to_owned())
}

/// Each call owns what it works on: it may outlive the caller.
#[async_trait]
impl Directory for Faulty {
    async fn maintain(&self) {
        self.inner.maintain().await;
    }

    async fn register(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<Option<Epoch>> {
        let (inner, node, entry) = (Arc::clone(&self.inner), node.clone(), entry.clone());
        self.play(Call::Enter, 1, async move { inner.register(&node, &entry, lease).await }).await
    }

    async fn renew(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<LeaseRenewal> {
        let (inner, node, entry) = (Arc::clone(&self.inner), node.clone(), entry.clone());
        self.play(Call::Renew, 1, async move { inner.renew(&node, &entry, lease).await }).await
    }

    async fn nodes(&self) -> Result<NodeListing> {
        let inner = Arc::clone(&self.inner);
        self.play(Call::Nodes, 1, async move { inner.nodes().await }).await
    }

    async fn add_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<Option<Epoch>> {
        let (inner, node, rooms) = (Arc::clone(&self.inner), node.clone(), rooms.to_vec());
        self.play(Call::Claim, rooms.len(), async move { inner.add_owner(&node, &rooms).await }).await
    }

    async fn remove_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<()> {
        let (inner, node, rooms) = (Arc::clone(&self.inner), node.clone(), rooms.to_vec());
        self.play(Call::Release, rooms.len(), async move { inner.remove_owner(&node, &rooms).await }).await
    }

    async fn owners(&self, room: &Room) -> Result<RoomOwners> {
        let (inner, room) = (Arc::clone(&self.inner), room.clone());
        self.play(Call::Owners, 1, async move { inner.owners(&room).await }).await
    }

    async fn leases_and_counts(&self, room: &Room, nodes: &[NodeId]) -> Result<Vec<LeaseAndCount>> {
        let (inner, room, nodes) = (Arc::clone(&self.inner), room.clone(), nodes.to_vec());
        self.play(Call::Account, nodes.len(), async move { inner.leases_and_counts(&room, &nodes).await }).await
    }

    async fn remove_dead_owners(&self, room: &Room, nodes: &[NodeId]) -> Result<()> {
        let (inner, room, nodes) = (Arc::clone(&self.inner), room.clone(), nodes.to_vec());
        self.play(Call::Repair, nodes.len(), async move { inner.remove_dead_owners(&room, &nodes).await }).await
    }

    async fn write_sockets(&self, node: &NodeId, changes: &[SocketWrite]) -> Result<()> {
        let (inner, node, changes) = (Arc::clone(&self.inner), node.clone(), changes.to_vec());
        self.play(Call::List, changes.len(), async move { inner.write_sockets(&node, &changes).await }).await
    }

    async fn deregister(&self, node: &NodeId) -> Result<()> {
        let (inner, node) = (Arc::clone(&self.inner), node.clone());
        self.play(Call::Forget, 1, async move { inner.deregister(&node).await }).await
    }
}
