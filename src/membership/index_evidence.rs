//! The evidence from the listings of the directory (rules 6 and 10): whether a missing lease is evidence of a death, and whether
//! this node knows all members.
//!
//! Owns the time and the epoch of the listings, and the sync. Owns no member: [`super::table`] asks it and passes the
//! members. Pure: no clock, no lock, no I/O. The tests of the table cover it.

use std::time::Duration;

use super::state::Member;
use crate::clock::BootInstant;
use crate::directory::NodeListing;
use crate::index::Epoch;

/// A listing of the directory, and the circumstances of its read.
pub struct ListingRead<'a> {
    pub listing: &'a NodeListing,
    /// The time when the read started. A node that registered later may be missing.
    pub started: BootInstant,
    pub ended: BootInstant,
    /// This node had a lease itself, so the directory accepts writes.
    pub has_lease: bool,
}

/// The knowledge from all listings so far.
pub struct IndexEvidence {
    lease: Duration,
    /// The time when the read of the last listing started.
    listed: Option<BootInstant>,
    /// The epoch of the last listing.
    epoch: Option<Epoch>,
    /// The time since which every listing could be read and had `epoch`.
    steady_since: Option<BootInstant>,
    /// The time since which this node waits for a status of every member with a lease, because it is new or was away for too
    /// long. `None`: it is synced, or has read no listing.
    syncing_since: Option<BootInstant>,
    was_synced: bool,
    epoch_age: EpochAge,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EpochAge {
    /// Younger than a lease: living nodes may not have registered in it yet.
    Young,
    Old,
    /// The directory has never had another epoch, so no node can have been cut off from an earlier one.
    First,
}

impl IndexEvidence {
    pub fn new(lease: Duration) -> Self {
        Self {
            lease,
            listed: None,
            epoch: None,
            steady_since: None,
            syncing_since: None,
            was_synced: false,
            epoch_age: EpochAge::Young,
        }
    }

    /// Records a listing. Returns whether it is consecutive: read at most a lease after the previous one. If it is not, this
    /// node must sync.
    pub fn record_listing(&mut self, read: &ListingRead<'_>) -> bool {
        let &ListingRead { listing, started, .. } = read;
        let is_consecutive = self.listed.replace(started).is_some_and(|previous| started.since(previous) <= self.lease);
        if !is_consecutive {
            self.syncing_since = Some(started);
        }
        if !is_consecutive || self.steady_since.is_none() || self.epoch != listing.epoch {
            self.epoch.clone_from(&listing.epoch);
            self.steady_since = Some(started);
        }
        self.epoch_age = match listing.age {
            None => EpochAge::First,
            Some(age) if age < self.lease => EpochAge::Young,
            Some(_) => EpochAge::Old,
        };
        is_consecutive
    }

    /// Records that the listing could not be read, or that leases may have expired early. Until the next steady period, a
    /// missing lease is no evidence.
    pub fn end_steady_period(&mut self) {
        self.steady_since = None;
    }

    /// Whether a missing lease in the last listing is evidence: every listing of a whole lease could be read and had the same
    /// epoch.
    pub fn is_steady(&self) -> bool {
        matches!((self.listed, self.steady_since), (Some(listed), Some(since)) if listed.since(since) >= self.lease)
    }

    /// Whether the last listing could be read.
    pub fn is_readable(&self) -> bool {
        self.steady_since.is_some()
    }

    pub fn steady_since(&self) -> Option<BootInstant> {
        self.steady_since
    }

    /// The time when the read of the last listing started; `None` before the first.
    pub fn listed(&self) -> Option<BootInstant> {
        self.listed
    }

    pub fn is_syncing(&self) -> bool {
        self.syncing_since.is_some()
    }

    pub fn is_synced(&self) -> bool {
        self.listed.is_some() && !self.is_syncing()
    }

    /// Whether this node has been synced once.
    pub fn was_synced(&self) -> bool {
        self.was_synced
    }

    /// Ends the sync when each member with a lease has sent a status since it began: a status names all members that its
    /// sender knows. A young epoch proves nothing, because living nodes have up to a lease to register in it. Neither does an
    /// old epoch in which no other node has a lease. After a long outage of the directory all leases have lapsed, and this
    /// node may be the first to come back. Returns whether the sync has ended.
    pub fn update_sync<'a>(&mut self, mut members: impl Iterator<Item = &'a Member> + Clone) -> bool {
        let Some(since) = self.syncing_since.filter(|_| self.epoch_age != EpochAge::Young) else { return false };
        let is_alone = self.epoch_age != EpochAge::First && !members.clone().any(|member| member.leased);
        if is_alone && self.listed.is_none_or(|listed| listed.since(since) < self.lease) {
            return false;
        }
        let has_reported =
            |member: &Member| !member.leased || member.status_received.is_some_and(|received| received >= since);
        if !members.all(has_reported) {
            return false;
        }
        self.syncing_since = None;
        self.was_synced = true;
        true
    }
}
