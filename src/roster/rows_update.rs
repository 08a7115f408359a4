//! What a reader gets of a room: its rows, or what it needs to have them.
//!
//! Owns only the shapes; the roster fills them under its lock, and the mesh carries them.

use super::changes::Changes;
use crate::names::{NodeId, SocketId, UserId};

/// One socket of a room and its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id_socket: SocketId,
    pub id_user: UserId,
}

/// What one node says of a room, at one version.
#[derive(Debug, Clone)]
pub struct Part {
    /// The incarnation that says it.
    pub node: NodeId,
    /// Compared for equality only, within one incarnation. 0: no rows, nothing to be held.
    pub version: u64,
    pub told: Told,
}

/// What a reader is told of the rows, by what it holds of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// They are those that it holds.
    Unchanged,
    /// What makes them of those that it holds.
    Changes(Changes),
    All(Vec<Row>),
}

/// The version of a room's rows that a reader holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    pub version: u64,
    /// It can be told [`Changes`].
    pub takes_changes: bool,
}
