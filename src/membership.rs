//! Membership: the nodes of the cluster that this node knows, and whether this node is active.
//!
//! Owns this node's lease ([`lease`]), the announcement of its status to the others ([`announcer`]), the table of the
//! members ([`table`]), and the log of its changes ([`events`]). Owns no sockets and no room ownership: the roster knows
//! whether this node is fully indexed, and a roll call decides by a [`MembershipView`] which nodes to ask.

pub mod announcer;
pub mod departed;
pub mod events;
pub mod index_clock;
pub mod index_evidence;
pub mod lease;
pub mod own_status;
pub mod state;
pub mod table;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use smol_str::SmolStr;
use tokio::sync::{Notify, watch};

use crate::clock::BootInstant;
use crate::directory::NodeEntry;
use crate::mesh::node_status::NodeStatus;
use crate::names::NodeId;
use crate::roster::{IndexState, Roster};
use events::{MembershipEvent, TableChange};
use state::trust_period;
use table::MemberTable;

pub use state::{DirectoryState, DrainState, LeaseState, Member, MembershipView, MeshState, NodeInfo, Readiness};

/// Shared by `Arc`.
pub struct Membership {
    node_info: RwLock<Arc<NodeInfo>>,
    lease: Duration,
    roster: Arc<Roster>,
    table: Mutex<MemberTable>,
    lease_state: watch::Sender<LeaseState>,
    drain_state: watch::Sender<DrainState>,
    /// Wakes the announcer: a member or this node's own status has changed.
    status_changed: Notify,
    acknowledgements: watch::Sender<()>,
}

impl Membership {
    pub fn new(node_info: NodeInfo, lease: Duration, roster: Arc<Roster>) -> Arc<Self> {
        let node = roster.incarnation();
        let table = Mutex::new(MemberTable::new(&node, lease));
        let (lease_state, _) = watch::channel(LeaseState {
            node,
            registered: None,
            confirmed: None,
            birth_complete: false,
            joined: false,
        });
        let (drain_state, _) = watch::channel(DrainState::default());
        let (acknowledgements, _) = watch::channel(());
        let status_changed = Notify::new();
        let node_info = RwLock::new(Arc::new(node_info));
        Arc::new(Self { node_info, lease, roster, table, lease_state, drain_state, status_changed, acknowledgements })
    }

    pub fn node_info(&self) -> Arc<NodeInfo> {
        Arc::clone(&self.node_info.read())
    }

    fn set_mesh_address(&self, mesh: SmolStr) {
        let mut node_info = self.node_info.write();
        *node_info = Arc::new(NodeInfo { mesh, ..(**node_info).clone() });
    }

    /// The members other than this node.
    pub fn view(&self) -> MembershipView {
        self.table.lock().view()
    }

    /// The mesh address of a process; `None` when no incarnation of it is a member, or when other nodes merely named it.
    pub fn mesh_of(&self, process: &str) -> Option<SmolStr> {
        self.table.lock().mesh_of(process)
    }

