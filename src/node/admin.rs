//! Wires the admin port: probes, Prometheus, and the operators' API ([`crate::http::admin`]).

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::config::NodeConfig;
use super::core::NodeCore;
use super::metrics::{MetricSources, MetricsScrape};
use super::public::PublicPort;
use super::tasks::EssentialTasks;
use crate::edge::connections::ConnectionServer;
use crate::edge::connections::handle::ConnectionRegistry;
use crate::edge::limits::Limits;
use crate::http::admin;
use crate::http::admin::AdminConfig;
use crate::http::admin::guard::AdminGuard;
use crate::roll_call::MAX_DEADLINE;
use crate::status::StatusCollector;

/// Probes, Prometheus and operators need few connections.
const MAX_ADMIN_CONNECTIONS: u32 = 128;

/// Spawns the task that serves the admin port.
///
/// # Errors
/// When the listener has no address.
pub(super) fn start(
    config: &NodeConfig,
    core: &NodeCore,
    public: &PublicPort,
    listener: TcpListener,
    stop: CancellationToken,
    tasks: &mut EssentialTasks,
) -> std::io::Result<()> {
    let sources = MetricSources {
        roster: Arc::clone(&core.roster),
        membership: Arc::clone(&core.membership),
        identity: config.access.identity.clone(),
        peers: core.peers.clone(),
        cache: core.cache.clone(),
        anomalies: config.telemetry.anomalies.clone(),
        connections: public.connections.clone(),
        sessions: public.sessions.clone(),
        runtime: Handle::current(),
    };
    let scrape = MetricsScrape::new(core.metrics.clone(), sources);
    let router = admin::router(AdminConfig {
        membership: Arc::clone(&core.membership),
        identity: config.access.identity.clone(),
        render_metrics: Arc::new(move || scrape.text().map_err(|error| error.to_string())),
        guard: AdminGuard::new(config.admin_tokens.clone(), listener.local_addr()?.ip()),
        status: StatusCollector::new(core.reporter.clone(), core.peers.clone()),
        roll_call: core.roll_call.clone(),
        deadline: config.deadline,
        log_levels: config.telemetry.log_levels.clone(),
    });
    let connections = Some(MAX_ADMIN_CONNECTIONS);
    let limits = Limits { connections, connections_per_address: None, ..config.limits.clone() };
    let unacked_timeout = config.clients.ping_timeout;
    let server = ConnectionServer::new(ConnectionRegistry::default(), unacked_timeout, MAX_DEADLINE, &limits);
    tasks.spawn("admin", server.serve(listener, None, router, stop));
    Ok(())
}
