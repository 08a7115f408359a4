//! The owner entries and socket entries that the index must hold for this node, kept under the roster's lock.
//!
//! Owns three rules (docs/ARCHITECTURE.md, rules 3 and 7). A room is unowned *before* its removal is sent. An answer for
//! another incarnation changes nothing. An incarnation lives in one epoch. If the directory answers from another one, or
//! a removal gets no answer, the incarnation is retired, and the next one starts without owner entries.
//!
//! While the directory or an ownership request fails, the node is not fully indexed, so peers ask it for every room.
//! Owns no commands and no timing: the reconciler takes pending work from here and reports the answers.

use std::collections::HashSet;
use std::mem;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::pending_writes::PriorWrite;
use super::state::{Ownership, Roster, RosterState};
use crate::index::{Epoch, SocketEntry, SocketWrite};
use crate::names::{NodeId, Room};

pub use super::state::RetiredIncarnation;

/// Whether an incarnation owns a set of rooms.
#[derive(Debug)]
pub enum OwnershipStatus {
    /// The directory has confirmed the owner entry of every room.
    Owned,
    /// One entry is missing. The receiver resolves when it is confirmed, or when the room is removed.
    Pending(oneshot::Receiver<()>),
}

/// The amount of work that is pending for the reconciler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingCounts {
    /// Rooms that may need an owner entry.
    pub unowned: usize,
    /// Rooms that became empty and still have an owner entry.
    pub emptied: usize,
    /// Socket entries to be written.
    pub writes: usize,
}

impl Roster {
    /// The id under which this node answers now.
    pub fn incarnation(&self) -> NodeId {
        self.lock().incarnation.clone()
    }

    pub(crate) fn pending_counts(&self) -> PendingCounts {
        let pending = &self.lock().pending;
        let (unowned, emptied, writes) = (pending.unowned.len(), pending.emptied.len(), pending.writes.len());
        PendingCounts { unowned, emptied, writes }
    }

    /// Records that the lease of `node` was written in `epoch`. Owner entries may follow.
    pub fn set_registered(&self, node: &NodeId, epoch: &Epoch) {
        let mut state = self.lock();
        if state.incarnation == *node {
            state.epoch = Some(epoch.clone());
            self.publish(&state);
            self.notify_reconciler();
        }
    }

    /// Compares the epoch of an answer for `node` with the epoch of its registration, and retires the incarnation if they
    /// differ. Returns whether `node` is still the incarnation.
    pub fn check_epoch(&self, node: &NodeId, epoch: &Epoch) -> bool {
        let mut state = self.lock();
        if state.incarnation != *node {
            return false;
        }
        if state.epoch.as_ref().is_none_or(|registered| registered == epoch) {
            return true;
        }
        self.retire_locked(&mut state);
        false
    }

    /// Records whether the last lease write to the directory succeeded. While it did not, the node is not fully indexed.
    pub fn set_directory_available(&self, available: bool) {
        let mut state = self.lock();
        if state.directory_unavailable == available {
            state.directory_unavailable = !available;
            self.publish(&state);
            self.notify_reconciler();
        }
    }

    pub(crate) fn is_directory_available(&self) -> bool {
        !self.lock().directory_unavailable
    }

    /// Records that the owner entries of these rooms could not be written: peers find their sockets only by asking.
    pub(crate) fn ownership_failed(&self, node: &NodeId, rooms: &[Room]) {
        let mut state = self.lock();
        if state.incarnation == *node {
            state.mark_acked_unowned(rooms);
            self.publish(&state);
        }
    }

    /// If `node` is not fully indexed, makes sure that it stays so until these rooms are owned, and returns `true`.
    ///
    /// Called before sockets of unowned rooms are acknowledged: their peers must keep asking this node.
    pub(crate) fn stay_not_fully_indexed(&self, node: &NodeId, rooms: &[Room]) -> bool {
        let mut state = self.lock();
        let not_fully_indexed = state.incarnation == *node && state.fully_indexed_in().is_none();
        if not_fully_indexed {
            state.mark_acked_unowned(rooms);
        }
        not_fully_indexed
    }

