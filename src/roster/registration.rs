//! The registration of a socket: the RAII guard that adds its rows to the roster and removes them.
//!
//! A socket keeps its registration in its extensions. When the last clone is dropped, its rows are removed, so no path
//! on which a socket can end leaves a row behind. Owns no rows.

use std::sync::Arc;

use thiserror::Error;

use super::state::{RegistrationId, Roster};
use crate::names::{Room, SocketId, UserId};

/// Why a socket did not enter or leave a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JoinError {
    #[error("the socket is disconnected")]
    Closed,
    #[error("the socket is in {0} rooms already")]
    TooManyRooms(usize),
}

/// One socket in the roster. Cheap to clone; the last clone that is dropped closes it.
#[derive(Clone)]
pub struct Registration(Arc<RegistrationInner>);

struct RegistrationInner {
    roster: Arc<Roster>,
    id: RegistrationId,
}

impl Roster {
    /// Adds a socket and its first rooms. Closes an older registration of the same socket id under the same lock, so
    /// that no reader ever sees a socket twice.
    pub fn register(self: &Arc<Self>, socket: SocketId, user: UserId, rooms: &[Room]) -> Registration {
        let id = self.lock().register(socket, user, rooms);
        self.notify_reconciler();
        Registration(Arc::new(RegistrationInner { roster: Arc::clone(self), id }))
    }
}

impl Registration {
    /// Adds the socket to a room. Does nothing if it is in the room already.
    ///
    /// # Errors
    /// [`JoinError::Closed`] after [`close`](Self::close), [`JoinError::TooManyRooms`] beyond `max_rooms`.
    pub fn join(&self, room: &Room, max_rooms: usize) -> Result<(), JoinError> {
        let mut state = self.0.roster.lock();
        let Some(record) = state.sockets.get(&self.0.id) else {
            return Err(JoinError::Closed);
        };
        if record.rooms.contains(room) {
            return Ok(());
        }
        if record.rooms.len() >= max_rooms {
            return Err(JoinError::TooManyRooms(max_rooms));
        }
        state.add_row(self.0.id, room);
        drop(state);
        self.0.roster.notify_reconciler();
        Ok(())
    }

    /// Removes the socket from a room. Does nothing if it is not in the room.
    ///
    /// # Errors
    /// [`JoinError::Closed`] after [`close`](Self::close).
    pub fn leave(&self, room: &Room) -> Result<(), JoinError> {
        let mut state = self.0.roster.lock();
        let Some(record) = state.sockets.get_mut(&self.0.id) else {
            return Err(JoinError::Closed);
        };
        let Some(position) = record.rooms.iter().position(|joined| joined == room) else {
            return Ok(());
        };
        record.rooms.swap_remove(position);
        let socket = record.socket.clone();
        state.remove_row(room, &socket);
        drop(state);
        self.0.roster.notify_reconciler();
        Ok(())
    }

    /// Tells the roster that the connect middleware has ended: from now on the namespace is expected to list the socket.
    pub fn mark_connected(&self) {
        if let Some(record) = self.0.roster.lock().sockets.get_mut(&self.0.id) {
            record.connected = true;
        }
    }

    /// Removes all rows of the socket. Idempotent.
    pub fn close(&self) {
        self.0.close();
    }

    /// Returns a function that closes the registration if it still exists, without keeping it alive.
    pub fn weak_close(&self) -> impl FnOnce() + Send + Sync + use<> {
        let inner = Arc::downgrade(&self.0);
        move || {
            if let Some(inner) = inner.upgrade() {
                inner.close();
            }
        }
    }
}

impl RegistrationInner {
    fn close(&self) {
        let closed = self.roster.lock().close(self.id);
        if closed {
            self.roster.notify_reconciler();
        }
    }
}

impl Drop for RegistrationInner {
    fn drop(&mut self) {
        self.close();
    }
}
