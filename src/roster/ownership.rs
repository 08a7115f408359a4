//! What the index must hold for this node, kept under the roster's lock beside the rows it speaks of.
//!
//! Owns the rules of claiming: a room counts as unclaimed *before* its removal is sent, an answer for another
//! incarnation changes nothing, and an incarnation lives in exactly one index: when the index turns out to be another
//! one, or a removal went unanswered, the incarnation is retired and the next one starts with nothing claimed. While
//! the directory fails, or a claim did, the node's word is "not whole": its rooms are found without the index.
//! Owns no commands and no timing: the registrar asks what is due here and reports back what was answered.

use std::collections::HashSet;
use std::mem;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::pending_writes::Listed;
use super::{IndexState, Roster, State};
use crate::index::{Epoch, SocketEntry, SocketWrite};
use crate::names::{NodeId, Room};

/// This node's entry in a room's owner set, as far as is known here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Claim {
    /// Not there, and no command is on its way that would put it there.
    #[default]
    None,
    /// A claim was sent; it may or may not be there.
    Asked,
    /// The index has answered that it is there.
    Held,
}

/// What a retired incarnation left in the index: its lease, and claims of these rooms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abandoned {
    pub node: NodeId,
    pub rooms: Vec<Room>,
}

/// Whether a client may be told that its rooms are its own.
#[derive(Debug)]
pub enum Holding {
    /// Every one of the rooms is claimed by this incarnation.
    Held,
    /// One is not; this ends when its claim was answered, or when there is nothing left to claim.
    Waiting(oneshot::Receiver<()>),
}

impl Roster {
    /// The id under which this node answers now.
    pub fn incarnation(&self) -> NodeId {
        self.lock().incarnation.clone()
    }

    /// The node's word on its claims, and every change of it.
    pub fn index_state(&self) -> watch::Receiver<IndexState> {
        self.index_state.subscribe()
    }

    /// Ends when there may be something for the registrar to do.
    pub async fn something_due(&self) {
        self.due.notified().await;
    }

    /// How much is due for the registrar: rooms to be claimed, rooms that have emptied, and seats.
    pub fn due(&self) -> [usize; 3] {
        let due = &self.lock().due;
        [due.wanting.len(), due.emptied.len(), due.seats.len()]
    }

    /// The lease of `node` was written in this index: claims may follow.
    pub fn entered(&self, node: &NodeId, index: &Epoch) {
        let mut state = self.lock();
        if state.incarnation == *node {
            state.index = Some(index.clone());
            self.publish(&state);
            self.due.notify_one();
        }
    }

    /// The directory answered `node` out of this index. Another one than it entered retires the incarnation.
    /// Returns whether `node` is still the incarnation.
    pub fn index_is(&self, node: &NodeId, index: &Epoch) -> bool {
        let mut state = self.lock();
        if state.incarnation != *node {
            return false;
        }
        if state.index.as_ref().is_none_or(|entered| entered == index) {
            return true;
        }
        self.retire_locked(&mut state);
        false
    }

    /// The directory does not do what it is asked: from now on this node's word is "not whole".
    pub fn directory_fails(&self) {
        self.directory_is(true);
    }

    /// The directory has done what it was asked: this node is whole again once the rooms that it owes are claimed.
    pub fn directory_works(&self) {
        self.directory_is(false);
    }

    /// Whether the directory failed when it was asked last.
    pub fn is_directory_away(&self) -> bool {
        self.lock().away
    }

    fn directory_is(&self, away: bool) {
        let mut state = self.lock();
        if state.away != away {
            state.away = away;
            self.publish(&state);
            self.due.notify_one();
        }
    }

    /// The claims of these rooms failed: whoever is in them can only be found by asking.
    pub fn unclaimed(&self, node: &NodeId, rooms: &[Room]) {
        let mut state = self.lock();
        if state.incarnation == *node {
            state.owe(rooms);
            self.publish(&state);
        }
    }

