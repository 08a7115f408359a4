//! Reading the whole roster in slices, with the lock free between them.
//!
//! Owns the order: from the last room to the first. Removing a room moves the last room into its position, which a walk
//! from the end has read already. So a room that exists during the whole walk is read at least once, possibly more
//! often; one that appears or ends meanwhile may or may not be read.
//!
//! Reading room sizes costs some 20 ns per room: 2 ms for 100,000 rooms.

use std::collections::HashSet;
use std::ops::ControlFlow;

use tokio::task::yield_now;

use super::state::{RoomState, Roster};
use crate::names::{NodeId, Room, SocketId};

/// Rooms in a slice with socket ids. The lock is held for some ten microseconds.
const MAX_SLICE_ROOMS: usize = 256;
/// A slice with socket ids ends with the room that brings it to this many rows.
const MAX_SLICE_ROWS: usize = 4096;
/// Rooms in a slice of which only the sizes are read: some 20 µs.
const MAX_COUNTED_ROOMS: usize = 1_000;

/// A slice of the roster.
#[derive(Debug)]
pub struct RosterSlice {
    /// The incarnation that owns the rooms.
    pub node: NodeId,
    /// The rooms that have rows, and their sockets.
    pub rooms: Vec<(Room, Vec<SocketId>)>,
    /// Where the next slice begins, or `None` after the last.
    pub next: Option<WalkCursor>,
}

/// The position of a walk: the rooms before it have not been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalkCursor(usize);

impl WalkCursor {
    /// The start of a walk.
    pub const BEGIN: Self = Self(usize::MAX);
}

