//! The directory in memory: for `rollcall dev`, a cluster of one node, and tests.
//!
//! Owns an index that fulfils the same contract as Redis, with everything that expires there. In production it has one
//! epoch, because it ends with the process of all nodes that read it. Tests can end an epoch as Redis does, by a flush or
//! by a restart from an old snapshot. They can also step its clock, and exchange its content under the same identity.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use smol_str::format_smolstr;

use super::{Directory, ENTRY_TTL, LeaseAndCount, LeaseRenewal, NodeEntry, NodeListing, Result, RoomOwners, epoch_ttl};
use crate::clock::BootInstant;
use crate::index::{Epoch, SocketWrite};
use crate::names::{NodeId, Room, SocketId};

/// The time on the clock of an index when it is created. The clock can step back by this much.
const FIRST_TIME: Duration = Duration::from_secs(1_000_000);

/// An index in memory, shared by the nodes that hold a clone of its `Arc`.
#[derive(Default)]
pub struct MemoryDirectory(Mutex<MemoryServer>);

/// A copy of the content of an index.
pub struct MemorySnapshot(MemoryIndex);

/// The server: its content, and the state that survives a flush or an old copy.
struct MemoryServer {
    index: MemoryIndex,
    /// The number of epochs so far, so that no epoch repeats.
    epochs: u64,
    /// The number of lease writes so far.
    lease_writes: u64,
    /// The memory of each node: the number of its last lease write.
    written: HashMap<NodeId, u64>,
    /// The epoch in which a node found an older lease. The next registration replaces it.
    outdated: Option<u64>,
    started: BootInstant,
    /// The time on its clock at `started`.
    clock: Duration,
}

#[derive(Clone, Default)]
struct MemoryIndex {
    epoch: Option<Expiring<MemoryEpoch>>,
    leases: HashMap<NodeId, Expiring<MemoryLease>>,
    owners: HashMap<Room, Expiring<HashSet<NodeId>>>,
    sockets: HashMap<(NodeId, Room), Expiring<HashSet<SocketId>>>,
}

/// A value that is gone at a time on the clock of the index.
#[derive(Clone)]
struct Expiring<T> {
    value: T,
    expires: Duration,
}

impl<T: Default> Expiring<T> {
    fn nothing() -> Self {
        Self { value: T::default(), expires: Duration::ZERO }
    }
}

#[derive(Clone, Copy)]
struct MemoryEpoch {
    number: u64,
    began: Duration,
}

#[derive(Clone)]
struct MemoryLease {
    entry: NodeEntry,
    /// The number of the write.
    write: u64,
}

impl MemoryDirectory {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Deletes everything. The next node that registers begins another epoch.
    pub fn flush(&self) {
        self.0.lock().index = MemoryIndex::default();
    }

    pub fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot(self.0.lock().index.clone())
    }

    /// Restores old content, like a Redis that restarts from an old file. There is no epoch until a node registers.
    pub fn restore(&self, snapshot: MemorySnapshot) {
        self.0.lock().index = MemoryIndex { epoch: None, ..snapshot.0 };
    }

    /// Restores old content with its epoch, like a Redis whose keys were exchanged. Only an old lease shows it.
    pub fn exchange(&self, snapshot: MemorySnapshot) {
        self.0.lock().index = snapshot.0;
    }

    /// Steps the clock, like a Redis whose wall clock is set.
    ///
    /// # Panics
    /// If all steps back together exceed eleven days.
    pub fn step_clock(&self, by: Duration, forward: bool) {
        let mut server = self.0.lock();
        let stepped = if forward { server.clock.checked_add(by) } else { server.clock.checked_sub(by) };
        server.clock = stepped.expect("the clock cannot step so far");
    }
}

impl Default for MemoryServer {
    fn default() -> Self {
        Self {
            index: MemoryIndex::default(),
            epochs: 0,
            lease_writes: 0,
            written: HashMap::new(),
            outdated: None,
            started: BootInstant::now(),
            clock: FIRST_TIME,
        }
    }
}

