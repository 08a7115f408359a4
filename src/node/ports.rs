//! The three ports of a node: public (Socket.IO, long-polling, REST, pages), mesh (gRPC) and admin (probes, operators).
//!
//! Owns the order of the layers of the public port, and the tasks that disconnect clients when their token expires or the node is not active.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::Layer;
use tower::layer::layer_fn;
use tower::util::{MapRequest, MapResponse, option_layer};

use crate::auth::AccessPolicy;
use crate::edge::connections::ConnectionServer;
use crate::edge::connections::handle::ConnectionRegistry;
use crate::edge::limits::Limits;
use crate::edge::limits::connection_limiter::limit_connections;
use crate::edge::limits::session_limiter::SessionLimiter;
use crate::edge::polling::forward::ForwardedPolling;
use crate::edge::polling::sessions::{EngineService, PollingSessions};
use crate::edge::polling::{PollingMiddleware, SessionRouter};
use crate::edge::readiness_gate::ReadinessGate;
use crate::edge::socketio::Transports;
use crate::edge::socketio::admission::TokenExpiry;
use crate::edge::{readiness_gate, socketio};
use crate::http::admin;
use crate::http::admin::AdminConfig;
use crate::http::admin::guard::AdminGuard;
use crate::http::concurrency_limit::ConcurrencyLimit;
use crate::http::config::PublicHttpConfig;
use crate::http::request_id::RequestIds;
use crate::mesh::accept::{MeshConnection, accept_connections};
use crate::mesh_service::PollingForwarding;
use crate::node::config::NodeConfig;
use crate::node::core::NodeCore;
use crate::node::metrics::{MetricSources, MetricsScrape};
use crate::node::tasks::EssentialTasks;
use crate::roll_call::MAX_DEADLINE;
use crate::status::StatusCollector;
use crate::{http, mesh_service};

/// After the start, connections wait in the kernel's queue until the node has joined the cluster, but not longer than this.
/// Then the node accepts them, and answers with `503` until it has joined.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Each peer has one or two connections; the rest is for tools such as `grpcurl`.
const MAX_MESH_CONNECTIONS: usize = 1024;
/// Probes, Prometheus and operators need few connections.
const MAX_ADMIN_CONNECTIONS: u32 = 128;

/// The public port, which is wired but does not serve yet.
pub(super) struct PublicPort {
    pub connections: ConnectionRegistry,
    /// The long-polling sessions; `None` without long-polling.
    pub sessions: Option<Arc<PollingSessions>>,
    /// Accepts connections until the stop signal, then finishes the requests in progress.
    pub serve: BoxFuture<'static, ()>,
}

/// Wires the port, and spawns its tasks.
pub(super) fn build_public(
    config: &NodeConfig,
    core: &NodeCore,
    listener: TcpListener,
    stop: CancellationToken,
    tasks: &mut EssentialTasks,
) -> PublicPort {
    let AccessPolicy { identity, callers } = config.access.clone();
    let NodeCore { roster, membership, reconciler, peers, metrics, .. } = core;
    // After this time without an answer, the session of a poll has ended.
    let poll_timeout = config.clients.ping_interval + config.clients.ping_timeout;
    let connections = ConnectionRegistry::default();
    let (unacked_timeout, longest_wait) = (config.clients.ping_timeout, poll_timeout.max(MAX_DEADLINE));
    let server = ConnectionServer::new(connections.clone(), unacked_timeout, longest_wait, &config.limits);
    let session_limiter = SessionLimiter::new(&config.limits);
    let expiry = Arc::new(TokenExpiry::default());
    let (socket_io, live) = socketio::build(
        Arc::clone(roster),
        Arc::clone(reconciler),
        identity.clone(),
        Arc::clone(&expiry),
        metrics.refusals.clone(),
        config.clients,
        &config.limits,
    );
    let rest = http::router(PublicHttpConfig {
        roll_call: core.roll_call.clone(),
        callers,
        deadline: config.deadline,
        max_deadline: MAX_DEADLINE,
        concurrency_limit: ConcurrencyLimit::new(config.limits.concurrent_roll_calls),
    });

    // The layers, from the innermost to the outermost. Socket.IO is in front of the router, because the path of a room
    // could shadow it. Long-polling is in front of Socket.IO, and the readiness gate is in front of both.
    let service = MapResponse::new(socket_io.layer(rest), |response: Response<_>| response.map(Body::new));
    let sessions = match config.clients.transports {
        Transports::Websocket => None,
        Transports::WebsocketAndPolling => {
            let engine = EngineService::new(service.clone());
            Some(PollingSessions::new(&roster.incarnation(), connections.clone(), engine))
        }
    };
    let polling = sessions.clone().map(|sessions| {
        let (membership, peers) = (Arc::clone(membership), peers.clone());
        let router = Arc::new(SessionRouter::new(sessions, membership, peers, poll_timeout, &config.limits));
        layer_fn(move |inner| PollingMiddleware::new(Arc::clone(&router), inner))
    });
    let service = option_layer(polling).layer(service);
    let service = ReadinessGate::new(Arc::clone(membership), identity.clone(), Arc::clone(&session_limiter), service);
    let service = option_layer(http::cors(config.cors_origins.clone())).layer(service);
    let has_certificate_files = config.tls.as_ref().is_some_and(|tls| tls.files.is_some());
    let service = option_layer(has_certificate_files.then(http::https_only)).layer(service);
    let service = metrics.requests.layer(service);
    let service = RequestIds { https: config.tls.is_some(), sampling: config.telemetry.trace_sampling }.layer(service);
    let service = MapRequest::new(service, |request: Request<Incoming>| request.map(Body::new));

    tasks.spawn("comparison", async move { live.compare().await });
    if let Some(sessions) = sessions.clone() {
        let timeout = config.clients.ping_timeout;
        tasks.spawn("polling sessions", async move { sessions.close_abandoned(timeout).await });
    }
    if identity.requires_tokens() {
        tasks.spawn("expiry", async move { expiry.run().await });
    }
    tasks.spawn("readiness gate", {
        let (membership, connections) = (Arc::clone(membership), connections.clone());
        async move { readiness_gate::disconnect_clients_while_inactive(&membership, &connections).await }
    });
    tasks.spawn("session limiter", async move { session_limiter.forget_idle_addresses().await });
    let tls = config.tls.as_ref().map(|tls| tls.acceptor.clone());
    let membership = Arc::clone(membership);
    let serve = async move {
        let _ = timeout(JOIN_TIMEOUT, membership.joined()).await;
        server.serve(listener, tls, service, stop).await;
    };
    PublicPort { connections, sessions, serve: serve.boxed() }
}

/// Serves the mesh port until `stop`, then finishes the calls in progress.
pub(super) fn serve_mesh(
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

/// Spawns the task that serves the admin port.
///
/// # Errors
/// When the listener has no address.
pub(super) fn start_admin(
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
