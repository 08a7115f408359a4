//! What Redis says beside what the nodes say: pure, and in one pass over Redis.
//!
//! Owns what counts as a difference. A node that was not heard has none: nobody knows what it has.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::Serialize;

use super::ask::Roster;
use crate::directory::redis::scan::Found;
use crate::names::{NodeId, Room, SocketId};

/// One thing in which Redis and the nodes differ.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Difference {
    /// A node runs that is not registered.
    Unregistered { node: NodeId },
    /// A socket that Redis lists, and its node does not have. `on`: where it is instead.
    Ghost { node: NodeId, room: Room, id_socket: SocketId, on: Option<NodeId> },
    /// A socket that its node has, and Redis does not list.
    Missing { node: NodeId, room: Room, id_socket: SocketId },
    /// A node has sockets of a room whose owner set does not name it.
    Unclaimed { node: NodeId, room: Room },
    /// An owner set names a node that has no sockets of the room.
    Stale { node: NodeId, room: Room },
    /// What a node has left that is not there any more. The next roll call of the room removes it, or time does.
    Abandoned { node: NodeId, room: Room },
    /// A key, or a member of a set, that no node has written; escaped, and cut where it is long.
    Foreign { key: String, member: Option<String> },
}

/// The differences so far.
pub struct Comparison<'a> {
    rosters: &'a HashMap<NodeId, Roster>,
    /// Nodes that run, and have not said what they have.
    unheard: &'a HashSet<NodeId>,
    listed: HashSet<(NodeId, Room)>,
    claimed: HashSet<(NodeId, Room)>,
    differences: BTreeSet<Difference>,
}

impl<'a> Comparison<'a> {
    pub fn new(rosters: &'a HashMap<NodeId, Roster>, unheard: &'a HashSet<NodeId>) -> Self {
        let (listed, claimed) = (HashSet::new(), HashSet::new());
        Self { rosters, unheard, listed, claimed, differences: BTreeSet::new() }
    }

    /// Redis says this. Doing it twice is fine.
    pub fn see(&mut self, found: Found) {
        match found {
            Found::Owners { room, nodes } => self.see_owners(&room, nodes),
            Found::Sockets { node, room, sockets } => self.see_sockets(&node, &room, sockets),
            Found::Foreign { key, member } => {
                self.differences.insert(Difference::Foreign { key, member });
            }
        }
    }

    fn see_owners(&mut self, room: &Room, nodes: Vec<NodeId>) {
        for node in nodes {
            let room = room.clone();
            match self.rosters.get(&node) {
                Some(roster) if roster.contains_key(&room) => {
                    self.claimed.insert((node, room));
                }
                Some(_) => {
                    self.differences.insert(Difference::Stale { node, room });
                }
                None => self.see_absent(&node, &room),
            }
        }
    }

    fn see_sockets(&mut self, node: &NodeId, room: &Room, sockets: Vec<SocketId>) {
        let Some(roster) = self.rosters.get(node) else { return self.see_absent(node, room) };
        let listed: HashSet<_> = sockets.into_iter().collect();
        let empty = HashSet::new();
        let has = roster.get(room).unwrap_or(&empty);
        for id_socket in listed.difference(has) {
            let on = self.rosters.iter().find(|(_, other)| other.get(room).is_some_and(|has| has.contains(id_socket)));
            let (id_socket, on) = (id_socket.clone(), on.map(|(on, _)| on.clone()));
            self.differences.insert(Difference::Ghost { node: node.clone(), room: room.clone(), id_socket, on });
        }
        for id_socket in has.difference(&listed) {
            self.miss(node, room, id_socket);
        }
        self.listed.insert((node.clone(), room.clone()));
    }

    fn see_absent(&mut self, node: &NodeId, room: &Room) {
        if !self.unheard.contains(node) {
            self.differences.insert(Difference::Abandoned { node: node.clone(), room: room.clone() });
        }
    }

    fn miss(&mut self, node: &NodeId, room: &Room, id_socket: &SocketId) {
        let (node, room, id_socket) = (node.clone(), room.clone(), id_socket.clone());
        self.differences.insert(Difference::Missing { node, room, id_socket });
    }

    /// Redis has said all.
    pub fn end(mut self) -> BTreeSet<Difference> {
        for (node, roster) in self.rosters {
            for (room, sockets) in roster {
                let place = (node.clone(), room.clone());
                if !self.listed.contains(&place) {
                    for id_socket in sockets {
                        self.miss(node, room, id_socket);
                    }
                }
                if !self.claimed.contains(&place) {
                    self.differences.insert(Difference::Unclaimed { node: node.clone(), room: room.clone() });
                }
            }
        }
        self.differences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str) -> Room {
        Room::parse(name).unwrap()
    }

