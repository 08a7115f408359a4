//! What an audit has found, as it is read by people (`Display`) and by programs (JSON).

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;
use smol_str::SmolStr;

use super::comparison::Difference;
use crate::names::{NodeId, NodeName};

/// What an audit has found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Every node that is registered has said what it has.
    pub complete: bool,
    /// How often was looked: a second time where something differed at first.
    pub looks: u8,
    /// Rooms with sockets.
    pub rooms: usize,
    /// Sockets in rooms; one that is in two rooms counts twice.
    pub sockets: usize,
    pub nodes: Vec<Asked>,
    /// What differed each time.
    pub differences: Vec<Difference>,
}

/// A node that was asked.
#[derive(Debug, Serialize)]
pub struct Asked {
    pub id: NodeId,
    pub name: NodeName,
    pub mesh: SmolStr,
    pub rooms: usize,
    pub sockets: usize,
    /// Why it has not said what it has.
    pub error: Option<String>,
}

impl Report {
    /// Whether Redis says what the nodes say, all of them.
    pub fn is_clean(&self) -> bool {
        self.complete && self.differences.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: HashMap<_, _> = self.nodes.iter().map(|node| (&node.id, &node.name)).collect();
        let called = |id: &NodeId| names.get(id).map_or_else(|| format!("node {id}"), |name| format!("{name} ({id})"));
        for difference in &self.differences {
            match difference {
                Difference::Unregistered { node } => {
                    writeln!(f, "unregistered  {} runs, and redis does not know it", called(node))
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
                    writeln!(f, "unclaimed     {room:?} has sockets on {}, which is not among its owners", called(node))
                }
                Difference::Stale { node, room } => {
                    writeln!(f, "stale         {room:?} names {} as an owner, which has no sockets of it", called(node))
                }
                Difference::Abandoned { node, room } => {
                    writeln!(f, "abandoned     {room:?} has what {} left, which is gone", called(node))
                }
                Difference::Foreign { key, member: None } => {
                    writeln!(f, "foreign       {key} is nothing that a node writes")
                }
                Difference::Foreign { key, member: Some(member) } => {
                    writeln!(f, "foreign       \"{member}\" in {key} is nothing that a node writes")
                }
            }?;
        }
        for node in &self.nodes {
            if let Some(error) = &node.error {
                writeln!(f, "unheard       {}: {error}", called(&node.id))?;
            }
        }
        let heard = self.nodes.iter().filter(|node| node.error.is_none()).count();
        write!(f, "{heard} of {} nodes, {} rooms, {} sockets in them: ", self.nodes.len(), self.rooms, self.sockets)?;
        match self.differences.len() {
            0 if self.complete => f.write_str("redis says the same"),
            0 => f.write_str("redis says the same of those that answered"),
            1 => f.write_str("1 difference"),
            count => write!(f, "{count} differences"),
        }
    }
}
