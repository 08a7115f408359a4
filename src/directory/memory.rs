//! The directory of nodes that live in one process: `rollcall dev`, a cluster of one, and tests.
//!
//! Owns the same contract as the Redis one, leases that run out included. Left alone it has one life, since it dies with
//! everyone who has read it; a test may end that life as a Redis ends one, by a flush or a restart from an old snapshot.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use smol_str::format_smolstr;

use super::{Directory, LeaseAndCount, LeaseRenewal, NodeEntry, NodeListing, Result, RoomOwners};
use crate::clock::BootInstant;
use crate::index::{Epoch, SocketWrite};
use crate::names::{NodeId, Room, SocketId};

/// An index in memory, shared by the nodes that hold a clone of its `Arc`.
#[derive(Default)]
pub struct MemoryDirectory(Mutex<Index>);

/// What an index held at one moment.
pub struct MemorySnapshot(Index);

#[derive(Clone, Default)]
struct Index {
    /// The life that whoever entered first has begun, and when; `None` before that.
    life: Option<(u64, BootInstant)>,
    /// How many lives there have been. Survives them.
    lives: u64,
    leases: HashMap<NodeId, Lease>,
    owners: HashMap<Room, HashSet<NodeId>>,
    sockets: HashMap<(NodeId, Room), HashSet<SocketId>>,
}

#[derive(Clone)]
struct Lease {
    entry: NodeEntry,
    written: BootInstant,
    lasts: Duration,
}

impl MemoryDirectory {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Loses everything. The next node that enters begins another life.
    pub fn flush(&self) {
        self.restore(MemorySnapshot(Index::default()));
    }

    pub fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot(self.lock().clone())
    }

    /// Goes back to what it held, as a Redis that is started from an old file does: in no life until a node enters.
    pub fn restore(&self, snapshot: MemorySnapshot) {
        let mut index = self.lock();
        *index = Index { life: None, lives: index.lives, ..snapshot.0 };
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.0.lock().expect("no code panics while it holds the index")
    }
}

impl Index {
    fn epoch(&self) -> Option<Epoch> {
        self.life.map(|(life, _)| Epoch(format_smolstr!("memory-{life}")))
    }

    /// Nobody was there before the first life, so it is never too young.
    fn age(&self) -> Duration {
        match self.life {
            None => Duration::ZERO,
            Some((1, _)) => Duration::MAX,
            Some((_, begun)) => begun.elapsed(),
        }
    }

    /// Begins a life where there is none: what enters does, so that readers never do.
    fn begin(&mut self) {
        if self.life.is_none() {
            self.lives += 1;
            self.life = Some((self.lives, BootInstant::now()));
        }
    }

    fn entry(&mut self, node: &NodeId) -> Option<&NodeEntry> {
        let lease = self.leases.get(node)?;
        if lease.written.elapsed() >= lease.lasts {
            self.leases.remove(node);
            return None;
        }
        self.leases.get(node).map(|lease| &lease.entry)
    }

    fn write(&mut self, node: &NodeId, entry: &NodeEntry, lasts: Duration) {
        let lease = Lease { entry: entry.clone(), written: BootInstant::now(), lasts };
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
        let mut index = self.lock();
        if index.entry(node).is_some() {
            return Ok(None);
        }
        index.begin();
        index.write(node, entry, lease);
        Ok(index.epoch())
    }

    async fn renew(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<LeaseRenewal> {
        let mut index = self.lock();
        if index.entry(node).is_none() {
            return Ok(LeaseRenewal::Lapsed);
        }
        index.write(node, entry, lease);
        Ok(index.epoch().map_or(LeaseRenewal::Lapsed, LeaseRenewal::Renewed))
    }

    async fn nodes(&self) -> Result<NodeListing> {
        let mut index = self.lock();
        let ids: Vec<NodeId> = index.leases.keys().cloned().collect();
        let nodes = ids.into_iter().filter_map(|id| index.entry(&id).cloned().map(|entry| (id, entry)));
        // Who is not in it yet has never been: it dies with everyone who has read it.
        let nodes = nodes.collect();
        Ok(NodeListing { nodes, epoch: index.epoch(), age: index.age() })
    }

    async fn add_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<Option<Epoch>> {
        let mut index = self.lock();
        for room in rooms {
            index.owners.entry(room.clone()).or_default().insert(node.clone());
        }
        Ok(index.epoch())
    }

    async fn remove_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<()> {
        let mut index = self.lock();
        for room in rooms {
            index.remove(node, room);
        }
        Ok(())
    }

    async fn owners(&self, room: &Room) -> Result<RoomOwners> {
        let index = self.lock();
        let nodes = index.owners.get(room).map(|owners| owners.iter().cloned().collect()).unwrap_or_default();
        Ok(RoomOwners { nodes, epoch: index.epoch() })
    }

    async fn leases_and_counts(&self, room: &Room, nodes: &[NodeId]) -> Result<Vec<LeaseAndCount>> {
        let mut index = self.lock();
        let accounts = nodes.iter().map(|node| {
            let entry = index.entry(node).cloned();
            let sockets = index.sockets.get(&(node.clone(), room.clone())).map_or(0, HashSet::len);
            LeaseAndCount { entry, sockets: sockets as u64 }
        });
        Ok(accounts.collect())
    }

    async fn remove_dead_owners(&self, room: &Room, nodes: &[NodeId]) -> Result<()> {
        let mut index = self.lock();
        for node in nodes {
            if index.entry(node).is_none() {
                index.remove(node, room);
            }
        }
        Ok(())
    }

    async fn write_sockets(&self, node: &NodeId, changes: &[SocketWrite]) -> Result<()> {
        let mut index = self.lock();
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
        self.lock().leases.remove(node);
        Ok(())
    }
}
