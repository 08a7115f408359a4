//! Admission of a handshake: as which user, to which rooms, and until when.
//!
//! Owns what a token, or its absence, means for a client, the errors about tokens, and the limit of sockets per user. A
//! token error does not say what is wrong with the token; the log does, for its issuer. A token in the query is
//! not read, because queries are kept in logs and browser histories.
//!
//! [`TokenExpiry`] disconnects the sockets whose token has expired. It closes the transport without a Socket.IO disconnect, so
//! official clients reconnect and ask their application for a new token. The handle removes the rows of the socket before it
//! closes the transport. A socket that ends removes its expiry time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::request::Parts;
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::debug;

use crate::auth::claims::{Claims, RoomScope};
use crate::auth::verifier::{LEEWAY, TokenVerifier};
use crate::auth::{AuthError, IdentityMode};
use crate::edge::connections::handle::ConnectionHandle;
use crate::edge::limits::keyed_semaphore::{KeyedPermit, KeyedSemaphore};
use crate::edge::socketio::handshake::{AuthPayload, ClientError, Handshake, StringOrList};
use crate::http::access::bearer;
use crate::names::UserId;

/// The wait of a client for a permit of its user. On a reconnect, the end of its previous connection may arrive here
/// after the new one.
const USER_PERMIT_TIMEOUT: Duration = Duration::from_secs(1);
const USER_PERMIT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// An admitted client.
#[derive(Debug, PartialEq, Eq)]
pub struct Admission {
    pub handshake: Handshake,
    /// The rooms that the client may join.
    pub allowed_rooms: RoomScope,
    /// The last second, in Unix time, that the client may stay connected.
    pub expires: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum AdmissionError {
    /// Refuse the client. Official clients do not try again after that.
    Refused(ClientError),
    /// Close the transport, so that the client tries again: tokens cannot be verified now.
    Unavailable,
}

/// Limits the sockets of each user on this node. Costs nothing if there is no limit.
///
/// A permit lasts as long as the socket and not as its rows, so it is released however the socket ends.
pub struct UserSocketLimiter {
    max: Option<u32>,
    sockets: KeyedSemaphore<UserId>,
}

/// Reads the handshake and authenticates the client.
pub async fn admit(
    identity: &IdentityMode,
    request: &Parts,
    auth: Option<AuthPayload>,
    max_rooms: usize,
) -> Result<Admission, AdmissionError> {
    let query = request.uri.query();
    match identity {
        IdentityMode::Query => {
            let handshake = Handshake::read(query, auth, max_rooms)?;
            Ok(Admission { handshake, allowed_rooms: RoomScope::all(), expires: None })
        }
        IdentityMode::Jwt { verifier, grace } => {
            let mut auth = auth.ok_or_else(ClientError::token_invalid)?;
            let claims = authenticate(verifier, request, auth.token.take()).await?;
            let handshake = Handshake::read_of_user(claims.user, query, auth, max_rooms)?;
            if let Some(room) = handshake.rooms.iter().find(|room| !claims.rooms.covers(room)) {
                return Err(ClientError::room_forbidden(room).into());
            }
            let expires = claims.expires.saturating_add(LEEWAY).saturating_add(grace.as_secs());
            Ok(Admission { handshake, allowed_rooms: claims.rooms, expires: Some(expires) })
        }
    }
}

/// Verifies the token of the payload, or else that of the header, which browsers cannot set.
async fn authenticate(
    verifier: &TokenVerifier,
    request: &Parts,
    payload_token: Option<StringOrList>,
) -> Result<Claims, AdmissionError> {
    let payload_token = match payload_token {
        Some(StringOrList::String(token)) => Some(token),
        Some(StringOrList::List(_) | StringOrList::Other(_)) => return Err(ClientError::token_invalid().into()),
        None => None,
    };
    let header_token = bearer(&request.headers);
    let token = payload_token.as_deref().or(header_token.as_ref().map(|bearer| bearer.token()));
    let token = token.ok_or_else(ClientError::token_missing)?;
    verifier.verify(token).await.map_err(|error| match error {
        AuthError::Invalid(_) => ClientError::token_invalid().into(),
        AuthError::Expired => ClientError::token_expired().into(),
        AuthError::Unavailable => AdmissionError::Unavailable,
    })
}

impl From<ClientError> for AdmissionError {
    fn from(error: ClientError) -> Self {
        Self::Refused(error)
    }
}

impl UserSocketLimiter {
    /// `None`: unlimited.
    pub fn new(max: Option<u32>) -> Self {
        Self { max, sockets: KeyedSemaphore::default() }
    }

