//! Wires the mesh port: gRPC for the other nodes ([`crate::mesh_service`]).

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::config::NodeConfig;
use super::core::NodeCore;
use crate::edge::limits::connection_limiter::limit_connections;
use crate::edge::polling::forward::ForwardedPolling;
use crate::edge::polling::sessions::PollingSessions;
use crate::mesh::accept::{MeshConnection, accept_connections};
use crate::mesh_service;
use crate::mesh_service::PollingForwarding;

/// Each peer has one or two connections; the rest is for tools such as `grpcurl`.
const MAX_MESH_CONNECTIONS: usize = 1024;

/// Serves the mesh port until `stop`, then finishes the calls in progress.
pub(super) fn serve(
    config: &NodeConfig,
    core: &NodeCore,
    sessions: Option<Arc<PollingSessions>>,
    listener: TcpListener,
    stop: CancellationToken,
) -> JoinHandle<Result<(), tonic::transport::Error>> {
    let security = config.mesh_security.clone();
    let connections = accept_connections(listener, security.clone(), core.peers.byte_counter().clone());
    let polling = sessions.map(|sessions| Arc::new(ForwardedPolling(sessions)) as PollingForwarding);
    tokio::spawn(mesh_service::serve(
        limit_connections(connections, MAX_MESH_CONNECTIONS, MeshConnection::with_permit),
        core.reporter.clone(),
        config.access.identity.clone(),
        polling,
        config.telemetry.trace_sampling,
        security,
        stop,
    ))
}
