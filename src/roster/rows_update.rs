//! What a reader gets of a room: its rows, or what it needs to have them.
//!
//! Owns only the shapes; the roster fills them under its lock, and the mesh carries them.

use super::change_log::RowsDelta;
use crate::names::{NodeId, SocketId, UserId};

/// One socket of a room and its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id_socket: SocketId,
    pub id_user: UserId,
}

/// What one node says of a room, at one version.
#[derive(Debug, Clone)]
pub struct RoomSnapshot {
    /// The incarnation that says it.
    pub node: NodeId,
    /// Compared for equality only, within one incarnation. 0: no rows, nothing to be held.
    pub version: u64,
    pub update: RowsUpdate,
}

/// What a reader is told of the rows, by what it holds of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowsUpdate {
    /// They are those that it holds.
    Unchanged,
    /// What makes them of those that it holds.
    Delta(RowsDelta),
    Full(Vec<Row>),
}

/// The version of a room's rows that a reader holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachedVersion {
    pub version: u64,
    /// It can be told a [`RowsDelta`].
    pub accepts_delta: bool,
}
