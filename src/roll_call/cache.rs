//! Parts that are held: the rows of a room's owners as they were told last, ready to be written.
//!
//! Owns a cache bounded by bytes, one entry for each room and node. What is held is never believed by itself: it is
//! reused only when its node says, during this very roll call, that the room is still at that version, or what changed
//! since. Changes that do not fit make the answer a failure, and what was held is forgotten: all is asked for next time.

use std::hash::RandomState;
use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use super::answer::Vouched;
use super::rows::Rows;
use crate::mesh::peers::PeerError;
use crate::names::{NodeId, Room};
use crate::roster::{RoomSnapshot, RowsUpdate};
use crate::telemetry::anomalies::Oddity;

/// The size of the cache unless the node is configured otherwise: about half a million rows.
pub const DEFAULT_CACHE_BYTES: u64 = 64 << 20;
/// What an entry costs apart from its rows, in bytes, about.
const ENTRY_BYTES: u64 = 256;
/// How large an entry is expected to be, in bytes: only the cache's first allocation depends on it.
const TYPICAL_BYTES: u64 = 4096;
/// Nothing is held that is larger than a shard of the cache, so shards are large: 300,000 rows fit into one of these.
const SHARD_BYTES: u64 = 32 << 20;

/// Cheap to clone.
#[derive(Clone)]
pub struct Parts(Arc<Cache<Key, Arc<Rows>, ByBytes, RandomState>>);

type Key = (Room, NodeId);

#[derive(Clone)]
struct ByBytes;

impl Parts {
    /// Holds about so many bytes at most.
    pub fn new(bytes: u64) -> Self {
        let options = OptionsBuilder::new()
            .shards(usize::try_from(bytes / SHARD_BYTES).unwrap_or(1).max(1))
            .estimated_items_capacity(usize::try_from(bytes / TYPICAL_BYTES).unwrap_or(usize::MAX))
            .weight_capacity(bytes)
            .build()
            .expect("both capacities are given");
        Self(Arc::new(Cache::with_options(options, ByBytes, RandomState::default(), DefaultLifecycle::default())))
    }

    /// What the node said of the room last, to be taken hold of *before* it is asked again: whatever happens to the cache
    /// meanwhile, "unchanged" is about this.
    pub fn hold(&self, room: &Room, node: &NodeId) -> Option<Arc<Rows>> {
        self.0.get(&(room.clone(), node.clone()))
    }

    /// How much is held, about.
    pub fn bytes(&self) -> u64 {
        self.0.weight()
    }

    /// The node has nothing in the room any more.
    pub fn forget(&self, room: &Room, node: &NodeId) {
        self.0.remove(&(room.clone(), node.clone()));
    }

    /// What a part amounts to that was asked for with the version of `held`.
    ///
    /// # Errors
    /// A failure where it tells changes that do not fit `held`.
    pub fn take(&self, room: &Room, held: Option<Arc<Rows>>, part: RoomSnapshot) -> Result<Vouched, PeerError> {
        let taken = match part.update {
            RowsUpdate::Unchanged => return Ok(Vouched { rows: held.unwrap_or_default(), unchanged: true }),
            RowsUpdate::Delta(changes) => held.as_ref().and_then(|held| held.with(part.version, changes)),
            RowsUpdate::Full(rows) => Some(Rows::new(part.version, rows)),
        };
        let Some(taken) = taken.map(Arc::new) else {
            Oddity::MisfitChanges.note(format_args!("{} tells changes of other rows than it told before", part.node));
            self.forget(room, &part.node);
            return Err(PeerError::Failed);
        };
        if part.version != 0 {
            self.0.insert((room.clone(), part.node), Arc::clone(&taken));
        } else if held.is_some() {
            self.forget(room, &part.node);
        }
        Ok(Vouched { rows: taken, unchanged: false })
    }
}

