//! The reconciler: keeps the directory equal to the roster.
//!
//! Owns the commands that claim rooms, give them back and list sockets, and the one wait of a client: until its rooms
//! are claimed and this node counts ([`Reconciler::settle`]). Owns no state of the rooms: what is due is asked of the
//! roster, level-triggered, and what was answered is told to it. One command per room is under way at a time; a
//! removal without an answer ends the incarnation, because it may still run later and take a newer claim away.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tracing::{debug, warn};

use crate::directory::{self, Directory, DirectoryError};
use crate::index::{Epoch, SocketEntry, SocketWrite};
use crate::membership::Membership;
use crate::names::{NodeId, Room};
use crate::roster::Roster;
use crate::roster::ownership::{Abandoned, Holding};
use crate::telemetry::metrics::flushes::{Behind, Flushes};

/// How long a claim outlives the room's last socket: a reload of the page costs nothing.
pub const RELEASE_DELAY: Duration = Duration::from_millis(1500);
/// How often held claims are asserted again.
const REASSERT_INTERVAL: Duration = Duration::from_secs(30);
/// How long after a failure a command is sent again.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// How long after a list was written the next one may be. Nobody waits for lists, and with one command for what comes in
/// this time instead of one for each two sockets, four nodes on two cores let in a tenth more clients per second.
pub const SOCKET_WRITE_INTERVAL: Duration = Duration::from_millis(10);
/// The most rooms in one command.
const MAX_ROOMS_PER_COMMAND: usize = 500;
/// The most seats in one command.
const MAX_SOCKETS_PER_COMMAND: usize = 1_000;

/// A client could not be told in time that its rooms are its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the directory did not confirm the rooms within {0:?}")]
pub struct OwnershipTimeout(Duration);

/// Shared by `Arc`.
pub struct Reconciler {
    roster: Arc<Roster>,
    membership: Arc<Membership>,
    directory: Arc<dyn Directory>,
    /// How long a claim outlives the room's last socket; nothing once this node leaves.
    release_delay: watch::Sender<Duration>,
    /// Nothing is due, and nothing is under way.
    equal: watch::Sender<bool>,
    flushes: Flushes,
}

/// What became of one command.
enum Done {
    Claimed { node: NodeId, rooms: Vec<Room>, answer: directory::Result<Option<Epoch>> },
    Released { node: NodeId, rooms: Vec<Room>, answer: directory::Result<()> },
    Listed { node: NodeId, changes: Vec<SocketWrite>, answer: directory::Result<()> },
    Cleared { abandoned: Abandoned, answer: directory::Result<()> },
}

/// What the loop remembers between two looks at the roster: commands under way, and those to be sent again.
#[derive(Default)]
struct InFlight {
    /// The incarnation that the rest is about.
    node: Option<NodeId>,
    commands: JoinSet<Done>,
    rooms: HashSet<Room>,
    listing: bool,
    wanting: HashSet<Room>,
    /// Rooms whose key is another program's: they are asked for again when claims are asserted.
    foreign: HashSet<Room>,
    unreleased: HashSet<Room>,
    abandoned: Vec<Abandoned>,
    /// What claims and lists were about that went unanswered: they may still run, after a later command to the contrary.
    doubtful_rooms: HashSet<Room>,
    doubtful_seats: HashSet<SocketEntry>,
    /// When commands of a kind may be sent again: after a failure, since what is refused must not slow the others; lists
    /// after any that was not full.
    claims_after: Option<Instant>,
    removals_after: Option<Instant>,
    lists_after: Option<Instant>,
}

impl InFlight {
    /// Forgets pauses that are over.
    fn resume(&mut self, now: Instant) {
        for pause in [&mut self.claims_after, &mut self.removals_after, &mut self.lists_after] {
            pause.take_if(|end| *end <= now);
        }
    }

    fn is_clear(&self) -> bool {
        let later = self.wanting.is_empty() && self.unreleased.is_empty() && self.abandoned.is_empty();
        later && self.commands.is_empty()
    }
}

impl Reconciler {
    pub fn new(
        roster: Arc<Roster>,
        membership: Arc<Membership>,
        directory: Arc<dyn Directory>,
        release_delay: Duration,
        flushes: Flushes,
    ) -> Arc<Self> {
        let (release_delay, _) = watch::channel(release_delay);
        let (equal, _) = watch::channel(false);
        Arc::new(Self { roster, membership, directory, release_delay, equal, flushes })
    }

