//! The vocabulary of the shared index, for the modules that write it, read it or store it.
//!
//! Owns the name of one lifetime of the index ([`Epoch`]) and the entry of a socket in it ([`SocketEntry`]). The roster
//! decides which entries to write, the directory stores them. Owns no keys and no behaviour.

use smol_str::SmolStr;

use crate::names::{Room, SocketId};

/// One lifetime of the index. A flush, a restart that lost writes and a failover each begin a new one.
///
/// Compared for equality only. An answer that was read in one epoch says nothing about any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch(pub SmolStr);

/// One socket in one room, as the index lists it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SocketEntry {
    pub room: Room,
    pub socket: SocketId,
}

/// A write of one entry: what is true of the socket now, whatever the index holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketWrite {
    pub entry: SocketEntry,
    /// Whether the socket is in the room: `true` adds the entry, `false` removes it.
    pub present: bool,
}