impl MemoryServer {
    fn now(&self) -> Duration {
        self.clock + self.started.elapsed()
    }

    fn lasting<T>(&self, value: T, ttl: Duration) -> Expiring<T> {
        Expiring { value, expires: self.now() + ttl }
    }

    /// Removes the leases that have expired, and the epoch if it has. Owner sets and socket sets expire when they are read.
    fn expire(&mut self) {
        let (now, index) = (self.now(), &mut self.index);
        index.epoch.take_if(|epoch| epoch.expires <= now);
        index.leases.retain(|_, lease| lease.expires > now);
    }

    fn owners(&self, room: &Room) -> Option<&HashSet<NodeId>> {
        let owners = self.index.owners.get(room).filter(|owners| owners.expires > self.now());
        owners.map(|owners| &owners.value)
    }

    fn sockets(&self, node: &NodeId, room: &Room) -> Option<&HashSet<SocketId>> {
        let sockets = self.index.sockets.get(&(node.clone(), room.clone()));
        sockets.filter(|sockets| sockets.expires > self.now()).map(|sockets| &sockets.value)
    }

    fn add_owner(&mut self, node: &NodeId, room: &Room) {
        let mut owners = self.owners(room).cloned().unwrap_or_default();
        owners.insert(node.clone());
        let owners = self.lasting(owners, ENTRY_TTL);
        let expires = owners.expires;
        self.index.owners.insert(room.clone(), owners);
        if let Some(sockets) = self.index.sockets.get_mut(&(node.clone(), room.clone())) {
            sockets.expires = expires;
        }
    }

    fn write_socket(&mut self, node: &NodeId, write: &SocketWrite) {
        let SocketWrite { entry, present } = write;
        let (key, now) = ((node.clone(), entry.room.clone()), self.now());
        let sockets = self.index.sockets.entry(key.clone()).or_insert_with(Expiring::nothing);
        if sockets.expires <= now {
            sockets.value.clear();
        }
        if *present {
            sockets.value.insert(entry.socket.clone());
            sockets.expires = now + ENTRY_TTL;
        } else {
            sockets.value.remove(&entry.socket);
        }
        if sockets.value.is_empty() {
            self.index.sockets.remove(&key);
        }
    }

    fn epoch(&self) -> Option<Epoch> {
        let epoch = self.index.epoch.as_ref()?;
        Some(Epoch(format_smolstr!("memory-{}", epoch.value.number)))
    }

    /// `None` for the first epoch: no node can have registered before it, so its listing is complete.
    fn age(&self) -> Option<Duration> {
        match self.index.epoch.as_ref().map(|epoch| epoch.value) {
            None => Some(Duration::ZERO),
            Some(MemoryEpoch { number: 1, .. }) => None,
            Some(MemoryEpoch { began, .. }) => Some(self.now().saturating_sub(began)),
        }
    }

    /// Begins an epoch if there is none. Only a registration does, never a read.
    fn begin_epoch(&mut self, lease: Duration) {
        let outdated = self.outdated.take();
        self.index.epoch.take_if(|epoch| outdated == Some(epoch.value.number));
        if self.index.epoch.is_none() {
            self.epochs += 1;
            let epoch = MemoryEpoch { number: self.epochs, began: self.now() };
            self.index.epoch = Some(self.lasting(epoch, epoch_ttl(lease)));
        }
        self.renew_epoch(lease);
    }

    fn renew_epoch(&mut self, lease: Duration) {
        let expires = self.now() + epoch_ttl(lease);
        if let Some(epoch) = &mut self.index.epoch {
            epoch.expires = expires;
        }
    }

    fn entry(&self, node: &NodeId) -> Option<&NodeEntry> {
        self.index.leases.get(node).map(|lease| &lease.value.entry)
    }

