//! The core of a node: its roster, its membership, and the two flows between them and the directory.
//!
//! Owns no port, no clients and no HTTP, so that the simulation and the benchmarks run it without listeners.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::tasks::EssentialTasks;
use crate::directory::Directory;
use crate::directory::measured::DirectoryMetrics;
use crate::membership::{Membership, NodeInfo};
use crate::mesh::advertise::AdvertisedAddress;
use crate::mesh::peers::Peers;
use crate::names::NodeId;
use crate::reconciler::Reconciler;
use crate::roll_call::RollCall;
use crate::roll_call::cache::SnapshotCache;
use crate::roster::Roster;
use crate::status::node_report::NodeReporter;
use crate::telemetry::metrics::Metrics;

/// Cheap to clone.
#[derive(Clone)]
pub struct NodeCore {
    pub roster: Arc<Roster>,
    pub membership: Arc<Membership>,
    pub reconciler: Arc<Reconciler>,
    pub roll_call: RollCall,
    pub reporter: NodeReporter,
    pub(super) directory: Arc<dyn Directory>,
    pub(super) peers: Peers,
    pub(super) cache: SnapshotCache,
    pub(super) metrics: Metrics,
    /// Tasks of roll calls that outlive the request, such as removals of dead owners.
    pub(super) background: TaskTracker,
}

impl NodeCore {
    /// `release_delay`: the time for which this node stays an owner of a room after its last socket left.
    pub fn new(
        node_info: NodeInfo,
        lease: Duration,
        release_delay: Duration,
        directory: Arc<dyn Directory>,
        peers: Peers,
        cache: SnapshotCache,
    ) -> Self {
        let metrics = Metrics::default();
        let directory = DirectoryMetrics::define(&metrics.registry).measure(directory);
        let roster = Roster::new(NodeId::new_process());
        let membership = Membership::new(node_info, lease, Arc::clone(&roster));
        // Socket in: socket edge -> roster -> reconciler -> directory.
        let reconciler = Reconciler::new(
            Arc::clone(&roster),
            Arc::clone(&membership),
            Arc::clone(&directory),
            release_delay,
            metrics.directory_lag.clone(),
        );
        // Question in: HTTP -> roll call -> directory -> mesh.
        let background = TaskTracker::new();
        let roll_call = RollCall::new(
            Arc::clone(&roster),
            Arc::clone(&membership),
            Arc::clone(&directory),
            peers.clone(),
            cache.clone(),
            background.clone(),
            metrics.roll_calls.clone(),
        );
        let recent = metrics.roll_calls.recent().clone();
        let reporter = NodeReporter::new(Arc::clone(&roster), Arc::clone(&membership), recent);
        Self { roster, membership, reconciler, roll_call, reporter, directory, peers, cache, metrics, background }
    }

    /// Spawns the tasks of the directory, the lease, the announcements and the reconciler. `address`: where other nodes reach
    /// the mesh port.
    pub fn start(&self, address: Arc<dyn AdvertisedAddress>, tasks: &mut EssentialTasks) {
        tasks.spawn("directory", {
            let directory = Arc::clone(&self.directory);
            async move { directory.maintain().await }
        });
        tasks.spawn("lease", {
            let (membership, directory) = (Arc::clone(&self.membership), Arc::clone(&self.directory));
            async move { membership.keep_lease(&*directory, &*address).await }
        });
        tasks.spawn("announcer", {
            let (membership, peers) = (Arc::clone(&self.membership), self.peers.clone());
            async move { membership.announce(&peers).await }
        });
        tasks.spawn("reconciler", {
            let reconciler = Arc::clone(&self.reconciler);
            async move { reconciler.run().await }
        });
    }
}
