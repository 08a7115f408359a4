//! The announcer: sends this node's status to every member that has not acknowledged it.
//!
//! Owns the repetition. It is level-triggered: each round compares the current status with the last one that each member
//! acknowledged. So a status that changed twice is sent once, and a member that joined later gets its hello. Without changes
//! it sends nothing. While some node is not fully indexed or has no lease, all nodes repeat their status, because it names
//! the nodes that they have heard. A peer whose circuit is open gets an announcement in every round, to detect its return.
//! An announcement to a suspect is also the question whether it lives: only a failure lets it die.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::debug;

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

/// The result of one announcement.
struct Announcement {
    node: NodeId,
    sequence: u64,
    sent: BootInstant,
    answer: Result<NodeStatus, PeerError>,
}

impl Membership {
    /// Announces this node's status. Never returns.
    pub async fn announce(&self, peers: &Peers) {
        let mut index_state = self.roster.index_state();
        let mut lease_state = self.lease_state();
        let mut in_flight: JoinSet<Announcement> = JoinSet::new();
        // Members with an announcement in flight or a recent failure, and the earliest time of the next announcement.
        let mut not_before: HashMap<NodeId, Instant> = HashMap::new();
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
                not_before.retain(|_, earliest| *earliest > now);
                self.send_status(peers, &mut in_flight, &mut not_before);
                // Without members there are no acknowledgements to wait for.
                self.complete_birth();
            }
            tokio::select! {
                Some(Ok(announcement)) = in_flight.join_next() => {
                    not_before.remove(&announcement.node);
                    if let Err(node) = self.finish(announcement) {
                        not_before.insert(node, Instant::now() + retry_delay);
                    }
                }
                () = self.status_changed.notified() => {}
                _ = index_state.changed() => {}
                _ = lease_state.changed() => {}
                () = sleep(retry_delay) => {}
            }
        }
    }

    /// Starts an announcement to each member that needs one.
    fn send_status(
        &self,
        peers: &Peers,
        in_flight: &mut JoinSet<Announcement>,
        not_before: &mut HashMap<NodeId, Instant>,
    ) {
        let status = self.own_status();
        peers.retain(|mesh| status.members.iter().any(|member| member.mesh == mesh));
        let now = BootInstant::now();
        let receivers = self.table.lock().status_receivers(status.sequence, now, self.lease / REPEATS_PER_LEASE);
        let circuit_open = status.members.iter().filter(|member| peers.is_circuit_open(&member.mesh));
        let circuit_open = circuit_open.map(|member| (member.node.clone(), member.mesh.clone()));
        for (node, mesh) in receivers.into_iter().chain(circuit_open) {
            if not_before.contains_key(&node) {
                continue;
            }
            let timeout = answer_timeout(self.lease);
            not_before.insert(node.clone(), Instant::now() + timeout + retry_delay(self.lease));
            let (peers, status) = (peers.clone(), status.clone());
            in_flight.spawn(async move {
                let sent = BootInstant::now();
                let answer = peers.announce(&mesh, &status, timeout).await;
                Announcement { node, sequence: status.sequence, sent, answer }
            });
        }
    }

    /// Applies the answer to an announcement, or the failure: of a suspect it is a sign of death (rule 6).
    ///
    /// # Errors
    /// The member, when it did not acknowledge.
    fn finish(&self, announcement: Announcement) -> Result<(), NodeId> {
        let Announcement { node, sequence, sent, answer } = announcement;
        let status = match answer {
            Ok(status) => status,
            Err(error) => {
                debug!(%node, %error, "a member did not acknowledge the status of this node");
                if is_sign_of_absence(error) {
                    let change = self.table.lock().record_unanswered(&node, sent);
                    self.handle(change);
                }
                return Err(node);
            }
        };
        self.receive_status(&status);
        if status.about.node != node {
            // Another process is at the address, or another incarnation, which has just replaced this member.
            let change = self.table.lock().record_unanswered(&node, sent);
            self.handle(change);
            return Err(node);
        }
        let change = self.table.lock().record_acknowledgement(&node, sequence, sent);
        self.handle(change);
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
