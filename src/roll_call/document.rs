//! The JSON of a roll call, one type for each shape.
//!
//! REST writes these types, OpenAPI describes them, and the command line reads them. The strings are borrowed when REST
//! writes them. They are not enums, so that the command line can show values of a later release. Owns no serialization of
//! large lists ([`super::rows`], [`super::rows`]).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::mesh::answers::PeerError;
use crate::telemetry::metrics::roll_calls::RollCallSource;

/// The reason of an incomplete answer in which every node that was asked replied.
pub const UNKNOWN_NODES: &str = "the directory could not be read, or the node does not know all nodes yet";

/// One socket and its user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Socket)]
pub struct SocketDocument<'a> {
    /// The `socket.id` that the client sees.
    #[schema(example = "FWHKDkMSQS-LgF51")]
    pub id_socket: Cow<'a, str>,
    /// The user of the socket.
    #[schema(example = "foo")]
    pub id_user: Cow<'a, str>,
}

/// One socket, its user and its node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = LocatedSocket)]
pub struct LocatedSocketDocument<'a> {
    /// The `socket.id` that the client sees.
    pub id_socket: Cow<'a, str>,
    /// The user of the socket.
    pub id_user: Cow<'a, str>,
    /// The name of the node that the socket is connected to.
    pub node: Cow<'a, str>,
}

/// A node that was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Node)]
pub struct NodeDocument<'a> {
    /// The incarnation of the node: new at each start of the process.
    pub id: Cow<'a, str>,
    /// The configured name of the node.
    pub name: Cow<'a, str>,
    /// The number of sockets in the room that the node vouched for.
    pub vouched: u64,
    /// The node confirmed the rows that were cached, instead of sending them again.
    pub unchanged: bool,
    /// The reason of a missing reply; `null` if the node replied.
    #[schema(value_type = Option<PeerError>, required)]
    pub error: Option<Cow<'a, str>>,
    /// The duration of the lookup, in milliseconds.
    #[schema(minimum = 0)]
    pub took_ms: f64,
}

/// The sockets of the room, the nodes that were asked, and the outcome of each node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = RollCall)]
pub struct RollCallDocument<'a> {
    pub room: Cow<'a, str>,
    /// Every node that may have sockets in the room has replied.
    pub complete: bool,
    /// The time when the roll call started.
    #[schema(format = DateTime)]
    pub as_of: Cow<'a, str>,
    /// The duration of the roll call, in milliseconds.
    #[schema(minimum = 0)]
    pub took_ms: f64,
    #[schema(value_type = RollCallSource)]
    pub source: Cow<'a, str>,
    /// The nodes that were asked.
    pub nodes: Vec<NodeDocument<'a>>,
    /// The number of sockets of nodes that did not reply; `null` if it cannot be known.
    #[schema(required)]
    pub unresolved: Option<u64>,
    /// In no particular order.
    // The last field, because REST streams a long list after the other fields.
    pub users: Vec<LocatedSocketDocument<'a>>,
}
