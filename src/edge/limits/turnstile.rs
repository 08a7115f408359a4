//! The turnstile: which Socket.IO clients are let in, by their address.
//!
//! Owns how many there are of one address and how often they may come, and the [`Client`] that each is while it is there:
//! what counts is the session and not the connection, of which a polling client has many. Who the client is behind a
//! proxy is told by [`super::address`], and whether the node takes clients at all is decided at the gate, before.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, Request, header};
use axum::response::Response;

use super::Limits;
use super::address::{Address, Proxies};
use super::complaints::Complaints;
use super::counts::{Counts, Place};
use super::rate::{Events, PerKey, Rate, Verdict};
use crate::problem::{Problem, SOON};

/// Counts the clients of one node. Shared by `Arc`.
pub struct Turnstile {
    proxies: Proxies,
    per_address: Option<u32>,
    of_address: Counts<Address>,
    handshakes: Option<PerKey<Address>>,
    events: Option<Rate>,
    complaints: Arc<Complaints>,
}

/// One client, for as long as this is kept: in the extensions of the request that opened its session.
pub struct Client {
    address: Address,
    events: Option<Events>,
    complaints: Arc<Complaints>,
    _of_address: Option<Place<Address>>,
}

impl Turnstile {
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            proxies: limits.proxies.clone(),
            per_address: limits.sockets_per_address,
            of_address: Counts::default(),
            handshakes: limits.handshakes.map(PerKey::new),
            events: limits.events,
            complaints: Arc::default(),
        })
    }

    /// Lets in the client that opens a session by this request, and puts its [`Client`] into the request's extensions.
    ///
    /// # Errors
    /// The answer for a client that comes too often, or is one too many of its address: official clients try again.
    pub fn enter<B>(&self, peer: IpAddr, request: &mut Request<B>) -> Result<(), Box<Response>> {
        let address = Address::from(self.proxies.client(peer, request.headers()));
        if let Some(handshakes) = &self.handshakes
            && let Err(wait) = handshakes.one_more(&address)
        {
            self.complaints.note(address, "too many handshakes of this address");
            return Err(refusal("this address opens sessions too fast", Some(wait)));
        }
        let mut place = None;
        if let Some(most) = self.per_address {
            place = self.of_address.take(&address, most);
            if place.is_none() {
                self.complaints.note(address, "too many sockets of this address");
                return Err(refusal("too many sessions of this address are open", None));
            }
        }
        let complaints = Arc::clone(&self.complaints);
        let client = Client { address, events: self.events.map(Events::new), complaints, _of_address: place };
        request.extensions_mut().insert(Arc::new(client));
        Ok(())
    }

    /// What keeps going: forgets who has not come for a while.
    pub async fn upkeep(&self) {
        match &self.handshakes {
            Some(handshakes) => handshakes.forget_idle().await,
            None => std::future::pending().await,
        }
    }
}

impl Client {
    /// One more event of this client.
    pub fn event(&self) -> Verdict {
        let verdict = self.events.as_ref().map_or(Verdict::Fine, Events::one_more);
        if verdict == Verdict::Flood {
            self.complaints.note(self.address, "a flood of events");
        }
        verdict
    }
}

fn refusal(detail: &str, wait: Option<Duration>) -> Box<Response> {
    let again = wait.map_or(SOON, |wait| HeaderValue::from(wait.as_secs() + 1));
    Box::new(Problem::too_many(detail).with(header::RETRY_AFTER, again))
}