    /// Ends the incarnation `node` if it is the current one. The next one owns nothing yet.
    pub fn retire(&self, node: &NodeId) {
        let mut state = self.lock();
        if state.incarnation == *node {
            self.retire_locked(&mut state);
        }
    }

    fn retire_locked(&self, state: &mut RosterState) {
        state.retire();
        self.publish(state);
        self.notify_reconciler();
    }

    /// Takes the rooms that were found without a confirmed owner entry since the last call. Some may have one by now.
    pub fn take_unowned(&self) -> HashSet<Room> {
        mem::take(&mut self.lock().pending.unowned)
    }

    pub(crate) fn take_retired(&self) -> Vec<RetiredIncarnation> {
        mem::take(&mut self.lock().pending.retired)
    }

    /// Takes up to `max_writes` pending socket writes, the oldest first, each with the present state of its socket. Returns
    /// none if `node` is retired.
    pub(crate) fn take_writes(&self, node: &NodeId, max_writes: usize) -> Vec<SocketWrite> {
        let mut state = self.lock();
        let state = &mut *state;
        let mut writes = Vec::new();
        if state.incarnation != *node {
            return writes;
        }
        while writes.len() < max_writes {
            let Some((entry, prior)) = state.pending.writes.pop() else { break };
            let present = state.rooms.get(&entry.room).is_some_and(|room| room.rows.contains_key(&entry.socket));
            if present || prior == PriorWrite::Possible {
                writes.push(SocketWrite { entry, present });
            }
        }
        writes
    }

    /// Queues entries again whose write failed or may be undone by a late command.
    pub(crate) fn requeue_writes(&self, node: &NodeId, entries: impl IntoIterator<Item = SocketEntry>) {
        let mut state = self.lock();
        if state.incarnation == *node {
            entries.into_iter().for_each(|entry| state.pending.writes.requeue(entry));
        }
    }

    /// Marks those of `rooms` that have rows and are not owned as requested, and returns them. The caller then sends the
    /// command. If `node` is retired, returns none and keeps the rooms for its successor.
    pub fn request_ownership(&self, node: &NodeId, rooms: HashSet<Room>) -> Vec<Room> {
        let mut state = self.lock();
        if state.incarnation != *node {
            state.pending.unowned.extend(rooms);
            return Vec::new();
        }
        let mut requested = Vec::with_capacity(rooms.len());
        for room in rooms {
            let Some(entry) = state.rooms.get_mut(&room) else { continue };
            if entry.ownership == Ownership::Confirmed || entry.rows.is_empty() {
                continue;
            }
            entry.ownership = Ownership::Requested;
            requested.push(room);
        }
        requested
    }

    /// Records that the directory has confirmed the owner entries of `node` for these rooms.
    pub fn confirm_ownership(&self, node: &NodeId, rooms: &[Room]) {
        let mut state = self.lock();
        if state.incarnation != *node {
            return;
        }
        for room in rooms {
            state.confirm_ownership(room);
        }
        self.publish(&state);
    }

    /// Takes the rooms that have been empty since `emptied_before`. From here on they are unowned, so the caller may
    /// send the removal. Rooms in `in_flight` stay, because a command about them is under way.
    pub(crate) fn take_emptied(&self, node: &NodeId, emptied_before: Instant, in_flight: &HashSet<Room>) -> Vec<Room> {
        let mut state = self.lock();
        if state.incarnation != *node {
            return Vec::new();
        }
        let mut taken = Vec::new();
        let mut kept = Vec::new();
        while let Some((emptied, room)) = state.pending.emptied.pop_front_if(|(emptied, _)| *emptied <= emptied_before)
        {
            // A room that was filled again since has another time here, or none.
            let still_empty = state.rooms.get(&room).is_some_and(|entry| entry.emptied == Some(emptied));
            if !still_empty {
                continue;
            }
            if in_flight.contains(&room) {
                kept.push((emptied, room));
                continue;
            }
            state.rooms.swap_remove(&room);
            taken.push(room);
        }
        for entry in kept.into_iter().rev() {
            state.pending.emptied.push_front(entry);
        }
        taken
    }

