//! The comparison of Redis with the rosters of the nodes: pure, in one pass over the keys of Redis.
//!
//! Owns the definition of a difference. A node that did not answer has none, because its roster is unknown.
//! [`AuditReport`] prints the differences, for people (`Display`) and for programs (JSON).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

use serde::Serialize;
use smol_str::SmolStr;

use crate::commands::audit::roster_client::RoomSockets;
use crate::directory::redis::scan::ScannedKey;
use crate::names::{NodeId, NodeName, Room, SocketId};

/// One difference between Redis and the nodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Difference {
    /// A running node is not registered.
    Unregistered { node: NodeId },
    /// Redis lists a socket that its node does not have. `on`: the node that has it.
    Ghost { node: NodeId, room: Room, id_socket: SocketId, on: Option<NodeId> },
    /// Redis does not list a socket of a node.
    Missing { node: NodeId, room: Room, id_socket: SocketId },
    /// A node has sockets in a room whose owner set does not name it.
    Unclaimed { node: NodeId, room: Room },
    /// An owner set names a node without sockets in the room.
    Stale { node: NodeId, room: Room },
    /// An entry of a node that is gone. The next roll call of the room removes it, or its TTL does.
    Abandoned { node: NodeId, room: Room },
    /// A key or a set member that no node writes; escaped and truncated.
    Foreign { key: String, member: Option<String> },
}

/// The differences found so far.
pub struct Comparison<'a> {
    rosters: &'a HashMap<NodeId, RoomSockets>,
    /// Nodes that run and did not answer.
    unheard: &'a HashSet<NodeId>,
    listed: HashSet<(NodeId, Room)>,
    owned: HashSet<(NodeId, Room)>,
    differences: BTreeSet<Difference>,
}

impl<'a> Comparison<'a> {
    pub fn new(rosters: &'a HashMap<NodeId, RoomSockets>, unheard: &'a HashSet<NodeId>) -> Self {
        let (listed, owned) = (HashSet::new(), HashSet::new());
        Self { rosters, unheard, listed, owned, differences: BTreeSet::new() }
    }

    /// Compares one key of Redis. A scan may return a key twice: the result is the same.
    pub fn compare_key(&mut self, found: ScannedKey) {
        match found {
            ScannedKey::Owners { room, nodes } => self.compare_owners(&room, nodes),
            ScannedKey::Sockets { node, room, sockets } => self.compare_sockets(&node, &room, sockets),
            ScannedKey::Foreign { key, member } => {
                self.differences.insert(Difference::Foreign { key, member });
            }
        }
    }

    fn compare_owners(&mut self, room: &Room, nodes: Vec<NodeId>) {
        for node in nodes {
            let room = room.clone();
            match self.rosters.get(&node) {
                Some(roster) if roster.contains_key(&room) => {
                    self.owned.insert((node, room));
                }
                Some(_) => {
                    self.differences.insert(Difference::Stale { node, room });
                }
                None => self.report_abandoned(&node, &room),
            }
        }
    }

    fn compare_sockets(&mut self, node: &NodeId, room: &Room, sockets: Vec<SocketId>) {
        let Some(roster) = self.rosters.get(node) else { return self.report_abandoned(node, room) };
        let listed: HashSet<_> = sockets.into_iter().collect();
        let empty = HashSet::new();
        let has = roster.get(room).unwrap_or(&empty);
        for id_socket in listed.difference(has) {
            let on = self.rosters.iter().find(|(_, other)| other.get(room).is_some_and(|has| has.contains(id_socket)));
            let (id_socket, on) = (id_socket.clone(), on.map(|(on, _)| on.clone()));
            self.differences.insert(Difference::Ghost { node: node.clone(), room: room.clone(), id_socket, on });
        }
        for id_socket in has.difference(&listed) {
            self.report_missing(node, room, id_socket);
        }
        self.listed.insert((node.clone(), room.clone()));
    }

    fn report_abandoned(&mut self, node: &NodeId, room: &Room) {
        if !self.unheard.contains(node) {
            self.differences.insert(Difference::Abandoned { node: node.clone(), room: room.clone() });
        }
    }

    fn report_missing(&mut self, node: &NodeId, room: &Room, id_socket: &SocketId) {
        let (node, room, id_socket) = (node.clone(), room.clone(), id_socket.clone());
        self.differences.insert(Difference::Missing { node, room, id_socket });
    }

    /// Adds what no key of Redis contained, and returns all differences.
    pub fn finish(mut self) -> BTreeSet<Difference> {
        for (node, roster) in self.rosters {
            for (room, sockets) in roster {
                let owner = (node.clone(), room.clone());
                if !self.listed.contains(&owner) {
                    for id_socket in sockets {
                        self.report_missing(node, room, id_socket);
                    }
                }
                if !self.owned.contains(&owner) {
                    self.differences.insert(Difference::Unclaimed { node: node.clone(), room: room.clone() });
                }
            }
        }
        self.differences
    }
}

#[derive(Debug, Serialize)]
pub struct AuditReport {
    /// Every registered node answered.
    pub complete: bool,
    /// The number of passes: 2 if anything differed in the first.
    pub looks: u8,
    /// Rooms with sockets.
    pub rooms: usize,
    /// Pairs of room and socket.
    pub sockets: usize,
    pub nodes: Vec<AuditedNode>,
    /// The differences found in every pass.
    pub differences: Vec<Difference>,
}

/// One node of the report.
#[derive(Debug, Serialize)]
pub struct AuditedNode {
    pub id: NodeId,
    pub name: NodeName,
    pub mesh: SmolStr,
    pub rooms: usize,
    pub sockets: usize,
    /// Why there is no roster of it.
    pub error: Option<String>,
}

