//! The lease: this node's entry in the index, written, renewed, and never revived.
//!
//! Owns the loop that keeps it and reads the list of the others, and tells the roster whether the directory does what
//! it is asked. A lease that lapsed, or an index that turns out to be another one, ends the incarnation: the roster
//! starts the next one, and this loop writes that one's lease.

use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::{Membership, Standing};
use crate::clock::BootInstant;
use crate::directory::{Directory, DirectoryError, LeaseRenewal, Result};
use crate::index::Epoch;
use crate::names::NodeId;

/// How often a lease is renewed within its length.
const RENEWALS_PER_LEASE: u32 = 5;

impl Membership {
    /// Keeps the lease and the list, for ever.
    pub async fn keep_lease(&self, directory: &dyn Directory) {
        let mut word = self.roster.index_state();
        let mut leaving = self.leaving.subscribe();
        let mut ticks = interval(self.lease / RENEWALS_PER_LEASE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answered = true;
        loop {
            let node = self.roster.incarnation();
            let written = self.write(directory, &node).await;
            if written.is_ok() {
                self.roster.set_directory_available(true);
            } else {
                self.roster.set_directory_available(false);
            }
            match written {
                Ok(()) if !answered => {
                    info!(node = %node, "the directory does what it is asked again");
                    answered = true;
                }
                Ok(()) => {}
                Err(error @ (DirectoryError::Refused(_) | DirectoryError::Foreign(_))) if answered => {
                    warn!(node = %node, %error, "the directory does not do what it is asked");
                    answered = false;
                }
                // Told once by whoever keeps the connection.
                Err(error) => debug!(node = %node, %error, "the directory does not answer"),
            }
            self.read(directory).await;
            self.consider_birth();
            if self.roster.incarnation() != node {
                continue;
            }
            // Losing the sender is impossible: both live in `self`.
            tokio::select! {
                _ = ticks.tick() => {}
                _ = word.changed() => {}
                _ = leaving.changed() => {}
            }
        }
    }

    async fn write(&self, directory: &dyn Directory, node: &NodeId) -> Result<()> {
        let sent = BootInstant::now();
        let renewing = self.standing.borrow().entered(node).is_some();
        let index: Option<Epoch> = if renewing {
            match directory.renew(node, &self.entry(), self.lease).await? {
                LeaseRenewal::Renewed(index) => Some(index),
                LeaseRenewal::Lapsed => None,
            }
        } else {
            directory.register(node, &self.entry(), self.lease).await?
        };
        let Some(index) = index else {
            warn!(node = %node, "the lease lapsed, taking a new incarnation");
            self.roster.retire(node);
            return Ok(());
        };
        if renewing {
            if !self.roster.check_epoch(node, &index) {
                warn!(node = %node, "the index is another one, taking a new incarnation");
                return Ok(());
            }
            self.standing.send_modify(|standing| standing.confirmed = Some(sent));
            return Ok(());
        }
        info!(node = %node, name = %self.node_info.name, mesh = %self.node_info.mesh, "entered the directory");
        self.roster.set_registered(node, &index);
        let (entered, confirmed) = (Some(sent), Some(sent));
        self.standing.send_modify(|standing| {
            *standing =
                Standing { node: node.clone(), entered, confirmed, born: false, introduced: standing.introduced };
        });
        Ok(())
    }

    async fn read(&self, directory: &dyn Directory) {
        let began = BootInstant::now();
        let news = match directory.nodes().await {
            Ok(listing) => {
                let leased = self.standing.borrow().confirmed_lately(self.lease);
                let news = self.lock().list(&listing, began, BootInstant::now(), leased);
                self.introduce(began);
                news
            }
            Err(_) => {
                // Told by `write`, a moment ago.
                self.lock().unreadable();
                false
            }
        };
        if news {
            self.news.notify_one();
        }
    }

    /// A list that began to be read at `began` was taken in.
    fn introduce(&self, began: BootInstant) {
        self.standing.send_if_modified(|standing| {
            let introduced = standing.introduced || standing.entered.is_some_and(|entered| began >= entered);
            introduced != std::mem::replace(&mut standing.introduced, introduced)
        });
    }

    /// Ends the birth of the incarnation when its hello went round, or when a lease has passed since it entered.
    pub(super) fn consider_birth(&self) {
        let standing = self.standing.borrow().clone();
        let Some(entered) = standing.entered.filter(|_| !standing.born) else { return };
        // The hello of an incarnation is its first word: without it, an acknowledgement of the last one's would count.
        self.number();
        if entered.elapsed() < self.lease && !self.lock().greeted(entered) {
            return;
        }
        self.standing.send_if_modified(|now| {
            now.born |= now.node == standing.node;
            now.born
        });
    }
}
