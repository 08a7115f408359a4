//! How fast a WebSocket is read.
//!
//! Owns the bound on what a client can have done for it without a single event: packets for namespaces that do not exist,
//! acknowledgements that nobody asked for, pings. It is not refused but read slowly, and so it waits, in its own kernel.
//! A few words of memory, and no timer, for one that keeps to its pace.

use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::{Sleep, sleep};

/// How many seconds' worth is read at once.
const AT_ONCE: u32 = 8;

/// The pace of one connection.
pub struct Pace {
    bytes: DefaultDirectRateLimiter,
    at_once: NonZeroU32,
    /// What was read and is not paid for yet.
    owed: Option<NonZeroU32>,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// Bytes per second.
    pub fn new(rate: NonZeroU32) -> Self {
        let at_once = rate.saturating_mul(NonZeroU32::new(AT_ONCE).unwrap_or(rate));
        let bytes = RateLimiter::direct(Quota::per_second(rate).allow_burst(at_once));
        Self { bytes, at_once, owed: None, waiting: None }
    }

    /// Ready when something may be read.
    pub fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Some(owed) = self.owed {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(context));
                self.waiting = None;
            }
            match self.bytes.check_n(owed) {
                Ok(Err(early)) => {
                    let wait = early.wait_time_from(DefaultClock::default().now());
                    self.waiting = Some(Box::pin(sleep(wait)));
                }
                Ok(Ok(())) | Err(_) => self.owed = None,
            }
        }
        Poll::Ready(())
    }

    /// So many bytes were read.
    pub fn read(&mut self, bytes: usize) {
        self.owed = u32::try_from(bytes).ok().and_then(NonZeroU32::new).map(|bytes| bytes.min(self.at_once));
    }
}
