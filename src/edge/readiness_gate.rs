//! The gate before Socket.IO: when clients are let in at all, and when those inside are let go.
//!
//! Owns the `503` for clients that come while this node does not count or is on its way out, and the end of the
//! transports when that is so: always without a Socket.IO disconnect, after which official clients would not come back.
//! While the node is on its way out, requests of sessions pass: their own end comes, and others' go on elsewhere. Owns no
//! sockets and no connections: whether the node counts is the membership's, how many clients are too many is the
//! session_limiter's, transports end by their switches.

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

/// How often within a lease it is looked whether this node still counts…
const CHECKS_PER_LEASE: u32 = 20;
/// …and how many times in a row it must not. A process that was stopped checks once and then finds its lease again.
const MIN_FAILED_CHECKS: u32 = 10;

/// Around a service that holds Socket.IO, or around nothing: requests of other paths pass.
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

    /// Why a request gets nowhere now: one that opens_session a session, or one of a session that is there already.
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
            return Some("this node has no key yet to check tokens with");
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
        if let Some(why) = self.rejection(opens_session) {
            return Either::Right(ready(Ok(Problem::unavailable(why).with(header::RETRY_AFTER, SOON))));
        }
        let websocket = query.transport == Some("websocket");
        if opens_session
            && let Some(peer) = request.extensions().get::<ConnectionHandle>().and_then(ConnectionHandle::peer)
            && let Err(refusal) = self.session_limiter.admit(peer, &mut request)
        {
            return Either::Right(ready(Ok(*refusal)));
        }
        if websocket
            && request.headers().contains_key(header::SEC_WEBSOCKET_KEY)
            && let Some(switch) = request.extensions().get::<ConnectionHandle>()
        {
            switch.mark_websocket();
            // A polling client is not on one connection, and one that upgrades is ended by its session.
            if opens_session {
                switch.mark_client();
            }
        }
        Either::Left(self.inner.call(trim_request(request, self.identity.takes_tokens())))
    }
}

/// Lets go of every client, for as long as this node does not count. Goes on for ever.
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
            warn!("cut off from the directory and from most other nodes, letting clients go to those that count");
        }
        if failed_checks >= MIN_FAILED_CHECKS {
            connections.clients().iter().for_each(ConnectionHandle::close);
        }
    }
}

/// Lets go of every client, one by one and evenly over `time`, so that the others are not stormed.
pub async fn disconnect_clients_over(time: Duration, connections: &ConnectionRegistry) {
    let clients = connections.clients();
    let count = u32::try_from(clients.len()).unwrap_or(u32::MAX);
    for (place, client) in clients.iter().enumerate() {
        if place > 0 {
            sleep(time / count).await;
        }
        client.close();
    }
    // Those that were let in while the door was closing.
    connections.clients().iter().for_each(ConnectionHandle::close);
}
