//! The roster itself: rooms, rows, versions and pending index work under one lock.
//!
//! Owns the data and the rules that keep it consistent while rows come and go, and the reads. The rules of ownership are
//! in [`ownership`](super::ownership), which works on the same locked state. Versions come from one counter per process,
//! so that a room that empties and fills again never repeats a version that a reader may have cached.

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem;
use std::sync::Arc;

use indexmap::IndexMap;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::change_log::ChangeLog;
use super::change_log::{CachedVersion, RoomSnapshot, Row, RowsUpdate};
use super::pending_writes::PendingWrites;
use crate::index::{Epoch, SocketEntry};
use crate::names::{NodeId, Room, SocketId, UserId};

/// The state of this node's entries in the index, as its peers learn it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexState {
    pub incarnation: NodeId,
    /// The epoch in which the index lists this node as an owner of every room of its roster. `None` while a room may be
    /// missing: then peers must ask this node for every room.
    pub fully_indexed_in: Option<Epoch>,
}

/// The number of sockets and of rooms with sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RosterSize {
    pub sockets: usize,
    pub rooms: usize,
}

/// Totals since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RosterCounters {
    /// Sockets that were registered.
    pub registered: u64,
    /// Sockets that were closed.
    pub closed: u64,
    /// Rows that were added to a room.
    pub joined: u64,
    /// Rows that were removed from a room, including those of closed sockets.
    pub left: u64,
}

/// The roster of one process. Every method takes the lock once.
pub struct Roster {
    state: Mutex<RosterState>,
    work_pending: Notify,
    index_state: watch::Sender<IndexState>,
}

/// A counter instead of the socket id, because a client that leaves and reconnects on one transport keeps its id.
pub(super) type RegistrationId = u64;

pub(super) struct RosterState {
    pub(super) incarnation: NodeId,
    /// The epoch in which this incarnation registered, once it has.
    pub(super) epoch: Option<Epoch>,
    pub(super) directory_unavailable: bool,
    /// The number of rooms with [`RoomState::acked_unowned`]. The node is fully indexed only if it is 0.
    pub(super) acked_unowned: usize,
    last_version: u64,
    last_registration: RegistrationId,
    pub(super) sockets: HashMap<RegistrationId, SocketRecord>,
    by_socket: HashMap<SocketId, RegistrationId>,
    /// Indexed, so that the walk can read it in slices. The order has no meaning.
    pub(super) rooms: IndexMap<Room, RoomState>,
    /// The number of rooms that have rows.
    occupied: usize,
    counters: RosterCounters,
    pub(super) pending: PendingWork,
}

pub(super) struct SocketRecord {
    pub(super) socket: SocketId,
    user: UserId,
    pub(super) rooms: Vec<Room>,
    /// Its connect middleware has ended, so the namespace is expected to list it.
    pub(super) connected: bool,
    /// The last comparison did not find it in the namespace.
    missed: bool,
}

#[derive(Default)]
pub(super) struct RoomState {
    version: u64,
    pub(super) rows: IndexMap<SocketId, UserId>,
    log: ChangeLog,
    pub(super) ownership: Ownership,
    /// When the last row was removed, while there is none.
    pub(super) emptied: Option<Instant>,
    /// Sockets may have been acknowledged while the room was not owned.
    pub(super) acked_unowned: bool,
    /// Notified when the ownership is confirmed.
    pub(super) waiters: Vec<oneshot::Sender<()>>,
}

/// This node's entry in the owner set of a room, as far as this node knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Ownership {
    /// The entry is absent, and no command is under way that would add it.
    #[default]
    None,
    /// A command that adds the entry was sent. The entry may or may not exist.
    Requested,
    /// The directory has confirmed the entry.
    Confirmed,
}

/// A retired incarnation, and the rooms whose owner sets may still contain it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetiredIncarnation {
    pub node: NodeId,
    pub rooms: Vec<Room>,
}

/// Work for the reconciler.
#[derive(Default)]
pub(super) struct PendingWork {
    pub(super) unowned: HashSet<Room>,
    pub(super) emptied: VecDeque<(Instant, Room)>,
    pub(super) writes: PendingWrites,
    pub(super) retired: Vec<RetiredIncarnation>,
}

