//! What the connections of a port are held to.
//!
//! Owns the choice of what concerns connections among all limits. How many there may be is the door's.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::edge::limits::Limits;

#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// How long what was sent may wait for the other end to take any of it.
    pub stuck_after: Duration,
    /// How long a TLS handshake, and then each request head, may take.
    pub head_within: Duration,
    /// The largest request head, in bytes, about: hyper looks at it between reads.
    pub head_size: u32,
    /// How long it may take a reader to take an answer, or each piece of it.
    pub answer_within: Duration,
    /// How fast a WebSocket is read.
    pub bytes_per_second: Option<NonZeroU32>,
    /// How long a request over HTTP/2 may take, its answer included.
    pub stream_within: Duration,
}

impl Terms {
    /// No answer is waited for longer than `longest_wait` before it begins.
    pub fn new(stuck_after: Duration, longest_wait: Duration, limits: &Limits) -> Self {
        Self {
            stuck_after,
            head_within: limits.head_within,
            head_size: limits.head_size,
            answer_within: limits.answer_within,
            bytes_per_second: limits.bytes,
            stream_within: longest_wait + limits.answer_within,
        }
    }
}
