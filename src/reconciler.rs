//! The reconciler: keeps the directory equal to the roster.
//!
//! Owns the commands that add and remove owner entries and write socket entries. Also owns the wait of a joining client until
//! its rooms are owned and this node is active ([`Reconciler::wait_for_ownership`]). Owns no state of the rooms. It is
//! level-triggered: it takes pending work from the roster, and reports the answers to it.
//!
//! At most one command per room is in flight. A removal without an answer retires the incarnation, because it may still
//! run later and remove a newer entry (docs/ARCHITECTURE.md, rules 3 and 4).

mod state;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tracing::{debug, warn};

use crate::directory::{self, Directory, DirectoryError};
use crate::membership::Membership;
use crate::names::{NodeId, Room};
use crate::roster::Roster;
use crate::roster::ownership::{OwnershipStatus, RetiredIncarnation};
use crate::telemetry::metrics::directory_lag::{DirectoryLag, DirectoryLagMetrics};
use state::{CommandResult, ReconcilerState};

/// The time for which this node stays an owner of a room after its last socket left. A page reload then costs no command.
pub const RELEASE_DELAY: Duration = Duration::from_millis(1500);
/// The interval at which confirmed owner entries are written again, in case they were lost.
const REASSERT_INTERVAL: Duration = Duration::from_secs(30);
/// The pause after a failed command of a kind.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// The minimum interval between two batches of socket writes. No client waits for them, and with one command per
/// interval instead of one per two sockets, four nodes on two cores admit a tenth more clients per second.
pub const SOCKET_WRITE_INTERVAL: Duration = Duration::from_millis(10);
const MAX_ROOMS_PER_COMMAND: usize = 500;
const MAX_SOCKETS_PER_COMMAND: usize = 1_000;

/// The directory did not confirm the ownership of a client's rooms in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the directory did not confirm the rooms within {0:?}")]
pub struct OwnershipTimeout(Duration);

/// Keeps one roster and one directory equal. Shared by `Arc`.
pub struct Reconciler {
    roster: Arc<Roster>,
    membership: Arc<Membership>,
    directory: Arc<dyn Directory>,
    /// See [`RELEASE_DELAY`]. Zero once this node shuts down.
    release_delay: watch::Sender<Duration>,
    /// Whether there is neither pending work nor a command in flight.
    idle: watch::Sender<bool>,
    lag_metrics: DirectoryLagMetrics,
}

impl Reconciler {
    pub fn new(
        roster: Arc<Roster>,
        membership: Arc<Membership>,
        directory: Arc<dyn Directory>,
        release_delay: Duration,
        lag_metrics: DirectoryLagMetrics,
    ) -> Arc<Self> {
        let (release_delay, _) = watch::channel(release_delay);
        let (idle, _) = watch::channel(false);
        Arc::new(Self { roster, membership, directory, release_delay, idle, lag_metrics })
    }

    /// Ends the release delay: this node leaves the owner set of a room as soon as the last socket has left.
    pub fn release_immediately(&self) {
        self.release_delay.send_replace(Duration::ZERO);
    }

    /// Waits until the directory has no entry of this node's rooms.
    pub async fn wait_until_released(&self) {
        let mut idle = self.idle.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = idle.wait_for(|idle| *idle && self.roster.is_clear()).await;
    }

    /// Waits until a client that joined these rooms may be acknowledged (docs/ARCHITECTURE.md, rule 4).
    ///
    /// # Errors
    /// [`OwnershipTimeout`] after `within`. The caller should close the transport, so that the client tries again.
    pub async fn wait_for_ownership(&self, rooms: &[Room], within: Duration) -> Result<(), OwnershipTimeout> {
        timeout(within, self.ownership_settled(rooms)).await.map_err(|_elapsed| OwnershipTimeout(within))
    }

