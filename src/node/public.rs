//! The public port: Socket.IO, long-polling, REST and the pages, as one stack of services.
//!
//! Owns the order of the layers, and the tasks that disconnect clients when their token expires or the node is not active.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::Layer;
use tower::layer::layer_fn;
use tower::util::{MapRequest, MapResponse, option_layer};

use super::config::NodeConfig;
use super::core::NodeCore;
use super::tasks::EssentialTasks;
use crate::auth::AccessPolicy;
use crate::edge::connections::ConnectionServer;
use crate::edge::connections::handle::ConnectionRegistry;
use crate::edge::limits::session_limiter::SessionLimiter;
use crate::edge::polling::sessions::{EngineService, PollingSessions};
use crate::edge::polling::{PollingMiddleware, SessionRouter};
use crate::edge::readiness_gate;
use crate::edge::readiness_gate::ReadinessGate;
use crate::edge::socketio;
use crate::edge::socketio::Transports;
use crate::edge::socketio::expiry::TokenExpiry;
use crate::http;
use crate::http::concurrency_limit::ConcurrencyLimit;
use crate::http::config::PublicHttpConfig;
use crate::http::request_id::RequestIds;
use crate::roll_call::MAX_DEADLINE;

/// After the start, connections wait in the kernel's queue until the node has joined the cluster, but not longer than this.
/// Then the node accepts them, and answers with `503` until it has joined.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The public port, which is wired but does not serve yet.
pub(super) struct PublicPort {
    pub connections: ConnectionRegistry,
    /// The long-polling sessions; `None` without long-polling.
    pub sessions: Option<Arc<PollingSessions>>,
    /// Accepts connections until the stop signal, then finishes the requests in progress.
    pub serve: BoxFuture<'static, ()>,
}

/// Wires the port, and spawns its tasks.
pub(super) fn build(
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
