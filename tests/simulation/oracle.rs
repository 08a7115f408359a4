//! What must be true of every answer.
//!
//! Owns the life of every seat (one socket in one room) as the clients saw it, and since when each host counts, in the
//! one order in which everything happens in a simulation: a moment is a number of that order. Owns no time and no nodes.

use std::collections::{BTreeSet, HashMap};

use rollcall::names::{Room, SocketId};
use rollcall::roll_call::answer::RollCallAnswer;

/// What is wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// Whoever asks takes every answer for complete.
    GullibleAsker,
    /// A client is told that it is in before anybody can know.
    HastyEdge,
    /// When the index is flushed, claims are lost and nobody can tell.
    ForgetfulIndex,
}

/// A place in the order of everything that happens.
pub(crate) type Moment = u64;

/// One socket in one room, from the moment it is in the roster.
struct Seat {
    host: usize,
    room: Room,
    socket: SocketId,
    joined: Moment,
    /// When the client was told.
    acknowledged: Option<Moment>,
    /// When it was out of the roster again.
    left: Option<Moment>,
}

#[derive(Default)]
pub(crate) struct Oracle {
    moment: Moment,
    seats: Vec<Seat>,
    /// By host and who asks: since when it counts, if it does.
    counting: HashMap<(usize, usize), Moment>,
}

impl Oracle {
    /// Now, which is later than every moment before.
    pub(crate) fn now(&mut self) -> Moment {
        self.moment += 1;
        self.moment
    }

    pub(crate) fn joined(&mut self, host: usize, socket: &SocketId, room: &Room) {
        let joined = self.now();
        let (room, socket) = (room.clone(), socket.clone());
        self.seats.push(Seat { host, room, socket, joined, acknowledged: None, left: None });
    }

    pub(crate) fn acknowledged(&mut self, socket: &SocketId, room: &Room) {
        let now = self.now();
        for seat in self.seats.iter_mut().filter(|seat| seat.is(socket, room) && seat.left.is_none()) {
            seat.acknowledged.get_or_insert(now);
        }
    }

    /// The socket left the room, or every room.
    pub(crate) fn left(&mut self, socket: &SocketId, room: Option<&Room>) {
        let now = self.now();
        let leaves = |seat: &Seat| seat.socket == *socket && room.is_none_or(|room| seat.room == *room);
        for seat in self.seats.iter_mut().filter(|seat| leaves(seat)) {
            seat.left.get_or_insert(now);
        }
    }

    /// Whatever was on the host is gone.
    pub(crate) fn ended(&mut self, host: usize) {
        let now = self.now();
        for seat in self.seats.iter_mut().filter(|seat| seat.host == host) {
            seat.left.get_or_insert(now);
        }
        self.counting.retain(|(counts, _), _| *counts != host);
    }

    /// A node counts for whoever asks from when it may acknowledge sockets until it does not count any more.
    pub(crate) fn counts(&mut self, host: usize, asker: usize, counts: bool, may_acknowledge: bool) {
        if !counts {
            self.counting.remove(&(host, asker));
        } else if may_acknowledge && !self.counting.contains_key(&(host, asker)) {
            let now = self.now();
            self.counting.insert((host, asker), now);
        }
    }

    /// Who is in the room now, with the host.
    pub(crate) fn present(&self, room: &Room) -> BTreeSet<(usize, SocketId)> {
        let present = self.seats.iter().filter(|seat| seat.room == *room && seat.left.is_none());
        present.map(|seat| (seat.host, seat.socket.clone())).collect()
    }

    /// What is wrong with the answer to a roll call of `asker` that began at `began` and ends now. An answer that is not
    /// `complete` may miss anybody.
    pub(crate) fn judge(&self, asker: usize, answer: &RollCallAnswer, complete: bool, began: Moment) -> Vec<String> {
        let room = &answer.room;
        let mut wrong = Vec::new();
        let mut listed = BTreeSet::new();
        for (node, row) in answer.rows() {
            let socket = &row.id_socket;
            if !listed.insert(socket.clone()) {
                wrong.push(format!("lists {socket} twice, the second time on {node}"));
            }
            let there = |seat: &&Seat| seat.is(socket, room) && seat.left.is_none_or(|left| left > began);
            if !self.seats.iter().any(|seat| there(&seat)) {
                wrong.push(format!("lists {socket} of {node}, which was not there"));
            }
        }
        if !complete {
            return wrong;
        }
        for seat in self.seats.iter().filter(|seat| seat.room == *room && seat.left.is_none()) {
            let known = seat.acknowledged.is_some_and(|acknowledged| acknowledged < began);
            let counts = self.counting.get(&(seat.host, asker)).is_some_and(|since| *since < began);
            if known && counts && !listed.contains(&seat.socket) {
                wrong.push(format!(
                    "is complete and misses {} of host {}, in since {}, told at {:?}",
                    seat.socket, seat.host, seat.joined, seat.acknowledged
                ));
            }
        }
        wrong
    }
}

impl Seat {
    fn is(&self, socket: &SocketId, room: &Room) -> bool {
        self.socket == *socket && self.room == *room
    }
}