    /// From now on claims go with the room's last socket.
    pub fn release_immediately(&self) {
        self.release_delay.send_replace(Duration::ZERO);
    }

    /// Ends when nothing of this node's rooms is in the directory.
    pub async fn wait_until_released(&self) {
        let mut equal = self.equal.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = equal.wait_for(|equal| *equal && self.roster.is_clear()).await;
    }

    /// Ends when a client that has joined these rooms may be told so.
    ///
    /// # Errors
    /// [`OwnershipTimeout`] after `within`: the client should be dropped, so that it tries again.
    pub async fn wait_until_owned(&self, rooms: &[Room], within: Duration) -> Result<(), OwnershipTimeout> {
        timeout(within, self.until_owned(rooms)).await.map_err(|_elapsed| OwnershipTimeout(within))
    }

    async fn until_owned(&self, rooms: &[Room]) {
        let mut standing = self.membership.standing();
        let mut word = self.roster.index_state();
        let mut acknowledgements = self.membership.acknowledgements();
        loop {
            // What is looked at below is looked at again when one of these has changed since.
            acknowledgements.mark_unchanged();
            standing.mark_unchanged();
            let node = word.borrow_and_update().incarnation.clone();
            let holding = self.roster.holding(&node, rooms);
            if matches!(holding, Holding::Held) && self.membership.may_acknowledge(&node) {
                return;
            }
            // The rooms are owed first, and then the answers are looked at: from the moment that they are sufficient
            // on, everybody asks this node until the rooms are claimed.
            if self.roster.owe(&node, rooms) && self.membership.everybody_asks(&node) {
                return;
            }
            let claimed = async {
                match holding {
                    // Ends when the claim was answered, or the room emptied.
                    Holding::Waiting(claimed) => drop(claimed.await),
                    Holding::Held => std::future::pending().await,
                }
            };
            // The senders live as long as this node, so waiting cannot fail.
            tokio::select! {
                () = claimed => {}
                _ = standing.changed() => {}
                _ = word.changed() => {}
                _ = acknowledgements.changed() => {}
            }
        }
    }

    /// Carries what is due to the directory, for ever.
    pub async fn run(&self) {
        let mut in_flight = InFlight::default();
        let mut flush = self.flushes.watch();
        let mut asserting = interval_at(Instant::now() + REASSERT_INTERVAL, REASSERT_INTERVAL);
        asserting.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut standing = self.membership.standing();
        let mut release_delay = self.release_delay.subscribe();
        loop {
            let entered = standing.borrow_and_update().entered.is_some();
            let node = standing.borrow().node.clone();
            // Claims follow the lease: without one, they would be repaired away.
            let now = Instant::now();
            in_flight.resume(now);
            // While the directory is away, removals would go unanswered, and each of those costs an incarnation.
            if entered && node == self.roster.incarnation() && !self.roster.is_directory_away() {
                self.look(&node, &mut in_flight, now);
            }
            self.equal.send_replace(in_flight.is_clear());
            flush.note(self.behind(&in_flight));
            let next = self.next_look(&in_flight, now);
            tokio::select! {
                () = self.roster.something_due() => {}
                _ = standing.changed() => {}
                _ = release_delay.changed() => {}
                Some(Ok(done)) = in_flight.commands.join_next() => self.file(done, &mut in_flight),
                () = sleep_until(next) => {}
                _ = asserting.tick() => {
                    if !self.roster.is_directory_away() {
                        self.assert_again(&node, &mut in_flight);
                    }
                }
            }
        }
    }

    /// What the directory is behind by.
    fn behind(&self, in_flight: &InFlight) -> Behind {
        let [wanting, emptied, seats] = self.roster.due();
        Behind {
            claims: wanting + in_flight.wanting.len(),
            removals: emptied + in_flight.unreleased.len(),
            seats,
            level: wanting == 0 && seats == 0 && in_flight.is_clear(),
        }
    }

