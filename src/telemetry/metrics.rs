//! Metrics of one node, for Prometheus.
//!
//! Owns the registry, and the names, help texts and buckets of the metrics that components increment. Components get
//! handles to atomics, so that an increment looks up no label. `node::metrics` reads the state of the other components at a
//! scrape. The number of label values never grows with rooms, users or sockets, and the values that name a peer disappear
//! with it. `docs/METRICS.md` lists all metrics, and a test compares it with a scrape.

pub mod directory_lag;
pub mod lookups;
pub mod recent;
pub mod registry;
pub mod requests;
pub mod roll_calls;

use directory_lag::DirectoryLagMetrics;
use registry::MetricRegistry;
use requests::RefusalMetrics;
use requests::RequestMetrics;
use roll_calls::RollCallMetrics;

/// The metrics of one node. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    pub(crate) registry: MetricRegistry,
    pub roll_calls: RollCallMetrics,
    pub directory_lag: DirectoryLagMetrics,
    pub refusals: RefusalMetrics,
    pub requests: RequestMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = MetricRegistry::default();
        Self {
            roll_calls: RollCallMetrics::define(&registry),
            directory_lag: DirectoryLagMetrics::define(&registry),
            refusals: RefusalMetrics::define(&registry),
            requests: RequestMetrics::define(&registry),
            registry,
        }
    }
}
