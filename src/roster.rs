//! The roster: the sockets of *this* node by room, each with its user, and a version per room.
//!
//! Owns the only truth about this node's sockets, and with it, under the same lock, what the index must hold for it:
//! the incarnation, the claims of its rooms, and which rows changed since they were last written ([`claims`]), or since
//! a reader was told them ([`change_log`]).
//! Owns no connection to anything: sockets come in as [`Registration`]s, readers get one snapshot, and the registrar
//! carries what is due to the directory. Nothing is filtered at read time.

pub mod busiest;
pub mod change_log;
pub mod ownership;
mod pending_writes;
mod rows_update;
pub mod walk;

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard};

use indexmap::IndexMap;
use thiserror::Error;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use crate::index::{Epoch, SocketEntry};
use crate::names::{NodeId, Room, SocketId, UserId};
use change_log::Log;
use ownership::{Abandoned, Claim};
use pending_writes::DueSeats;

pub use rows_update::{CachedVersion, RoomSnapshot, Row, RowsUpdate};

/// A node's word on its claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexState {
    pub incarnation: NodeId,
    /// The index in which every room of the roster is claimed; `None` while one may be missing.
    pub fully_indexed_in: Option<Epoch>,
}

/// Why a presence did not take a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JoinError {
    #[error("the socket is gone")]
    Closed,
    #[error("the socket is in {0} rooms already")]
    TooManyRooms(usize),
}

/// The roster of one process. Shared by `Arc`; every method takes the lock once and holds it for no longer than its
/// own rows need.
pub struct Roster {
    state: Mutex<State>,
    /// Something is due for the registrar.
    due: Notify,
    index_state: watch::Sender<IndexState>,
}

/// One socket's place in the roster. Kept in the socket's extensions: when the last clone is dropped, by whatever
/// path the socket went, its rows go with it.
#[derive(Clone)]
pub struct Registration(Arc<RegistrationInner>);

struct RegistrationInner {
    roster: Arc<Roster>,
    key: RegistrationId,
}

/// A counter, not the socket id: a client that leaves and connects again on one transport keeps its id.
type RegistrationId = u64;

struct State {
    incarnation: NodeId,
    /// The index that this incarnation lives in, once its lease was written there.
    index: Option<Epoch>,
    /// The directory does not do what it is asked.
    away: bool,
    /// Rooms whose sockets may have been acknowledged without a claim. Whole means none.
    owing: usize,
    last_version: u64,
    last_presence: RegistrationId,
    presences: HashMap<RegistrationId, SocketRecord>,
    by_socket: HashMap<SocketId, RegistrationId>,
    /// In no order that means anything, but one that can be read in slices.
    rooms: IndexMap<Room, RoomState>,
    /// How many of the rooms have rows.
    occupied: usize,
    tally: Tally,
    due: Due,
}

struct SocketRecord {
    socket: SocketId,
    user: UserId,
    rooms: Vec<Room>,
    /// Its middleware has ended, so the live namespace is expected to know it.
    settled: bool,
    /// The last comparison did not find it in the live namespace.
    missed: bool,
}

#[derive(Default)]
struct RoomState {
    version: u64,
    rows: IndexMap<SocketId, UserId>,
    log: Log,
    claim: Claim,
    /// When the last row left, while there is none.
    emptied: Option<Instant>,
    /// Counted in `State::owing`.
    owed: bool,
    /// Notified when the claim is held.
    waiters: Vec<oneshot::Sender<()>>,
}

/// What the registrar has to carry to the directory.
#[derive(Default)]
struct Due {
    wanting: HashSet<Room>,
    emptied: VecDeque<(Instant, Room)>,
    seats: DueSeats,
    abandoned: Vec<Abandoned>,
}

impl Roster {
    pub fn new(incarnation: NodeId) -> Arc<Self> {
        let (index_state, _) = watch::channel(IndexState { incarnation: incarnation.clone(), fully_indexed_in: None });
        let state = State {
            incarnation,
            index: None,
            away: false,
            owing: 0,
            last_version: 0,
            last_presence: 0,
            presences: HashMap::new(),
            by_socket: HashMap::new(),
            rooms: IndexMap::new(),
            occupied: 0,
            tally: Tally::default(),
            due: Due::default(),
        };
        Arc::new(Self { state: Mutex::new(state), due: Notify::new(), index_state })
    }