impl Roster {
    pub fn new(incarnation: NodeId) -> Arc<Self> {
        let (index_state, _) = watch::channel(IndexState { incarnation: incarnation.clone(), fully_indexed_in: None });
        let state = RosterState {
            incarnation,
            epoch: None,
            directory_unavailable: false,
            acked_unowned: 0,
            last_version: 0,
            last_registration: 0,
            sockets: HashMap::new(),
            by_socket: HashMap::new(),
            rooms: IndexMap::new(),
            occupied: 0,
            counters: RosterCounters::default(),
            pending: PendingWork::default(),
        };
        Arc::new(Self { state: Mutex::new(state), work_pending: Notify::new(), index_state })
    }

    /// Returns the current rows of a room, relative to the version that the reader has cached.
    ///
    /// A read of a room that has rows but no confirmed owner entry requests one at once: the entry was lost or is late.
    pub fn snapshot(&self, room: &Room, cached: Option<CachedVersion>) -> RoomSnapshot {
        self.snapshot_up_to(room, cached, usize::MAX).expect("no room has more rows")
    }

    /// Like [`snapshot`](Self::snapshot), but returns `None`, and copies no row, if the update would exceed `max_rows`.
    pub fn snapshot_up_to(&self, room: &Room, cached: Option<CachedVersion>, max_rows: usize) -> Option<RoomSnapshot> {
        let mut state = self.lock();
        let node = state.incarnation.clone();
        let Some(found) = state.rooms.get(room).filter(|found| !found.rows.is_empty()) else {
            return Some(RoomSnapshot { node, version: 0, update: RowsUpdate::Full(Vec::new()) });
        };
        let version = found.version;
        let update = if cached.is_some_and(|cached| cached.version == version) {
            Some(RowsUpdate::Unchanged)
        } else {
            let delta = cached
                .filter(|cached| cached.accepts_delta)
                .and_then(|cached| found.log.since(cached.version, &found.rows))
                .filter(|delta| delta.removed.len() + delta.added.len() <= max_rows);
            let full = || (found.rows.len() <= max_rows).then(|| RowsUpdate::Full(found.copy_rows()));
            delta.map(RowsUpdate::Delta).or_else(full)
        };
        if found.ownership != Ownership::Confirmed {
            state.pending.unowned.insert(room.clone());
            self.notify_reconciler();
        }
        Some(RoomSnapshot { node, version, update: update? })
    }

    /// Returns the rows of those `ids` that are here, and in `room` if one is given. A repeated id yields one row.
    pub fn find(&self, ids: &[SocketId], room: Option<&Room>) -> RoomSnapshot {
        let state = self.lock();
        let mut seen = HashSet::with_capacity(ids.len());
        let rows = ids
            .iter()
            .filter(|id| seen.insert(*id))
            .filter_map(|id| state.by_socket.get(id))
            .filter_map(|id| state.sockets.get(id))
            .filter(|record| room.is_none_or(|room| record.rooms.contains(room)))
            .map(|record| Row { id_socket: record.socket.clone(), id_user: record.user.clone() })
            .collect();
        RoomSnapshot { node: state.incarnation.clone(), version: 0, update: RowsUpdate::Full(rows) }
    }

    /// Closes the sockets that were missing from `live` in this call and in the one before it. Returns their number.
    ///
    /// Every one of them is a bug, since a registration ends with its socket. Two calls in a row, because a socket may
    /// enter or leave the namespace while `live` is collected; sockets that are still connecting are not compared.
    pub fn close_missing(&self, live: &HashSet<SocketId>) -> usize {
        let mut state = self.lock();
        let mut missing = Vec::new();
        for (id, record) in &mut state.sockets {
            let absent = record.connected && !live.contains(&record.socket);
            if absent && record.missed {
                missing.push(*id);
            }
            record.missed = absent;
        }
        for id in &missing {
            state.close(*id);
        }
        drop(state);
        if !missing.is_empty() {
            self.notify_reconciler();
        }
        missing.len()
    }

    pub fn size(&self) -> RosterSize {
        let state = self.lock();
        RosterSize { sockets: state.sockets.len(), rooms: state.occupied }
    }

    pub fn counters(&self) -> RosterCounters {
        self.lock().counters
    }