    async fn ownership_settled(&self, rooms: &[Room]) {
        let mut lease_state = self.membership.lease_state();
        let mut index_state = self.roster.index_state();
        let mut acknowledgements = self.membership.acknowledgements();
        loop {
            // Marked before the checks, so that a change during them wakes the select below.
            acknowledgements.mark_unchanged();
            lease_state.mark_unchanged();
            let node = index_state.borrow_and_update().incarnation.clone();
            let status = self.roster.ownership_status(&node, rooms);
            if matches!(status, OwnershipStatus::Owned) && self.membership.may_acknowledge(&node) {
                return;
            }
            // The order matters: first make sure that the node stays "not fully indexed" for these rooms, then check
            // that all members have acknowledged it. From that moment they ask this node until the rooms are owned.
            if self.roster.stay_not_fully_indexed(&node, rooms) && self.membership.is_asked_by_all(&node) {
                return;
            }
            let confirmed = async {
                match status {
                    // Resolves when the entry is confirmed, and fails when the room becomes empty: check again in both
                    // cases.
                    OwnershipStatus::Pending(confirmed) => drop(confirmed.await),
                    OwnershipStatus::Owned => std::future::pending().await,
                }
            };
            // The senders live as long as this node, so waiting cannot fail.
            tokio::select! {
                () = confirmed => {}
                _ = lease_state.changed() => {}
                _ = index_state.changed() => {}
                _ = acknowledgements.changed() => {}
            }
        }
    }

    /// Runs forever and carries pending work to the directory.
    pub async fn run(&self) {
        let mut state = ReconcilerState::default();
        let mut lag = self.lag_metrics.timer();
        let mut reassert = interval_at(Instant::now() + REASSERT_INTERVAL, REASSERT_INTERVAL);
        reassert.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lease_state = self.membership.lease_state();
        let mut release_delay = self.release_delay.subscribe();
        loop {
            let registered = lease_state.borrow_and_update().registered.is_some();
            let node = lease_state.borrow().node.clone();
            let now = Instant::now();
            state.end_pauses(now);
            // Owner entries need a lease: without one, readers would remove them. An unavailable directory gets no command,
            // because every removal without an answer costs an incarnation.
            if registered && node == self.roster.incarnation() && self.roster.is_directory_available() {
                self.send_pending(&node, &mut state, now);
            }
            self.idle.send_replace(state.is_idle());
            lag.record(self.directory_lag(&state));
            let wakeup = self.next_wakeup(&state, now);
            tokio::select! {
                () = self.roster.work_pending() => {}
                _ = lease_state.changed() => {}
                _ = release_delay.changed() => {}
                Some(Ok(result)) = state.commands.join_next() => self.handle_result(result, &mut state),
                () = sleep_until(wakeup) => {}
                _ = reassert.tick() => {
                    if self.roster.is_directory_available() {
                        self.reassert(&node, &mut state);
                    }
                }
            }
        }
    }

    fn directory_lag(&self, state: &ReconcilerState) -> DirectoryLag {
        let pending = self.roster.pending_counts();
        DirectoryLag {
            claims: pending.unowned + state.unowned.len(),
            removals: pending.emptied + state.unreleased.len(),
            seats: pending.writes,
            level: pending.unowned == 0 && pending.writes == 0 && state.is_idle(),
        }
    }

    fn send_pending(&self, node: &NodeId, state: &mut ReconcilerState, now: Instant) {
        self.roster.republish_index_state();
        state.set_incarnation(node);
        state.unowned.extend(self.roster.take_unowned());
        state.retired.extend(self.roster.take_retired());
        if state.add_after.is_none() {
            self.request_ownership(node, state);
        }
        if state.remove_after.is_none() {
            self.send_removals(node, state, now);
        }
        if state.write_after.is_none() && !state.writing {
            self.send_socket_writes(node, state);
        }
    }

    fn request_ownership(&self, node: &NodeId, state: &mut ReconcilerState) {
        let ReconcilerState { unowned, rooms, foreign, .. } = state;
        let wanted = unowned.extract_if(|room| !rooms.contains(room) && !foreign.contains(room)).collect();
        let requested = self.roster.request_ownership(node, wanted);
        for room in &requested {
            state.unreleased.remove(room);
        }
        self.add_owner(node, &requested, state);
    }

