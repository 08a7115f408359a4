//! What a node says of itself: the answer to `Describe`, and this node's own row.
//!
//! Owns the reading of it, from memory alone. The busiest rooms are read at most once a second, however many ask.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use smol_str::SmolStr;

use crate::clock::BootInstant;
use crate::membership::{Membership, NodeInfo};
use crate::names::{NodeId, Room};
use crate::roster::Roster;
use crate::telemetry::metrics::recent::{Recent, Series};

/// The most rooms that a node names, and as many as it is asked for here.
pub const ROOMS_MOST: usize = 100;
/// How old the busiest rooms may be.
const ROOMS_FOR: Duration = Duration::from_secs(1);
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// One node by its own word.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    pub node: NodeId,
    /// When the process started, RFC 3339.
    pub since: SmolStr,
    pub uptime: Duration,
    /// Of the program.
    pub version: SmolStr,
    pub sockets: u64,
    pub rooms: u64,
    /// The largest first, at most [`ROOMS_MOST`].
    pub busiest: Vec<(Room, u64)>,
    /// Its sockets are valid: it has a lease, or most members have acknowledged that they must ask it.
    pub is_active: bool,
    pub whole: bool,
    pub draining: bool,
    /// `None`: there is no lease, or none that was confirmed lately enough to last.
    pub lease_left: Option<Duration>,
    pub roll_calls: Series,
}

/// What reads it. Cheap to clone.
#[derive(Clone)]
pub struct Describer {
    pub roster: Arc<Roster>,
    pub membership: Arc<Membership>,
    recent: Recent,
    began: BootInstant,
    busiest: Arc<Mutex<Option<Busiest>>>,
}

#[derive(Clone)]
struct Busiest {
    read: BootInstant,
    rooms: Arc<[(Room, u64)]>,
}

impl Describer {
    pub fn new(roster: Arc<Roster>, membership: Arc<Membership>, recent: Recent) -> Self {
        Self { roster, membership, recent, began: BootInstant::now(), busiest: Arc::default() }
    }

    pub fn node_info(&self) -> &NodeInfo {
        self.membership.node_info()
    }

    /// This node now, with up to `rooms` of its busiest rooms.
    pub async fn describe(&self, rooms: usize) -> Description {
        let busiest = self.busiest().await;
        let (size, word) = (self.roster.size(), self.roster.index_state().borrow().clone());
        Description {
            node: word.incarnation.clone(),
            since: self.node_info().since.clone(),
            uptime: self.began.elapsed(),
            version: VERSION.into(),
            sockets: size.sockets as u64,
            rooms: size.rooms as u64,
            busiest: busiest.iter().take(rooms).cloned().collect(),
            is_active: self.membership.is_active(),
            whole: word.fully_indexed_in.is_some(),
            draining: self.membership.is_draining(),
            lease_left: self.membership.lease_left(&word.incarnation),
            roll_calls: self.recent.series(),
        }
    }

    /// Whoever asks while they are read reads them as well: that is rarer than it is expensive.
    async fn busiest(&self) -> Arc<[(Room, u64)]> {
        let held = self.lock().clone();
        if let Some(Busiest { rooms, .. }) = held.filter(|busiest| busiest.read.elapsed() < ROOMS_FOR) {
            return rooms;
        }
        let read = BootInstant::now();
        let rooms = self.roster.busiest(ROOMS_MOST).await;
        let rooms: Arc<[_]> = rooms.into_iter().map(|(room, sockets)| (room, sockets as u64)).collect();
        *self.lock() = Some(Busiest { read, rooms: Arc::clone(&rooms) });
        rooms
    }

    fn lock(&self) -> MutexGuard<'_, Option<Busiest>> {
        self.busiest.lock().expect("no code panics while it holds the busiest rooms")
    }
}
