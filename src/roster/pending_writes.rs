//! Seats whose listing in the index is due, each of them once.
//!
//! Owns their order: what is taken is what has waited longest, to within one turn. With the newest first, whoever left
//! in a reconnect storm would stay listed until everybody who came back was. Knows nothing of what is true of a seat.

use std::mem;

use indexmap::IndexMap;

use crate::index::SocketEntry;

/// Whether the index may list a seat already. A seat that came and went before it was written needs no removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    No,
    Maybe,
}

/// No seat is in both.
#[derive(Default)]
pub(super) struct DueSeats {
    /// Being taken, in any order; when none is left, it is the turn of the others.
    turn: IndexMap<SocketEntry, Listed>,
    next: IndexMap<SocketEntry, Listed>,
}

impl DueSeats {
    /// Somebody sits there now.
    pub fn taken(&mut self, seat: SocketEntry) {
        if !self.turn.contains_key(&seat) {
            self.next.entry(seat).or_insert(Listed::No);
        }
    }

    /// Nobody does any more.
    pub fn left(&mut self, seat: SocketEntry) {
        for seats in [&mut self.turn, &mut self.next] {
            match seats.get(&seat) {
                Some(Listed::No) => {
                    seats.swap_remove(&seat);
                    return;
                }
                Some(Listed::Maybe) => return,
                None => {}
            }
        }
        self.next.insert(seat, Listed::Maybe);
    }

    /// It may or may not have been written.
    pub fn returned(&mut self, seat: SocketEntry) {
        self.turn.swap_remove(&seat);
        self.next.insert(seat, Listed::Maybe);
    }

    /// Takes one of those that have waited longest.
    pub fn pop(&mut self) -> Option<(SocketEntry, Listed)> {
        if self.turn.is_empty() {
            // What a storm needed is given back with it.
            self.turn = mem::take(&mut self.next);
        }
        self.turn.pop()
    }

    pub fn clear(&mut self) {
        self.turn.clear();
        self.next.clear();
    }

    pub fn len(&self) -> usize {
        self.turn.len() + self.next.len()
    }

    pub fn is_empty(&self) -> bool {
        self.turn.is_empty() && self.next.is_empty()
    }
}