    fn write_lease(&mut self, node: &NodeId, entry: &NodeEntry, lease: Duration) {
        self.lease_writes += 1;
        self.written.insert(node.clone(), self.lease_writes);
        let content = self.lasting(MemoryLease { entry: entry.clone(), write: self.lease_writes }, lease);
        self.index.leases.insert(node.clone(), content);
    }

    fn remove(&mut self, node: &NodeId, room: &Room) {
        if let Some(owners) = self.index.owners.get_mut(room) {
            owners.value.remove(node);
            if owners.value.is_empty() {
                self.index.owners.remove(room);
            }
        }
        self.index.sockets.remove(&(node.clone(), room.clone()));
    }
}

impl MemoryDirectory {
    /// Locks the index, and removes expired leases and an expired epoch.
    fn server(&self) -> parking_lot::MutexGuard<'_, MemoryServer> {
        let mut server = self.0.lock();
        server.expire();
        server
    }
}

#[async_trait]
impl Directory for MemoryDirectory {
    async fn maintain(&self) {
        std::future::pending::<()>().await;
    }

    async fn register(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<Option<Epoch>> {
        let mut server = self.server();
        server.begin_epoch(lease);
        if server.entry(node).is_some() {
            return Ok(None);
        }
        server.write_lease(node, entry, lease);
        Ok(server.epoch())
    }

    async fn renew(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<LeaseRenewal> {
        let mut server = self.server();
        let Some(found) = server.index.leases.get(node).map(|lease| lease.value.write) else {
            return Ok(LeaseRenewal::Lapsed);
        };
        if server.written.get(node) != Some(&found) {
            server.outdated = server.index.epoch.as_ref().map(|epoch| epoch.value.number);
            return Ok(LeaseRenewal::Lapsed);
        }
        server.write_lease(node, entry, lease);
        server.renew_epoch(lease);
        Ok(server.epoch().map_or(LeaseRenewal::Lapsed, LeaseRenewal::Renewed))
    }

    async fn nodes(&self) -> Result<NodeListing> {
        let server = self.server();
        let leases = server.index.leases.iter();
        let nodes = leases.map(|(node, lease)| (node.clone(), lease.value.entry.clone())).collect();
        Ok(NodeListing { nodes, epoch: server.epoch(), age: server.age(), time: server.now() })
    }

    async fn add_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<Option<Epoch>> {
        let mut server = self.server();
        for room in rooms {
            server.add_owner(node, room);
        }
        Ok(server.epoch())
    }

    async fn remove_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<()> {
        let mut server = self.server();
        for room in rooms {
            server.remove(node, room);
        }
        Ok(())
    }

    async fn owners(&self, room: &Room) -> Result<RoomOwners> {
        let server = self.server();
        let nodes = server.owners(room).map(|owners| owners.iter().cloned().collect()).unwrap_or_default();
        Ok(RoomOwners { nodes, epoch: server.epoch() })
    }

    async fn leases_and_counts(&self, room: &Room, nodes: &[NodeId]) -> Result<Vec<LeaseAndCount>> {
        let server = self.server();
        let found = nodes.iter().map(|node| {
            let entry = server.entry(node).cloned();
            let sockets = server.sockets(node, room).map_or(0, HashSet::len);
            LeaseAndCount { entry, sockets: sockets as u64 }
        });
        Ok(found.collect())
    }

    async fn remove_dead_owners(&self, room: &Room, nodes: &[NodeId]) -> Result<()> {
        let mut server = self.server();
        for node in nodes {
            if server.entry(node).is_none() {
                server.remove(node, room);
            }
        }
        Ok(())
    }

    async fn write_sockets(&self, node: &NodeId, changes: &[SocketWrite]) -> Result<()> {
        let mut server = self.server();
        for write in changes {
            server.write_socket(node, write);
        }
        Ok(())
    }

    async fn deregister(&self, node: &NodeId) -> Result<()> {
        let mut server = self.server();
        server.index.leases.remove(node);
        server.written.remove(node);
        Ok(())
    }
}
