//! How many sockets of one user there may be on this node.
//!
//! Owns the counting, which goes by the socket and not by its rows: a place is free again when the socket is gone,
//! whatever way it went. Who the user is has been decided before. Costs nothing where there is no limit.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::handshake::Refusal;
use crate::edge::limits::keyed_semaphore::{KeyedPermit, KeyedSemaphore};
use crate::names::UserId;

/// How long a client waits for a place: the end of the connection that it had before may be on its way here.
const WAIT: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub struct Users {
    most: Option<u32>,
    sockets: KeyedSemaphore<UserId>,
}

impl Users {
    /// `None`: there is no limit.
    pub fn new(most: Option<u32>) -> Self {
        Self { most, sockets: KeyedSemaphore::default() }
    }

    /// A place for one more socket of this user; `None` where nobody counts.
    ///
    /// # Errors
    /// The [`Refusal`] for one too many.
    pub async fn enter(&self, user: &UserId) -> Result<Option<KeyedPermit<UserId>>, Refusal> {
        let Some(most) = self.most else { return Ok(None) };
        let began = Instant::now();
        loop {
            if let Some(place) = self.sockets.try_acquire(user, most) {
                return Ok(Some(place));
            }
            if began.elapsed() >= WAIT {
                return Err(Refusal::sockets_too_many(most));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