    fn send_removals(&self, node: &NodeId, state: &mut ReconcilerState, now: Instant) {
        if let Some(emptied_before) = now.checked_sub(*self.release_delay.borrow()) {
            let emptied = self.roster.take_emptied(node, emptied_before, &state.rooms);
            state.unreleased.extend(emptied);
        }
        let ReconcilerState { unreleased, rooms, .. } = state;
        let releasing: Vec<Room> = unreleased.extract_if(|room| !rooms.contains(room)).collect();
        for rooms in releasing.chunks(MAX_ROOMS_PER_COMMAND) {
            let (directory, node, rooms) = (Arc::clone(&self.directory), node.clone(), rooms.to_vec());
            state.rooms.extend(rooms.iter().cloned());
            state.commands.spawn(async move {
                let answer = directory.remove_owner(&node, &rooms).await;
                CommandResult::RemovedOwner { node, rooms, answer }
            });
        }

        // Peers may still have a status by which the retired incarnation is fully indexed, and skip it in rooms without its
        // entry. So its entries are removed only after every room has an entry of the current incarnation.
        let fully_indexed = self.roster.index_state().borrow().fully_indexed_in.is_some();
        for retired in state.retired.extract_if(.., |_| fully_indexed) {
            let directory = Arc::clone(&self.directory);
            state.commands.spawn(async move {
                let answer = remove_retired(&*directory, &retired).await;
                CommandResult::RemovedRetired { retired, answer }
            });
        }
    }

    fn send_socket_writes(&self, node: &NodeId, state: &mut ReconcilerState) {
        let mut writes = self.roster.take_writes(node, MAX_SOCKETS_PER_COMMAND);
        if writes.is_empty() {
            return;
        }
        // Sorted, so that the directory can send one command per room and direction.
        writes.sort_by(|one, next| (&one.entry.room, one.present).cmp(&(&next.entry.room, next.present)));
        state.writing = true;
        let (directory, node) = (Arc::clone(&self.directory), node.clone());
        state.commands.spawn(async move {
            let answer = directory.write_sockets(&node, &writes).await;
            CommandResult::WroteSockets { node, writes, answer }
        });
    }

    fn add_owner(&self, node: &NodeId, rooms: &[Room], state: &mut ReconcilerState) {
        for rooms in rooms.chunks(MAX_ROOMS_PER_COMMAND) {
            let (directory, node, rooms) = (Arc::clone(&self.directory), node.clone(), rooms.to_vec());
            state.rooms.extend(rooms.iter().cloned());
            state.commands.spawn(async move {
                let answer = directory.add_owner(&node, &rooms).await;
                CommandResult::AddedOwner { node, rooms, answer }
            });
        }
    }

    /// Writes all owner entries again, and repeats the removals and writes that a late command may have undone.
    fn reassert(&self, node: &NodeId, state: &mut ReconcilerState) {
        state.unowned.extend(state.foreign.drain());
        let owned = self.roster.owned_rooms();
        let rooms: Vec<Room> = owned.into_iter().filter(|room| !state.rooms.contains(room)).collect();
        self.add_owner(node, &rooms, state);
        state.unreleased.extend(self.roster.without_ownership(state.uncertain_rooms.drain()));
        self.roster.requeue_writes(node, state.uncertain_writes.drain());
    }

