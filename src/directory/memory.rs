//! The directory in memory: for `rollcall dev`, a cluster of one node, and tests.
//!
//! Owns an index that fulfils the same contract as Redis, expiry of leases included. In production it has one epoch,
//! because it ends with the process of all nodes that read it. Tests can end an epoch as Redis does, by a flush or by a
//! restart from an old snapshot.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use smol_str::format_smolstr;

use super::{Directory, LeaseAndCount, LeaseRenewal, NodeEntry, NodeListing, Result, RoomOwners};
use crate::clock::BootInstant;
use crate::index::{Epoch, SocketWrite};
use crate::names::{NodeId, Room, SocketId};

/// An index in memory, shared by the nodes that hold a clone of its `Arc`.
#[derive(Default)]
pub struct MemoryDirectory(Mutex<MemoryIndex>);

/// A copy of an index.
pub struct MemorySnapshot(MemoryIndex);

#[derive(Clone, Default)]
struct MemoryIndex {
    /// The number of the epoch and when it began; `None` until a node registers.
    epoch: Option<(u64, BootInstant)>,
    /// The number of epochs so far. Kept by a flush, so that no epoch repeats.
    epochs: u64,
    leases: HashMap<NodeId, MemoryLease>,
    owners: HashMap<Room, HashSet<NodeId>>,
    sockets: HashMap<(NodeId, Room), HashSet<SocketId>>,
}

#[derive(Clone)]
struct MemoryLease {
    entry: NodeEntry,
    written: BootInstant,
    duration: Duration,
}

impl MemoryDirectory {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Deletes everything. The next node that registers begins another epoch.
    pub fn flush(&self) {
        self.restore(MemorySnapshot(MemoryIndex::default()));
    }

    pub fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot(self.0.lock().clone())
    }

    /// Restores old content, like a Redis that restarts from an old file. There is no epoch until a node registers.
    pub fn restore(&self, snapshot: MemorySnapshot) {
        let mut index = self.0.lock();
        *index = MemoryIndex { epoch: None, epochs: index.epochs, ..snapshot.0 };
    }
}

impl MemoryIndex {
    fn epoch(&self) -> Option<Epoch> {
        self.epoch.map(|(number, _)| Epoch(format_smolstr!("memory-{number}")))
    }

    /// `None` for the first epoch: no node can have registered before it, so its listing is complete.
    fn age(&self) -> Option<Duration> {
        match self.epoch {
            None => Some(Duration::ZERO),
            Some((1, _)) => None,
            Some((_, begun)) => Some(begun.elapsed()),
        }
    }

    /// Begins an epoch if there is none. Only a registration does, never a read.
    fn begin_epoch(&mut self) {
        if self.epoch.is_none() {
            self.epochs += 1;
            self.epoch = Some((self.epochs, BootInstant::now()));
        }
    }

    fn entry(&mut self, node: &NodeId) -> Option<&NodeEntry> {
        let lease = self.leases.get(node)?;
        if lease.written.elapsed() >= lease.duration {
            self.leases.remove(node);
            return None;
        }
        self.leases.get(node).map(|lease| &lease.entry)
    }

    fn write(&mut self, node: &NodeId, entry: &NodeEntry, duration: Duration) {
        let lease = MemoryLease { entry: entry.clone(), written: BootInstant::now(), duration };
        self.leases.insert(node.clone(), lease);
    }

    fn remove(&mut self, node: &NodeId, room: &Room) {
        if let Some(owners) = self.owners.get_mut(room) {
            owners.remove(node);
            if owners.is_empty() {
                self.owners.remove(room);
            }
        }
        self.sockets.remove(&(node.clone(), room.clone()));
    }
}

#[async_trait]
impl Directory for MemoryDirectory {
    async fn maintain(&self) {
        std::future::pending::<()>().await;
    }

    async fn register(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<Option<Epoch>> {
        let mut index = self.0.lock();
        if index.entry(node).is_some() {
            return Ok(None);
        }
        index.begin_epoch();
        index.write(node, entry, lease);
        Ok(index.epoch())
    }

    async fn renew(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<LeaseRenewal> {
        let mut index = self.0.lock();
        if index.entry(node).is_none() {
            return Ok(LeaseRenewal::Lapsed);
        }
        index.write(node, entry, lease);
        Ok(index.epoch().map_or(LeaseRenewal::Lapsed, LeaseRenewal::Renewed))
    }

    async fn nodes(&self) -> Result<NodeListing> {
        let mut index = self.0.lock();
        let ids: Vec<NodeId> = index.leases.keys().cloned().collect();
        let nodes = ids.into_iter().filter_map(|id| index.entry(&id).cloned().map(|entry| (id, entry)));
        Ok(NodeListing { nodes: nodes.collect(), epoch: index.epoch(), age: index.age() })
    }

    async fn add_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<Option<Epoch>> {
        let mut index = self.0.lock();
        for room in rooms {
            index.owners.entry(room.clone()).or_default().insert(node.clone());
        }
        Ok(index.epoch())
    }

    async fn remove_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<()> {
        let mut index = self.0.lock();
        for room in rooms {
            index.remove(node, room);
        }
        Ok(())
    }

    async fn owners(&self, room: &Room) -> Result<RoomOwners> {
        let index = self.0.lock();
        let nodes = index.owners.get(room).map(|owners| owners.iter().cloned().collect()).unwrap_or_default();
        Ok(RoomOwners { nodes, epoch: index.epoch() })
    }

    async fn leases_and_counts(&self, room: &Room, nodes: &[NodeId]) -> Result<Vec<LeaseAndCount>> {
        let mut index = self.0.lock();
        let found = nodes.iter().map(|node| {
            let entry = index.entry(node).cloned();
            let sockets = index.sockets.get(&(node.clone(), room.clone())).map_or(0, HashSet::len);
            LeaseAndCount { entry, sockets: sockets as u64 }
        });
        Ok(found.collect())
    }

    async fn remove_dead_owners(&self, room: &Room, nodes: &[NodeId]) -> Result<()> {
        let mut index = self.0.lock();
        for node in nodes {
            if index.entry(node).is_none() {
                index.remove(node, room);
            }
        }
        Ok(())
    }

    async fn write_sockets(&self, node: &NodeId, changes: &[SocketWrite]) -> Result<()> {
        let mut index = self.0.lock();
        for SocketWrite { entry, present } in changes {
            let key = (node.clone(), entry.room.clone());
            if *present {
                index.sockets.entry(key).or_default().insert(entry.socket.clone());
            } else if let Some(listed) = index.sockets.get_mut(&key) {
                listed.remove(&entry.socket);
                if listed.is_empty() {
                    index.sockets.remove(&key);
                }
            }
        }
        Ok(())
    }

    async fn deregister(&self, node: &NodeId) -> Result<()> {
        self.0.lock().leases.remove(node);
        Ok(())
    }
}
