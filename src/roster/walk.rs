//! Reading the whole roster without stopping it.
//!
//! Owns the order: from the last room to the first, a slice at a time, with the lock free in between. Where a room goes,
//! the last one takes its place, so what was not read yet never gets behind the reader: a room that is there all the while
//! is read, once or more often, and one that comes or goes meanwhile may be.

use super::Roster;
use crate::names::{NodeId, Room, SocketId};

/// Rooms that are looked at in one slice, with rows or without. Holds the lock for some ten microseconds.
const ROOMS: usize = 256;
/// A slice ends with the room that brings it to this many rows.
const ROWS: usize = 4096;

/// A part of the roster.
#[derive(Debug)]
pub struct Slice {
    /// The incarnation that has it.
    pub node: NodeId,
    /// Rooms with rows, and who is in them.
    pub rooms: Vec<(Room, Vec<SocketId>)>,
    /// Where to go on; `None` when that was all.
    pub next: Option<Place>,
}

/// How far a walk has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(usize);

impl Place {
    /// Before the first slice.
    pub const BEGIN: Self = Self(usize::MAX);
}

impl Roster {
    /// The slice at `place`.
    pub fn slice(&self, place: Place) -> Slice {
        let state = self.lock();
        let mut at = place.0.min(state.rooms.len());
        let least = at.saturating_sub(ROOMS);
        let (mut rooms, mut rows) = (Vec::new(), 0);
        while at > least && rows < ROWS {
            at -= 1;
            let Some((room, entry)) = state.rooms.get_index(at) else { continue };
            if !entry.rows.is_empty() {
                rows += entry.rows.len();
                rooms.push((room.clone(), entry.rows.keys().cloned().collect()));
            }
        }
        Slice { node: state.incarnation.clone(), rooms, next: (at > 0).then_some(Place(at)) }
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

    fn sit(roster: &std::sync::Arc<Roster>, number: usize) -> Registration {
        let socket = SocketId::parse(&format!("socket-{number}")).unwrap();
        roster.register(socket, UserId::parse("foo").unwrap(), &[room(number)])
    }

    #[test]
    fn a_slice_ends_where_it_is_long_enough() {
        let roster = Roster::new(NodeId::new_process());
        let _small: Vec<_> = (0..ROOMS * 2).map(|number| sit(&roster, number)).collect();
        let first = roster.slice(Place::BEGIN);
        assert_eq!((first.rooms.len(), first.next), (ROOMS, Some(Place(ROOMS))));
        let second = roster.slice(first.next.unwrap());
        assert_eq!((second.rooms.len(), second.next), (ROOMS, None));
    }

    #[test]
    fn an_empty_roster_is_read_in_one() {
        let roster = Roster::new(NodeId::new_process());
        let slice = roster.slice(Place::BEGIN);
        assert!(slice.rooms.is_empty() && slice.next.is_none());
        assert_eq!(slice.node, roster.incarnation());
    }

    proptest! {
        #[test]
        fn what_stays_is_read_whatever_comes_and_goes_meanwhile(
            count in 1_usize..900,
            leaving in prop::collection::vec(any::<prop::sample::Index>(), 0..600),
        ) {
            let roster = Roster::new(NodeId::new_process());
            let mut seated: Vec<Option<Registration>> = (0..count).map(|number| Some(sit(&roster, number))).collect();
            let (mut read, mut place, mut leaving) = (HashSet::new(), Some(Place::BEGIN), leaving.into_iter());
            let mut came = count;
            while let Some(at) = place {
                let slice = roster.slice(at);
                read.extend(slice.rooms.into_iter().map(|(room, _)| room));
                place = slice.next;
                for gone in leaving.by_ref().take(200) {
                    seated[gone.index(count)] = None;
                    seated.push(Some(sit(&roster, came)));
                    came += 1;
                }
            }
            for number in (0..count).filter(|number| seated[*number].is_some()) {
                prop_assert!(read.contains(&room(number)), "room-{number} was there all the time");
            }
        }
    }
}
