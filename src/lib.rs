//! Rollcall: who is in this Socket.IO room right now, across the whole cluster, and which user is each socket?
//!
//! Two flows, and the order to read the modules in:
//!
//! ```text
//! socket in:   edge -> roster -> reconciler -> directory (Redis)
//! question in: http -> roll_call -> directory: whom to ask -> mesh: LookupSockets to exactly those -> join -> JSON
//! ```
//!
//! Each module imports only from the modules above it. `docs/ARCHITECTURE.md` has the promises and the rules.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]
// The documentation is for those who change this crate, and is built with its private items.
#![allow(rustdoc::private_intra_doc_links)]

// The modules in reading order, which is also the order of the layers. The blank lines keep `cargo fmt` from sorting them.

// Rooms, users, sockets and nodes as validated types.
pub mod names;

// A monotonic clock that continues while the machine sleeps.
pub mod clock;

// The envelope of every HTTP error (RFC 9457).
pub mod problem;

// The words of the shared index: epochs and socket entries.
pub mod index;

// This node's sockets by room, and what the directory must hold for them.
pub mod roster;

// Tokens, keys and TLS: which client is who, and who may ask.
pub mod auth;

// The log, the metrics and the traces.
pub mod telemetry;

// The index of whom to ask about a room: the contract, in memory and in Redis.
pub mod directory;

// The gRPC client side of the connections between nodes, and their security.
pub mod mesh;

// Which nodes belong to the cluster, and whether this one is active.
pub mod membership;

// The question "who is in this room", put to every node that must be asked.
pub mod roll_call;

// Keeps the directory equal to the roster.
pub mod reconciler;

// How this node and the cluster are, for operators.
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
