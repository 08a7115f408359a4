//! What operators see of a node: the log, the metrics, the traces and the count of anomalies. Knows no domain type.

pub mod anomalies;
pub mod logging;
pub mod metrics;
pub mod traces;
