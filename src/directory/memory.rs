//! The directory of nodes that live in one process: `rollcall dev`, a cluster of one, and tests.
//!
//! Owns the same contract as the Redis one, leases that run out included. Its epoch never ends, since it dies with
//! everyone who has read it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use smol_str::SmolStr;

use super::{Account, Directory, Epoch, Listing, NodeEntry, Owners, Renewal, Result};
use crate::clock::BootInstant;
use crate::names::{NodeId, Room, SocketId};
use crate::roster::claims::SeatChange;

/// An index in memory, shared by the nodes that hold a clone of its `Arc`.
#[derive(Default)]
pub struct Memory(Mutex<Index>);

#[derive(Default)]
struct Index {
    leases: HashMap<NodeId, Lease>,
    owners: HashMap<Room, HashSet<NodeId>>,
    sockets: HashMap<(NodeId, Room), HashSet<SocketId>>,
}

struct Lease {
    entry: NodeEntry,
    written: BootInstant,
    lasts: Duration,
}

impl Memory {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.0.lock().expect("no code panics while it holds the index")
    }
}

/// Made by the first node that enters, so that readers never make it.
fn epoch() -> Epoch {
    Epoch(SmolStr::new_static("memory"))
}

impl Index {
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
impl Directory for Memory {
    async fn upkeep(&self) {
        std::future::pending::<()>().await;
    }

    async fn enter(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<Option<Epoch>> {
        let mut index = self.lock();
        if index.entry(node).is_some() {
            return Ok(None);
        }
        index.write(node, entry, lease);
        Ok(Some(epoch()))
    }

    async fn renew(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<Renewal> {
        let mut index = self.lock();
        if index.entry(node).is_none() {
            return Ok(Renewal::Lapsed);
        }
        index.write(node, entry, lease);
        Ok(Renewal::Renewed(epoch()))
    }

    async fn nodes(&self) -> Result<Listing> {
        let mut index = self.lock();
        let ids: Vec<NodeId> = index.leases.keys().cloned().collect();
        let nodes = ids.into_iter().filter_map(|id| index.entry(&id).cloned().map(|entry| (id, entry)));
        // Who is not in it yet has never been: it dies with everyone who has read it.
        Ok(Listing { nodes: nodes.collect(), epoch: Some(epoch()), age: Duration::MAX })
    }

    async fn claim(&self, node: &NodeId, rooms: &[Room]) -> Result<Option<Epoch>> {
        let mut index = self.lock();
        for room in rooms {
            index.owners.entry(room.clone()).or_default().insert(node.clone());
        }
        Ok(Some(epoch()))
    }

    async fn release(&self, node: &NodeId, rooms: &[Room]) -> Result<()> {
        let mut index = self.lock();
        for room in rooms {
            index.remove(node, room);
        }
        Ok(())
    }

    async fn owners(&self, room: &Room) -> Result<Owners> {
        let index = self.lock();
        let nodes = index.owners.get(room).map(|owners| owners.iter().cloned().collect()).unwrap_or_default();
        Ok(Owners { nodes, epoch: Some(epoch()) })
    }

    async fn account(&self, room: &Room, nodes: &[NodeId]) -> Result<Vec<Account>> {
        let mut index = self.lock();
        let accounts = nodes.iter().map(|node| {
            let entry = index.entry(node).cloned();
            let sockets = index.sockets.get(&(node.clone(), room.clone())).map_or(0, HashSet::len);
            Account { entry, sockets: sockets as u64 }
        });
        Ok(accounts.collect())
    }

    async fn repair(&self, room: &Room, nodes: &[NodeId]) -> Result<()> {
        let mut index = self.lock();
        for node in nodes {
            if index.entry(node).is_none() {
                index.remove(node, room);
            }
        }
        Ok(())
    }

    async fn list(&self, node: &NodeId, changes: &[SeatChange]) -> Result<()> {
        let mut index = self.lock();
        for SeatChange { seat, taken } in changes {
            let key = (node.clone(), seat.room.clone());
            if *taken {
                index.sockets.entry(key).or_default().insert(seat.socket.clone());
            } else if let Some(listed) = index.sockets.get_mut(&key) {
                listed.remove(&seat.socket);
                if listed.is_empty() {
                    index.sockets.remove(&key);
                }
            }
        }
        Ok(())
    }

    async fn forget(&self, node: &NodeId) -> Result<()> {
        self.lock().leases.remove(node);
        Ok(())
    }
}
