//! The reconciler: keeps the directory equal to the roster.
//!
//! Owns the commands that add and remove owner entries and write socket entries. Also owns the wait of a joining client until
//! its rooms are owned and this node is active ([`Reconciler::wait_until_owned`]). Owns no state of the rooms. It is
//! level-triggered: it takes pending work from the roster, and reports the answers to it.
//!
//! At most one command per room is in flight. A removal without an answer retires the incarnation, because it may still
//! run later and remove a newer entry (docs/ARCHITECTURE.md, rules 3 and 4).

mod in_flight;

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
use crate::telemetry::metrics::flushes::{DirectoryLag, FlushMetrics};
use in_flight::{CommandResult, InFlight};

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
    flushes: FlushMetrics,
}

impl Reconciler {
    pub fn new(
        roster: Arc<Roster>,
        membership: Arc<Membership>,
        directory: Arc<dyn Directory>,
        release_delay: Duration,
        flushes: FlushMetrics,
    ) -> Arc<Self> {
        let (release_delay, _) = watch::channel(release_delay);
        let (idle, _) = watch::channel(false);
        Arc::new(Self { roster, membership, directory, release_delay, idle, flushes })
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
    pub async fn wait_until_owned(&self, rooms: &[Room], within: Duration) -> Result<(), OwnershipTimeout> {
        timeout(within, self.until_owned(rooms)).await.map_err(|_elapsed| OwnershipTimeout(within))
    }

    async fn until_owned(&self, rooms: &[Room]) {
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
        let mut in_flight = InFlight::default();
        let mut flush = self.flushes.timer();
        let mut reassert = interval_at(Instant::now() + REASSERT_INTERVAL, REASSERT_INTERVAL);
        reassert.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lease_state = self.membership.lease_state();
        let mut release_delay = self.release_delay.subscribe();
        loop {
            let registered = lease_state.borrow_and_update().registered.is_some();
            let node = lease_state.borrow().node.clone();
            let now = Instant::now();
            in_flight.end_pauses(now);
            // Owner entries need a lease: without one, readers would remove them. An unavailable directory gets no command,
            // because every removal without an answer costs an incarnation.
            if registered && node == self.roster.incarnation() && self.roster.is_directory_available() {
                self.send_pending(&node, &mut in_flight, now);
            }
            self.idle.send_replace(in_flight.is_idle());
            flush.record(self.backlog(&in_flight));
            let wakeup = self.next_wakeup(&in_flight, now);
            tokio::select! {
                () = self.roster.work_pending() => {}
                _ = lease_state.changed() => {}
                _ = release_delay.changed() => {}
                Some(Ok(result)) = in_flight.commands.join_next() => self.handle_result(result, &mut in_flight),
                () = sleep_until(wakeup) => {}
                _ = reassert.tick() => {
                    if self.roster.is_directory_available() {
                        self.reassert(&node, &mut in_flight);
                    }
                }
            }
        }
    }

    fn backlog(&self, in_flight: &InFlight) -> DirectoryLag {
        let pending = self.roster.pending_counts();
        DirectoryLag {
            claims: pending.unowned + in_flight.unowned.len(),
            removals: pending.emptied + in_flight.unreleased.len(),
            seats: pending.writes,
            level: pending.unowned == 0 && pending.writes == 0 && in_flight.is_idle(),
        }
    }

    fn send_pending(&self, node: &NodeId, in_flight: &mut InFlight, now: Instant) {
        self.roster.republish_index_state();
        in_flight.set_incarnation(node);
        in_flight.unowned.extend(self.roster.take_unowned());
        in_flight.retired.extend(self.roster.take_retired());
        if in_flight.add_after.is_none() {
            self.request_ownership(node, in_flight);
        }
        if in_flight.remove_after.is_none() {
            self.send_removals(node, in_flight, now);
        }
        if in_flight.write_after.is_none() && !in_flight.writing {
            self.send_socket_writes(node, in_flight);
        }
    }

    fn request_ownership(&self, node: &NodeId, in_flight: &mut InFlight) {
        let InFlight { unowned, rooms, foreign, .. } = in_flight;
        let wanted = unowned.extract_if(|room| !rooms.contains(room) && !foreign.contains(room)).collect();
        let requested = self.roster.request_ownership(node, wanted);
        for room in &requested {
            in_flight.unreleased.remove(room);
        }
        self.add_owner(node, &requested, in_flight);
    }

    fn send_removals(&self, node: &NodeId, in_flight: &mut InFlight, now: Instant) {
        if let Some(emptied_before) = now.checked_sub(*self.release_delay.borrow()) {
            let emptied = self.roster.take_emptied(node, emptied_before, &in_flight.rooms);
            in_flight.unreleased.extend(emptied);
        }
        let InFlight { unreleased, rooms, .. } = in_flight;
        let releasing: Vec<Room> = unreleased.extract_if(|room| !rooms.contains(room)).collect();
        for rooms in releasing.chunks(MAX_ROOMS_PER_COMMAND) {
            let (directory, node, rooms) = (Arc::clone(&self.directory), node.clone(), rooms.to_vec());
            in_flight.rooms.extend(rooms.iter().cloned());
            in_flight.commands.spawn(async move {
                let answer = directory.remove_owner(&node, &rooms).await;
                CommandResult::RemovedOwner { node, rooms, answer }
            });
        }

        // Peers may still have a status by which the retired incarnation is fully indexed, and skip it in rooms without its
        // entry. So its entries are removed only after every room has an entry of the current incarnation.
        let fully_indexed = self.roster.index_state().borrow().fully_indexed_in.is_some();
        for retired in in_flight.retired.extract_if(.., |_| fully_indexed) {
            let directory = Arc::clone(&self.directory);
            in_flight.commands.spawn(async move {
                let answer = remove_retired(&*directory, &retired).await;
                CommandResult::RemovedRetired { retired, answer }
            });
        }
    }

    fn send_socket_writes(&self, node: &NodeId, in_flight: &mut InFlight) {
        let mut writes = self.roster.take_writes(node, MAX_SOCKETS_PER_COMMAND);
        if writes.is_empty() {
            return;
        }
        // Sorted, so that the directory can send one command per room and direction.
        writes.sort_by(|one, next| (&one.entry.room, one.present).cmp(&(&next.entry.room, next.present)));
        in_flight.writing = true;
        let (directory, node) = (Arc::clone(&self.directory), node.clone());
        in_flight.commands.spawn(async move {
            let answer = directory.write_sockets(&node, &writes).await;
            CommandResult::WroteSockets { node, writes, answer }
        });
    }

    fn add_owner(&self, node: &NodeId, rooms: &[Room], in_flight: &mut InFlight) {
        for rooms in rooms.chunks(MAX_ROOMS_PER_COMMAND) {
            let (directory, node, rooms) = (Arc::clone(&self.directory), node.clone(), rooms.to_vec());
            in_flight.rooms.extend(rooms.iter().cloned());
            in_flight.commands.spawn(async move {
                let answer = directory.add_owner(&node, &rooms).await;
                CommandResult::AddedOwner { node, rooms, answer }
            });
        }
    }

    /// Writes all owner entries again, and repeats the removals and writes that a late command may have undone.
    fn reassert(&self, node: &NodeId, in_flight: &mut InFlight) {
        in_flight.unowned.extend(in_flight.foreign.drain());
        let owned = self.roster.owned_rooms();
        let rooms: Vec<Room> = owned.into_iter().filter(|room| !in_flight.rooms.contains(room)).collect();
        self.add_owner(node, &rooms, in_flight);
        in_flight.unreleased.extend(self.roster.without_ownership(in_flight.uncertain_rooms.drain()));
        self.roster.requeue_writes(node, in_flight.uncertain_writes.drain());
    }

    fn handle_result(&self, result: CommandResult, in_flight: &mut InFlight) {
        match result {
            CommandResult::AddedOwner { node, rooms, answer } => {
                in_flight.finish(&rooms);
                match answer {
                    Ok(Some(epoch)) if self.roster.check_epoch(&node, &epoch) => {
                        self.roster.confirm_ownership(&node, &rooms);
                    }
                    Ok(_) => self.roster.retire(&node),
                    Err(error) => self.handle_failed_addition(&node, rooms, &error, in_flight),
                }
            }
            CommandResult::RemovedOwner { node, rooms, answer } => {
                in_flight.finish(&rooms);
                if let Err(error) = answer {
                    self.handle_failed_removal(node, rooms, error, in_flight);
                }
            }
            CommandResult::WroteSockets { node, writes, answer } => {
                in_flight.writing = false;
                // After a full batch, the next one follows at once.
                in_flight.write_after =
                    (writes.len() < MAX_SOCKETS_PER_COMMAND).then(|| Instant::now() + SOCKET_WRITE_INTERVAL);
                if let Err(error) = answer {
                    debug!(%error, "directory did not write the socket entries; retrying");
                    let entries: Vec<_> = writes.into_iter().map(|write| write.entry).collect();
                    if matches!(error, DirectoryError::Unanswered(_)) && in_flight.is_of(&node) {
                        in_flight.uncertain_writes.extend(entries.iter().cloned());
                    }
                    self.roster.requeue_writes(&node, entries);
                    in_flight.write_after = Some(Instant::now() + RETRY_DELAY);
                }
            }
            CommandResult::RemovedRetired { retired, answer } => {
                if let Err(error) = answer {
                    debug!(node = %retired.node, %error, "cannot remove a retired incarnation; retrying");
                    in_flight.retired.push(retired);
                    in_flight.remove_after = Some(Instant::now() + RETRY_DELAY);
                }
            }
        }
    }

    fn handle_failed_addition(
        &self,
        node: &NodeId,
        rooms: Vec<Room>,
        error: &DirectoryError,
        in_flight: &mut InFlight,
    ) {
        match error {
            DirectoryError::Refused(reason) | DirectoryError::Foreign(reason) if rooms.len() > 1 => {
                // A single room may be the cause, and must not delay the others.
                debug!(reason, "directory refused owner entries of several rooms; retrying one by one");
                for room in rooms {
                    self.add_owner(node, &[room], in_flight);
                }
            }
            DirectoryError::Foreign(_) => {
                self.roster.ownership_failed(node, &rooms);
                in_flight.foreign.extend(rooms);
            }
            DirectoryError::Refused(_) | DirectoryError::Unanswered(_) => {
                debug!(%error, "directory did not add owner entries; retrying");
                self.roster.ownership_failed(node, &rooms);
                if matches!(error, DirectoryError::Unanswered(_)) && in_flight.is_of(node) {
                    in_flight.uncertain_rooms.extend(rooms.iter().cloned());
                }
                in_flight.unowned.extend(rooms);
                in_flight.add_after = Some(Instant::now() + RETRY_DELAY);
            }
        }
    }

    fn handle_failed_removal(&self, node: NodeId, rooms: Vec<Room>, error: DirectoryError, in_flight: &mut InFlight) {
        match error {
            DirectoryError::Unanswered(reason) => {
                warn!(%node, reason, "directory did not answer a removal of owner entries; taking a new incarnation");
                self.roster.retire(&node);
                in_flight.retired.push(RetiredIncarnation { node, rooms });
            }
            DirectoryError::Refused(reason) | DirectoryError::Foreign(reason) => {
                debug!(reason, "directory refused to remove owner entries; retrying");
                if node == self.roster.incarnation() {
                    in_flight.unreleased.extend(rooms);
                } else {
                    in_flight.retired.push(RetiredIncarnation { node, rooms });
                }
                in_flight.remove_after = Some(Instant::now() + RETRY_DELAY);
            }
        }
    }

    /// The time of the next check for pending work, if no event wakes the loop earlier. `now`: the time of the last check, so
    /// that work which became due during it is not missed.
    fn next_wakeup(&self, in_flight: &InFlight, now: Instant) -> Instant {
        let release_delay = *self.release_delay.borrow();
        let release = self.roster.first_emptied().map(|emptied| emptied + release_delay);
        // A room that is due but in flight is checked when its command ends.
        let release = release.filter(|due| *due > now);
        let pauses = [release, in_flight.add_after, in_flight.remove_after, in_flight.write_after];
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
