//! The cache of room snapshots: the latest known rows of each owner of a room, already serialized.
//!
//! Owns a cache bounded by bytes, with one entry for each room and node. A roll call uses a cached snapshot only if its node
//! confirms the version during the same call, or sends the changes since that version. If the changes do not fit the
//! snapshot, the lookup fails and the entry is removed, so that the next roll call asks for all rows.

use std::hash::RandomState;
use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use super::answer::VouchedRows;
use super::rows::SerializedRows;
use crate::mesh::answers::PeerError;
use crate::names::{NodeId, Room};
use crate::roster::{RoomSnapshot, RowsUpdate};
use crate::telemetry::anomalies::{Anomalies, Anomaly};

/// The size of the cache unless the node is configured otherwise: about half a million rows.
pub const DEFAULT_CACHE_BYTES: u64 = 64 << 20;
/// The approximate memory of an entry without its rows, in bytes.
const ENTRY_BYTES: u64 = 256;
/// The expected size of an entry, in bytes. Only the first allocation depends on it.
const TYPICAL_BYTES: u64 = 4096;
/// An entry that is larger than a shard is not cached, so shards are large: 300,000 rows fit into one.
const SHARD_BYTES: u64 = 32 << 20;

/// Cheap to clone.
#[derive(Clone)]
pub struct SnapshotCache {
    snapshots: Arc<Cache<Key, Arc<SerializedRows>, ByBytes, RandomState>>,
    anomalies: Anomalies,
}

type Key = (Room, NodeId);

#[derive(Clone)]
struct ByBytes;

impl SnapshotCache {
    /// `bytes`: the approximate limit of the memory that the entries take.
    pub fn new(bytes: u64, anomalies: Anomalies) -> Self {
        let options = OptionsBuilder::new()
            .shards(usize::try_from(bytes / SHARD_BYTES).unwrap_or(1).max(1))
            .estimated_items_capacity(usize::try_from(bytes / TYPICAL_BYTES).unwrap_or(usize::MAX))
            .weight_capacity(bytes)
            .build()
            .expect("the builder has both capacities");
        let (hasher, lifecycle) = (RandomState::default(), DefaultLifecycle::default());
        Self { snapshots: Arc::new(Cache::with_options(options, ByBytes, hasher, lifecycle)), anomalies }
    }

    /// The latest snapshot of the node's rows. Get it *before* asking the node: the reply `Unchanged` refers to this
    /// snapshot, also if another roll call replaces the entry meanwhile.
    pub fn get(&self, room: &Room, node: &NodeId) -> Option<Arc<SerializedRows>> {
        self.snapshots.get(&(room.clone(), node.clone()))
    }

    /// The approximate memory that the entries take.
    pub fn bytes(&self) -> u64 {
        self.snapshots.weight()
    }

    pub fn remove(&self, room: &Room, node: &NodeId) {
        self.snapshots.remove(&(room.clone(), node.clone()));
    }

    /// Applies the reply to a lookup with the version of `cached`, and returns the rows that the node vouches for.
    ///
    /// # Errors
    /// [`PeerError::Failed`] when the changes in the reply do not fit `cached`.
    pub fn apply(
        &self,
        room: &Room,
        cached: Option<Arc<SerializedRows>>,
        snapshot: RoomSnapshot,
    ) -> Result<VouchedRows, PeerError> {
        let rows = match snapshot.update {
            RowsUpdate::Unchanged => return Ok(VouchedRows { rows: cached.unwrap_or_default(), unchanged: true }),
            RowsUpdate::Delta(delta) => cached.as_ref().and_then(|cached| cached.with(snapshot.version, delta)),
            RowsUpdate::Full(rows) => Some(SerializedRows::new(snapshot.version, rows)),
        };
        let Some(rows) = rows.map(Arc::new) else {
            let node = &snapshot.node;
            let what = format_args!("node {node} sent changes that do not fit the rows that it sent before");
            self.anomalies.record(Anomaly::MisfitChanges, what);
            self.remove(room, node);
            return Err(PeerError::Failed);
        };
        // Version 0: the node has no rows in the room.
        if snapshot.version != 0 {
            self.snapshots.insert((room.clone(), snapshot.node), Arc::clone(&rows));
        } else if cached.is_some() {
            self.remove(room, &snapshot.node);
        }
        Ok(VouchedRows { rows, unchanged: false })
    }
}

