//! Metrics of one node, for Prometheus.
//!
//! Owns every name, help text and bucket, and the registry. Other modules get handles, which are atomics: counting needs
//! no lookup of a label. State that another module owns is read at a scrape. No label has values that grow with rooms,
//! users or sockets; those that name a peer disappear with it. `docs/METRICS.md` lists all metrics, and a test compares it.

pub mod flushes;
pub mod lookups;
pub mod recent;
pub mod refusals;
pub mod registry;
pub mod requests;
pub mod roll_calls;
pub mod system;

use flushes::FlushMetrics;
use refusals::RefusalMetrics;
use registry::MetricRegistry;
use requests::RequestMetrics;
use roll_calls::RollCallMetrics;

/// The metrics of one node. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    pub(crate) registry: MetricRegistry,
    pub roll_calls: RollCallMetrics,
    pub flushes: FlushMetrics,
    pub refusals: RefusalMetrics,
    pub requests: RequestMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = MetricRegistry::default();
        Self {
            roll_calls: RollCallMetrics::define(&registry),
            flushes: FlushMetrics::define(&registry),
            refusals: RefusalMetrics::define(&registry),
            requests: RequestMetrics::define(&registry),
            registry,
        }
    }
}
