//! The status of the cluster as JSON: the body of `/_/status`.
//!
//! Owns the field names, which the operators' page and `rollcall status` read. [`mod@super::merge`] fills them.

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

/// The cluster as one node sees it: the body of `/_/status`, which `rollcall status` reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Every node answered and is active.
    pub well: bool,
    /// When the nodes were asked, RFC 3339.
    pub as_of: SmolStr,
    pub took_ms: f64,
    /// The id of the node that asked the others.
    pub asked: SmolStr,
    /// What is wrong between that node and the directory, or `ok`.
    pub directory: SmolStr,
    /// The sum over the nodes that answered.
    pub sockets: u64,
    /// Sorted by name.
    pub nodes: Vec<NodeRow>,
    /// The largest first.
    pub busiest_rooms: Vec<BusyRoom>,
    /// The sum over all nodes that answered.
    pub roll_calls: RollCallSeries,
}

/// One node. The fields of `said` are missing if it has not answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRow {
    pub id: SmolStr,
    pub name: SmolStr,
    pub mesh: SmolStr,
    /// Why there is no report: `deadline`, `refused`, `failed`, `overloaded`; `older`: its version has no `Describe`.
    pub error: Option<SmolStr>,
    pub round_trip_ms: f64,
    /// Its circuit breaker is open: it has not answered several calls in a row.
    pub circuit_open: bool,
    /// Its lease was in the last listing that could be read.
    pub leased: bool,
    /// Time since the last contact over the mesh before this request; null if there was none.
    pub heard_ms: Option<u64>,
    #[serde(flatten)]
    pub said: Option<ReportedDetails>,
}

/// What only the node itself can report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportedDetails {
    pub version: SmolStr,
    pub since: SmolStr,
    pub uptime_ms: u64,
    pub sockets: u64,
    pub rooms: u64,
    #[serde(rename = "counts")]
    pub is_active: bool,
    pub whole: bool,
    pub draining: bool,
    pub lease_left_ms: Option<u64>,
    pub roll_calls: RollCallSeries,
}

/// A room, and its sockets in the reports of the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusyRoom {
    pub room: SmolStr,
    pub sockets: u64,
    /// An upper bound: a node that reports only its busiest rooms may have more sockets in a room that it left out.
    pub most: u64,
    /// How many nodes reported it.
    pub nodes: usize,
}

/// Roll calls of the last five minutes: one number for each complete bucket of time, the earliest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RollCallSeries {
    pub bucket_ms: u64,
    /// When the latest bucket ended, in milliseconds since the Unix epoch.
    pub until_ms: i64,
    pub calls: Vec<u64>,
    pub incomplete: Vec<u64>,
    /// Percentiles of the duration; null for a bucket without roll calls.
    pub p50_ms: Vec<Option<f64>>,
    pub p99_ms: Vec<Option<f64>>,
    pub last_minute: LastMinute,
}

/// The last complete minute.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LastMinute {
    pub per_second: f64,
    pub incomplete: u64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}