impl AuditReport {
    /// Whether all nodes answered and nothing differs.
    pub fn is_clean(&self) -> bool {
        self.complete && self.differences.is_empty()
    }
}

impl fmt::Display for AuditReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: HashMap<_, _> = self.nodes.iter().map(|node| (&node.id, &node.name)).collect();
        let called = |id: &NodeId| names.get(id).map_or_else(|| format!("node {id}"), |name| format!("{name} ({id})"));
        for difference in &self.differences {
            match difference {
                Difference::Unregistered { node } => {
                    writeln!(f, "unregistered  {} runs and is not registered in redis", called(node))
                }
                Difference::Ghost { node, room, id_socket, on } => {
                    write!(
                        f,
                        "ghost         {id_socket} in {room:?} is listed for {}, which does not have it",
                        called(node)
                    )?;
                    match on {
                        Some(on) => writeln!(f, "; it is on {}", called(on)),
                        None => writeln!(f),
                    }
                }
                Difference::Missing { node, room, id_socket } => {
                    writeln!(f, "missing       {id_socket} in {room:?} on {} is not listed", called(node))
                }
                Difference::Unclaimed { node, room } => {
                    writeln!(f, "unclaimed     {room:?} has sockets on {}, which is not in its owner set", called(node))
                }
                Difference::Stale { node, room } => {
                    writeln!(
                        f,
                        "stale         {room:?} has {} in its owner set, which has no sockets in it",
                        called(node)
                    )
                }
                Difference::Abandoned { node, room } => {
                    writeln!(f, "abandoned     {room:?} has entries of {}, which is gone", called(node))
                }
                Difference::Foreign { key, member: None } => {
                    writeln!(f, "foreign       {key} is not written by any node")
                }
                Difference::Foreign { key, member: Some(member) } => {
                    writeln!(f, "foreign       \"{member}\" in {key} is not written by any node")
                }
            }?;
        }
        for node in &self.nodes {
            if let Some(error) = &node.error {
                writeln!(f, "no answer     {}: {error}", called(&node.id))?;
            }
        }
        let answered = self.nodes.iter().filter(|node| node.error.is_none()).count();
        write!(
            f,
            "{answered} of {} nodes, {} rooms, {} sockets in them: ",
            self.nodes.len(),
            self.rooms,
            self.sockets
        )?;
        match self.differences.len() {
            0 if self.complete => f.write_str("redis agrees"),
            0 => f.write_str("redis agrees with the nodes that answered"),
            1 => f.write_str("1 difference"),
            count => write!(f, "{count} differences"),
        }
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

    fn roster(rooms: &[(&str, &[&str])]) -> RoomSockets {
        let sockets = |ids: &[&str]| ids.iter().map(|id| socket(id)).collect();
        rooms.iter().map(|(name, ids)| (room(name), sockets(ids))).collect()
    }

    fn owners(name: &str, nodes: &[&NodeId]) -> ScannedKey {
        ScannedKey::Owners { room: room(name), nodes: nodes.iter().map(|node| (*node).clone()).collect() }
    }

    fn sockets(node: &NodeId, name: &str, ids: &[&str]) -> ScannedKey {
        let sockets = ids.iter().map(|id| socket(id)).collect();
        ScannedKey::Sockets { node: node.clone(), room: room(name), sockets }
    }

    fn compare(rosters: &[(&NodeId, RoomSockets)], unheard: &[&NodeId], found: Vec<ScannedKey>) -> Vec<Difference> {
        let rosters = rosters.iter().map(|(node, roster)| ((*node).clone(), roster.clone())).collect();
        let unheard = unheard.iter().map(|node| (*node).clone()).collect();
        let mut comparison = Comparison::new(&rosters, &unheard);
        for found in found {
            comparison.compare_key(found);
        }
        comparison.finish().into_iter().collect()
    }

    #[test]
    fn equal_rosters_have_no_difference() {
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
        // A scan may return a key twice.
        assert_eq!(compare(&rosters, &[], [found(), found()].concat()), []);
    }

    #[test]
    fn a_ghost_names_the_node_that_has_the_socket() {
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
    fn a_room_absent_from_redis_is_missing_and_unclaimed() {
        let node = NodeId::new_process();
        let rosters = [(&node, roster(&[("a", &["s1", "s2"]), ("b", &["s1"])]))];
        let found = vec![owners("a", &[&node]), sockets(&node, "a", &["s1"])];
        let missing =
            |name: &str, id: &str| Difference::Missing { node: node.clone(), room: room(name), id_socket: socket(id) };
        let unclaimed = Difference::Unclaimed { node: node.clone(), room: room("b") };
        assert_eq!(compare(&rosters, &[], found), [missing("a", "s2"), missing("b", "s1"), unclaimed]);
    }

    #[test]
    fn entries_of_dead_nodes_are_abandoned_of_silent_ones_unknown() {
        let (gone, silent) = (NodeId::new_process(), NodeId::new_process());
        let left = |node| vec![owners("a", &[node]), sockets(node, "a", &["s1"])];
        let abandoned = Difference::Abandoned { node: gone.clone(), room: room("a") };
        assert_eq!(compare(&[], &[], left(&gone)), [abandoned]);
        assert_eq!(compare(&[], &[&silent], left(&silent)), []);
    }

    #[test]
    fn an_owner_without_sockets_is_stale_and_other_keys_foreign() {
        let node = NodeId::new_process();
        let foreign = ScannedKey::Foreign { key: "rollcall:other".to_owned(), member: None };
        let expected = [
            Difference::Stale { node: node.clone(), room: room("a") },
            Difference::Foreign { key: "rollcall:other".to_owned(), member: None },
        ];
        assert_eq!(compare(&[(&node, RoomSockets::new())], &[], vec![owners("a", &[&node]), foreign]), expected);
    }
}