impl Weighter<Key, Arc<SerializedRows>> for ByBytes {
    fn weight(&self, _: &Key, rows: &Arc<SerializedRows>) -> u64 {
        ENTRY_BYTES + rows.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{SocketId, UserId};
    use crate::roster::Row;
    use crate::roster::RowsDelta;

    fn rows(ids: &[&str]) -> Vec<Row> {
        let user = UserId::parse("foo").unwrap();
        ids.iter().map(|id| Row { id_socket: SocketId::parse(id).unwrap(), id_user: user.clone() }).collect()
    }

    fn numbered(count: usize) -> Vec<Row> {
        let ids: Vec<String> = (0..count).map(|id| format!("s{id}")).collect();
        rows(&ids.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn snapshot(node: &NodeId, version: u64, update: RowsUpdate) -> RoomSnapshot {
        RoomSnapshot { node: node.clone(), version, update }
    }

    #[test]
    fn unchanged_refers_to_the_snapshot_before_the_lookup() {
        let (cache, room, node) =
            (SnapshotCache::new(1 << 20, Anomalies::default()), Room::parse("a").unwrap(), NodeId::new_process());
        assert!(cache.get(&room, &node).is_none());
        cache.apply(&room, None, snapshot(&node, 7, RowsUpdate::Full(rows(&["s1", "s2"])))).unwrap();
        let cached = cache.get(&room, &node);
        // Another roll call finds a later version meanwhile.
        cache.apply(&room, cached.clone(), snapshot(&node, 8, RowsUpdate::Full(rows(&["s3"])))).unwrap();
        let vouched = cache.apply(&room, cached, snapshot(&node, 7, RowsUpdate::Unchanged)).unwrap();
        assert_eq!((vouched.rows.version, vouched.rows.len(), vouched.unchanged), (7, 2, true));
        assert_eq!(cache.get(&room, &node).unwrap().version, 8, "the later snapshot stays");
        cache.apply(&room, cache.get(&room, &node), snapshot(&node, 0, RowsUpdate::Full(Vec::new()))).unwrap();
        assert!(cache.get(&room, &node).is_none(), "an empty room has no entry");
    }

    #[test]
    fn changes_that_do_not_fit_fail_and_remove_the_entry() {
        let (cache, room, node) =
            (SnapshotCache::new(1 << 20, Anomalies::default()), Room::parse("a").unwrap(), NodeId::new_process());
        let changes = |since, removed: &[&str], added: &[&str]| {
            let removed = removed.iter().map(|id| SocketId::parse(id).unwrap()).collect();
            RowsUpdate::Delta(RowsDelta { since, removed, added: rows(added) })
        };
        let cached_rows = || {
            cache.apply(&room, None, snapshot(&node, 7, RowsUpdate::Full(rows(&["s1", "s2"])))).unwrap();
            cache.get(&room, &node)
        };
        let cached = cached_rows();
        // Another roll call finds a later version meanwhile.
        cache.apply(&room, cached.clone(), snapshot(&node, 8, RowsUpdate::Full(rows(&["s4"])))).unwrap();
        let vouched = cache.apply(&room, cached, snapshot(&node, 9, changes(7, &["s1"], &["s3"]))).unwrap();
        let ids: Vec<_> = vouched.rows.iter().map(|row| row.id_socket.as_str()).collect();
        assert_eq!((ids, vouched.rows.version, vouched.unchanged), (vec!["s2", "s3"], 9, false));
        assert_eq!(cache.get(&room, &node).unwrap().version, 9);
        for misfit in [
            changes(6, &[], &["s3"]),
            changes(7, &["s3"], &[]),
            changes(7, &["s1", "s1"], &[]),
            changes(7, &[], &["s2"]),
        ] {
            let cached = cached_rows();
            assert!(cached.is_some());
            assert_eq!(cache.apply(&room, cached, snapshot(&node, 9, misfit)).unwrap_err(), PeerError::Failed);
            assert!(cache.get(&room, &node).is_none(), "the next roll call asks for all rows");
        }
        assert_eq!(cache.anomalies.count(Anomaly::MisfitChanges), 4, "each is counted");
    }

    #[test]
    fn the_cache_stays_within_its_byte_limit() {
        let cache = SnapshotCache::new(1 << 20, Anomalies::default());
        let node = NodeId::new_process();
        for number in 0..1000 {
            let room = Room::parse(&format!("room-{number}")).unwrap();
            cache.apply(&room, None, snapshot(&node, 1, RowsUpdate::Full(numbered(100)))).unwrap();
            assert!(cache.snapshots.weight() <= 1 << 20);
        }
        assert!(cache.snapshots.weight() > 1 << 18, "the cache is in use");
        let huge = Room::parse("huge").unwrap();
        let all = || snapshot(&node, 1, RowsUpdate::Full(numbered(50_000)));
        let vouched = cache.apply(&huge, None, all()).unwrap();
        assert_eq!(vouched.rows.len(), 50_000, "rows too large for the cache are still returned");
        assert!(cache.snapshots.weight() <= 1 << 20);
        let cache = SnapshotCache::new(64 << 20, Anomalies::default());
        cache.apply(&huge, None, all()).unwrap();
        assert!(cache.get(&huge, &node).is_some(), "the limit does not depend on the number of cores");
    }
}
