//! The lease of this node in the directory: registered, renewed, and never revived after it has lapsed.
//!
//! Owns the loop that keeps the lease, reads the listing of the other nodes, and reports to the roster whether the directory
//! accepts writes. A lapsed lease or a changed epoch ends the incarnation: the roster starts the next one, and this loop
//! registers it. Owns no member ([`super::table`]). Tests: the simulation (`tests/simulation/main.rs`).

use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::index_clock::IndexClock;
use super::index_evidence::ListingRead;
use super::{LeaseState, Membership};
use crate::clock::BootInstant;
use crate::directory::{Directory, DirectoryError, LeaseRenewal, Result};
use crate::index::Epoch;
use crate::mesh::advertise::AdvertisedAddress;
use crate::names::NodeId;

/// Several renewals may fail before the lease lapses.
const RENEWALS_PER_LEASE: u32 = 5;

impl Membership {
    /// Keeps the lease and the listing. Never returns.
    pub async fn keep_lease(&self, directory: &dyn Directory, address: &dyn AdvertisedAddress) {
        let mut index_state = self.roster.index_state();
        let mut drain_state = self.drain_state.subscribe();
        let mut ticks = interval(self.lease / RENEWALS_PER_LEASE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_accepting = true;
        let mut index_clock = IndexClock::new(self.lease);
        loop {
            self.update_address(address).await;
            let node = self.roster.incarnation();
            let written = self.write_lease(directory, &node).await;
            if written.is_ok() {
                self.roster.set_directory_available(true);
            } else {
                self.roster.set_directory_available(false);
            }
            match written {
                Ok(()) if !is_accepting => {
                    info!(%node, "redis accepts lease writes again");
                    is_accepting = true;
                }
                Ok(()) => {}
                Err(error @ (DirectoryError::Refused(_) | DirectoryError::Foreign(_))) if is_accepting => {
                    warn!(%node, %error, "redis refused the lease write; treating it as unavailable");
                    is_accepting = false;
                }
                // The redis connection has logged the reason, or `update_address`.
                Err(error) => debug!(%node, %error, "cannot write the lease"),
            }
            self.read_listing(directory, &mut index_clock).await;
            self.complete_birth();
            if self.roster.incarnation() != node {
                continue;
            }
            // `changed` fails without a sender, and both senders live in `self`.
            tokio::select! {
                _ = ticks.tick() => {}
                _ = index_state.changed() => {}
                _ = drain_state.changed() => {}
            }
        }
    }

    /// Finds the address of the mesh port. Another address than before ends the incarnation: the members call only the
    /// address that a node registered with. If the address cannot be found, the last one is kept.
    async fn update_address(&self, address: &dyn AdvertisedAddress) {
        let (node, known) = (self.roster.incarnation(), self.node_info().mesh.clone());
        match address.find().await {
            Ok(mesh) if mesh == known => {}
            Ok(mesh) => {
                self.set_mesh_address(mesh.clone());
                if self.lease_state.borrow().registered(&node).is_some() {
                    warn!(%node, %mesh, previous = %known, "the mesh address has changed; starting a new incarnation");
                    self.roster.retire(&node);
                }
            }
            Err(error) => {
                debug!(%node, error = %format_args!("{error:#}"), "cannot find the mesh address of this node");
            }
        }
    }

    /// Registers or renews. Starts the next incarnation if the lease has lapsed or the epoch has changed.
    async fn write_lease(&self, directory: &dyn Directory, node: &NodeId) -> Result<()> {
        let node_info = self.node_info();
        if node_info.mesh.is_empty() {
            return Err(DirectoryError::Unanswered("the mesh address of this node is not known yet".to_owned()));
        }
        let sent = BootInstant::now();
        let is_renewal = self.lease_state.borrow().registered(node).is_some();
        let epoch: Option<Epoch> = if is_renewal {
            match directory.renew(node, &self.entry(), self.lease).await? {
                LeaseRenewal::Renewed(epoch) => Some(epoch),
                LeaseRenewal::Lapsed => None,
            }
        } else {
            directory.register(node, &self.entry(), self.lease).await?
        };
        let Some(epoch) = epoch else {
            warn!(%node, "the lease or the epoch is gone: expired, flushed, or failed over; starting a new incarnation");
            self.roster.retire(node);
            return Ok(());
        };
        if is_renewal {
            if !self.roster.check_epoch(node, &epoch) {
                warn!(%node, "the epoch of redis has changed; starting a new incarnation");
                return Ok(());
            }
            self.lease_state.send_modify(|state| state.confirmed = Some(sent));
            return Ok(());
        }
        info!(%node, name = %node_info.name, mesh = %node_info.mesh, "registered in the directory");
        self.roster.set_registered(node, &epoch);
        self.lease_state.send_modify(|state| {
            *state = LeaseState {
                node: node.clone(),
                registered: Some(sent),
                confirmed: Some(sent),
                birth_complete: false,
                joined: state.joined,
            };
        });
        Ok(())
    }

    async fn read_listing(&self, directory: &dyn Directory, index_clock: &mut IndexClock) {
        let started = BootInstant::now();
        match directory.nodes().await {
            Ok(mut listing) => {
                let (ended, has_lease) = (BootInstant::now(), self.has_lease());
                if let Some(step) = index_clock.observe(&mut listing, started, ended) {
                    warn!(%step, "the clock of redis has stepped; judging no member dead for a lease");
                    self.table.lock().end_steady_period();
                }
                let read = ListingRead { listing: &listing, started, ended, has_lease };
                let change = self.table.lock().apply_listing(&read);
                self.record_joined(started);
                self.handle(&change);
            }
            // Not logged: `write_lease` has just failed too, and has logged it.
            Err(_) => self.table.lock().end_steady_period(),
        }
    }

    /// A listing read after the registration makes this process joined: nodes that register later see its entry.
    fn record_joined(&self, listing_started: BootInstant) {
        self.lease_state.send_if_modified(|state| {
            let joined = state.joined || state.registered.is_some_and(|registered| listing_started >= registered);
            joined != std::mem::replace(&mut state.joined, joined)
        });
    }

    /// Completes the birth of the incarnation when every member has acknowledged its hello, or one lease after it
    /// registered. In that time every other node with a lease has read a listing that has this node's entry.
    pub(super) fn complete_birth(&self) {
        let state = self.lease_state.borrow().clone();
        let Some(registered) = state.registered.filter(|_| !state.birth_complete) else { return };
        // The hello is the first status of an incarnation. It gets its number now. Otherwise an acknowledgement of the
        // previous incarnation's status would be treated as an acknowledgement of the hello.
        self.number_status();
        if registered.elapsed() < self.lease && !self.table.lock().hello_acked(registered) {
            return;
        }
        self.lease_state.send_if_modified(|current| {
            current.birth_complete |= current.node == state.node;
            current.birth_complete
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use async_trait::async_trait;
    use parking_lot::Mutex;
    use smol_str::SmolStr;
    use tokio::time::timeout;

    use super::*;
    use crate::directory::memory::MemoryDirectory;
    use crate::membership::NodeInfo;
    use crate::names::NodeName;
    use crate::roster::Roster;

    /// The address of a container that is not in a network, or moves to another one.
    struct MovingAddress(Mutex<Option<SmolStr>>);

    #[async_trait]
    impl AdvertisedAddress for MovingAddress {
        async fn find(&self) -> anyhow::Result<SmolStr> {
            self.0.lock().clone().ok_or_else(|| anyhow::anyhow!("no route"))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_registers_when_its_address_is_known_and_after_a_move() {
        let directory = MemoryDirectory::new();
        let roster = Roster::new(NodeId::new_process());
        let node_info =
            NodeInfo { name: NodeName::from_any("one"), mesh: SmolStr::default(), since: SmolStr::default() };
        let membership = Membership::new(node_info, Duration::from_secs(5), Arc::clone(&roster));
        let address = MovingAddress(Mutex::new(None));
        let registered = async || {
            let listing = directory.nodes().await.unwrap();
            listing.nodes.into_iter().map(|(node, entry)| (node, entry.mesh)).collect::<Vec<_>>()
        };
        let steps = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!(registered().await, [], "the address is not known yet");
            *address.0.lock() = Some("10.0.0.1:7001".into());
            tokio::time::sleep(Duration::from_secs(3)).await;
            let first = roster.incarnation();
            assert_eq!(registered().await, [(first.clone(), "10.0.0.1:7001".into())]);
            *address.0.lock() = Some("10.0.0.2:7001".into());
            tokio::time::sleep(Duration::from_secs(6)).await;
            let second = roster.incarnation();
            assert_eq!(second, first.next_incarnation());
            let moved = (second, "10.0.0.2:7001".into());
            assert!(registered().await.contains(&moved), "the new incarnation has the new address");
            *address.0.lock() = None;
            tokio::time::sleep(Duration::from_secs(6)).await;
            assert!(registered().await.contains(&moved), "the last address is kept");
        };
        tokio::select! {
            () = membership.keep_lease(&*directory, &address) => unreachable!("it never returns"),
            ended = timeout(Duration::from_secs(60), steps) => ended.unwrap(),
        }
    }
}