    /// Whether the word of `node` is "not whole". If so it stays that until these rooms are claimed.
    pub fn owe(&self, node: &NodeId, rooms: &[Room]) -> bool {
        let mut state = self.lock();
        let not_whole = state.incarnation == *node && state.fully_indexed_in().is_none();
        if not_whole {
            state.owe(rooms);
        }
        not_whole
    }

    /// Ends the incarnation `node`, if it is the present one: the next one has claimed nothing.
    pub fn retire(&self, node: &NodeId) {
        let mut state = self.lock();
        if state.incarnation == *node {
            self.retire_locked(&mut state);
        }
    }

    fn retire_locked(&self, state: &mut State) {
        state.retire();
        self.publish(state);
        self.due.notify_one();
    }

    /// Rooms that want a claim: those noted since the last time. May name rooms that no longer do.
    pub fn take_wanting(&self) -> HashSet<Room> {
        mem::take(&mut self.lock().due.wanting)
    }

    /// What retired incarnations left behind since the last time.
    pub fn take_abandoned(&self) -> Vec<Abandoned> {
        mem::take(&mut self.lock().due.abandoned)
    }

    /// Up to `most` seats whose listing is due, those that waited longest, with what is true of them now. None when
    /// `node` is retired.
    pub fn take_seats(&self, node: &NodeId, most: usize) -> Vec<SocketWrite> {
        let mut state = self.lock();
        let state = &mut *state;
        let mut changes = Vec::new();
        if state.incarnation != *node {
            return changes;
        }
        while changes.len() < most {
            let Some((seat, listed)) = state.due.seats.pop() else { break };
            let taken = state.rooms.get(&seat.room).is_some_and(|room| room.rows.contains_key(&seat.socket));
            if taken || listed == Listed::Maybe {
                changes.push(SocketWrite { entry: seat, present: taken });
            }
        }
        changes
    }

    /// These were not surely written: they are due again, and may be listed.
    pub fn return_seats(&self, node: &NodeId, seats: impl IntoIterator<Item = SocketEntry>) {
        let mut state = self.lock();
        if state.incarnation == *node {
            seats.into_iter().for_each(|seat| state.due.seats.returned(seat));
        }
    }

    /// Marks those of `rooms` that have rows and no claim as asked for, and returns them: a claim is about to be sent.
    /// When `node` is retired, none: they want the claim of its successor.
    pub fn ask_for(&self, node: &NodeId, rooms: HashSet<Room>) -> Vec<Room> {
        let mut state = self.lock();
        if state.incarnation != *node {
            state.due.wanting.extend(rooms);
            return Vec::new();
        }
        let mut asked = Vec::with_capacity(rooms.len());
        for room in rooms {
            let Some(entry) = state.rooms.get_mut(&room) else { continue };
            if entry.claim == Claim::Held || entry.rows.is_empty() {
                continue;
            }
            entry.claim = Claim::Asked;
            asked.push(room);
        }
        asked
    }

    /// The index has answered that `node` holds these rooms.
    pub fn claimed(&self, node: &NodeId, rooms: &[Room]) {
        let mut state = self.lock();
        if state.incarnation != *node {
            return;
        }
        for room in rooms {
            state.claimed(room);
        }
        self.publish(&state);
    }

    /// Rooms whose last row left at or before `before`, and whose claim is now given back: they count as unclaimed
    /// from here on, so the removal may be sent. Rooms in `busy` (a command is under way) stay for later.
    pub fn give_back(&self, node: &NodeId, before: Instant, busy: &HashSet<Room>) -> Vec<Room> {
        let mut state = self.lock();
        if state.incarnation != *node {
            return Vec::new();
        }
        let mut given = Vec::new();
        let mut later = Vec::new();
        while let Some((emptied, room)) = state.due.emptied.pop_front_if(|(emptied, _)| *emptied <= before) {
            let stands = state.rooms.get(&room).is_some_and(|entry| entry.emptied == Some(emptied));
            if !stands {
                continue;
            }
            if busy.contains(&room) {
                later.push((emptied, room));
                continue;
            }
            state.rooms.swap_remove(&room);
            given.push(room);
        }
        for entry in later.into_iter().rev() {
            state.due.emptied.push_front(entry);
        }
        given
    }

