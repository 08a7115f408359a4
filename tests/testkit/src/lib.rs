//! The library of the test binaries: Redis servers, nodes as tasks or as processes, clients, an oracle that judges
//! answers, a TCP proxy, certificates and tokens.
//!
//! Owns every process that it starts: dropping the value kills the process. Owns no test. No function sleeps for a fixed
//! time to wait for a result: [`until`] polls a condition and fails after [`PATIENCE`].

pub mod any_certificate;
pub mod caching_peer;
pub mod captured_log;
pub mod client;
pub mod cluster;
pub mod fake_peer;
pub mod issuer;
pub mod oracle;
pub mod pki;
pub mod process;
pub mod process_cluster;
pub mod programs;
pub mod proxy;
pub mod redis_server;
pub mod redis_topology;
pub mod samples;
pub mod signals;
pub mod tracked_client;
mod wait;
pub mod watch;

pub use wait::{PATIENCE, POLL_INTERVAL, until, within};

use std::net::SocketAddr;

use rollcall::edge::connections::listener::listen;
use rollcall::mesh::channel::{self, PeerChannel};
use rollcall::mesh::proto::mesh_service_client::MeshServiceClient;
use serde_json::Value;
use tokio::net::TcpListener;

/// A listener on a loopback port that the kernel chooses.
pub fn listen_anywhere() -> TcpListener {
    listen(SocketAddr::from(([127, 0, 0, 1], 0)), false).unwrap()
}

/// A client of the mesh port at this address, without TLS and without a token.
pub fn mesh_client(mesh: SocketAddr) -> MeshServiceClient<PeerChannel> {
    channel::client(&mesh.to_string().into(), channel::connect_tcp).unwrap()
}

/// The text field `key` of a JSON object.
pub fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no text {key} in {value}")).to_owned()
}
