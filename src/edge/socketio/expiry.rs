//! Sockets whose token expires: each has its last second here, and its transport ends after that.
//!
//! Owns the times, sorted, and the one task that watches them. The transport ends without a Socket.IO disconnect, so
//! that official clients come back by themselves and ask their application for a new token; the rows go before it, since
//! they are what the switch takes away first. Keeps no socket: one that goes takes its time along.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use crate::edge::connections::handle::ConnectionHandle;

/// How often the clock is looked at. Not a timer for each: the clock of tokens may be set, and a timer goes on.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Shared by `Arc`.
#[derive(Default)]
pub struct Expiry(Mutex<Times>);

/// A time that is watched for as long as this is there. Kept in the socket's extensions.
#[derive(Clone)]
pub struct Watch(#[expect(dead_code, reason = "it is there to be dropped")] Arc<Watched>);

/// The last second, and a number that tells sockets with the same one apart.
type Key = (u64, u64);

#[derive(Default)]
struct Times {
    next: u64,
    sorted: BTreeMap<Key, ConnectionHandle>,
}

struct Watched {
    expiry: Arc<Expiry>,
    key: Key,
}

impl Expiry {
    /// Ends the transport after this second, since 1970.
    pub fn watch(self: &Arc<Self>, last: u64, transport: ConnectionHandle) -> Watch {
        let mut times = self.lock();
        times.next += 1;
        let key = (last, times.next);
        times.sorted.insert(key, transport);
        Watch(Arc::new(Watched { expiry: Arc::clone(self), key }))
    }

    /// Ends every transport in time, for ever.
    pub async fn keep(&self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            // A clock from before 1970 ends nobody.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let over = self.over(now);
            if !over.is_empty() {
                debug!(sockets = over.len(), "letting sockets go whose tokens have expired");
            }
            over.iter().for_each(ConnectionHandle::close);
        }
    }

    /// Those whose last second is over.
    fn over(&self, now: u64) -> Vec<ConnectionHandle> {
        let mut times = self.lock();
        let later = times.sorted.split_off(&(now, 0));
        std::mem::replace(&mut times.sorted, later).into_values().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        self.0.lock().expect("no code panics while it holds the times")
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.expiry.lock().sorted.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(expiry: &Expiry) -> Vec<u64> {
        expiry.lock().sorted.keys().map(|(last, _)| *last).collect()
    }

    #[test]
    fn a_last_second_is_a_whole_one_and_goes_with_its_socket() {
        let expiry = Arc::new(Expiry::default());
        let at = [7, 7, 8, 9, u64::MAX].map(|last| expiry.watch(last, ConnectionHandle::default()));
        assert_eq!((expiry.over(7).len(), watched(&expiry)), (0, vec![7, 7, 8, 9, u64::MAX]));
        let [first, second, third, fourth, last] = at;
        let clone = first.clone();
        drop(first);
        assert_eq!(watched(&expiry).len(), 5, "a clone keeps it");
        drop(clone);
        assert_eq!(watched(&expiry), [7, 8, 9, u64::MAX]);
        assert_eq!((expiry.over(9).len(), watched(&expiry)), (2, vec![9, u64::MAX]));
        assert_eq!(expiry.over(9).len(), 0, "each ends once");
        drop((second, third, fourth, last));
        assert!(watched(&expiry).is_empty());
    }
}
