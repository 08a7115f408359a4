//! Parts that are held: the rows of a room's owners as they were told last, ready to be written.
//!
//! Owns a cache bounded by bytes, one entry for each room and node. What is held is never believed by itself: it is
//! reused only when its node says, during this very roll call, that the room is still at that version.

use std::hash::RandomState;
use std::sync::Arc;

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use serde::Serialize;

use crate::names::{NodeId, Room};
use crate::roster::{Part, Row};

/// What an entry costs apart from its rows, in bytes, about.
const ENTRY_BYTES: u64 = 256;
/// How large an entry is expected to be, in bytes: only the cache's first allocation depends on it.
const TYPICAL_BYTES: u64 = 4096;
/// Nothing is held that is larger than a shard of the cache, so shards are large: 300,000 rows fit into one of these.
const SHARD_BYTES: u64 = 32 << 20;
/// The most bytes of a name that are kept in place.
const SHORT: usize = 23;

/// The rows of one node at one version, and their JSON, written once.
#[derive(Debug, Default)]
pub struct Rows {
    pub version: u64,
    pub rows: Vec<Row>,
    /// The rows as objects of JSON, separated by commas.
    pub json: Bytes,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Parts(Arc<Cache<Key, Arc<Rows>, ByBytes, RandomState>>);

type Key = (Room, NodeId);

#[derive(Clone)]
struct ByBytes;

impl Rows {
    pub fn new(version: u64, rows: Vec<Row>) -> Self {
        #[derive(Serialize)]
        struct User<'a> {
            id_socket: &'a str,
            id_user: &'a str,
        }
        // An id of Engine.IO and a short name: most rows take no more.
        let mut json = Vec::with_capacity(rows.len() * 64);
        for row in &rows {
            if !json.is_empty() {
                json.push(b',');
            }
            let user = User { id_socket: row.id_socket.as_str(), id_user: row.id_user.as_str() };
            serde_json::to_writer(&mut json, &user).expect("two strings can be written to memory");
        }
        json.shrink_to_fit();
        Self { version, rows, json: json.into() }
    }

    fn bytes(&self) -> u64 {
        // A short name is part of its row, and a long one lies elsewhere.
        let elsewhere = self.rows.iter().map(|row| row.id_user.as_str().len()).filter(|length| *length > SHORT);
        (self.json.len() + self.rows.len() * size_of::<Row>() + elsewhere.sum::<usize>()) as u64
    }
}

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

    /// The node has nothing in the room any more.
    pub fn forget(&self, room: &Room, node: &NodeId) {
        self.0.remove(&(room.clone(), node.clone()));
    }

    /// What a part amounts to that was asked for with the version of `held`, and whether that is what was held already.
    pub fn take(&self, room: &Room, held: Option<Arc<Rows>>, part: Part) -> (Arc<Rows>, bool) {
        let Some(rows) = part.rows else {
            return (held.unwrap_or_default(), true);
        };
        let taken = Arc::new(Rows::new(part.version, rows));
        if part.version != 0 {
            self.0.insert((room.clone(), part.node), Arc::clone(&taken));
        } else if held.is_some() {
            self.forget(room, &part.node);
        }
        (taken, false)
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

    fn rows(ids: &[&str]) -> Vec<Row> {
        let user = UserId::parse("f\"oo").unwrap();
        ids.iter().map(|id| Row { id_socket: SocketId::parse(id).unwrap(), id_user: user.clone() }).collect()
    }

    fn part(node: &NodeId, version: u64, rows: Option<Vec<Row>>) -> Part {
        Part { node: node.clone(), version, rows }
    }

    #[test]
    fn what_was_taken_hold_of_is_what_unchanged_is_about() {
        let (parts, room, node) = (Parts::new(1 << 20), Room::parse("a").unwrap(), NodeId::new_process());
        assert!(parts.hold(&room, &node).is_none());
        parts.take(&room, None, part(&node, 7, Some(rows(&["s1", "s2"]))));
        let held = parts.hold(&room, &node);
        // Another roll call finds a later version meanwhile.
        parts.take(&room, held.clone(), part(&node, 8, Some(rows(&["s3"]))));
        let (unchanged, was) = parts.take(&room, held, part(&node, 7, None));
        assert_eq!((unchanged.version, unchanged.rows.len(), was), (7, 2, true));
        assert_eq!(parts.hold(&room, &node).unwrap().version, 8, "the later one stays");
        parts.take(&room, parts.hold(&room, &node), part(&node, 0, Some(Vec::new())));
        assert!(parts.hold(&room, &node).is_none(), "nothing is held of an empty room");
    }

    #[test]
    fn the_json_is_that_of_the_rows() {
        let rows = Rows::new(1, rows(&["s1", "s2"]));
        let json = [b"[", &rows.json[..], b"]"].concat();
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let user = |id| serde_json::json!({"id_socket": id, "id_user": "f\"oo"});
        assert_eq!(value, serde_json::json!([user("s1"), user("s2")]));
        assert!(Rows::default().json.is_empty());
    }

    #[test]
    fn no_more_is_held_than_was_said() {
        let parts = Parts::new(1 << 20);
        let node = NodeId::new_process();
        for number in 0..1000 {
            let ids: Vec<String> = (0..100).map(|id| format!("s{id}")).collect();
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            let room = Room::parse(&format!("room-{number}")).unwrap();
            parts.take(&room, None, part(&node, 1, Some(rows(&ids))));
            assert!(parts.0.weight() <= 1 << 20);
        }
        assert!(parts.0.weight() > 1 << 18, "and it holds something");
        let huge = Room::parse("huge").unwrap();
        let ids: Vec<String> = (0..50_000).map(|id| format!("s{id}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let (all, _) = parts.take(&huge, None, part(&node, 1, Some(rows(&ids))));
        assert_eq!(all.rows.len(), 50_000, "what is too large to be held is told all the same");
        assert!(parts.0.weight() <= 1 << 20);
        let parts = Parts::new(64 << 20);
        parts.take(&huge, None, part(&node, 1, Some(all.rows.clone())));
        assert!(parts.hold(&huge, &node).is_some(), "on a machine with however many cores");
    }
}
