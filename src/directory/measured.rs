//! Metrics of the directory: the duration and the failures of every call.
//!
//! Owns a [`Directory`] that wraps another one and changes nothing. A call whose caller stopped waiting counts as
//! abandoned, because a roll call gives the directory only a third of its deadline. Owns no registry.

use std::array;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use prometheus::{Histogram, IntCounter, IntGauge};
use strum::{EnumCount, IntoStaticStr, VariantArray};
use tokio::time::Instant;

use super::{
    Directory, DirectoryCall, DirectoryError, LeaseAndCount, LeaseRenewal, NodeEntry, NodeListing, Result, RoomOwners,
};
use crate::index::{Epoch, SocketWrite};
use crate::names::{NodeId, Room};
use crate::telemetry::metrics::registry::MetricRegistry;

/// The reason of a failed call, by the name that its counter has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
enum DirectoryFailure {
    Unanswered,
    Refused,
    Foreign,
    /// The caller dropped the call, for example at its own deadline.
    Abandoned,
}

/// The metrics of one node's calls to the directory. Cheap to clone.
#[derive(Clone)]
pub struct DirectoryMetrics(Arc<DirectoryCounters>);

struct DirectoryCounters {
    calls: [CallCounters; DirectoryCall::COUNT],
    up: IntGauge,
    index_changes: IntCounter,
    /// The epoch of the last answer that named one.
    epoch: Mutex<Option<Epoch>>,
}

struct CallCounters {
    duration: Histogram,
    failures: [IntCounter; DirectoryFailure::COUNT],
}

/// Records one call when it is dropped.
struct CallTimer<'a> {
    counters: &'a CallCounters,
    began: Instant,
    ended: bool,
}

/// A directory whose calls are measured.
pub struct MeasuredDirectory {
    inner: Arc<dyn Directory>,
    metrics: DirectoryMetrics,
}

impl DirectoryMetrics {
    pub fn define(registry: &MetricRegistry) -> Self {
        let durations = registry.histograms(
            "rollcall_directory_call_duration_seconds",
            "Duration of calls to the directory, failed calls included.",
            &["operation"],
        );
        let failures = registry.counters(
            "rollcall_directory_errors_total",
            "Failed calls to the directory: no answer (unanswered), rejected (refused), a key with another program's \
             value (foreign), or given up by the caller (abandoned).",
            &["operation", "kind"],
        );
        let counters = |call: DirectoryCall| {
            let operation: &str = call.into();
            CallCounters {
                duration: durations.with_label_values(&[operation]),
                failures: array::from_fn(|place| {
                    failures.with_label_values(&[operation, DirectoryFailure::VARIANTS[place].into()])
                }),
            }
        };
        let calls = array::from_fn(|place| counters(DirectoryCall::VARIANTS[place]));
        let up =
            registry.gauge("rollcall_directory_up", "1 if the last call to the directory was answered, otherwise 0.");
        let index_changes = registry.counter(
            "rollcall_directory_index_changes_total",
            "Times the epoch of the directory changed: flush, restart or failover of Redis.",
        );
        Self(Arc::new(DirectoryCounters { calls, up, index_changes, epoch: Mutex::default() }))
    }

    /// Wraps a directory so that its calls are measured.
    pub fn measure(&self, inner: Arc<dyn Directory>) -> Arc<dyn Directory> {
        Arc::new(MeasuredDirectory { inner, metrics: self.clone() })
    }
}

impl DirectoryCounters {
    fn observe_epoch(&self, now: &Epoch) {
        let mut epoch = self.epoch.lock();
        if epoch.as_ref() == Some(now) {
            return;
        }
        // The first epoch that a node sees is no change.
        if epoch.replace(now.clone()).is_some() {
            self.index_changes.inc();
        }
    }
}

impl MeasuredDirectory {
    async fn call<T>(&self, call: DirectoryCall, work: impl Future<Output = Result<T>>) -> Result<T> {
        let counters = &self.metrics.0;
        let mut timer = CallTimer { counters: &counters.calls[call as usize], began: Instant::now(), ended: false };
        let answer = work.await;
        timer.ended = true;
        let failure = match &answer {
            Ok(_) => None,
            Err(DirectoryError::Unanswered(_)) => Some(DirectoryFailure::Unanswered),
            Err(DirectoryError::Refused(_)) => Some(DirectoryFailure::Refused),
            Err(DirectoryError::Foreign(_)) => Some(DirectoryFailure::Foreign),
        };
        if let Some(failure) = failure {
            timer.counters.failures[failure as usize].inc();
        }
        // A directory that rejects a call is up.
        counters.up.set(i64::from(failure != Some(DirectoryFailure::Unanswered)));
        answer
    }
}

impl Drop for CallTimer<'_> {
    fn drop(&mut self) {
        self.counters.duration.observe(self.began.elapsed().as_secs_f64());
        if !self.ended {
            self.counters.failures[DirectoryFailure::Abandoned as usize].inc();
        }
    }
}