    /// Sends what is due and not under way.
    fn look(&self, node: &NodeId, in_flight: &mut InFlight, now: Instant) {
        self.roster.republish();
        if in_flight.node.as_ref() != Some(node) {
            // What runs late for another incarnation is nobody's, and repaired by whoever reads it.
            in_flight.doubtful_rooms.clear();
            in_flight.doubtful_seats.clear();
            // What was still to be given back is left behind with the incarnation that held it.
            let rooms: Vec<Room> = in_flight.unreleased.drain().collect();
            if let Some(node) = in_flight.node.replace(node.clone()).filter(|_| !rooms.is_empty()) {
                in_flight.abandoned.push(Abandoned { node, rooms });
            }
        }
        in_flight.wanting.extend(self.roster.take_wanting());
        in_flight.abandoned.extend(self.roster.take_abandoned());
        if in_flight.claims_after.is_none() {
            self.send_claims(node, in_flight);
        }
        if in_flight.removals_after.is_none() {
            self.send_removals(node, in_flight, now);
        }
        if in_flight.lists_after.is_none() && !in_flight.listing {
            self.send_list(node, in_flight);
        }
    }

    fn send_claims(&self, node: &NodeId, in_flight: &mut InFlight) {
        let wanting = in_flight
            .wanting
            .extract_if(|room| !in_flight.rooms.contains(room) && !in_flight.foreign.contains(room))
            .collect();
        let asked = self.roster.ask_for(node, wanting);
        for room in &asked {
            in_flight.unreleased.remove(room);
        }
        self.claim(node, &asked, in_flight);
    }

    fn send_removals(&self, node: &NodeId, in_flight: &mut InFlight, now: Instant) {
        let emptied_before = now.checked_sub(*self.release_delay.borrow());
        let given =
            emptied_before.map(|before| self.roster.give_back(node, before, &in_flight.rooms)).unwrap_or_default();
        in_flight.unreleased.extend(given);
        let releasing: Vec<Room> = in_flight.unreleased.extract_if(|room| !in_flight.rooms.contains(room)).collect();
        for rooms in releasing.chunks(MAX_ROOMS_PER_COMMAND) {
            let (directory, node, rooms) = (Arc::clone(&self.directory), node.clone(), rooms.to_vec());
            in_flight.rooms.extend(rooms.iter().cloned());
            in_flight.commands.spawn(async move {
                let answer = directory.remove_owner(&node, &rooms).await;
                Done::Released { node, rooms, answer }
            });
        }

        // The others may still take the retired incarnation's word that it is whole. While its claims stand, they ask
        // it; they may go when every room has a claim of the present one.
        let whole = self.roster.index_state().borrow().fully_indexed_in.is_some();
        for abandoned in in_flight.abandoned.extract_if(.., |_| whole) {
            let directory = Arc::clone(&self.directory);
            in_flight.commands.spawn(async move {
                let answer = clear(&*directory, &abandoned).await;
                Done::Cleared { abandoned, answer }
            });
        }
    }

    fn send_list(&self, node: &NodeId, in_flight: &mut InFlight) {
        let mut changes = self.roster.take_seats(node, MAX_SOCKETS_PER_COMMAND);
        if changes.is_empty() {
            return;
        }
        changes.sort_by(|one, next| (&one.entry.room, one.present).cmp(&(&next.entry.room, next.present)));
        in_flight.listing = true;
        let (directory, node) = (Arc::clone(&self.directory), node.clone());
        in_flight.commands.spawn(async move {
            let answer = directory.write_sockets(&node, &changes).await;
            Done::Listed { node, changes, answer }
        });
    }

    fn claim(&self, node: &NodeId, rooms: &[Room], in_flight: &mut InFlight) {
        for rooms in rooms.chunks(MAX_ROOMS_PER_COMMAND) {
            let (directory, node, rooms) = (Arc::clone(&self.directory), node.clone(), rooms.to_vec());
            in_flight.rooms.extend(rooms.iter().cloned());
            in_flight.commands.spawn(async move {
                let answer = directory.add_owner(&node, &rooms).await;
                Done::Claimed { node, rooms, answer }
            });
        }
    }

    /// Claims are asserted with the command that makes them, so one that was lost comes back. What is doubtful is made
    /// true once more.
    fn assert_again(&self, node: &NodeId, in_flight: &mut InFlight) {
        in_flight.wanting.extend(in_flight.foreign.drain());
        let held = self.roster.held_rooms();
        let rooms: Vec<Room> = held.into_iter().filter(|room| !in_flight.rooms.contains(room)).collect();
        self.claim(node, &rooms, in_flight);
        in_flight.unreleased.extend(self.roster.unknown(in_flight.doubtful_rooms.drain()));
        self.roster.return_seats(node, in_flight.doubtful_seats.drain());
    }