    /// A permit for one more socket of this user; `None` if there is no limit.
    ///
    /// # Errors
    /// When the user still has too many sockets after [`USER_PERMIT_TIMEOUT`].
    pub async fn acquire(&self, user: &UserId) -> Result<Option<KeyedPermit<UserId>>, ClientError> {
        let Some(max) = self.max else { return Ok(None) };
        let started = Instant::now();
        loop {
            if let Some(permit) = self.sockets.try_acquire(user, max) {
                return Ok(Some(permit));
            }
            if started.elapsed() >= USER_PERMIT_TIMEOUT {
                return Err(ClientError::sockets_too_many(max));
            }
            sleep(USER_PERMIT_RETRY_DELAY).await;
        }
    }
}

impl ClientError {
    fn token_missing() -> Self {
        let advice = "pass the token as token in the auth payload, or in the header Authorization: Bearer; one in the \
                      query is not read";
        Self { code: "token_missing", advice: advice.to_owned() }
    }

    fn token_invalid() -> Self {
        Self { code: "token_invalid", advice: "the token is not valid; get another one".to_owned() }
    }

    fn token_expired() -> Self {
        Self { code: "token_expired", advice: "get a new token and connect again".to_owned() }
    }
}

/// The interval of checks for expired tokens. Not a timer for each token: token times are wall-clock times, and the clock
/// may be set.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The expiry times of all sockets with tokens. Shared by `Arc`.
#[derive(Default)]
pub struct TokenExpiry(Mutex<ExpiryTimes>);

/// Removes a socket's expiry time when the last clone is dropped. Kept in the socket's extensions.
#[derive(Clone)]
pub struct TokenExpiryGuard(#[expect(dead_code, reason = "only its drop has an effect")] Arc<ExpiryEntry>);

/// The last valid second, and a number that makes the key unique.
type ExpiryKey = (u64, u64);

#[derive(Default)]
struct ExpiryTimes {
    next: u64,
    sorted: BTreeMap<ExpiryKey, ConnectionHandle>,
}

struct ExpiryEntry {
    expiry: Arc<TokenExpiry>,
    key: ExpiryKey,
}

impl TokenExpiry {
    /// Closes the connection after the second `last`, in Unix time, unless the guard is dropped before.
    pub fn close_after(self: &Arc<Self>, last: u64, connection: ConnectionHandle) -> TokenExpiryGuard {
        let mut times = self.0.lock();
        times.next += 1;
        let key = (last, times.next);
        times.sorted.insert(key, connection);
        TokenExpiryGuard(Arc::new(ExpiryEntry { expiry: Arc::clone(self), key }))
    }

    /// Closes the connections whose token has expired. Runs forever.
    pub async fn run(&self) {
        let mut checks = interval(CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            checks.tick().await;
            // With a clock before 1970, no token expires.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let expired = self.take_expired(now);
            if !expired.is_empty() {
                debug!(sockets = expired.len(), "disconnecting sockets whose token has expired");
            }
            expired.iter().for_each(ConnectionHandle::close);
        }
    }

    /// Removes and returns the connections whose last second is before `now`.
    fn take_expired(&self, now: u64) -> Vec<ConnectionHandle> {
        let mut times = self.0.lock();
        let later = times.sorted.split_off(&(now, 0));
        std::mem::replace(&mut times.sorted, later).into_values().collect()
    }
}

impl Drop for ExpiryEntry {
    fn drop(&mut self) {
        self.expiry.0.lock().sorted.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(expiry: &TokenExpiry) -> Vec<u64> {
        expiry.0.lock().sorted.keys().map(|(last, _)| *last).collect()
    }

    #[test]
    fn a_connection_expires_after_its_last_second() {
        let expiry = Arc::new(TokenExpiry::default());
        let guards = [7, 7, 8, 9, u64::MAX].map(|last| expiry.close_after(last, ConnectionHandle::default()));
        assert_eq!((expiry.take_expired(7).len(), seconds(&expiry)), (0, vec![7, 7, 8, 9, u64::MAX]));
        let [first, second, third, fourth, last] = guards;
        let clone = first.clone();
        drop(first);
        assert_eq!(seconds(&expiry).len(), 5, "a clone keeps it");
        drop(clone);
        assert_eq!(seconds(&expiry), [7, 8, 9, u64::MAX]);
        assert_eq!((expiry.take_expired(9).len(), seconds(&expiry)), (2, vec![9, u64::MAX]));
        assert_eq!(expiry.take_expired(9).len(), 0, "each expires once");
        drop((second, third, fourth, last));
        assert!(seconds(&expiry).is_empty());
    }
}