impl Weighter<Key, Arc<Rows>> for ByBytes {
    fn weight(&self, _: &Key, rows: &Arc<Rows>) -> u64 {
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

    fn part(node: &NodeId, version: u64, told: RowsUpdate) -> RoomSnapshot {
        RoomSnapshot { node: node.clone(), version, update: told }
    }

    #[test]
    fn what_was_taken_hold_of_is_what_unchanged_is_about() {
        let (parts, room, node) = (Parts::new(1 << 20), Room::parse("a").unwrap(), NodeId::new_process());
        assert!(parts.hold(&room, &node).is_none());
        parts.take(&room, None, part(&node, 7, RowsUpdate::Full(rows(&["s1", "s2"])))).unwrap();
        let held = parts.hold(&room, &node);
        // Another roll call finds a later version meanwhile.
        parts.take(&room, held.clone(), part(&node, 8, RowsUpdate::Full(rows(&["s3"])))).unwrap();
        let taken = parts.take(&room, held, part(&node, 7, RowsUpdate::Unchanged)).unwrap();
        assert_eq!((taken.rows.version, taken.rows.len(), taken.unchanged), (7, 2, true));
        assert_eq!(parts.hold(&room, &node).unwrap().version, 8, "the later one stays");
        parts.take(&room, parts.hold(&room, &node), part(&node, 0, RowsUpdate::Full(Vec::new()))).unwrap();
        assert!(parts.hold(&room, &node).is_none(), "nothing is held of an empty room");
    }

    #[test]
    fn changes_are_made_to_what_was_taken_hold_of_and_what_they_do_not_fit_is_forgotten() {
        let (parts, room, node) = (Parts::new(1 << 20), Room::parse("a").unwrap(), NodeId::new_process());
        let changes = |since, removed: &[&str], added: &[&str]| {
            let removed = removed.iter().map(|id| SocketId::parse(id).unwrap()).collect();
            RowsUpdate::Delta(RowsDelta { since, removed, added: rows(added) })
        };
        let hold = || {
            parts.take(&room, None, part(&node, 7, RowsUpdate::Full(rows(&["s1", "s2"])))).unwrap();
            parts.hold(&room, &node)
        };
        let held = hold();
        // Another roll call finds a later version meanwhile.
        parts.take(&room, held.clone(), part(&node, 8, RowsUpdate::Full(rows(&["s4"])))).unwrap();
        let taken = parts.take(&room, held, part(&node, 9, changes(7, &["s1"], &["s3"]))).unwrap();
        let ids: Vec<_> = taken.rows.iter().map(|row| row.id_socket.as_str()).collect();
        assert_eq!((ids, taken.rows.version, taken.unchanged), (vec!["s2", "s3"], 9, false));
        assert_eq!(parts.hold(&room, &node).unwrap().version, 9);
        let before = Oddity::MisfitChanges.count();
        for misfit in [
            changes(6, &[], &["s3"]),
            changes(7, &["s3"], &[]),
            changes(7, &["s1", "s1"], &[]),
            changes(7, &[], &["s2"]),
        ] {
            let held = hold();
            assert!(held.is_some());
            assert_eq!(parts.take(&room, held, part(&node, 9, misfit)).unwrap_err(), PeerError::Failed);
            assert!(parts.hold(&room, &node).is_none(), "and all is asked for next time");
        }
        assert_eq!(Oddity::MisfitChanges.count() - before, 4, "each is counted");
    }

    #[test]
    fn no_more_is_held_than_was_said() {
        let parts = Parts::new(1 << 20);
        let node = NodeId::new_process();
        for number in 0..1000 {
            let room = Room::parse(&format!("room-{number}")).unwrap();
            parts.take(&room, None, part(&node, 1, RowsUpdate::Full(numbered(100)))).unwrap();
            assert!(parts.0.weight() <= 1 << 20);
        }
        assert!(parts.0.weight() > 1 << 18, "and it holds something");
        let huge = Room::parse("huge").unwrap();
        let all = || part(&node, 1, RowsUpdate::Full(numbered(50_000)));
        let taken = parts.take(&huge, None, all()).unwrap();
        assert_eq!(taken.rows.len(), 50_000, "what is too large to be held is told all the same");
        assert!(parts.0.weight() <= 1 << 20);
        let parts = Parts::new(64 << 20);
        parts.take(&huge, None, all()).unwrap();
        assert!(parts.hold(&huge, &node).is_some(), "on a machine with however many cores");
    }
}
