//! The report of an audit, for people (`Display`) and for programs (JSON).

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;
use smol_str::SmolStr;

use super::comparison::Difference;
use crate::names::{NodeId, NodeName};

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