    /// Gives a socket its place, with its first rooms. An older presence of the same socket id is closed in the same
    /// step, so a socket is never listed twice.
    pub fn register(self: &Arc<Self>, socket: SocketId, user: UserId, rooms: &[Room]) -> Registration {
        let mut state = self.lock();
        if let Some(older) = state.by_socket.get(&socket).copied() {
            state.close(older);
        }
        state.last_presence += 1;
        state.tally.registered += 1;
        let key = state.last_presence;
        state.by_socket.insert(socket.clone(), key);
        state.presences.insert(key, SocketRecord { socket, user, rooms: Vec::new(), settled: false, missed: false });
        for room in rooms {
            state.join(key, room);
        }
        drop(state);
        self.due.notify_one();
        Registration(Arc::new(RegistrationInner { roster: Arc::clone(self), key }))
    }

    /// The room's rows as they are now: all of them, or what makes them of those at the version `known`.
    ///
    /// Asking for a room that has rows and no claim hurries the claim.
    pub fn snapshot(&self, room: &Room, known: Option<CachedVersion>) -> RoomSnapshot {
        self.snapshot_up_to(room, known, usize::MAX).expect("no room has more rows")
    }

    /// The same, or `None` where more than `most` rows would have to be told. Then none was copied.
    pub fn snapshot_up_to(&self, room: &Room, known: Option<CachedVersion>, most: usize) -> Option<RoomSnapshot> {
        let mut state = self.lock();
        let node = state.incarnation.clone();
        let Some(found) = state.rooms.get(room).filter(|found| !found.rows.is_empty()) else {
            return Some(RoomSnapshot { node, version: 0, update: RowsUpdate::Full(Vec::new()) });
        };
        let version = found.version;
        let told = if known.is_some_and(|known| known.version == version) {
            Some(RowsUpdate::Unchanged)
        } else {
            let changes = known
                .filter(|known| known.accepts_delta)
                .and_then(|known| found.log.since(known.version, &found.rows))
                .filter(|changes| changes.removed.len() + changes.added.len() <= most);
            let all = || (found.rows.len() <= most).then(|| RowsUpdate::Full(found.all()));
            changes.map(RowsUpdate::Delta).or_else(all)
        };
        if found.claim != Claim::Held {
            state.due.wanting.insert(room.clone());
            self.due.notify_one();
        }
        Some(RoomSnapshot { node, version, update: told? })
    }

    /// Those of `ids` that are here, and in `room` where one is given. An id that is asked for twice is found once.
    pub fn find(&self, ids: &[SocketId], room: Option<&Room>) -> RoomSnapshot {
        let state = self.lock();
        let mut seen = HashSet::with_capacity(ids.len());
        let rows = ids
            .iter()
            .filter(|id| seen.insert(*id))
            .filter_map(|id| state.by_socket.get(id))
            .filter_map(|key| state.presences.get(key))
            .filter(|attendance| room.is_none_or(|room| attendance.rooms.contains(room)))
            .map(|attendance| Row { id_socket: attendance.socket.clone(), id_user: attendance.user.clone() })
            .collect();
        RoomSnapshot { node: state.incarnation.clone(), version: 0, update: RowsUpdate::Full(rows) }
    }

    /// Compares the roster with the sockets that are live, and closes what was absent twice in a row.
    /// Presences whose middleware has not ended are spared. Returns how many were closed: each is a bug somewhere.
    pub fn compare(&self, live: &HashSet<SocketId>) -> usize {
        let mut state = self.lock();
        let mut gone = Vec::new();
        for (key, attendance) in &mut state.presences {
            let absent = attendance.settled && !live.contains(&attendance.socket);
            if absent && attendance.missed {
                gone.push(*key);
            }
            attendance.missed = absent;
        }
        for key in &gone {
            state.close(*key);
        }
        drop(state);
        if !gone.is_empty() {
            self.due.notify_one();
        }
        gone.len()
    }

    /// How many sockets and rooms there are; for logs, readiness and tests.
    pub fn size(&self) -> Size {
        let state = self.lock();
        Size { sockets: state.presences.len(), rooms: state.occupied }
    }

    /// How many came and went since the process began.
    pub fn tally(&self) -> Tally {
        self.lock().tally
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the roster")
    }
}

/// See [`Roster::size`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub sockets: usize,
    pub rooms: usize,
}

/// See [`Roster::tally`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sockets that were given a place.
    pub registered: u64,
    /// Sockets that gave it up.
    pub closed: u64,
    /// Rows that were added to a room.
    pub joined: u64,
    /// Rows that were taken out of one, with their socket or without.
    pub left: u64,
}

impl Registration {
    /// Enters a room. A room it is in already is fine.
    ///
    /// # Errors
    /// [`JoinError::Closed`] once the presence was closed, [`JoinError::TooManyRooms`] beyond `most`.
    pub fn join(&self, room: &Room, most: usize) -> Result<(), JoinError> {
        let mut state = self.0.roster.lock();
        let Some(attendance) = state.presences.get(&self.0.key) else {
            return Err(JoinError::Closed);
        };
        if attendance.rooms.contains(room) {
            return Ok(());
        }
        if attendance.rooms.len() >= most {
            return Err(JoinError::TooManyRooms(most));
        }
        state.join(self.0.key, room);
        drop(state);
        self.0.roster.due.notify_one();
        Ok(())
    }

