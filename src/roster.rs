//! The roster: the sockets of this node by room, each with its user, and a version per room.
//!
//! Owns the only truth about this node's sockets. The same lock guards the content that the index must have for them
//! ([`ownership`]): the incarnation, the ownership of rooms, and pending socket writes. It also guards a log of recent
//! changes for readers that cache rows (`change_log`). Sockets enter by [`Registration`]; readers get a [`RoomSnapshot`].
//!
//! Owns no connection and no timer: the reconciler carries pending work to the directory. Reads filter nothing, so every
//! row that a reader gets was present at one moment under the lock.

mod change_log;
pub mod ownership;
mod pending_writes;
mod registration;
mod state;
pub mod walk;

pub use change_log::{CachedVersion, RoomSnapshot, Row, RowsDelta, RowsUpdate};
pub use registration::{JoinError, Registration};
pub use state::{IndexState, Roster, RosterCounters, RosterSize};

#[cfg(test)]
mod tests;
