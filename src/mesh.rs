//! The mesh: the gRPC connections between nodes.
//!
//! Owns both ends of `rollcall.v1.MeshService`: [`server`] answers from the roster and the table, [`peers`] asks and takes
//! [`answers`], over one [`link`] to each peer with a [`circuit`] of its own (of what it holds, over a stream of that link:
//! [`revalidation`]), [`node_status`] translates a node's word and [`description`] how it is, [`accept`] takes connections and
//! [`preface`] bounds who never begins; of `rollcall.v1.PollingService` ([`forward`]); and what is said of their [`health`].
//! What goes over it is [`metered`]. Who may speak is decided by [`security`]. Owns no other decision: whom to ask and what
//! silence means is the roll call's.

pub mod accept;
pub mod answers;
pub mod byte_counter;
pub mod channel;
pub mod circuit_breaker;
pub mod node_status;
pub mod peers;
pub mod preface;
pub mod revalidation;
pub mod security;

/// The compiled protocol.
pub mod proto {
    tonic::include_proto!("rollcall.v1");

    /// What reflection serves.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rollcall.v1.bin"));
}

/// The most ids one `LookupSockets` may name.
pub const MAX_LOOKUP_IDS: usize = 10_000;
/// The largest message a node takes from another: about a million rows.
pub const MAX_ANSWER_BYTES: usize = 64 << 20;
/// The largest request a node takes: 10,000 ids of the longest kind fit.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;
/// The most rows that a `Revalidate` tells for one question, of which a hundred kilobytes is about the most.
pub const MAX_REVALIDATED_ROWS: usize = 256;
/// The largest answer of a `Revalidate` that a node takes.
pub const MAX_REVALIDATED_BYTES: usize = 256 << 10;
/// The largest answer to a forwarded request that a node takes: one message to a client may be larger than what it says.
pub const MAX_FORWARDED_BYTES: usize = 1 << 20;
/// The most calls of one connection that are worked on at once: each polling client whose requests come in on another
/// node has one waiting.
pub const CALLS_PER_CONNECTION: usize = 16 << 10;
/// Metadata of a `FAILED_PRECONDITION`: the id under which the node answers now.
pub const NODE_ID_METADATA: &str = "rollcall-node-id";