    fn handle_result(&self, result: CommandResult, state: &mut ReconcilerState) {
        match result {
            CommandResult::AddedOwner { node, rooms, answer } => {
                state.finish(&rooms);
                match answer {
                    Ok(Some(epoch)) if self.roster.check_epoch(&node, &epoch) => {
                        self.roster.confirm_ownership(&node, &rooms);
                    }
                    Ok(_) => self.roster.retire(&node),
                    Err(error) => self.handle_failed_addition(&node, rooms, &error, state),
                }
            }
            CommandResult::RemovedOwner { node, rooms, answer } => {
                state.finish(&rooms);
                if let Err(error) = answer {
                    self.handle_failed_removal(node, rooms, error, state);
                }
            }
            CommandResult::WroteSockets { node, writes, answer } => {
                state.writing = false;
                // After a full batch, the next one follows at once.
                state.write_after =
                    (writes.len() < MAX_SOCKETS_PER_COMMAND).then(|| Instant::now() + SOCKET_WRITE_INTERVAL);
                if let Err(error) = answer {
                    debug!(%error, "directory did not write the socket entries; retrying");
                    let entries: Vec<_> = writes.into_iter().map(|write| write.entry).collect();
                    if matches!(error, DirectoryError::Unanswered(_)) && state.is_of(&node) {
                        state.uncertain_writes.extend(entries.iter().cloned());
                    }
                    self.roster.requeue_writes(&node, entries);
                    state.write_after = Some(Instant::now() + RETRY_DELAY);
                }
            }
            CommandResult::RemovedRetired { retired, answer } => {
                if let Err(error) = answer {
                    debug!(node = %retired.node, %error, "cannot remove a retired incarnation; retrying");
                    state.retired.push(retired);
                    state.remove_after = Some(Instant::now() + RETRY_DELAY);
                }
            }
        }
    }

    fn handle_failed_addition(
        &self,
        node: &NodeId,
        rooms: Vec<Room>,
        error: &DirectoryError,
        state: &mut ReconcilerState,
    ) {
        match error {
            DirectoryError::Refused(reason) | DirectoryError::Foreign(reason) if rooms.len() > 1 => {
                // A single room may be the cause, and must not delay the others.
                debug!(reason, "directory refused owner entries of several rooms; retrying one by one");
                for room in rooms {
                    self.add_owner(node, &[room], state);
                }
            }
            DirectoryError::Foreign(_) => {
                self.roster.ownership_failed(node, &rooms);
                state.foreign.extend(rooms);
            }
            DirectoryError::Refused(_) | DirectoryError::Unanswered(_) => {
                debug!(%error, "directory did not add owner entries; retrying");
                self.roster.ownership_failed(node, &rooms);
                if matches!(error, DirectoryError::Unanswered(_)) && state.is_of(node) {
                    state.uncertain_rooms.extend(rooms.iter().cloned());
                }
                state.unowned.extend(rooms);
                state.add_after = Some(Instant::now() + RETRY_DELAY);
            }
        }
    }

    fn handle_failed_removal(
        &self,
        node: NodeId,
        rooms: Vec<Room>,
        error: DirectoryError,
        state: &mut ReconcilerState,
    ) {
        match error {
            DirectoryError::Unanswered(reason) => {
                warn!(%node, reason, "directory did not answer a removal of owner entries; taking a new incarnation");
                self.roster.retire(&node);
                state.retired.push(RetiredIncarnation { node, rooms });
            }
            DirectoryError::Refused(reason) | DirectoryError::Foreign(reason) => {
                debug!(reason, "directory refused to remove owner entries; retrying");
                if node == self.roster.incarnation() {
                    state.unreleased.extend(rooms);
                } else {
                    state.retired.push(RetiredIncarnation { node, rooms });
                }
                state.remove_after = Some(Instant::now() + RETRY_DELAY);
            }
        }
    }

    /// The time of the next check for pending work, if no event wakes the loop earlier. `now`: the time of the last check, so
    /// that work which became due during it is not missed.
    fn next_wakeup(&self, state: &ReconcilerState, now: Instant) -> Instant {
        let release_delay = *self.release_delay.borrow();
        let release = self.roster.first_emptied().map(|emptied| emptied + release_delay);
        // A room that is due but in flight is checked when its command ends.
        let release = release.filter(|due| *due > now);
        let pauses = [release, state.add_after, state.remove_after, state.write_after];
        pauses.into_iter().flatten().min().unwrap_or(now + REASSERT_INTERVAL)
    }
}

/// Removes the owner entries of a retired incarnation, and its lease last: without a lease, readers would remove the
/// entries too, but one by one.
async fn remove_retired(directory: &dyn Directory, retired: &RetiredIncarnation) -> directory::Result<()> {
    for rooms in retired.rooms.chunks(MAX_ROOMS_PER_COMMAND) {
        directory.remove_owner(&retired.node, rooms).await?;
    }
    directory.deregister(&retired.node).await
}

#[cfg(test)]
mod tests;
