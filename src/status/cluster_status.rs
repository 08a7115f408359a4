//! The status of the cluster as JSON: the body of `/_/status`.
//!
//! Owns the field names, which the operators' page and `rollcall status` read. [`mod@super::merge`] fills them.

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use utoipa::ToSchema;

/// The cluster as one node sees it: the body of `/_/status`, which `rollcall status` reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClusterStatus {
    /// Every node answered and is active.
    pub well: bool,
    /// The time of the request to the nodes, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub as_of: SmolStr,
    pub took_ms: f64,
    /// The id of the node that asked the others.
    #[schema(value_type = String)]
    pub asked: SmolStr,
    /// `ok`, or the problem of that node with the directory.
    #[schema(value_type = String)]
    pub directory: SmolStr,
    /// The sum over the nodes that answered.
    pub sockets: u64,
    /// Sorted by name.
    pub nodes: Vec<NodeRow>,
    /// Largest first.
    pub busiest_rooms: Vec<BusyRoom>,
    /// The sum over all nodes that answered.
    pub roll_calls: RollCallSeries,
}

/// One node. If it answered, the fields of `ReportedDetails` are part of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeRow {
    #[schema(value_type = String)]
    pub id: SmolStr,
    #[schema(value_type = String)]
    pub name: SmolStr,
    #[schema(value_type = String)]
    pub mesh: SmolStr,
    /// The reason of a missing report: `deadline`, `refused`, `failed`, `overloaded`; `older`: its version has no `Describe`.
    #[schema(value_type = Option<String>, required)]
    pub error: Option<SmolStr>,
    pub round_trip_ms: f64,
    /// The circuit breaker of the node is open: it missed several deadlines in a row.
    pub circuit_open: bool,
    /// The lease of the node was in the last listing that could be read.
    pub leased: bool,
    /// The time since the last contact over the mesh before this request; null without any.
    #[schema(required)]
    pub heard_ms: Option<u64>,
    #[serde(flatten)]
    #[schema(ignore)]
    pub report: Option<ReportedDetails>,
}

/// The details that only the node itself can report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReportedDetails {
    #[schema(value_type = String)]
    pub version: SmolStr,
    #[schema(value_type = String, format = DateTime)]
    pub since: SmolStr,
    pub uptime_ms: u64,
    pub sockets: u64,
    pub rooms: u64,
    #[serde(rename = "counts")]
    pub is_active: bool,
    pub whole: bool,
    pub draining: bool,
    #[schema(required)]
    pub lease_left_ms: Option<u64>,
    pub roll_calls: RollCallSeries,
}

/// A room, and its sockets in the reports of the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BusyRoom {
    #[schema(value_type = String)]
    pub room: SmolStr,
    pub sockets: u64,
    /// An upper bound: a node reports only its busiest rooms, and may have sockets in this room without reporting it.
    pub most: u64,
    /// The number of nodes that reported the room.
    pub nodes: usize,
}

/// Roll calls of the last five minutes: one number for each complete bucket of time, earliest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RollCallSeries {
    pub bucket_ms: u64,
    /// The end of the latest bucket, in milliseconds since the Unix epoch.
    pub until_ms: i64,
    pub calls: Vec<u64>,
    pub incomplete: Vec<u64>,
    /// Percentiles of the duration; null for a bucket without roll calls.
    pub p50_ms: Vec<Option<f64>>,
    pub p99_ms: Vec<Option<f64>>,
    pub last_minute: LastMinute,
}

/// The last complete minute.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LastMinute {
    pub per_second: f64,
    pub incomplete: u64,
    #[schema(required)]
    pub p50_ms: Option<f64>,
    #[schema(required)]
    pub p99_ms: Option<f64>,
}
