//! The oracle judges every answer of a simulation.
//!
//! Owns the history of every seat (one socket in one room) from the view of the clients, and the visibility of each host.
//! A simulation is sequential, so that all events have one order; a moment is a number in that order. Owns no time and
//! no nodes.

use std::collections::{BTreeSet, HashMap};

use rollcall::names::{Room, SocketId};
use rollcall::roll_call::answer::RollCallAnswer;

/// A deliberate flaw. The oracle must detect all but the last one, which the nodes must bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// Every answer is taken as complete, even when a peer did not reply.
    IgnoresMissingReplies,
    /// A node acknowledges a client before the index has its claims.
    EarlyAcknowledgement,
    /// A flush of the index loses claims but keeps the epoch, so that no node notices the loss.
    SilentClaimLoss,
    /// One more member of the cluster lies about the others.
    LyingMember,
    /// A caller gets the answer of a roll call that was already running when it asked.
    JoinsRunningCalls,
}

/// A position in the order of all events.
pub(crate) type Moment = u64;

/// One socket in one room, from its registration in the roster.
struct Seat {
    host: usize,
    room: Room,
    socket: SocketId,
    joined: Moment,
    /// When the client got the acknowledgement.
    acknowledged: Option<Moment>,
    /// When the roster removed the socket from the room.
    left: Option<Moment>,
}

#[derive(Default)]
pub(crate) struct Oracle {
    moment: Moment,
    seats: Vec<Seat>,
    /// By host and asker: the moment since which the asker must list the host's sockets.
    visible_since: HashMap<(usize, usize), Moment>,
}

impl Oracle {
    /// A new moment, later than every moment before.
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

    /// Records that the socket left the room, or every room.
    pub(crate) fn left(&mut self, socket: &SocketId, room: Option<&Room>) {
        let now = self.now();
        let leaves = |seat: &Seat| seat.socket == *socket && room.is_none_or(|room| seat.room == *room);
        for seat in self.seats.iter_mut().filter(|seat| leaves(seat)) {
            seat.left.get_or_insert(now);
        }
    }

    /// Records that the host has ended, with all its sockets.
    pub(crate) fn ended(&mut self, host: usize) {
        let now = self.now();
        for seat in self.seats.iter_mut().filter(|seat| seat.host == host) {
            seat.left.get_or_insert(now);
        }
        self.visible_since.retain(|(visible, _), _| *visible != host);
    }

    /// Records whether the asker must list the host's sockets. Visibility begins only when the host may acknowledge
    /// sockets, and lasts until the host is no longer visible to the asker.
    pub(crate) fn set_visible(&mut self, host: usize, asker: usize, visible: bool, may_acknowledge: bool) {
        if !visible {
            self.visible_since.remove(&(host, asker));
        } else if may_acknowledge && !self.visible_since.contains_key(&(host, asker)) {
            let now = self.now();
            self.visible_since.insert((host, asker), now);
        }
    }

    /// The sockets that are in the room now, each with its host.
    pub(crate) fn present(&self, room: &Room) -> BTreeSet<(usize, SocketId)> {
        let present = self.seats.iter().filter(|seat| seat.room == *room && seat.left.is_none());
        present.map(|seat| (seat.host, seat.socket.clone())).collect()
    }

    /// The errors of an answer to a roll call of `asker` that lasted from `began` until now. An answer that is not
    /// `complete` may miss any socket.
    pub(crate) fn judge(&self, asker: usize, answer: &RollCallAnswer, complete: bool, began: Moment) -> Vec<String> {
        let room = &answer.room;
        let mut wrong = Vec::new();
        let mut listed = BTreeSet::new();
        for (node, row) in answer.rows() {
            let socket = &row.id_socket;
            if !listed.insert(socket.clone()) {
                wrong.push(format!("lists {socket} twice, the second time on {node}"));
            }
            let present = |seat: &&Seat| seat.is(socket, room) && seat.left.is_none_or(|left| left > began);
            if !self.seats.iter().any(|seat| present(&seat)) {
                wrong.push(format!("lists {socket} of {node}, which was not in the room"));
            }
        }
        if !complete {
            return wrong;
        }
        for seat in self.seats.iter().filter(|seat| seat.room == *room && seat.left.is_none()) {
            let acknowledged = seat.acknowledged.is_some_and(|acknowledged| acknowledged < began);
            let visible = self.visible_since.get(&(seat.host, asker)).is_some_and(|since| *since < began);
            if acknowledged && visible && !listed.contains(&seat.socket) {
                wrong.push(format!(
                    "is complete and misses {} of host {}, joined at {}, acknowledged at {:?}",
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
