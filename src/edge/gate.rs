//! The gate before Socket.IO: when clients are let in at all, and when those inside are let go.
//!
//! Owns the `503` for clients that come while this node does not count or is on its way out, and the end of the
//! transports when that is so: always without a Socket.IO disconnect, after which official clients would not come back.
//! While the node is on its way out, requests of sessions pass: their own end comes, and others' go on elsewhere. Owns no
//! sockets and no connections: whether the node counts is the membership's, how many clients are too many is the
//! turnstile's, transports end by their switches.

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

use crate::auth::By;
use crate::edge::connections::{Connections, Switch};
use crate::edge::limits::turnstile::Turnstile;
use crate::edge::polling::query::Query;
use crate::edge::socketio::compact::compact;
use crate::membership::Membership;
use crate::problem::{Problem, SOON};

/// How often within a lease it is looked whether this node still counts…
const LOOKS_PER_LEASE: u32 = 20;
/// …and how many times in a row it must not. A process that was stopped looks once and then finds its lease again.
const LOOKS_IN_VAIN: u32 = 10;

/// Around a service that holds Socket.IO, or around nothing: requests of other paths pass.
#[derive(Clone)]
pub struct Gate<S> {
    membership: Arc<Membership>,
    identity: By,
    turnstile: Arc<Turnstile>,
    inner: S,
}

impl<S> Gate<S> {
    pub fn new(membership: Arc<Membership>, identity: By, turnstile: Arc<Turnstile>, inner: S) -> Self {
        Self { membership, identity, turnstile, inner }
    }

    /// Why a request gets nowhere now: one that opens a session, or one of a session that is there already.
    fn closed(&self, opens: bool) -> Option<&'static str> {
        if opens && self.membership.is_leaving() {
            return Some("this node is stopping; another one takes over");
        }
        if !self.membership.is_introduced() {
            return Some("this node has not reached the directory yet");
        }
        if !self.membership.counts() {
            return Some("this node is cut off from the directory and from most other nodes");
        }
        if opens && !self.identity.is_ready() {
            return Some("this node has no key yet to check tokens with");
        }
        None
    }
}

impl<S, B> Service<Request<B>> for Gate<S>
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
        let Some(query) = Query::read(request.uri()) else {
            return Either::Left(self.inner.call(request));
        };
        let opens = query.sid.is_none();
        if let Some(why) = self.closed(opens) {
            return Either::Right(ready(Ok(Problem::unavailable(why).with(header::RETRY_AFTER, SOON))));
        }
        let websocket = query.transport == Some("websocket");
        if opens
            && let Some(peer) = request.extensions().get::<Switch>().and_then(Switch::peer)
            && let Err(refusal) = self.turnstile.enter(peer, &mut request)
        {
            return Either::Right(ready(Ok(*refusal)));
        }
        if websocket
            && request.headers().contains_key(header::SEC_WEBSOCKET_KEY)
            && let Some(switch) = request.extensions().get::<Switch>()
        {
            switch.mark_websocket();
            // A polling client is not on one connection, and one that upgrades is ended by its session.
            if opens {
                switch.mark_client();
            }
        }
        Either::Left(self.inner.call(compact(request, self.identity.takes_tokens())))
    }
}

/// Lets go of every client, for as long as this node does not count. Goes on for ever.
pub async fn let_go_when_not_counting(membership: &Membership, connections: &Connections) {
    let mut looks = interval(membership.lease() / LOOKS_PER_LEASE);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut in_vain = 0;
    loop {
        looks.tick().await;
        if membership.counts() || !membership.is_introduced() {
            if in_vain >= LOOKS_IN_VAIN {
                info!("this node counts again, clients are let in");
            }
            in_vain = 0;
            continue;
        }
        in_vain += 1;
        if in_vain == LOOKS_IN_VAIN {
            warn!("cut off from the directory and from most other nodes, letting clients go to those that count");
        }
        if in_vain >= LOOKS_IN_VAIN {
            connections.clients().iter().for_each(Switch::end);
        }
    }
}

/// Lets go of every client, one by one and evenly over `time`, so that the others are not stormed.
pub async fn let_go_within(time: Duration, connections: &Connections) {
    let clients = connections.clients();
    let count = u32::try_from(clients.len()).unwrap_or(u32::MAX);
    for (place, client) in clients.iter().enumerate() {
        if place > 0 {
            sleep(time / count).await;
        }
        client.end();
    }
    // Those that were let in while the door was closing.
    connections.clients().iter().for_each(Switch::end);
}
