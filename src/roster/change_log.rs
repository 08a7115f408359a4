//! What changed in a room lately, so that a reader who holds its rows of a moment ago is told what came and went since.
//!
//! Owns a short log for each room: which id came or went, and the version that this made an old one. Whoever holds a
//! version that is in the log is told what the entries from there on amount to; to whoever holds any other the log says
//! nothing, and all rows are told. So nothing rests on what a version looks like: one of another room or incarnation,
//! or of before the room was empty, is simply not found. Owns no rows: who came is read from those of now.

use std::collections::VecDeque;

use indexmap::IndexMap;

use super::Row;
use crate::names::{SocketId, UserId};

/// A room remembers one change for so many rows: small rooms none, and whoever missed more is as well told all.
const ROWS_PER_CHANGE: usize = 8;

/// What turns the rows of one version into those of a later one: first what is gone goes, then what came comes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowsDelta {
    /// The version that they are about.
    pub since: u64,
    pub removed: Vec<SocketId>,
    /// A socket that went and came again is in both.
    pub added: Vec<Row>,
}

/// The last changes of one room, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Log(VecDeque<Change>);

#[derive(Debug)]
struct Change {
    /// The room's version before it. They grow from entry to entry.
    since: u64,
    socket: SocketId,
    came: bool,
}

impl Log {
    /// A socket came or went, which ended the version `since` and left so many rows.
    pub(super) fn note(&mut self, since: u64, socket: &SocketId, came: bool, rows: usize) {
        let most = rows / ROWS_PER_CHANGE;
        if most == 0 {
            // Its memory goes too.
            self.0 = VecDeque::new();
            return;
        }
        let too_many = (self.0.len() + 1).saturating_sub(most);
        self.0.drain(..too_many);
        self.0.push_back(Change { since, socket: socket.clone(), came });
    }

    /// What became of the rows at version `since`, where `rows` are those of now. `None`: too long ago, or never.
    pub(super) fn since(&self, since: u64, rows: &IndexMap<SocketId, UserId>) -> Option<RowsDelta> {
        let place = self.0.binary_search_by_key(&since, |change| change.since).ok()?;
        // Whether an id was there at that version is what its first change since says.
        let mut absent: IndexMap<&SocketId, bool> = IndexMap::new();
        for change in self.0.range(place..) {
            absent.entry(&change.socket).or_insert(change.came);
        }
        let mut changes = RowsDelta { since, ..RowsDelta::default() };
        for (socket, was_absent) in absent {
            if !was_absent {
                changes.removed.push(socket.clone());
            }
            if let Some(user) = rows.get(socket) {
                changes.added.push(Row { id_socket: socket.clone(), id_user: user.clone() });
            }
        }
        Some(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows, and how they came to be: the version is how many changes there were.
    #[derive(Default)]
    struct Made {
        rows: IndexMap<SocketId, UserId>,
        log: Log,
        version: u64,
    }

    impl Made {
        fn of(rows: usize) -> Self {
            let mut made = Self::default();
            for number in 0..rows {
                made.come(&number.to_string(), "foo");
            }
            made
        }

        fn come(&mut self, id: &str, user: &str) {
            self.rows.insert(SocketId::parse(id).unwrap(), UserId::parse(user).unwrap());
            self.note(id, true);
        }

        fn go(&mut self, id: &str) {
            self.rows.swap_remove(id).unwrap();
            self.note(id, false);
        }

        fn note(&mut self, id: &str, came: bool) {
            self.log.note(self.version, &SocketId::parse(id).unwrap(), came, self.rows.len());
            self.version += 1;
        }

        /// Who is gone, and who came as whom.
        fn since(&self, version: u64) -> Option<(Vec<String>, Vec<String>)> {
            let changes = self.log.since(version, &self.rows)?;
            assert_eq!(changes.since, version);
            let came = changes.added.iter().map(|row| format!("{} as {}", row.id_socket, row.id_user));
            Some((changes.removed.iter().map(ToString::to_string).collect(), came.collect()))
        }
    }

    #[test]
    fn what_came_and_went_meanwhile_is_not_told_and_what_went_and_came_is_told_as_both() {
        let mut room = Made::of(100);
        let since = room.version;
        room.come("guest", "bar");
        room.go("guest");
        room.go("17");
        room.go("18");
        room.come("17", "bar");
        room.come("new", "bar");
        let text = |texts: &[&str]| texts.iter().copied().map(str::to_owned).collect();
        assert_eq!(room.since(since), Some((text(&["17", "18"]), text(&["17 as bar", "new as bar"]))));
        assert_eq!(room.since(since + 5), Some((text(&[]), text(&["new as bar"]))));
    }

    #[test]
    fn a_room_remembers_one_change_for_eight_rows_and_a_small_one_none() {
        let mut room = Made::of(7);
        assert!(room.log.0.is_empty());
        room = Made::of(80);
        assert_eq!(room.log.0.len(), 10);
        assert_eq!(room.since(70).map(|(gone, came)| (gone.len(), came.len())), Some((0, 10)));
        for version in [0, 69, 80, 81, u64::MAX] {
            assert_eq!(room.since(version), None, "{version}");
        }
        for number in 0..40 {
            room.go(&number.to_string());
        }
        assert_eq!(room.log.0.len(), 5);
        for number in 40..80 {
            room.go(&number.to_string());
        }
        assert_eq!(room.log.0.capacity(), 0, "a crowd that left does not keep its memory");
    }
}
