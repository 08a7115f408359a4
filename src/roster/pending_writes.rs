//! The queue of socket entries whose listing in the index is out of date, each entry once.
//!
//! Owns the order: batches are taken from a generation of entries, and new entries wait for the next generation. Without
//! it, in a reconnect storm the newest entries would be written first, and sockets that left would stay listed until
//! every client had come back. Does not know what is true of an entry: the roster looks that up when it takes one.

use std::mem;

use indexmap::IndexMap;

use crate::index::SocketEntry;

/// Whether the index may list an entry already. An entry that is removed before it was ever written needs no write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PriorWrite {
    None,
    Possible,
}

/// No entry is in both generations.
#[derive(Default)]
pub(super) struct PendingWrites {
    /// The generation that is being written, in any order.
    current: IndexMap<SocketEntry, PriorWrite>,
    next: IndexMap<SocketEntry, PriorWrite>,
}

impl PendingWrites {
    /// The socket entered the room.
    pub(super) fn add(&mut self, entry: SocketEntry) {
        if !self.current.contains_key(&entry) {
            self.next.entry(entry).or_insert(PriorWrite::None);
        }
    }

    /// The socket left the room.
    pub(super) fn remove(&mut self, entry: SocketEntry) {
        for generation in [&mut self.current, &mut self.next] {
            match generation.get(&entry) {
                Some(PriorWrite::None) => {
                    generation.swap_remove(&entry);
                    return;
                }
                Some(PriorWrite::Possible) => return,
                None => {}
            }
        }
        self.next.insert(entry, PriorWrite::Possible);
    }

    /// A write of the entry failed, and may or may not have been executed.
    pub(super) fn requeue(&mut self, entry: SocketEntry) {
        self.current.swap_remove(&entry);
        self.next.insert(entry, PriorWrite::Possible);
    }

    /// Takes an entry of the oldest generation.
    pub(super) fn pop(&mut self) -> Option<(SocketEntry, PriorWrite)> {
        if self.current.is_empty() {
            // Replaced rather than drained, so that the memory of a storm is freed.
            self.current = mem::take(&mut self.next);
        }
        self.current.pop()
    }

    pub(super) fn clear(&mut self) {
        self.current.clear();
        self.next.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.current.len() + self.next.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.current.is_empty() && self.next.is_empty()
    }
}