impl Roster {
    /// Reads the slice at `cursor`.
    pub fn slice(&self, cursor: WalkCursor) -> RosterSlice {
        let (mut rooms, mut rows) = (Vec::new(), 0);
        let (node, next) = self.walk(cursor, MAX_SLICE_ROOMS, |room, entry| {
            rows += entry.rows.len();
            rooms.push((room.clone(), entry.rows.keys().cloned().collect()));
            if rows < MAX_SLICE_ROWS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        RosterSlice { node, rooms, next }
    }

    /// Returns the `count` rooms with the most sockets here, and their sizes, the largest first.
    pub async fn busiest(&self, count: usize) -> Vec<(Room, usize)> {
        let mut largest = LargestRooms::new(count);
        let mut cursor = Some(WalkCursor::BEGIN);
        while let Some(at) = cursor {
            cursor = self.count_slice(at, &mut largest);
            yield_now().await;
        }
        largest.into_inner()
    }

    fn count_slice(&self, cursor: WalkCursor, largest: &mut LargestRooms) -> Option<WalkCursor> {
        let (_, next) = self.walk(cursor, MAX_COUNTED_ROOMS, |room, entry| {
            largest.offer(room, entry.rows.len());
            ControlFlow::Continue(())
        });
        next
    }

    /// Visits up to `max_rooms` rooms before `cursor`, skipping those without rows, until `visit` breaks.
    fn walk(
        &self,
        cursor: WalkCursor,
        max_rooms: usize,
        mut visit: impl FnMut(&Room, &RoomState) -> ControlFlow<()>,
    ) -> (NodeId, Option<WalkCursor>) {
        let state = self.lock();
        let mut at = cursor.0.min(state.rooms.len());
        let end = at.saturating_sub(max_rooms);
        while at > end {
            at -= 1;
            let Some((room, entry)) = state.rooms.get_index(at) else { continue };
            if !entry.rows.is_empty() && visit(room, entry).is_break() {
                break;
            }
        }
        (state.incarnation.clone(), (at > 0).then_some(WalkCursor(at)))
    }
}

/// The largest of the rooms that were offered. A room may be offered twice.
struct LargestRooms {
    count: usize,
    /// Smaller rooms cannot be among the largest.
    min_sockets: usize,
    candidates: Vec<(Room, usize)>,
}

impl LargestRooms {
    fn new(count: usize) -> Self {
        Self { count, min_sockets: 1, candidates: Vec::new() }
    }

    fn offer(&mut self, room: &Room, sockets: usize) {
        if sockets < self.min_sockets || self.count == 0 {
            return;
        }
        self.candidates.push((room.clone(), sockets));
        // Sorting rarely: four times the result amortizes it.
        if self.candidates.len() >= self.count * 4 {
            self.truncate();
        }
    }

    fn truncate(&mut self) {
        self.candidates.sort_by(|(room, sockets), (next, fewer)| fewer.cmp(sockets).then_with(|| room.cmp(next)));
        let mut named = HashSet::with_capacity(self.candidates.len());
        self.candidates.retain(|(room, _)| named.insert(room.clone()));
        self.candidates.truncate(self.count);
        if let Some((_, sockets)) = self.candidates.last().filter(|_| self.candidates.len() == self.count) {
            self.min_sockets = *sockets;
        }
    }

    fn into_inner(mut self) -> Vec<(Room, usize)> {
        self.truncate();
        self.candidates
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::names::UserId;
    use crate::roster::Registration;

    fn room(number: usize) -> Room {
        Room::parse(&format!("room-{number}")).unwrap()
    }

    fn join(roster: &std::sync::Arc<Roster>, number: usize) -> Registration {
        let socket = SocketId::parse(&format!("socket-{number}")).unwrap();
        roster.register(socket, UserId::parse("foo").unwrap(), &[room(number)])
    }

    #[test]
    fn a_slice_has_a_maximum_number_of_rooms() {
        let roster = Roster::new(NodeId::new_process());
        let _small: Vec<_> = (0..MAX_SLICE_ROOMS * 2).map(|number| join(&roster, number)).collect();
        let first = roster.slice(WalkCursor::BEGIN);
        assert_eq!((first.rooms.len(), first.next), (MAX_SLICE_ROOMS, Some(WalkCursor(MAX_SLICE_ROOMS))));
        let second = roster.slice(first.next.unwrap());
        assert_eq!((second.rooms.len(), second.next), (MAX_SLICE_ROOMS, None));
    }

    #[test]
    fn an_empty_roster_is_one_slice() {
        let roster = Roster::new(NodeId::new_process());
        let slice = roster.slice(WalkCursor::BEGIN);
        assert!(slice.rooms.is_empty() && slice.next.is_none());
        assert_eq!(slice.node, roster.incarnation());
    }

    proptest! {
        #[test]
        fn a_room_that_stays_is_read_despite_changes_meanwhile(
            count in 1_usize..900,
            leaving in prop::collection::vec(any::<prop::sample::Index>(), 0..600),
        ) {
            let roster = Roster::new(NodeId::new_process());
            let mut registrations: Vec<Option<Registration>> = (0..count).map(|number| Some(join(&roster, number))).collect();
            let (mut read, mut cursor, mut leaving) = (HashSet::new(), Some(WalkCursor::BEGIN), leaving.into_iter());
            let mut joined = count;
            while let Some(at) = cursor {
                let slice = roster.slice(at);
                read.extend(slice.rooms.into_iter().map(|(room, _)| room));
                cursor = slice.next;
                for leaver in leaving.by_ref().take(200) {
                    registrations[leaver.index(count)] = None;
                    registrations.push(Some(join(&roster, joined)));
                    joined += 1;
                }
            }
            for number in (0..count).filter(|number| registrations[*number].is_some()) {
                prop_assert!(read.contains(&room(number)), "room-{number} existed all the time");
            }
        }
    }

    /// Numbered sockets; socket `n` is in the rooms whose numbers divide `n`.
    fn divided(sockets: usize, rooms: usize) -> (std::sync::Arc<Roster>, Vec<Registration>) {
        let roster = Roster::new(NodeId::new_process());
        let registrations = (1..=sockets).map(|number| {
            let id = SocketId::parse(&format!("s{number}")).unwrap();
            let rooms: Vec<_> = (1..=rooms).filter(|divisor| number % divisor == 0).map(room).collect();
            roster.register(id, UserId::parse("foo").unwrap(), &rooms)
        });
        let registrations = registrations.collect();
        (roster, registrations)
    }

    #[tokio::test]
    async fn the_busiest_rooms_are_those_with_the_most_rows() {
        let (roster, registrations) = divided(3_000, 2_500);
        let busiest = roster.busiest(5).await;
        let expected: Vec<_> = (1..=5).map(|divisor| (room(divisor), 3_000 / divisor)).collect();
        assert_eq!(busiest, expected);
        assert_eq!(roster.busiest(10_000).await.len(), 2_500, "all rooms, if there are fewer");
        assert!(roster.busiest(0).await.is_empty());
        drop(registrations);
        assert!(roster.busiest(5).await.is_empty(), "rooms without rows are not listed");
    }

    #[tokio::test]
    async fn a_room_that_moves_during_the_walk_is_listed_once() {
        let roster = Roster::new(NodeId::new_process());
        let mut registrations = Vec::new();
        let mut fill = |number: usize, sockets: usize| {
            for socket in 0..sockets {
                let id = SocketId::parse(&format!("{number}-{socket}")).unwrap();
                let registration = roster.register(id, UserId::parse("foo").unwrap(), &[room(number)]);
                registrations.push((number, registration));
            }
        };
        (0..MAX_COUNTED_ROOMS * 2).for_each(|number| fill(number, 1));
        // The last room is the largest.
        fill(MAX_COUNTED_ROOMS * 2, 3);
        let mut largest = LargestRooms::new(2);
        let rest = roster.count_slice(WalkCursor::BEGIN, &mut largest).unwrap();
        // The first room ends, and the last one moves into its position, which has not been read yet.
        registrations.retain(|(number, _)| *number != 0);
        let rest = roster.count_slice(rest, &mut largest).unwrap();
        assert_eq!(roster.count_slice(rest, &mut largest), None);
        let found = largest.into_inner();
        assert_eq!(found[0], (room(MAX_COUNTED_ROOMS * 2), 3));
        assert_ne!(found[1].0, found[0].0);
    }
}
