//! The announcer: brings this node's word to every member that has not acknowledged it yet.
//!
//! Owns the repetition. Level-triggered: it compares what is true now with what each member acknowledged last, so a
//! word that changed twice is told once, and a member that joined later gets its hello without anyone remembering it.
//! In quiet times nothing is said. While somebody is not whole, or has no lease, everybody repeats who it heard; and a
//! peer that was given up for its silence is told again and again, so that its return is noticed.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::{Leaving, Membership};
use crate::clock::BootInstant;
use crate::mesh::node_status::NodeStatus;
use crate::mesh::peers::{PeerError, Peers};
use crate::names::NodeId;

/// How long a member may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// How long after a failure a member is told again.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// In times of trouble a word is repeated this often within a lease, so that the answers are never older than ¾ of one.
const REPEATS_PER_LEASE: u32 = 5;

/// What became of one announcement.
struct Told {
    node: NodeId,
    sequence: u64,
    sent: BootInstant,
    answer: Result<NodeStatus, PeerError>,
}

impl Membership {
    /// Announces, for ever.
    pub async fn announce(&self, peers: &Peers) {
        let mut word = self.roster.index_state();
        let mut standing = self.standing();
        let mut telling: JoinSet<Told> = JoinSet::new();
        // Members that are being told, or were told in vain a moment ago, with when to tell them again at the earliest.
        let mut not_before: HashMap<NodeId, Instant> = HashMap::new();
        let pause = AGAIN_AFTER.min(self.lease / REPEATS_PER_LEASE / 2);
        loop {
            let incarnation = word.borrow_and_update().incarnation.clone();
            let (entered, introduced) = {
                let standing = standing.borrow_and_update();
                (standing.entered(&incarnation).is_some(), standing.introduced)
            };
            // The first hello comes after the entry: before that, nobody else would keep this node in mind.
            if entered || introduced || *self.leaving.borrow() == Leaving::Goodbye {
                let now = Instant::now();
                not_before.retain(|_, moment| *moment > now);
                self.tell(peers, &mut telling, &mut not_before);
                // Where there is nobody to tell, the hello has gone round already.
                self.consider_birth();
            }
            tokio::select! {
                Some(Ok(told)) = telling.join_next() => {
                    not_before.remove(&told.node);
                    if let Err(node) = self.hear(told) {
                        not_before.insert(node, Instant::now() + pause);
                    }
                }
                () = self.news.notified() => {}
                _ = word.changed() => {}
                _ = standing.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    fn tell(&self, peers: &Peers, telling: &mut JoinSet<Told>, not_before: &mut HashMap<NodeId, Instant>) {
        let said = self.say();
        peers.retain(|mesh| said.members.iter().any(|member| member.mesh == mesh));
        let now = BootInstant::now();
        let to_tell = self.lock().to_tell(said.sequence, now, self.lease / REPEATS_PER_LEASE);
        let given_up = said.members.iter().filter(|member| peers.is_circuit_open(&member.mesh));
        let given_up = given_up.map(|member| (member.node.clone(), member.mesh.clone()));
        for (node, mesh) in to_tell.into_iter().chain(given_up) {
            if not_before.contains_key(&node) {
                continue;
            }
            let within = ANSWER_WITHIN.min(self.lease / 2);
            not_before.insert(node.clone(), Instant::now() + within + AGAIN_AFTER);
            let (peers, said) = (peers.clone(), said.clone());
            telling.spawn(async move {
                let sent = BootInstant::now();
                let answer = peers.announce(&mesh, &said, within).await;
                Told { node, sequence: said.sequence, sent, answer }
            });
        }
    }

    /// Takes in what a member answered. Fails with the member when it did not acknowledge.
    fn hear(&self, told: Told) -> Result<(), NodeId> {
        let Told { node, sequence, sent, answer } = told;
        let said = match answer {
            Ok(said) => said,
            Err(error) => {
                debug!(peer = %node, reason = %error, "a member did not acknowledge");
                return Err(node);
            }
        };
        self.told(&said);
        if said.about.node != node {
            return Err(node);
        }
        self.lock().acknowledged(&node, sequence, sent);
        self.acknowledgements.send_replace(());
        self.consider_birth();
        Ok(())
    }
}
