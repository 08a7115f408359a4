//! The shapes in which a room's rows leave the roster.
//!
//! Owns no rows: the roster fills these types under its lock, and the mesh encodes and decodes them.

use crate::names::{NodeId, SocketId, UserId};

/// One socket of a room and its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id_socket: SocketId,
    pub id_user: UserId,
}

/// The rows of a room on one node, at one version.
#[derive(Debug, Clone)]
pub struct RoomSnapshot {
    /// The incarnation that owns the rows.
    pub node: NodeId,
    /// Compared for equality only, and only within one incarnation. 0 if there are no rows, or nothing to cache.
    pub version: u64,
    pub update: RowsUpdate,
}

/// The rows, relative to what the reader has cached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowsUpdate {
    /// The cached rows are current.
    Unchanged,
    /// The difference from the cached rows.
    Delta(RowsDelta),
    Full(Vec<Row>),
}

/// The difference between the rows of two versions. A reader applies the removals before the additions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowsDelta {
    /// The version that the delta applies to.
    pub since: u64,
    pub removed: Vec<SocketId>,
    /// A socket that left and came back is in both lists, because its user may have changed.
    pub added: Vec<Row>,
}

/// The version of a room's rows that a reader has cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachedVersion {
    pub version: u64,
    /// Whether the reader understands a [`RowsDelta`].
    pub accepts_delta: bool,
}
