//! The signals of a node for operators: log, metrics, traces and counts of anomalies.
//!
//! Owns their formats, names and exporters, and [`NodeTelemetry`], which a process passes to its nodes. Owns no domain type
//! beyond names: the components above count, and pass values.

pub mod anomalies;
pub mod logging;
pub mod metrics;
pub mod route;
pub mod traces;

use anomalies::Anomalies;
use logging::LogLevelHandle;
use traces::TraceSampling;

/// The telemetry of a node. The default changes no log levels and exports no traces.
#[derive(Default)]
pub struct NodeTelemetry {
    /// `None`: the process has no log.
    pub log_levels: Option<LogLevelHandle>,
    pub trace_sampling: TraceSampling,
    /// The anomalies that this node found.
    pub anomalies: Anomalies,
}

impl NodeTelemetry {
    /// The telemetry of another node in the same process: the same log and traces, counters of its own.
    #[must_use]
    pub fn for_another_node(&self) -> Self {
        Self {
            log_levels: self.log_levels.clone(),
            trace_sampling: self.trace_sampling,
            anomalies: Anomalies::default(),
        }
    }
}
