//! A short log of the recent changes of one room, from which a reader with a cached version gets a delta.
//!
//! Each entry holds a socket id and the version that its arrival or departure ended. A reader whose version is in the
//! log gets the sum of the entries from there on; any other reader gets all rows. So correctness does not depend on what
//! a version looks like: one of another room or incarnation, or from before the room was empty, is not in the log.
//!
//! Owns no rows: the users of added sockets come from the current rows.
//!
//! [`RoomSnapshot`] and its parts are the shapes in which a room's rows leave the roster: the roster fills them under its
//! lock, and the mesh encodes and decodes them.

use std::collections::VecDeque;

use indexmap::IndexMap;

use crate::names::{NodeId, SocketId, UserId};

/// The log keeps one change per this many rows. Small rooms keep none, and a reader that missed more than an eighth of
/// the rows gets all of them, because a delta would hardly be smaller.
const ROWS_PER_CHANGE: usize = 8;

/// The recent changes of one room, oldest first.
#[derive(Debug, Default)]
pub(super) struct ChangeLog(VecDeque<LoggedChange>);

#[derive(Debug)]
struct LoggedChange {
    /// The version that this change ended. Versions grow from entry to entry.
    since: u64,
    socket: SocketId,
    added: bool,
}

impl ChangeLog {
    /// Records that a socket was added or removed, which ended version `since` and left `rows` rows.
    pub(super) fn record(&mut self, since: u64, socket: &SocketId, added: bool, rows: usize) {
        let max_changes = rows / ROWS_PER_CHANGE;
        if max_changes == 0 {
            // Assigned rather than cleared, so that the allocation is freed too.
            self.0 = VecDeque::new();
            return;
        }
        let excess = (self.0.len() + 1).saturating_sub(max_changes);
        self.0.drain(..excess);
        self.0.push_back(LoggedChange { since, socket: socket.clone(), added });
    }

    /// Returns the difference between version `since` and the current `rows`, or `None` if the log does not reach back
    /// to that version.
    pub(super) fn since(&self, since: u64, rows: &IndexMap<SocketId, UserId>) -> Option<RowsDelta> {
        let first = self.0.binary_search_by_key(&since, |change| change.since).ok()?;
        // The first change of a socket tells whether it was in the room at that version: an addition means it was not.
        let mut absent_before: IndexMap<&SocketId, bool> = IndexMap::new();
        for change in self.0.range(first..) {
            absent_before.entry(&change.socket).or_insert(change.added);
        }
        let mut delta = RowsDelta { since, ..RowsDelta::default() };
        for (socket, was_absent) in absent_before {
            if !was_absent {
                delta.removed.push(socket.clone());
            }
            if let Some(user) = rows.get(socket) {
                delta.added.push(Row { id_socket: socket.clone(), id_user: user.clone() });
            }
        }
        Some(delta)
    }
}

/// One socket of a room and its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id_socket: SocketId,
    pub id_user: UserId,
}

/// The rows of a room on one node, at one version.
#[derive(Debug, Clone)]
pub struct RoomSnapshot {
    /// The incarnation that owns the rows.
    pub node: NodeId,
    /// Compared for equality only, and only within one incarnation. 0 if there are no rows, or nothing to cache.
    pub version: u64,
    pub update: RowsUpdate,
}

/// The rows, relative to what the reader has cached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowsUpdate {
    /// The cached rows are current.
    Unchanged,
    /// The difference from the cached rows.
    Delta(RowsDelta),
    Full(Vec<Row>),
}

/// The difference between the rows of two versions. A reader applies the removals before the additions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowsDelta {
    /// The version that the delta applies to.
    pub since: u64,
    pub removed: Vec<SocketId>,
    /// A socket that left and came back is in both lists, because its user may have changed.
    pub added: Vec<Row>,
}

/// The version of a room's rows that a reader has cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachedVersion {
    pub version: u64,
    /// Whether the reader understands a [`RowsDelta`].
    pub accepts_delta: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A room whose version is the number of its changes.
    #[derive(Default)]
    struct LoggedRoom {
        rows: IndexMap<SocketId, UserId>,
        log: ChangeLog,
        version: u64,
    }

    impl LoggedRoom {
        fn with_rows(rows: usize) -> Self {
            let mut room = Self::default();
            for number in 0..rows {
                room.add(&number.to_string(), "foo");
            }
            room
        }

        fn add(&mut self, id: &str, user: &str) {
            self.rows.insert(SocketId::parse(id).unwrap(), UserId::parse(user).unwrap());
            self.record(id, true);
        }

        fn remove(&mut self, id: &str) {
            self.rows.swap_remove(id).unwrap();
            self.record(id, false);
        }

        fn record(&mut self, id: &str, added: bool) {
            self.log.record(self.version, &SocketId::parse(id).unwrap(), added, self.rows.len());
            self.version += 1;
        }

        /// The ids that were removed, and the ids that were added with their users.
        fn since(&self, version: u64) -> Option<(Vec<String>, Vec<String>)> {
            let delta = self.log.since(version, &self.rows)?;
            assert_eq!(delta.since, version);
            let added = delta.added.iter().map(|row| format!("{} as {}", row.id_socket, row.id_user));
            Some((delta.removed.iter().map(ToString::to_string).collect(), added.collect()))
        }
    }

    #[test]
    fn a_delta_omits_guests_and_lists_returning_sockets_twice() {
        let mut room = LoggedRoom::with_rows(100);
        let since = room.version;
        room.add("guest", "bar");
        room.remove("guest");
        room.remove("17");
        room.remove("18");
        room.add("17", "bar");
        room.add("new", "bar");
        let text = |texts: &[&str]| texts.iter().copied().map(str::to_owned).collect();
        assert_eq!(room.since(since), Some((text(&["17", "18"]), text(&["17 as bar", "new as bar"]))));
        assert_eq!(room.since(since + 5), Some((text(&[]), text(&["new as bar"]))));
    }

    #[test]
    fn the_log_keeps_one_change_per_eight_rows() {
        let mut room = LoggedRoom::with_rows(7);
        assert!(room.log.0.is_empty());
        room = LoggedRoom::with_rows(80);
        assert_eq!(room.log.0.len(), 10);
        assert_eq!(room.since(70).map(|(removed, added)| (removed.len(), added.len())), Some((0, 10)));
        for version in [0, 69, 80, 81, u64::MAX] {
            assert_eq!(room.since(version), None, "{version}");
        }
        for number in 0..40 {
            room.remove(&number.to_string());
        }
        assert_eq!(room.log.0.len(), 5);
        for number in 40..80 {
            room.remove(&number.to_string());
        }
        assert_eq!(room.log.0.capacity(), 0, "an emptied room frees the memory of its log");
    }
}
