//! The reconciler's state between two passes: commands in flight, and work that must be sent again.
//!
//! Owns no decision about commands. The state belongs to one incarnation. When that is retired, its remaining removals become
//! part of the [`RetiredIncarnation`].

use std::collections::HashSet;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::directory;
use crate::index::{Epoch, SocketEntry, SocketWrite};
use crate::names::{NodeId, Room};
use crate::roster::ownership::RetiredIncarnation;

/// The answer to one command.
pub(super) enum CommandResult {
    AddedOwner { node: NodeId, rooms: Vec<Room>, answer: directory::Result<Option<Epoch>> },
    RemovedOwner { node: NodeId, rooms: Vec<Room>, answer: directory::Result<()> },
    WroteSockets { node: NodeId, writes: Vec<SocketWrite>, answer: directory::Result<()> },
    RemovedRetired { retired: RetiredIncarnation, answer: directory::Result<()> },
}

#[derive(Default)]
pub(super) struct ReconcilerState {
    /// The incarnation that the sets below belong to.
    node: Option<NodeId>,
    pub(super) commands: JoinSet<CommandResult>,
    /// Rooms with a command in flight.
    pub(super) rooms: HashSet<Room>,
    /// A batch of socket writes is in flight.
    pub(super) writing: bool,
    /// Rooms that need an owner entry.
    pub(super) unowned: HashSet<Room>,
    /// Rooms whose key has a value of another program. Retried when owner entries are reasserted.
    pub(super) foreign: HashSet<Room>,
    /// Rooms whose owner entry must be removed.
    pub(super) unreleased: HashSet<Room>,
    pub(super) retired: Vec<RetiredIncarnation>,
    /// The rooms and entries of commands without an answer. Such a command may still run after a later, opposite one, so the
    /// next reassertion corrects both.
    pub(super) uncertain_rooms: HashSet<Room>,
    pub(super) uncertain_writes: HashSet<SocketEntry>,
    /// Pauses by kind of command, so that refused commands of one kind do not slow the others. For socket writes also
    /// the pause after a batch that was not full.
    pub(super) add_after: Option<Instant>,
    pub(super) remove_after: Option<Instant>,
    pub(super) write_after: Option<Instant>,
}

impl ReconcilerState {
    pub(super) fn is_of(&self, node: &NodeId) -> bool {
        self.node.as_ref() == Some(node)
    }

    /// Resets the state for another incarnation.
    pub(super) fn set_incarnation(&mut self, node: &NodeId) {
        if self.is_of(node) {
            return;
        }
        // Late commands of an earlier incarnation may still take effect; readers remove such entries when they find
        // them, because that incarnation has no lease.
        self.uncertain_rooms.clear();
        self.uncertain_writes.clear();
        let rooms: Vec<Room> = self.unreleased.drain().collect();
        if let Some(node) = self.node.replace(node.clone()).filter(|_| !rooms.is_empty()) {
            self.retired.push(RetiredIncarnation { node, rooms });
        }
    }

    pub(super) fn end_pauses(&mut self, now: Instant) {
        for pause in [&mut self.add_after, &mut self.remove_after, &mut self.write_after] {
            pause.take_if(|end| *end <= now);
        }
    }

    /// The command about these rooms has ended.
    pub(super) fn finish(&mut self, rooms: &[Room]) {
        for room in rooms {
            self.rooms.remove(room);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        let has_no_work = self.unowned.is_empty() && self.unreleased.is_empty() && self.retired.is_empty();
        has_no_work && self.commands.is_empty()
    }
}