    /// Tells the roster what was answered.
    fn file(&self, done: Done, in_flight: &mut InFlight) {
        match done {
            Done::Claimed { node, rooms, answer } => {
                free(&rooms, in_flight);
                match answer {
                    Ok(Some(index)) if self.roster.index_is(&node, &index) => self.roster.claimed(&node, &rooms),
                    Ok(_) => self.roster.retire(&node),
                    Err(DirectoryError::Refused(reason) | DirectoryError::Foreign(reason)) if rooms.len() > 1 => {
                        // One room may be at fault: from now on each answers for itself.
                        debug!(reason, "a claim of several rooms was refused, claiming them one by one");
                        for room in rooms {
                            self.claim(&node, &[room], in_flight);
                        }
                    }
                    Err(DirectoryError::Foreign(_)) => {
                        self.roster.unclaimed(&node, &rooms);
                        in_flight.foreign.extend(rooms);
                    }
                    Err(error) => {
                        debug!(%error, "a claim failed");
                        self.roster.unclaimed(&node, &rooms);
                        if matches!(error, DirectoryError::Unanswered(_)) && in_flight.node.as_ref() == Some(&node) {
                            in_flight.doubtful_rooms.extend(rooms.iter().cloned());
                        }
                        in_flight.wanting.extend(rooms);
                        in_flight.claims_after = Some(Instant::now() + RETRY_DELAY);
                    }
                }
            }
            Done::Released { node, rooms, answer } => {
                free(&rooms, in_flight);
                match answer {
                    Ok(()) => {}
                    Err(DirectoryError::Unanswered(reason)) => {
                        warn!(node = %node, reason, "a removal was not answered, taking a new incarnation");
                        self.roster.retire(&node);
                        in_flight.abandoned.push(Abandoned { node, rooms });
                    }
                    Err(DirectoryError::Refused(reason) | DirectoryError::Foreign(reason)) => {
                        debug!(reason, "a removal was refused");
                        if node == self.roster.incarnation() {
                            in_flight.unreleased.extend(rooms);
                        } else {
                            in_flight.abandoned.push(Abandoned { node, rooms });
                        }
                        in_flight.removals_after = Some(Instant::now() + RETRY_DELAY);
                    }
                }
            }
            Done::Listed { node, changes, answer } => {
                in_flight.listing = false;
                // A full one is followed at once by what did not fit.
                in_flight.lists_after =
                    (changes.len() < MAX_SOCKETS_PER_COMMAND).then(|| Instant::now() + SOCKET_WRITE_INTERVAL);
                if let Err(error) = answer {
                    debug!(%error, "sockets were not listed");
                    let seats: Vec<SocketEntry> = changes.into_iter().map(|change| change.entry).collect();
                    if matches!(error, DirectoryError::Unanswered(_)) && in_flight.node.as_ref() == Some(&node) {
                        in_flight.doubtful_seats.extend(seats.iter().cloned());
                    }
                    self.roster.return_seats(&node, seats);
                    in_flight.lists_after = Some(Instant::now() + RETRY_DELAY);
                }
            }
            Done::Cleared { abandoned, answer } => {
                if let Err(error) = answer {
                    debug!(node = %abandoned.node, %error, "what a retired incarnation left is still there");
                    in_flight.abandoned.push(abandoned);
                    in_flight.removals_after = Some(Instant::now() + RETRY_DELAY);
                }
            }
        }
    }

    /// `now` is when the last look began: what fell due since is looked at at once.
    fn next_look(&self, in_flight: &InFlight, now: Instant) -> Instant {
        let release_delay = *self.release_delay.borrow();
        let emptied = self.roster.next_emptied().map(|emptied| emptied + release_delay);
        // A room that is due to be given back but busy is looked at again when its command ends.
        let due = emptied.filter(|due| *due > now);
        let next =
            [due, in_flight.claims_after, in_flight.removals_after, in_flight.lists_after].into_iter().flatten().min();
        next.unwrap_or(now + REASSERT_INTERVAL)
    }
}

/// Removes what a retired incarnation left, its lease last.
async fn clear(directory: &dyn Directory, abandoned: &Abandoned) -> directory::Result<()> {
    for rooms in abandoned.rooms.chunks(MAX_ROOMS_PER_COMMAND) {
        directory.remove_owner(&abandoned.node, rooms).await?;
    }
    directory.deregister(&abandoned.node).await
}

fn free(rooms: &[Room], in_flight: &mut InFlight) {
    for room in rooms {
        in_flight.rooms.remove(room);
    }
}

#[cfg(test)]
mod tests;
