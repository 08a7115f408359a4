//! A directory that injects faults, wrapped around one that works. For tests only.
//!
//! Owns the faults of the next calls, whether the directory is reachable, and the writes that run late. Owns no index:
//! several of these may wrap the same one, each as the network path of one node, so that a test can cut off one node
//! alone. A fault of the index itself, such as a flush, is done to the index directly.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use strum::VariantArray;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::{
    Directory, DirectoryCall, DirectoryError, LeaseAndCount, LeaseRenewal, NodeEntry, NodeListing, Result, RoomOwners,
};
use crate::index::{Epoch, SocketWrite};
use crate::names::{NodeId, Room};

/// A fault that replaces the work of a call.
#[derive(Debug)]
pub enum Fault {
    /// The call is not executed, and no answer arrives.
    LoseRequest,
    /// The call is executed, and no answer arrives.
    LoseAnswer,
    /// The call is rejected, with an answer.
    Refuse,
    /// The call is executed once the sender fires or is dropped.
    Hold(oneshot::Receiver<()>),
    /// No answer arrives, and the call is executed at [`FaultyDirectory::run_late`].
    RunLate,
}

/// One node's path to a directory.
pub struct FaultyDirectory {
    inner: Arc<dyn Directory>,
    faults: Mutex<InjectedFaults>,
}

#[derive(Default)]
struct InjectedFaults {
    next: HashMap<DirectoryCall, VecDeque<Fault>>,
    /// One-way delay of requests and answers.
    latency: Duration,
    /// The time after which each call fails, while the directory is unreachable.
    unreachable: Option<Duration>,
    late: Vec<BoxFuture<'static, ()>>,
    call_sizes: HashMap<DirectoryCall, Vec<usize>>,
}

impl DirectoryCall {
    pub const ALL: &'static [Self] = Self::VARIANTS;
    pub const WRITES: [Self; 7] = [
        Self::Register,
        Self::Renew,
        Self::AddOwner,
        Self::RemoveOwner,
        Self::RemoveDeadOwners,
        Self::WriteSockets,
        Self::Deregister,
    ];
}

impl FaultyDirectory {
    pub fn new(inner: Arc<dyn Directory>) -> Arc<Self> {
        Arc::new(Self { inner, faults: Mutex::default() })
    }

    /// Queues a fault for the next call of this kind.
    pub fn inject(&self, call: DirectoryCall, fault: Fault) {
        self.faults.lock().next.entry(call).or_default().push_back(fault);
    }

    /// Delays each request, and each answer, by `latency`.
    pub fn set_latency(&self, latency: Duration) {
        self.faults.lock().latency = latency;
    }

    /// From now on every call fails without an answer after `timeout`.
    pub fn disconnect(&self, timeout: Duration) {
        self.faults.lock().unreachable = Some(timeout);
    }

    /// Makes the directory reachable again and discards the faults that are still queued.
    pub fn reconnect(&self) {
        let mut faults = self.faults.lock();
        faults.unreachable = None;
        faults.next.clear();
    }

    /// Executes the calls with the fault [`Fault::RunLate`], in the order they were made. Returns their number.
    pub async fn run_late(&self) -> usize {
        let late = mem::take(&mut self.faults.lock().late);
        let count = late.len();
        for work in late {
            work.await;
        }
        count
    }

    /// For each call of this kind so far, the number of rooms, nodes or sockets in it.
    pub fn call_sizes(&self, call: DirectoryCall) -> Vec<usize> {
        self.faults.lock().call_sizes.get(&call).cloned().unwrap_or_default()
    }