    /// The duration of a lease.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    pub fn lease_state(&self) -> watch::Receiver<LeaseState> {
        self.lease_state.subscribe()
    }

    /// Whether this node may acknowledge sockets of `node` whose rooms are owned in the directory.
    ///
    /// Two conditions must hold: the birth of `node` is complete, and the directory has answered a command that was sent
    /// less than ¾ of a lease ago. So a process that was suspended for long acknowledges nothing until it has renewed its
    /// lease.
    pub fn may_acknowledge(&self, node: &NodeId) -> bool {
        self.lease_state.borrow().may_acknowledge(node, self.lease)
    }

    /// Whether this node may acknowledge sockets of `node` even without room ownership.
    ///
    /// Every member must have acknowledged the status "not fully indexed", and must have answered an announcement that was
    /// sent less than ¾ of a lease ago.
    pub fn is_asked_by_all(&self, node: &NodeId) -> bool {
        let mut table = self.table.lock();
        let index = self.index_state();
        if index.incarnation != *node || index.fully_indexed_in.is_some() || !self.has_joined() {
            return false;
        }
        let sequence = table.number_status(&index, *self.drain_state.borrow());
        table.all_answered(sequence, self.trusted_since())
    }

    /// Whether this node is active: it has a lease, or most members have acknowledged recently that they must always ask
    /// it. A node that is not active disconnects its sockets, because complete answers of other nodes may lack them.
    pub fn is_active(&self) -> bool {
        self.has_joined() && (self.has_lease() || self.vouching_majority().is_some())
    }

    /// Whether the directory has confirmed this node's lease recently.
    pub fn has_lease(&self) -> bool {
        self.lease_state.borrow().is_confirmed(self.lease)
    }

    /// The time until the lease of `node` expires without a renewal, counted from the send of the last renewal. `None`: the
    /// lease has expired, or never existed.
    pub fn lease_left(&self, node: &NodeId) -> Option<Duration> {
        let state = self.lease_state.borrow();
        let sent = state.confirmed.filter(|_| state.node == *node)?;
        self.lease.checked_sub(sent.elapsed()).filter(|left| !left.is_zero())
    }

    /// The members that have acknowledged recently that they must always ask this node, if they are a majority.
    ///
    /// Such a majority keeps a node without a lease active. These members, and their gossip partners, know that the node is
    /// alive. A node that hears from none of them declares it dead if it can read the directory.
    pub fn vouching_majority(&self) -> Option<Vec<NodeId>> {
        let mut table = self.table.lock();
        let index = self.index_state();
        let sequence = table.number_status(&index, *self.drain_state.borrow());
        table.answering_majority(sequence, self.trusted_since()).filter(|_| index.fully_indexed_in.is_none())
    }

    /// Whether this node is shutting down.
    pub fn is_draining(&self) -> bool {
        *self.drain_state.borrow() != DrainState::Serving
    }

    /// Returns when this node starts to shut down.
    pub async fn drain_started(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.drain_state.subscribe().wait_for(|state| *state != DrainState::Serving).await;
    }

    /// Whether this process has registered once and read the listing afterwards. Before that it knows no other node.
    pub fn has_joined(&self) -> bool {
        self.lease_state.borrow().joined
    }

    /// Returns when this process has joined.
    pub async fn joined(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.lease_state().wait_for(|state| state.joined).await;
    }

    pub fn readiness(&self) -> Readiness {
        let state = self.lease_state.borrow().clone();
        let node = self.roster.incarnation();
        let is_known = state.may_acknowledge(&node, self.lease) || self.is_asked_by_all(&node);
        let (was_synced, is_reached) = {
            let table = self.table.lock();
            (table.was_synced(), table.is_reached(&node))
        };
        let is_old = state.registered(&node).is_some_and(|registered| registered.elapsed() >= self.lease);
        Readiness {
            directory: match state.is_confirmed(self.lease) {
                true => DirectoryState::LeaseConfirmed,
                false if state.joined => DirectoryState::Unavailable,
                false => DirectoryState::NeverReached,
            },
            mesh: match is_known && was_synced {
                true if is_reached => MeshState::Synced,
                true if is_old => MeshState::Unreachable,
                true => MeshState::Announcing,
                false if self.is_active() || !state.joined => MeshState::Announcing,
                false => MeshState::Isolated,
            },
            draining: self.is_draining(),
        }
    }

    /// Records a contact with this node over the mesh.
    pub fn record_contact(&self, node: &NodeId) {
        let change = self.table.lock().record_contact(node, BootInstant::now());
        self.handle(&change);
    }

    /// Takes in the status that another node sent itself, with the members that it knows. Returns whether this node has room
    /// for the sender: if not, it does not know the sender now, and must not acknowledge the status.
    pub fn receive_status(&self, status: &NodeStatus) -> bool {
        let change = self.table.lock().receive_status(status, BootInstant::now());
        change.map(|change| self.handle(&change)).is_some()
    }

    /// Takes in a status as [`Self::receive_status`] does, from a member that connected to this node.
    pub fn receive_announcement(&self, status: &NodeStatus) -> bool {
        let is_known = self.receive_status(status);
        self.table.lock().record_announcement(&status.about.node, &self.roster.incarnation());
        is_known
    }

    /// Records that a node that could not prove its identity claims a process.
    pub fn contest(&self, process: &str) {
        self.table.lock().contest(process, BootInstant::now());
    }

    /// The current status of this node, with the members that it knows.
    pub fn own_status(&self) -> NodeStatus {
        // All parts are read under the table's lock, so that a later sequence number never has an earlier status.
        let mut table = self.table.lock();
        let drain_state = *self.drain_state.borrow();
        table.own_status(&self.node_info(), &self.index_state(), drain_state, BootInstant::now())
    }

    /// The number of this node's current status.
    fn number_status(&self) -> u64 {
        let mut table = self.table.lock();
        table.number_status(&self.index_state(), *self.drain_state.borrow())
    }

    fn index_state(&self) -> IndexState {
        self.roster.index_state().borrow().clone()
    }

    /// Adds a member that a roll call found in the directory.
    pub fn add_from_directory(&self, node: &NodeId, entry: &NodeEntry) {
        let change = self.table.lock().add_from_directory(node, entry, BootInstant::now());
        self.handle(&change);
    }

    /// Logs the events of a change of the table, and wakes the announcer if the change requires it.
    fn handle(&self, change: &TableChange) {
        change.events.iter().for_each(MembershipEvent::log);
        if change.must_announce {
            self.status_changed.notify_one();
        }
    }

    /// Advances the shutdown, and announces it to the directory and the members. An earlier state has no effect.
    pub fn drain(&self, to: DrainState) {
        self.drain_state.send_if_modified(|current| {
            let advances = to > *current;
            *current = to.max(*current);
            advances
        });
        self.status_changed.notify_one();
    }

    /// Changes each time a member acknowledges a status of this node.
    pub fn acknowledgements(&self) -> watch::Receiver<()> {
        self.acknowledgements.subscribe()
    }

    /// Returns when every member has acknowledged this node's current status.
    pub async fn acknowledged_by_all(&self) {
        let mut acknowledgements = self.acknowledgements.subscribe();
        loop {
            let sequence = self.number_status();
            if self.table.lock().all_acknowledged(sequence) {
                return;
            }
            // The sender lives in `self`, so waiting cannot fail.
            let _ = acknowledgements.changed().await;
        }
    }

    /// An answer to a request that was sent before this time is too old to rely on.
    fn trusted_since(&self) -> BootInstant {
        BootInstant::now().before(trust_period(self.lease))
    }

    fn entry(&self) -> NodeEntry {
        let NodeInfo { name, mesh, since } = (*self.node_info()).clone();
        NodeEntry { name, mesh, since, draining: self.is_draining() }
    }
}