    fn socket(id: &str) -> SocketId {
        SocketId::parse(id).unwrap()
    }

    fn roster(rooms: &[(&str, &[&str])]) -> Roster {
        let sockets = |ids: &[&str]| ids.iter().map(|id| socket(id)).collect();
        rooms.iter().map(|(name, ids)| (room(name), sockets(ids))).collect()
    }

    fn owners(name: &str, nodes: &[&NodeId]) -> Found {
        Found::Owners { room: room(name), nodes: nodes.iter().map(|node| (*node).clone()).collect() }
    }

    fn sockets(node: &NodeId, name: &str, ids: &[&str]) -> Found {
        let sockets = ids.iter().map(|id| socket(id)).collect();
        Found::Sockets { node: node.clone(), room: room(name), sockets }
    }

    fn compare(rosters: &[(&NodeId, Roster)], unheard: &[&NodeId], found: Vec<Found>) -> Vec<Difference> {
        let rosters = rosters.iter().map(|(node, roster)| ((*node).clone(), roster.clone())).collect();
        let unheard = unheard.iter().map(|node| (*node).clone()).collect();
        let mut comparison = Comparison::new(&rosters, &unheard);
        for found in found {
            comparison.see(found);
        }
        comparison.end().into_iter().collect()
    }

    #[test]
    fn where_both_say_the_same_nothing_differs() {
        let (one, two) = (NodeId::new_process(), NodeId::new_process());
        let rosters = [(&one, roster(&[("a", &["s1", "s2"])])), (&two, roster(&[("a", &["s3"]), ("b", &["s3"])]))];
        let found = || {
            vec![
                owners("a", &[&one, &two]),
                sockets(&one, "a", &["s2", "s1"]),
                sockets(&two, "a", &["s3"]),
                owners("b", &[&two]),
                sockets(&two, "b", &["s3"]),
            ]
        };
        assert_eq!(compare(&rosters, &[], found()), []);
        // A scan may show a key twice.
        assert_eq!(compare(&rosters, &[], [found(), found()].concat()), []);
    }

    #[test]
    fn a_ghost_is_told_with_the_node_that_has_the_socket() {
        let (one, two) = (NodeId::new_process(), NodeId::new_process());
        let rosters = [(&one, roster(&[("a", &["s1"])])), (&two, roster(&[("a", &["s2"])]))];
        let found =
            vec![owners("a", &[&one, &two]), sockets(&one, "a", &["s1", "s2", "s9"]), sockets(&two, "a", &["s2"])];
        let ghost = |id: &str, on: Option<&NodeId>| Difference::Ghost {
            node: one.clone(),
            room: room("a"),
            id_socket: socket(id),
            on: on.cloned(),
        };
        assert_eq!(compare(&rosters, &[], found), [ghost("s2", Some(&two)), ghost("s9", None)]);
    }

    #[test]
    fn what_redis_lacks_is_missing_and_unclaimed() {
        let node = NodeId::new_process();
        let rosters = [(&node, roster(&[("a", &["s1", "s2"]), ("b", &["s1"])]))];
        let found = vec![owners("a", &[&node]), sockets(&node, "a", &["s1"])];
        let missing =
            |name: &str, id: &str| Difference::Missing { node: node.clone(), room: room(name), id_socket: socket(id) };
        let unclaimed = Difference::Unclaimed { node: node.clone(), room: room("b") };
        assert_eq!(compare(&rosters, &[], found), [missing("a", "s2"), missing("b", "s1"), unclaimed]);
    }

    #[test]
    fn what_the_gone_have_left_is_abandoned_and_what_the_silent_have_is_unknown() {
        let (gone, silent) = (NodeId::new_process(), NodeId::new_process());
        let left = |node| vec![owners("a", &[node]), sockets(node, "a", &["s1"])];
        let abandoned = Difference::Abandoned { node: gone.clone(), room: room("a") };
        assert_eq!(compare(&[], &[], left(&gone)), [abandoned]);
        assert_eq!(compare(&[], &[&silent], left(&silent)), []);
    }

    #[test]
    fn a_claim_without_sockets_is_stale_and_what_no_node_writes_is_foreign() {
        let node = NodeId::new_process();
        let foreign = Found::Foreign { key: "rollcall:other".to_owned(), member: None };
        let expected = [
            Difference::Stale { node: node.clone(), room: room("a") },
            Difference::Foreign { key: "rollcall:other".to_owned(), member: None },
        ];
        assert_eq!(compare(&[(&node, Roster::new())], &[], vec![owners("a", &[&node]), foreign]), expected);
    }
}