    /// When the room that has been empty for longest became empty; `None` if no empty room has an owner entry.
    pub(crate) fn first_emptied(&self) -> Option<Instant> {
        self.lock().pending.emptied.front().map(|(emptied, _)| *emptied)
    }

    /// Returns those of `rooms` that have neither rows nor an owner entry here.
    pub(crate) fn without_ownership(&self, rooms: impl IntoIterator<Item = Room>) -> Vec<Room> {
        let state = self.lock();
        rooms.into_iter().filter(|room| !state.rooms.contains_key(room)).collect()
    }

    /// Returns the rooms that have rows and a confirmed owner entry.
    pub(crate) fn owned_rooms(&self) -> Vec<Room> {
        let state = self.lock();
        let owned =
            state.rooms.iter().filter(|(_, room)| room.ownership == Ownership::Confirmed && !room.rows.is_empty());
        owned.map(|(room, _)| room.clone()).collect()
    }

    /// Whether there are no rooms, and nothing is left to be written to or removed from the index.
    pub fn is_clear(&self) -> bool {
        let state = self.lock();
        state.rooms.is_empty() && state.pending.writes.is_empty() && state.pending.retired.is_empty()
    }

    /// Whether `node` is the incarnation and owns every one of `rooms` that still has rows.
    pub(crate) fn ownership_status(&self, node: &NodeId, rooms: &[Room]) -> OwnershipStatus {
        let mut state = self.lock();
        let retired = state.incarnation != *node;
        for room in rooms {
            let Some(entry) = state.rooms.get_mut(room) else { continue };
            if retired || entry.ownership != Ownership::Confirmed {
                let (confirmed, waiting) = oneshot::channel();
                // Closed waiters belong to clients that gave up.
                entry.waiters.retain(|waiter| !waiter.is_closed());
                entry.waiters.push(confirmed);
                return OwnershipStatus::Pending(waiting);
            }
        }
        OwnershipStatus::Owned
    }

    /// Publishes the index state again. A room that empties may make the node fully indexed, and removing a row does not
    /// publish, to keep it cheap.
    pub(crate) fn republish_index_state(&self) {
        self.publish(&self.lock());
    }
}

impl RosterState {
    fn mark_acked_unowned(&mut self, rooms: &[Room]) {
        for room in rooms {
            let Some(entry) = self.rooms.get_mut(room) else { continue };
            if entry.ownership != Ownership::Confirmed && !entry.rows.is_empty() && !entry.acked_unowned {
                entry.acked_unowned = true;
                self.acked_unowned += 1;
            }
        }
    }

    fn retire(&mut self) {
        let next = self.incarnation.next_incarnation();
        let node = mem::replace(&mut self.incarnation, next);
        self.epoch = None;
        let owned = self.rooms.iter().filter(|(_, entry)| entry.ownership != Ownership::None);
        let rooms = owned.map(|(room, _)| room.clone()).collect();
        self.pending.retired.push(RetiredIncarnation { node, rooms });

        // Every socket was acknowledged under the old id, so every room counts as acknowledged without ownership.
        self.rooms.retain(|_, entry| !entry.rows.is_empty());
        self.acked_unowned = self.rooms.len();
        self.pending.emptied.clear();
        self.pending.writes.clear();
        self.pending.unowned = self.rooms.keys().cloned().collect();
        for (room, entry) in &mut self.rooms {
            entry.ownership = Ownership::None;
            entry.acked_unowned = true;
            for socket in entry.rows.keys() {
                self.pending.writes.add(SocketEntry { room: room.clone(), socket: socket.clone() });
            }
        }
    }

    fn confirm_ownership(&mut self, room: &Room) {
        // A missing room emptied meanwhile and was taken for release; its removal runs after this command.
        let Some(entry) = self.rooms.get_mut(room) else { return };
        entry.ownership = Ownership::Confirmed;
        if entry.acked_unowned {
            entry.acked_unowned = false;
            self.acked_unowned -= 1;
        }
        for waiter in entry.waiters.drain(..) {
            // The receiver is gone if the client gave up.
            let _ = waiter.send(());
        }
    }
}
