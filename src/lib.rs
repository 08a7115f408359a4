//! Rollcall: who is in this Socket.IO room right now, across the whole cluster, and which user is each socket?
//!
//! Two flows, and the order to read the modules in:
//!
//! ```text
//! socket in:   socket_edge -> roster -> registrar -> directory (Redis)
//! question in: http -> roll_call -> directory: whom to ask -> mesh: LookupSockets to exactly those -> join -> JSON
//! ```
//!
//! [`names`] and [`clock`] are what everything speaks of, [`oddities`] what is ignored, [`watched`] the files that are
//! read again. [`identity`] says who is let in and who may ask, [`limits`] what anybody may take; [`membership`] says
//! who belongs to the cluster and whether this node counts, [`health`] whether clients should be sent here, [`metrics`]
//! what was counted, [`logging`] what is told of it, and [`traces`] what each part of it took; [`node`] wires one node
//! together, [`dev`] runs four of them in one process, [`certs`] makes certificates for those of many, and [`audit`]
//! compares what Redis says with what they say. [`status`] asks all of them how they are, [`operator`] tells it on a
//! terminal, and [`admin_client`] is how commands ask a node. The words and the promises are in the README.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod admin_client;
pub mod audit;
pub mod certs;
pub mod cli;
pub mod clock;
pub mod connections;
pub mod dev;
pub mod directory;
pub mod health;
pub mod http;
pub mod identity;
pub mod limits;
pub mod logging;
pub mod membership;
pub mod mesh;
pub mod metrics;
pub mod names;
pub mod node;
pub mod oddities;
pub mod operator;
pub mod registrar;
pub mod roll_call;
pub mod roster;
pub mod socket_edge;
pub mod status;
pub mod tls;
pub mod traces;
pub mod watched;