    /// Leaves a room. A room it is not in is fine.
    ///
    /// # Errors
    /// [`JoinError::Closed`] once the presence was closed.
    pub fn leave(&self, room: &Room) -> Result<(), JoinError> {
        let mut state = self.0.roster.lock();
        let Some(attendance) = state.presences.get_mut(&self.0.key) else {
            return Err(JoinError::Closed);
        };
        let Some(place) = attendance.rooms.iter().position(|joined| joined == room) else {
            return Ok(());
        };
        attendance.rooms.swap_remove(place);
        let socket = attendance.socket.clone();
        state.remove_row(room, &socket);
        drop(state);
        self.0.roster.due.notify_one();
        Ok(())
    }

    /// The middleware has ended: from now on the live namespace is expected to know this socket.
    pub fn settled(&self) {
        if let Some(attendance) = self.0.roster.lock().presences.get_mut(&self.0.key) {
            attendance.settled = true;
        }
    }

    /// Takes every row of this presence away. Doing it again is fine.
    pub fn close(&self) {
        self.0.close();
    }

    /// Closes this presence for as long as it is there, without keeping it.
    pub fn closer(&self) -> impl FnOnce() + Send + Sync + use<> {
        let keeper = Arc::downgrade(&self.0);
        move || {
            if let Some(keeper) = keeper.upgrade() {
                keeper.close();
            }
        }
    }
}

impl RegistrationInner {
    fn close(&self) {
        let closed = self.roster.lock().close(self.key);
        if closed {
            self.roster.due.notify_one();
        }
    }
}

impl Drop for RegistrationInner {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    /// Adds the row and a new version; `key` is present and not in the room.
    fn join(&mut self, key: RegistrationId, room: &Room) {
        let Some(attendance) = self.presences.get_mut(&key) else { return };
        if attendance.rooms.contains(room) {
            return;
        }
        attendance.rooms.push(room.clone());
        self.last_version += 1;
        self.tally.joined += 1;
        let entry = self.rooms.entry(room.clone()).or_default();
        if entry.rows.is_empty() {
            self.occupied += 1;
        }
        entry.rows.insert(attendance.socket.clone(), attendance.user.clone());
        entry.changed(self.last_version, &attendance.socket, true);
        entry.emptied = None;
        if entry.claim != Claim::Held {
            self.due.wanting.insert(room.clone());
        }
        self.due.seats.taken(SocketEntry { room: room.clone(), socket: attendance.socket.clone() });
    }

    fn remove_row(&mut self, room: &Room, socket: &SocketId) {
        let Some(entry) = self.rooms.get_mut(room) else { return };
        if entry.rows.swap_remove(socket).is_none() {
            return;
        }
        self.last_version += 1;
        entry.changed(self.last_version, socket, false);
        self.due.seats.left(SocketEntry { room: room.clone(), socket: socket.clone() });
        self.tally.left += 1;
        if !entry.rows.is_empty() {
            return;
        }
        self.occupied -= 1;
        // A crowd that left should not keep its memory for as long as the claim lingers.
        entry.rows.shrink_to_fit();
        if entry.owed {
            entry.owed = false;
            self.owing -= 1;
        }
        if entry.claim == Claim::None {
            self.rooms.swap_remove(room);
        } else {
            let now = Instant::now();
            entry.emptied = Some(now);
            self.due.emptied.push_back((now, room.clone()));
        }
    }

    /// Returns whether there was anything to close.
    fn close(&mut self, key: RegistrationId) -> bool {
        let Some(attendance) = self.presences.remove(&key) else {
            return false;
        };
        self.tally.closed += 1;
        for room in &attendance.rooms {
            self.remove_row(room, &attendance.socket);
        }
        if self.by_socket.get(&attendance.socket) == Some(&key) {
            self.by_socket.remove(&attendance.socket);
        }
        true
    }
}

impl RoomState {
    fn all(&self) -> Vec<Row> {
        self.rows.iter().map(|(socket, user)| Row { id_socket: socket.clone(), id_user: user.clone() }).collect()
    }

    /// The socket came or went, and the rows are at this version now.
    fn changed(&mut self, version: u64, socket: &SocketId, came: bool) {
        let since = mem::replace(&mut self.version, version);
        self.log.note(since, socket, came, self.rows.len());
    }
}

#[cfg(test)]
mod tests;
