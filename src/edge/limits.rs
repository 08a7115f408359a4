//! Limits: what one address, one user, one client and all callers together may take of a node.
//!
//! Owns the numbers ([`Limits`]), the counting ([`counts`]), who is counted as one ([`address`]), how often something may
//! happen ([`rate`]), and the two places where somebody is turned away: the [`door`] for connections, and the
//! [`turnstile`] for Socket.IO clients; [`at_once`] is for callers of the roll. What is held to its limit elsewhere,
//! such as the size of a message, is told so from here. Knows no sockets and no rooms.

pub mod address;
pub mod at_once;
pub mod complaints;
pub mod counted;
pub mod counts;
pub mod door;
pub mod rate;
pub mod turnstile;

use std::num::NonZeroU32;
use std::time::Duration;

use address::Proxies;
use rate::Rate;

/// Sockets and connections of one address, once it is known whose the addresses are: a school behind one address fits.
pub const PER_ADDRESS: u32 = 1000;
/// Handshakes of one address, once it is known whose the addresses are: all of the above may come back at once.
pub const HANDSHAKES: Rate = Rate::new(50, 1000);
/// Events of one client: it may join every room that it can be in, one by one, several times over.
pub const EVENTS: Rate = Rate::new(20, 200);
/// Bytes of one WebSocket, each second: a thousand events, were they not counted themselves.
pub const BYTES: NonZeroU32 = NonZeroU32::new(64 << 10).expect("it is not 0");
/// Roll calls that are answered at the same time.
pub const REQUESTS_AT_ONCE: u32 = 512;
/// The largest request head, in bytes.
pub const HEAD_SIZE: u32 = 32 << 10;
/// The largest message of a client, in bytes. Joining and leaving need far less.
pub const MESSAGE_SIZE: u32 = 64 << 10;
/// How long a TLS handshake, a request head, and the body of a polling client's request may take, each.
pub const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// A client that was not admitted this long after it opened its transport is dropped.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long it may take a reader to take an answer, or each MiB of a large one.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Open files that are no connections of clients: those to the other nodes and to Redis, listeners, logs.
pub const FILES_RESERVED: u64 = 256;

/// What one node grants. `None`: as much as there is.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Who may say on whose behalf it comes.
    pub proxies: Proxies,
    /// Connections of the public port.
    pub connections: Option<u32>,
    /// Connections of one address that is no trusted proxy.
    pub connections_per_address: Option<u32>,
    /// Socket.IO clients of one address.
    pub sockets_per_address: Option<u32>,
    /// Sockets of one user on this node.
    pub sockets_per_user: Option<u32>,
    /// Handshakes of one address.
    pub handshakes: Option<Rate>,
    /// Events of one client.
    pub events: Option<Rate>,
    /// Bytes that are read of one WebSocket, each second.
    pub bytes: Option<NonZeroU32>,
    /// Roll calls that are answered at the same time.
    pub requests_at_once: u32,
    /// The largest request head, in bytes.
    pub head_size: u32,
    /// The largest message of a client, in bytes.
    pub message_size: u32,
    /// How long each part of a request may take to come, and a TLS handshake to be done.
    pub head_within: Duration,
    /// How long a client may take from its transport to its admission.
    pub connect_within: Duration,
    /// How long it may take a reader to take an answer, or each MiB of a large one.
    pub answer_within: Duration,
}

impl Default for Limits {
    /// Nothing is counted by address or user: a balancer in front makes all clients one address.
    fn default() -> Self {
        Self {
            proxies: Proxies::default(),
            connections: None,
            connections_per_address: None,
            sockets_per_address: None,
            sockets_per_user: None,
            handshakes: None,
            events: Some(EVENTS),
            bytes: Some(BYTES),
            requests_at_once: REQUESTS_AT_ONCE,
            head_size: HEAD_SIZE,
            message_size: MESSAGE_SIZE,
            head_within: HEAD_WITHIN,
            connect_within: CONNECT_WITHIN,
            answer_within: ANSWER_WITHIN,
        }
    }
}