    /// This node's index state, and every change of it.
    pub fn index_state(&self) -> watch::Receiver<IndexState> {
        self.index_state.subscribe()
    }

    /// Waits until there may be work for the reconciler.
    pub(crate) async fn work_pending(&self) {
        self.work_pending.notified().await;
    }

    pub(super) fn notify_reconciler(&self) {
        self.work_pending.notify_one();
    }

    pub(super) fn publish(&self, state: &RosterState) {
        let fully_indexed_in = state.fully_indexed_in().cloned();
        let index_state = IndexState { incarnation: state.incarnation.clone(), fully_indexed_in };
        self.index_state.send_if_modified(|published| {
            let changed = *published != index_state;
            *published = index_state;
            changed
        });
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, RosterState> {
        self.state.lock()
    }
}

impl RosterState {
    pub(super) fn fully_indexed_in(&self) -> Option<&Epoch> {
        self.epoch.as_ref().filter(|_| self.acked_unowned == 0 && !self.directory_unavailable)
    }

    pub(super) fn register(&mut self, socket: SocketId, user: UserId, rooms: &[Room]) -> RegistrationId {
        if let Some(older) = self.by_socket.get(&socket).copied() {
            self.close(older);
        }
        self.last_registration += 1;
        self.counters.registered += 1;
        let id = self.last_registration;
        self.by_socket.insert(socket.clone(), id);
        self.sockets.insert(id, SocketRecord { socket, user, rooms: Vec::new(), connected: false, missed: false });
        for room in rooms {
            self.add_row(id, room);
        }
        id
    }

    pub(super) fn add_row(&mut self, id: RegistrationId, room: &Room) {
        let Some(record) = self.sockets.get_mut(&id) else { return };
        if record.rooms.contains(room) {
            return;
        }
        record.rooms.push(room.clone());
        self.last_version += 1;
        self.counters.joined += 1;
        let entry = self.rooms.entry(room.clone()).or_default();
        if entry.rows.is_empty() {
            self.occupied += 1;
        }
        entry.rows.insert(record.socket.clone(), record.user.clone());
        entry.set_version(self.last_version, &record.socket, true);
        entry.emptied = None;
        if entry.ownership != Ownership::Confirmed {
            self.pending.unowned.insert(room.clone());
        }
        self.pending.writes.add(SocketEntry { room: room.clone(), socket: record.socket.clone() });
    }

    pub(super) fn remove_row(&mut self, room: &Room, socket: &SocketId) {
        let Some(entry) = self.rooms.get_mut(room) else { return };
        if entry.rows.swap_remove(socket).is_none() {
            return;
        }
        self.last_version += 1;
        entry.set_version(self.last_version, socket, false);
        self.pending.writes.remove(SocketEntry { room: room.clone(), socket: socket.clone() });
        self.counters.left += 1;
        if !entry.rows.is_empty() {
            return;
        }
        self.occupied -= 1;
        // The room stays until its ownership is released; its rows should not keep the memory of a crowd until then.
        entry.rows.shrink_to_fit();
        if entry.acked_unowned {
            entry.acked_unowned = false;
            self.acked_unowned -= 1;
        }
        if entry.ownership == Ownership::None {
            self.rooms.swap_remove(room);
        } else {
            let now = Instant::now();
            entry.emptied = Some(now);
            self.pending.emptied.push_back((now, room.clone()));
        }
    }

    /// Returns whether the registration was open.
    pub(super) fn close(&mut self, id: RegistrationId) -> bool {
        let Some(record) = self.sockets.remove(&id) else {
            return false;
        };
        self.counters.closed += 1;
        for room in &record.rooms {
            self.remove_row(room, &record.socket);
        }
        // A newer registration may have taken the socket id over.
        if self.by_socket.get(&record.socket) == Some(&id) {
            self.by_socket.remove(&record.socket);
        }
        true
    }
}

impl RoomState {
    fn copy_rows(&self) -> Vec<Row> {
        self.rows.iter().map(|(socket, user)| Row { id_socket: socket.clone(), id_user: user.clone() }).collect()
    }

    /// Sets the version that the addition or removal of a socket has made.
    fn set_version(&mut self, version: u64, socket: &SocketId, added: bool) {
        let since = mem::replace(&mut self.version, version);
        self.log.record(since, socket, added, self.rows.len());
    }
}
