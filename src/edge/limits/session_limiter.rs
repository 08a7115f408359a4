//! Limits on Socket.IO sessions by address, and on the events of each client.
//!
//! Owns how many sessions an address may have and how often it may open one, and the [`ClientLimits`] of each session.
//! Counts sessions and not connections, because a polling client uses many connections. Whether the node accepts clients
//! at all is decided before, by the readiness gate.

use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, Request, header};
use axum::response::Response;

use super::Limits;
use super::address::{AddressKey, TrustedProxies};
use super::keyed_semaphore::{KeyedPermit, KeyedSemaphore};
use super::rate::RejectionLog;
use super::rate::{EventLimiter, EventVerdict, KeyedRateLimiter, Rate};
use crate::problem::{Problem, SOON};

/// Counts the sessions of one node.
pub struct SessionLimiter {
    trusted_proxies: TrustedProxies,
    max_per_address: Option<u32>,
    by_address: KeyedSemaphore<AddressKey>,
    handshakes: Option<KeyedRateLimiter<AddressKey>>,
    event_rate: Option<Rate>,
    rejection_log: Arc<RejectionLog>,
}

/// The limits of one client. Kept in the extensions of the request that opened its session, so they live as long as the
/// session.
pub struct ClientLimits {
    address: AddressKey,
    events: Option<EventLimiter>,
    rejection_log: Arc<RejectionLog>,
    _permit: Option<KeyedPermit<AddressKey>>,
}

impl SessionLimiter {
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            trusted_proxies: limits.trusted_proxies.clone(),
            max_per_address: limits.sockets_per_address,
            by_address: KeyedSemaphore::default(),
            handshakes: limits.handshake_rate.map(KeyedRateLimiter::new),
            event_rate: limits.event_rate,
            rejection_log: Arc::default(),
        })
    }

    /// Admits the session that this request opens, and puts its [`ClientLimits`] into the request's extensions.
    ///
    /// # Errors
    /// The response for a session beyond a limit: `429`, after which official clients try again.
    pub fn admit<B>(&self, peer: IpAddr, request: &mut Request<B>) -> Result<(), Box<Response>> {
        let address = AddressKey::from(self.trusted_proxies.client(peer, request.headers()));
        if let Some(handshakes) = &self.handshakes
            && let Err(wait) = handshakes.check(&address)
        {
            self.rejection_log.warn(address, "too many handshakes of this address");
            return Err(too_many("this address opens sessions too fast", Some(wait)));
        }
        let mut permit = None;
        if let Some(max) = self.max_per_address {
            permit = self.by_address.try_acquire(&address, max);
            if permit.is_none() {
                self.rejection_log.warn(address, "too many sockets of this address");
                return Err(too_many("too many sessions of this address are open", None));
            }
        }
        let rejection_log = Arc::clone(&self.rejection_log);
        let events = self.event_rate.map(EventLimiter::new);
        request.extensions_mut().insert(Arc::new(ClientLimits { address, events, rejection_log, _permit: permit }));
        Ok(())
    }

    /// Forgets idle addresses. Runs forever.
    pub async fn forget_idle_addresses(&self) {
        match &self.handshakes {
            Some(handshakes) => handshakes.forget_idle_keys().await,
            None => pending().await,
        }
    }
}

impl ClientLimits {
    /// Counts one event.
    pub fn check_event(&self) -> EventVerdict {
        let verdict = self.events.as_ref().map_or(EventVerdict::Allowed, EventLimiter::check);
        if verdict == EventVerdict::Flood {
            self.rejection_log.warn(self.address, "event flood");
        }
        verdict
    }
}

fn too_many(detail: &str, wait: Option<Duration>) -> Box<Response> {
    let retry_after = wait.map_or(SOON, |wait| HeaderValue::from(wait.as_secs() + 1));
    Box::new(Problem::too_many(detail).with(header::RETRY_AFTER, retry_after))
}
