//! Rollcall lists the sockets of a Socket.IO room across a whole cluster, with the user of each socket.
//!
//! Two flows, and the order to read the modules in:
//!
//! ```text
//! socket in:   edge -> roster -> reconciler -> directory (Redis)
//! question in: http -> roll_call -> directory: owners of the room -> mesh: LookupSockets to those that may have sockets -> join -> JSON
//! ```
//!
//! Each module imports only from the modules above it. `docs/ARCHITECTURE.md` has the promises and the rules.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]
// The documentation is for contributors, and `make` builds it with the private items.
#![allow(rustdoc::private_intra_doc_links)]

// The modules in reading order, which is also the order of the layers. The blank lines keep `cargo fmt` from sorting them.

// Rooms, users, sockets and nodes as validated types.
pub mod names;

// A monotonic clock that continues while the machine sleeps.
pub mod clock;

// The envelope of every HTTP error (RFC 9457).
pub mod problem;

// The vocabulary of the shared index: epochs and socket entries.
pub mod index;

// This node's sockets by room, and the entries that the directory must have for them.
pub mod roster;

// Tokens, keys and TLS: the identity of clients, and the permission to request roll calls.
pub mod auth;

// The log, the metrics and the traces.
pub mod telemetry;

// The index of the owners of a room: its contract, and implementations in memory and in Redis.
pub mod directory;

// The gRPC client side of the connections between nodes, and their security.
pub mod mesh;

// The members of the cluster, and whether this node is active.
pub mod membership;

// The roll call: asks every node that may have sockets of the room, and joins the replies.
pub mod roll_call;

// Keeps the directory equal to the roster.
pub mod reconciler;

// The state of this node and of the cluster, for operators.
pub mod status;

// The gRPC server side of the connections between nodes.
pub mod mesh_service;

// REST, the pages and the admin port.
pub mod http;

// The Socket.IO side: accept loop, limits, long-polling, the namespace.
pub mod edge;

// One node: its wiring, its tasks and its shutdown.
pub mod node;

// The command line: a module for each subcommand.
pub mod commands;
