//! What operators see of a node: the log, metrics, traces and counts of anomalies. Knows no domain type.

pub mod anomalies;
pub mod logging;
pub mod metrics;
pub mod traces;

use logging::LogLevelHandle;
use traces::TraceSampling;

/// The telemetry that a node gets from its process. The default changes no log levels and exports no traces.
#[derive(Clone, Default)]
pub struct NodeTelemetry {
    /// `None`: the process has no log whose levels an operator could change.
    pub log_levels: Option<LogLevelHandle>,
    pub trace_sampling: TraceSampling,
}
