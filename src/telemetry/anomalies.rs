//! Anomalies: invalid data of other programs and other nodes, which this node ignores and counts.
//!
//! Owns one counter per kind, and the log line at the first anomaly of each kind: one faulty program usually causes many.
//! Each node has its own [`Anomalies`], and passes clones to the components that read such data. Owns no reaction: the
//! component decides what to do without the data.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strum::{EnumCount, IntoStaticStr, VariantArray};
use tracing::warn;

/// A kind of invalid data. The names are values of a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, VariantArray, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Anomaly {
    /// A member of a room's owner set, or of the registered nodes, that is not a node id.
    ForeignMember,
    /// A lease that no node wrote.
    ForeignEntry,
    /// A key with the prefix of this cluster that holds another kind of value.
    ForeignKey,
    /// A second row of a peer for the same socket.
    RepeatedRow,
    /// An answer of a peer that does not fit the request.
    SenselessAnswer,
    /// A delta of a peer that does not fit the rows that it sent before.
    MisfitChanges,
}

/// The anomalies of one node. Clones share the counters.
#[derive(Clone, Default)]
pub struct Anomalies(Arc<[AtomicU64; Anomaly::COUNT]>);

impl Anomaly {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl Anomalies {
    /// Adds 1 to the counter of `kind`. The first of each kind is logged, with `detail`.
    pub fn record(&self, kind: Anomaly, detail: impl fmt::Display) {
        if self.0[kind as usize].fetch_add(1, Ordering::Relaxed) == 0 {
            warn!(kind = kind.name(), %detail, "ignored invalid data; more of this kind is counted and not logged");
        }
    }

    pub fn count(&self, kind: Anomaly) -> u64 {
        self.0[kind as usize].load(Ordering::Relaxed)
    }
}
