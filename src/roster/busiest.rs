//! The rooms with the most sockets of this node.
//!
//! Owns the reading of all rooms without holding the roster for long: in slices of a thousand, in the order of a
//! [walk](super::walk), between which others have their turn. What changes meanwhile may be seen before or after. Costs
//! some 20 ns for each room that there is, which is 2 ms where there are 100,000, and nothing while nobody asks.

use std::collections::HashSet;

use tokio::task::yield_now;

use super::Roster;
use crate::names::Room;

/// Rooms that are read at a time: some 20 µs.
const SLICE: usize = 1_000;

impl Roster {
    /// The `most` rooms with the most sockets here, each with their number, the largest first.
    pub async fn busiest(&self, most: usize) -> Vec<(Room, usize)> {
        let mut largest = Largest::new(most);
        // From the end: a room that goes is replaced by the last one, which was read then, and is read again at worst.
        let mut rest = usize::MAX;
        while rest > 0 {
            rest = self.read_slice(rest, &mut largest);
            yield_now().await;
        }
        largest.into_inner()
    }

    /// Takes in the slice that ends at `end`, and returns where that begins.
    fn read_slice(&self, end: usize, largest: &mut Largest) -> usize {
        let state = self.lock();
        let end = end.min(state.rooms.len());
        let begin = end.saturating_sub(SLICE);
        for (room, entry) in state.rooms.get_range(begin..end).into_iter().flatten() {
            largest.see(room, entry.rows.len());
        }
        begin
    }
}

/// The largest rooms of those that were seen, which may be seen twice.
struct Largest {
    most: usize,
    /// What is smaller is none of them.
    least: usize,
    seen: Vec<(Room, usize)>,
}

impl Largest {
    fn new(most: usize) -> Self {
        Self { most, least: 1, seen: Vec::new() }
    }

    fn see(&mut self, room: &Room, sockets: usize) {
        if sockets < self.least || self.most == 0 {
            return;
        }
        self.seen.push((room.clone(), sockets));
        if self.seen.len() >= self.most * 4 {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.seen.sort_by(|(room, sockets), (next, fewer)| fewer.cmp(sockets).then_with(|| room.cmp(next)));
        let mut named = HashSet::with_capacity(self.seen.len());
        self.seen.retain(|(room, _)| named.insert(room.clone()));
        self.seen.truncate(self.most);
        if let Some((_, sockets)) = self.seen.last().filter(|_| self.seen.len() == self.most) {
            self.least = *sockets;
        }
    }

    fn into_inner(mut self) -> Vec<(Room, usize)> {
        self.settle();
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{NodeId, SocketId, UserId};

    fn room(number: usize) -> Room {
        Room::parse(&format!("room-{number}")).unwrap()
    }

    /// Sockets by number, the socket `n` in the rooms that divide it.
    fn divided(sockets: usize, rooms: usize) -> (std::sync::Arc<Roster>, Vec<super::super::Registration>) {
        let roster = Roster::new(NodeId::new_process());
        let presences = (1..=sockets).map(|number| {
            let id = SocketId::parse(&format!("s{number}")).unwrap();
            let rooms: Vec<_> = (1..=rooms).filter(|divisor| number % divisor == 0).map(room).collect();
            roster.register(id, UserId::parse("foo").unwrap(), &rooms)
        });
        let presences = presences.collect();
        (roster, presences)
    }

    #[tokio::test]
    async fn the_busiest_rooms_are_those_with_the_most_rows_however_many_there_are() {
        let (roster, presences) = divided(3_000, 2_500);
        let busiest = roster.busiest(5).await;
        let expected: Vec<_> = (1..=5).map(|divisor| (room(divisor), 3_000 / divisor)).collect();
        assert_eq!(busiest, expected);
        assert_eq!(roster.busiest(10_000).await.len(), 2_500, "more than there are are all");
        assert!(roster.busiest(0).await.is_empty());
        drop(presences);
        assert!(roster.busiest(5).await.is_empty(), "a room without rows is none");
    }

    #[tokio::test]
    async fn a_room_that_moves_while_they_are_read_is_neither_missed_nor_listed_twice() {
        let roster = Roster::new(NodeId::new_process());
        let mut presences = Vec::new();
        let mut fill = |number: usize, sockets: usize| {
            for socket in 0..sockets {
                let id = SocketId::parse(&format!("{number}-{socket}")).unwrap();
                let presence = roster.register(id, UserId::parse("foo").unwrap(), &[room(number)]);
                presences.push((number, presence));
            }
        };
        (0..SLICE * 2).for_each(|number| fill(number, 1));
        // The last room is the largest.
        fill(SLICE * 2, 3);
        let mut largest = Largest::new(2);
        let rest = roster.read_slice(usize::MAX, &mut largest);
        // The first room goes, and the last takes its place, which has yet to be read.
        presences.retain(|(number, _)| *number != 0);
        assert_eq!(roster.read_slice(roster.read_slice(rest, &mut largest), &mut largest), 0);
        let found = largest.into_inner();
        assert_eq!(found[0], (room(SLICE * 2), 3));
        assert_ne!(found[1].0, found[0].0);
    }
}
