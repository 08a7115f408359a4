//! The JSON of a roll call, one type for each shape.
//!
//! REST writes these types, OpenAPI describes them, and the command line reads them. Their texts are borrowed where they
//! are written. They hold plain strings, so that a reader shows what another version sends, whatever it is.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::plan::AskSource;
use crate::mesh::answers::PeerError;

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
    /// Why there is no reply; `null` if there is one.
    #[schema(value_type = Option<PeerError>)]
    pub error: Option<Cow<'a, str>>,
    /// The duration of the lookup, in milliseconds.
    #[schema(minimum = 0)]
    pub took_ms: f64,
}

/// Who is in the room, which nodes were asked, and what each of them replied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = RollCall)]
pub struct RollCallDocument<'a> {
    pub room: Cow<'a, str>,
    /// Every node that may have sockets in the room has replied.
    pub complete: bool,
    /// When the roll call started.
    #[schema(format = DateTime)]
    pub as_of: Cow<'a, str>,
    /// The duration of the roll call, in milliseconds.
    #[schema(minimum = 0)]
    pub took_ms: f64,
    #[schema(value_type = AskSource)]
    pub source: Cow<'a, str>,
    /// The nodes that were asked.
    pub nodes: Vec<NodeDocument<'a>>,
    /// The number of sockets of nodes that did not reply; `null` if it cannot be known.
    pub unresolved: Option<u64>,
    /// In no particular order.
    // The last field: large lists are streamed behind the serialized rest.
    pub users: Vec<LocatedSocketDocument<'a>>,
}
