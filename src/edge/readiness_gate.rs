//! The readiness gate in front of Socket.IO: whether this node accepts clients, and when it disconnects them.
//!
//! Owns the `503` for clients that arrive while this node is not active or is stopping, and closing the transports of
//! connected clients then. Sends no Socket.IO disconnect, because official clients would not reconnect after it. A
//! stopping node still serves the requests of open sessions, including forwarded ones, until their own end.
//!
//! Owns no state: [`Membership`] decides whether the node is active, and [`SessionLimiter`] how many clients may connect.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{Request, header};
use axum::response::Response;
use futures::future::Either;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tower::Service;
use tracing::{info, warn};

use crate::auth::IdentityMode;
use crate::edge::connections::handle::{ConnectionHandle, ConnectionRegistry};
use crate::edge::limits::session_limiter::SessionLimiter;
use crate::edge::polling::engine_io::EngineQuery;
use crate::edge::trim_request::trim_request;
use crate::membership::Membership;
use crate::problem::{Problem, SOON};

/// Checks of the membership during one lease.
const CHECKS_PER_LEASE: u32 = 20;
/// Consecutive failed checks before clients are disconnected. A process that was suspended fails one check, and then
/// renews its lease.
const MIN_FAILED_CHECKS: u32 = 10;

/// Wraps the service that serves Socket.IO. Requests for other paths pass unchanged.
#[derive(Clone)]
pub struct ReadinessGate<S> {
    membership: Arc<Membership>,
    identity: IdentityMode,
    session_limiter: Arc<SessionLimiter>,
    inner: S,
}

impl<S> ReadinessGate<S> {
    pub fn new(
        membership: Arc<Membership>,
        identity: IdentityMode,
        session_limiter: Arc<SessionLimiter>,
        inner: S,
    ) -> Self {
        Self { membership, identity, session_limiter, inner }
    }

    /// Why this node cannot serve the request now. `opens_session`: it does not belong to an open session.
    fn rejection(&self, opens_session: bool) -> Option<&'static str> {
        if opens_session && self.membership.is_draining() {
            return Some("this node is stopping; another one takes over");
        }
        if !self.membership.has_joined() {
            return Some("this node has not reached the directory yet");
        }
        if !self.membership.is_active() {
            return Some("this node is cut off from the directory and from most other nodes");
        }
        if opens_session && !self.identity.is_ready() {
            return Some("this node has no key yet to verify tokens (JWKS)");
        }
        None
    }
}

impl<S, B> Service<Request<B>> for ReadinessGate<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Some(query) = EngineQuery::parse(request.uri()) else {
            return Either::Left(self.inner.call(request));
        };
        let opens_session = query.sid.is_none();
        if let Some(reason) = self.rejection(opens_session) {
            return Either::Right(ready(Ok(Problem::unavailable(reason).with(header::RETRY_AFTER, SOON))));
        }
        let websocket = query.transport == Some("websocket");
        if opens_session
            && let Some(peer) = request.extensions().get::<ConnectionHandle>().and_then(ConnectionHandle::peer)
            && let Err(response) = self.session_limiter.admit(peer, &mut request)
        {
            return Either::Right(ready(Ok(*response)));
        }
        if websocket
            && request.headers().contains_key(header::SEC_WEBSOCKET_KEY)
            && let Some(handle) = request.extensions().get::<ConnectionHandle>()
        {
            handle.mark_websocket();
            // A polling client has many connections, and an upgraded one is closed by its session's handle.
            if opens_session {
                handle.mark_client();
            }
        }
        Either::Left(self.inner.call(trim_request(request, self.identity.requires_tokens())))
    }
}

/// Disconnects all clients while this node is not active. Runs forever.
pub async fn disconnect_clients_while_inactive(membership: &Membership, connections: &ConnectionRegistry) {
    let mut checks = interval(membership.lease() / CHECKS_PER_LEASE);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed_checks = 0;
    loop {
        checks.tick().await;
        if membership.is_active() || !membership.has_joined() {
            if failed_checks >= MIN_FAILED_CHECKS {
                info!("this node is active again; accepting clients");
            }
            failed_checks = 0;
            continue;
        }
        failed_checks += 1;
        if failed_checks == MIN_FAILED_CHECKS {
            warn!(
                "cut off from redis and from most other nodes; disconnecting clients so that they reconnect elsewhere"
            );
        }
        if failed_checks >= MIN_FAILED_CHECKS {
            connections.clients().iter().for_each(ConnectionHandle::close);
        }
    }
}

/// Disconnects all clients one by one, evenly over `duration`, so that the other nodes are not flooded by reconnects.
pub async fn disconnect_clients_over(duration: Duration, connections: &ConnectionRegistry) {
    let clients = connections.clients();
    let count = u32::try_from(clients.len()).unwrap_or(u32::MAX);
    for (index, client) in clients.iter().enumerate() {
        if index > 0 {
            sleep(duration / count).await;
        }
        client.close();
    }
    // Clients whose handshake was in progress when the gate closed.
    connections.clients().iter().for_each(ConnectionHandle::close);
}