#[async_trait]
impl Directory for MeasuredDirectory {
    async fn maintain(&self) {
        self.inner.maintain().await;
    }

    async fn register(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<Option<Epoch>> {
        let epoch = self.call(DirectoryCall::Register, self.inner.register(node, entry, lease)).await?;
        epoch.iter().for_each(|epoch| self.metrics.0.observe_epoch(epoch));
        Ok(epoch)
    }

    async fn renew(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<LeaseRenewal> {
        let renewal = self.call(DirectoryCall::Renew, self.inner.renew(node, entry, lease)).await?;
        if let LeaseRenewal::Renewed(epoch) = &renewal {
            self.metrics.0.observe_epoch(epoch);
        }
        Ok(renewal)
    }

    async fn nodes(&self) -> Result<NodeListing> {
        self.call(DirectoryCall::Nodes, self.inner.nodes()).await
    }

    async fn add_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<Option<Epoch>> {
        self.call(DirectoryCall::AddOwner, self.inner.add_owner(node, rooms)).await
    }

    async fn remove_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<()> {
        self.call(DirectoryCall::RemoveOwner, self.inner.remove_owner(node, rooms)).await
    }

    async fn owners(&self, room: &Room) -> Result<RoomOwners> {
        self.call(DirectoryCall::Owners, self.inner.owners(room)).await
    }

    async fn leases_and_counts(&self, room: &Room, nodes: &[NodeId]) -> Result<Vec<LeaseAndCount>> {
        self.call(DirectoryCall::LeasesAndCounts, self.inner.leases_and_counts(room, nodes)).await
    }

    async fn remove_dead_owners(&self, room: &Room, nodes: &[NodeId]) -> Result<()> {
        self.call(DirectoryCall::RemoveDeadOwners, self.inner.remove_dead_owners(room, nodes)).await
    }

    async fn write_sockets(&self, node: &NodeId, writes: &[SocketWrite]) -> Result<()> {
        self.call(DirectoryCall::WriteSockets, self.inner.write_sockets(node, writes)).await
    }

    async fn deregister(&self, node: &NodeId) -> Result<()> {
        self.call(DirectoryCall::Deregister, self.inner.deregister(node)).await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::directory::faulty::{Fault, FaultyDirectory};
    use crate::directory::memory::MemoryDirectory;
    use crate::names::NodeName;
    use crate::telemetry::metrics::Metrics;

    #[tokio::test]
    async fn each_call_result_and_each_epoch_change_is_counted() {
        let metrics = DirectoryMetrics::define(&Metrics::default().registry);
        let memory = MemoryDirectory::new();
        let faulty = FaultyDirectory::new(Arc::clone(&memory) as Arc<dyn Directory>);
        let directory = metrics.measure(Arc::clone(&faulty) as Arc<dyn Directory>);
        let (room, node) = (Room::parse("a").unwrap(), NodeId::new_process());
        let failures = |call: DirectoryCall| metrics.0.calls[call as usize].failures.each_ref().map(IntCounter::get);

        directory.owners(&room).await.unwrap();
        assert_eq!((failures(DirectoryCall::Owners), metrics.0.up.get()), ([0; 4], 1));
        faulty.inject(DirectoryCall::Owners, Fault::LoseRequest);
        directory.owners(&room).await.unwrap_err();
        assert_eq!((failures(DirectoryCall::Owners), metrics.0.up.get()), ([1, 0, 0, 0], 0));
        faulty.inject(DirectoryCall::AddOwner, Fault::Refuse);
        directory.add_owner(&node, std::slice::from_ref(&room)).await.unwrap_err();
        assert_eq!(
            (failures(DirectoryCall::AddOwner), metrics.0.up.get()),
            ([0, 1, 0, 0], 1),
            "a directory that refuses is up"
        );
        let (_go, held) = tokio::sync::oneshot::channel();
        faulty.inject(DirectoryCall::Owners, Fault::Hold(held));
        assert!(directory.owners(&room).now_or_never().is_none());
        assert_eq!(failures(DirectoryCall::Owners), [1, 0, 0, 1], "the caller dropped it");
        assert_eq!(metrics.0.calls[DirectoryCall::Owners as usize].duration.get_sample_count(), 3);

        for (place, call) in DirectoryCall::VARIANTS.iter().enumerate() {
            assert_eq!(*call as usize, place);
        }
        for (place, failure) in DirectoryFailure::VARIANTS.iter().enumerate() {
            assert_eq!(*failure as usize, place);
        }
        let entry = NodeEntry {
            name: NodeName::from_any("node"),
            mesh: "127.0.0.1:1".into(),
            since: "now".into(),
            draining: false,
        };
        let lease = Duration::from_secs(5);
        directory.register(&node, &entry, lease).await.unwrap();
        directory.renew(&node, &entry, lease).await.unwrap();
        assert_eq!(metrics.0.index_changes.get(), 0);
        memory.flush();
        directory.register(&node, &entry, lease).await.unwrap();
        assert_eq!(metrics.0.index_changes.get(), 1);
    }
}