    /// When the next emptied room was emptied; `None` when no claim lingers.
    pub fn next_emptied(&self) -> Option<Instant> {
        self.lock().due.emptied.front().map(|(emptied, _)| *emptied)
    }

    /// Those of these rooms that have neither rows nor a claim here.
    pub fn unknown(&self, rooms: impl IntoIterator<Item = Room>) -> Vec<Room> {
        let state = self.lock();
        rooms.into_iter().filter(|room| !state.rooms.contains_key(room)).collect()
    }

    /// Every room this incarnation holds a claim of and has rows in, to be asserted again.
    pub fn held_rooms(&self) -> Vec<Room> {
        let state = self.lock();
        let held = state.rooms.iter().filter(|(_, entry)| entry.claim == Claim::Held && !entry.rows.is_empty());
        held.map(|(room, _)| room.clone()).collect()
    }

    /// Whether there are no rooms, no claims of them, and nothing left to be listed.
    pub fn is_clear(&self) -> bool {
        let state = self.lock();
        state.rooms.is_empty() && state.due.seats.is_empty() && state.due.abandoned.is_empty()
    }

    /// Whether `node` is the incarnation and holds every one of `rooms` that still has rows.
    pub fn holding(&self, node: &NodeId, rooms: &[Room]) -> Holding {
        let mut state = self.lock();
        let another = state.incarnation != *node;
        for room in rooms {
            let Some(entry) = state.rooms.get_mut(room) else { continue };
            if another || entry.claim != Claim::Held {
                let (held, waiting) = oneshot::channel();
                // The closed ones belong to clients that went away while they waited.
                entry.waiters.retain(|waiter| !waiter.is_closed());
                entry.waiters.push(held);
                return Holding::Waiting(waiting);
            }
        }
        Holding::Held
    }

    fn publish(&self, state: &State) {
        let index_state =
            IndexState { incarnation: state.incarnation.clone(), fully_indexed_in: state.fully_indexed_in().cloned() };
        self.index_state.send_if_modified(|published| {
            let changed = *published != index_state;
            *published = index_state;
            changed
        });
    }

    /// Publishes the word again, after rooms may have emptied that were still owed.
    pub fn republish(&self) {
        self.publish(&self.lock());
    }
}

impl State {
    fn fully_indexed_in(&self) -> Option<&Epoch> {
        self.index.as_ref().filter(|_| self.owing == 0 && !self.away)
    }

    fn owe(&mut self, rooms: &[Room]) {
        for room in rooms {
            let Some(entry) = self.rooms.get_mut(room) else { continue };
            if entry.claim != Claim::Held && !entry.rows.is_empty() && !entry.owed {
                entry.owed = true;
                self.owing += 1;
            }
        }
    }

    fn retire(&mut self) {
        let next = self.incarnation.next_incarnation();
        let node = mem::replace(&mut self.incarnation, next);
        self.index = None;
        let claimed = self.rooms.iter().filter(|(_, entry)| entry.claim != Claim::None);
        let rooms = claimed.map(|(room, _)| room.clone()).collect();
        self.due.abandoned.push(Abandoned { node, rooms });

        self.rooms.retain(|_, entry| !entry.rows.is_empty());
        self.owing = self.rooms.len();
        self.due.emptied.clear();
        self.due.seats.clear();
        self.due.wanting = self.rooms.keys().cloned().collect();
        for (room, entry) in &mut self.rooms {
            entry.claim = Claim::None;
            entry.owed = true;
            for socket in entry.rows.keys() {
                self.due.seats.taken(SocketEntry { room: room.clone(), socket: socket.clone() });
            }
        }
    }

    fn claimed(&mut self, room: &Room) {
        // Gone: emptied, and given back since; the removal comes after this claim.
        let Some(entry) = self.rooms.get_mut(room) else { return };
        entry.claim = Claim::Held;
        if entry.owed {
            entry.owed = false;
            self.owing -= 1;
        }
        for waiter in entry.waiters.drain(..) {
            // Nobody listens any more when the client went away meanwhile.
            let _ = waiter.send(());
        }
    }
}
