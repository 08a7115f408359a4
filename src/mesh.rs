//! The mesh, client side: the gRPC connections to other nodes, and the wire types of both sides.
//!
//! Owns the calls to peers ([`peers`]) over one [`channel`] and one [`circuit_breaker`] per address, the [`revalidation`]
//! stream on that channel, the validation of [`answers`], and the status that nodes announce ([`node_status`]).
//! [`accept`] makes the connections of the mesh port, which is reached at the address of [`advertise`], and [`security`]
//! authenticates both ends. Decides neither which nodes
//! to ask nor the meaning of a missing answer (`roll_call`), and serves nothing (`mesh_service`).

pub mod accept;
pub mod advertise;
pub mod answers;
pub mod channel;
pub mod circuit_breaker;
pub mod io;
pub mod node_status;
pub mod peers;
pub(crate) mod revalidation;
pub mod security;

/// The code generated from `proto/`.
pub mod proto {
    tonic::include_proto!("rollcall.v1");

    /// The descriptors for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rollcall.v1.bin"));
}

/// The socket ids in one `LookupSockets` request.
pub const MAX_LOOKUP_IDS: usize = 10_000;
/// The largest response that a node accepts: about a million rows.
pub const MAX_ANSWER_BYTES: usize = 64 << 20;
/// The largest request that a node accepts: 10,000 ids of maximum length fit.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;
/// The largest status in an answer that a node accepts: 1,000 members with addresses of maximum length fit.
pub const MAX_STATUS_BYTES: usize = 1 << 20;
/// Rows in one answer of the revalidation stream: about 100 kB. A larger answer would delay the answers behind it.
pub const MAX_REVALIDATED_ROWS: usize = 256;
/// The largest answer on the revalidation stream that a node accepts.
pub const MAX_REVALIDATED_BYTES: usize = 256 << 10;
/// The largest response to a forwarded polling request that a node accepts.
pub const MAX_FORWARDED_BYTES: usize = 1 << 20;
/// Concurrent calls per connection: each polling client whose requests arrive at the wrong node has one pending.
pub const MAX_CALLS_PER_CONNECTION: usize = 16 << 10;
/// Metadata of a `FAILED_PRECONDITION`: the present id of the node that answers.
pub const NODE_ID_METADATA: &str = "rollcall-node-id";
/// The largest response to `Describe` that a node accepts: several times the largest that a node sends.
pub const MAX_DESCRIPTION_BYTES: usize = 256 << 10;
