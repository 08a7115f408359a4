//! Disconnects sockets whose token has expired.
//!
//! Owns the expiry times, sorted, and the one task that watches them. It closes the transport without a Socket.IO
//! disconnect, so official clients reconnect and ask their application for a new token. The handle removes the rows of the
//! socket before it closes the transport. Keeps no socket alive: a socket that ends removes its time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use crate::edge::connections::handle::ConnectionHandle;

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