    async fn play<T: 'static>(
        &self,
        call: DirectoryCall,
        size: usize,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (latency, unreachable, fault) = {
            let mut faults = self.faults.lock();
            faults.call_sizes.entry(call).or_default().push(size);
            let fault = faults.next.get_mut(&call).and_then(VecDeque::pop_front);
            (faults.latency, faults.unreachable, fault)
        };
        if let Some(timeout) = unreachable {
            sleep(timeout).await;
            return Err(unanswered());
        }
        delay(latency).await;
        let answer = self.work(fault, work).await;
        delay(latency).await;
        answer
    }

    async fn work<T: 'static>(
        &self,
        fault: Option<Fault>,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match fault {
            None => work.await,
            Some(Fault::LoseRequest) => Err(unanswered()),
            Some(Fault::LoseAnswer) => work.await.and(Err(unanswered())),
            Some(Fault::Refuse) => Err(DirectoryError::Refused("injected fault".to_owned())),
            Some(Fault::Hold(release)) => {
                // A dropped sender releases the call too.
                let _ = release.await;
                work.await
            }
            Some(Fault::RunLate) => {
                // By the time it runs, its caller no longer waits for the answer.
                let work = async { drop(work.await) };
                self.faults.lock().late.push(Box::pin(work));
                Err(unanswered())
            }
        }
    }
}

async fn delay(latency: Duration) {
    // Tokio rounds every sleep up to a millisecond, so no sleep at all is the only short one.
    if !latency.is_zero() {
        sleep(latency).await;
    }
}

fn unanswered() -> DirectoryError {
    DirectoryError::Unanswered("injected fault".to_owned())
}

// Each call owns its arguments, because it may outlive its caller.
#[async_trait]
impl Directory for FaultyDirectory {
    async fn maintain(&self) {
        self.inner.maintain().await;
    }

    async fn register(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<Option<Epoch>> {
        let (inner, node, entry) = (Arc::clone(&self.inner), node.clone(), entry.clone());
        self.play(DirectoryCall::Register, 1, async move { inner.register(&node, &entry, lease).await }).await
    }

    async fn renew(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<LeaseRenewal> {
        let (inner, node, entry) = (Arc::clone(&self.inner), node.clone(), entry.clone());
        self.play(DirectoryCall::Renew, 1, async move { inner.renew(&node, &entry, lease).await }).await
    }

    async fn nodes(&self) -> Result<NodeListing> {
        let inner = Arc::clone(&self.inner);
        self.play(DirectoryCall::Nodes, 1, async move { inner.nodes().await }).await
    }

    async fn add_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<Option<Epoch>> {
        let (inner, node, rooms) = (Arc::clone(&self.inner), node.clone(), rooms.to_vec());
        let size = rooms.len();
        self.play(DirectoryCall::AddOwner, size, async move { inner.add_owner(&node, &rooms).await }).await
    }

    async fn remove_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<()> {
        let (inner, node, rooms) = (Arc::clone(&self.inner), node.clone(), rooms.to_vec());
        let size = rooms.len();
        self.play(DirectoryCall::RemoveOwner, size, async move { inner.remove_owner(&node, &rooms).await }).await
    }

    async fn owners(&self, room: &Room) -> Result<RoomOwners> {
        let (inner, room) = (Arc::clone(&self.inner), room.clone());
        self.play(DirectoryCall::Owners, 1, async move { inner.owners(&room).await }).await
    }

    async fn leases_and_counts(&self, room: &Room, nodes: &[NodeId]) -> Result<Vec<LeaseAndCount>> {
        let (inner, room, nodes) = (Arc::clone(&self.inner), room.clone(), nodes.to_vec());
        let (call, size) = (DirectoryCall::LeasesAndCounts, nodes.len());
        self.play(call, size, async move { inner.leases_and_counts(&room, &nodes).await }).await
    }

    async fn remove_dead_owners(&self, room: &Room, nodes: &[NodeId]) -> Result<()> {
        let (inner, room, nodes) = (Arc::clone(&self.inner), room.clone(), nodes.to_vec());
        let (call, size) = (DirectoryCall::RemoveDeadOwners, nodes.len());
        self.play(call, size, async move { inner.remove_dead_owners(&room, &nodes).await }).await
    }

    async fn write_sockets(&self, node: &NodeId, writes: &[SocketWrite]) -> Result<()> {
        let (inner, node, writes) = (Arc::clone(&self.inner), node.clone(), writes.to_vec());
        let size = writes.len();
        self.play(DirectoryCall::WriteSockets, size, async move { inner.write_sockets(&node, &writes).await }).await
    }

    async fn deregister(&self, node: &NodeId) -> Result<()> {
        let (inner, node) = (Arc::clone(&self.inner), node.clone());
        self.play(DirectoryCall::Deregister, 1, async move { inner.deregister(&node).await }).await
    }
}
