//! The announcer: sends this node's status to every member that has not acknowledged it.
//!
//! Owns the repetition. It is level-triggered: each round compares the current status with the last one that each member
//! acknowledged. So a status that changed twice is sent once, and a member that joined later gets its hello. Without changes
//! it sends nothing. While some node is not fully indexed or has no lease, all nodes repeat their status, because it names
//! the nodes that they have heard. A peer whose circuit is open gets an announcement in every round, to detect its return.
//! An announcement to a suspect is also the question whether it lives: only a failure lets it die. Tests: the simulation
//! (`tests/simulation/main.rs`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use smol_str::SmolStr;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::table::StatusReceiver;
use super::{DrainState, Membership};
use crate::clock::BootInstant;
use crate::mesh::answers::PeerError;
use crate::mesh::node_status::NodeStatus;
use crate::mesh::peers::Peers;
use crate::names::NodeId;

const MAX_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause after a failed announcement.
const MAX_RETRY_DELAY: Duration = Duration::from_millis(250);

/// The number of repetitions per lease while the cluster is degraded. The last answer is then always younger than ¾ of a
/// lease, up to which nodes rely on it.
const REPEATS_PER_LEASE: u32 = 5;

/// The limit of announcements in flight to members that may be invented.
const MAX_UNVERIFIED_DIALS: usize = 4;

/// The announcements in flight, and the recent failures.
#[derive(Default)]
struct Announcements {
    in_flight: JoinSet<Announcement>,
    /// Members with an announcement in flight or a recent failure, and the earliest time of the next announcement.
    not_before: HashMap<NodeId, Instant>,
    /// The number of announcements in flight to unverified members.
    unverified: usize,
}

/// The result of one announcement.
struct Announcement {
    receiver: StatusReceiver,
    sequence: u64,
    sent: BootInstant,
    answer: Result<NodeStatus, PeerError>,
}

impl Membership {
    /// Announces this node's status. Never returns.
    pub async fn announce(&self, peers: &Peers) {
        let mut index_state = self.roster.index_state();
        let mut lease_state = self.lease_state();
        let mut announcements = Announcements::default();
        let retry_delay = retry_delay(self.lease);
        loop {
            let incarnation = index_state.borrow_and_update().incarnation.clone();
            let (registered, joined) = {
                let state = lease_state.borrow_and_update();
                (state.registered(&incarnation).is_some(), state.joined)
            };
            // The first hello is sent after the registration: other nodes remove a member that is not registered.
            if registered || joined || *self.drain_state.borrow() == DrainState::Goodbye {
                let now = Instant::now();
                announcements.not_before.retain(|_, earliest| *earliest > now);
                self.send_status(peers, &mut announcements);
                // Without members there are no acknowledgements to wait for.
                self.complete_birth();
            }
            tokio::select! {
                Some(Ok(announcement)) = announcements.in_flight.join_next() => {
                    announcements.unverified -= usize::from(!announcement.receiver.is_verified);
                    announcements.not_before.remove(&announcement.receiver.node);
                    if let Err(node) = self.finish(announcement) {
                        announcements.not_before.insert(node, Instant::now() + retry_delay);
                    }
                }
                () = self.status_changed.notified() => {}
                _ = index_state.changed() => {}
                _ = lease_state.changed() => {}
                () = sleep(retry_delay) => {}
            }
        }
    }

    /// Starts an announcement to each member that needs one. Members that may be invented are dialled a few at a time.
    fn send_status(&self, peers: &Peers, announcements: &mut Announcements) {
        let status = Arc::new(self.own_status());
        let now = BootInstant::now();
        let (addresses, receivers) = {
            let table = self.table.lock();
            let addresses: HashSet<SmolStr> = table.addresses().cloned().collect();
            let mut receivers = table.status_receivers(status.sequence, now, self.lease / REPEATS_PER_LEASE);
            receivers.extend(table.members_at(|mesh| peers.is_circuit_open(mesh)));
            (addresses, receivers)
        };
        peers.retain(|mesh| addresses.contains(mesh));
        for receiver in receivers {
            let has_to_wait = !receiver.is_verified && announcements.unverified >= MAX_UNVERIFIED_DIALS;
            if has_to_wait || announcements.not_before.contains_key(&receiver.node) {
                continue;
            }
            let timeout = answer_timeout(self.lease);
            announcements.not_before.insert(receiver.node.clone(), Instant::now() + timeout + retry_delay(self.lease));
            announcements.unverified += usize::from(!receiver.is_verified);
            let (peers, status) = (peers.clone(), Arc::clone(&status));
            announcements.in_flight.spawn(async move {
                let sent = BootInstant::now();
                let answer = peers.announce(&receiver.mesh, &status, timeout).await;
                Announcement { receiver, sequence: status.sequence, sent, answer }
            });
        }
    }

    /// Applies the answer to an announcement, or the failure: of a suspect it is a sign of death (rule 6).
    ///
    /// # Errors
    /// The member, when it did not acknowledge.
    fn finish(&self, announcement: Announcement) -> Result<(), NodeId> {
        let Announcement { receiver: StatusReceiver { node, mesh, .. }, sequence, sent, answer } = announcement;
        let mut status = match answer {
            Ok(status) => status,
            Err(error) => {
                debug!(%node, %mesh, %error, "a member did not acknowledge the status of this node");
                if is_sign_of_absence(error) {
                    let change = self.table.lock().record_unanswered(&node, sent);
                    self.handle(&change);
                }
                return Err(node);
            }
        };
        // The peer has proved that it has this address, and nothing else. So it speaks for the process at this address, and
        // for no other address.
        let is_same_process = status.about.node.process() == node.process();
        if is_same_process {
            status.about.mesh = mesh;
            self.receive_status(&status);
        }
        if status.about.node != node {
            let change = self.table.lock().record_unanswered(&node, sent);
            self.handle(&change);
            return Err(node);
        }
        let change = self.table.lock().record_acknowledgement(&node, sequence, sent);
        self.handle(&change);
        self.acknowledgements.send_replace(());
        self.complete_birth();
        Ok(())
    }
}

/// The timeout of an announcement. A suspect is asked at least once more before its next lease could have ended.
fn answer_timeout(lease: Duration) -> Duration {
    MAX_ANSWER_TIMEOUT.min(lease / 2)
}

fn retry_delay(lease: Duration) -> Duration {
    MAX_RETRY_DELAY.min(lease / REPEATS_PER_LEASE / 2)
}

/// Whether the failure of an announcement is a sign that its receiver is gone. A node that is overloaded has answered.
fn is_sign_of_absence(error: PeerError) -> bool {
    match error {
        PeerError::Deadline | PeerError::Refused | PeerError::Failed => true,
        PeerError::Overloaded => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_member_is_asked_well_within_every_lease() {
        for seconds in 1..=60 {
            let lease = Duration::from_secs(seconds);
            let after_an_answer = lease / REPEATS_PER_LEASE + retry_delay(lease);
            assert!(after_an_answer < lease / 2, "{lease:?}: {after_an_answer:?}");
            let after_a_failure = answer_timeout(lease) + retry_delay(lease);
            assert!(after_a_failure < lease * 3 / 4, "{lease:?}: {after_a_failure:?}");
        }
    }
}
