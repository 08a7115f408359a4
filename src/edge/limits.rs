//! Limits: what one address, one user, one client and all callers together may take of this node.
//!
//! Owns the [`Limits`] with their defaults, and the limiters below: [`connection_limiter`] for connections,
//! [`session_limiter`] for Socket.IO sessions and events, and the [`rate`] and [`keyed_semaphore`] that both are made of.
//! Other modules enforce the sizes and timeouts. Knows no sockets and no rooms.

pub mod address;
pub mod connection_limiter;
pub mod keyed_semaphore;
pub mod rate;
pub mod session_limiter;

use std::num::NonZeroU32;
use std::time::Duration;

use address::TrustedProxies;
use rate::Rate;

/// Sockets, and connections, of one address, if the trusted proxies are configured. Large enough for a school behind one
/// address.
pub const MAX_PER_ADDRESS: u32 = 1000;
/// Handshakes of one address, if the trusted proxies are configured. The burst lets [`MAX_PER_ADDRESS`] clients reconnect
/// at the same time.
pub const HANDSHAKE_RATE: Rate = Rate::new(50, 1000);
/// Events of one client. The burst lets it join every room that a socket may be in, several times over.
pub const EVENT_RATE: Rate = Rate::new(20, 200);
/// Bytes per second of one WebSocket: about a thousand events, if events were not limited themselves.
pub const WEBSOCKET_READ_RATE: NonZeroU32 = NonZeroU32::new(64 << 10).expect("it is not 0");
pub const MAX_CONCURRENT_ROLL_CALLS: u32 = 512;
/// In bytes.
pub const MAX_HEAD_SIZE: u32 = 32 << 10;
/// In bytes. A join or leave is far smaller.
pub const MAX_MESSAGE_SIZE: u32 = 64 << 10;
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Open files that are not client connections: those to other nodes and to Redis, listeners, logs.
pub const RESERVED_FILES: u64 = 256;

/// The limits of one node. `None`: unlimited.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: TrustedProxies,
    /// Open connections of the public port.
    pub connections: Option<u32>,
    /// Open connections of one address. Trusted proxies are exempt.
    pub connections_per_address: Option<u32>,
    /// Socket.IO sessions of one address.
    pub sockets_per_address: Option<u32>,
    /// Sockets of one user on this node.
    pub sockets_per_user: Option<u32>,
    /// Socket.IO sessions that one address may open.
    pub handshake_rate: Option<Rate>,
    /// Events of one client.
    pub event_rate: Option<Rate>,
    /// Bytes per second that are read from one WebSocket.
    pub websocket_read_rate: Option<NonZeroU32>,
    /// Roll calls that are answered at the same time.
    pub concurrent_roll_calls: u32,
    /// Bytes of a request head. Approximate, because hyper checks it between reads.
    pub head_size: u32,
    /// Bytes of a client's message.
    pub message_size: u32,
    /// For a TLS handshake, for a request head, and for the body of a polling client's request.
    pub head_timeout: Duration,
    /// From the opened transport to the admitted client.
    pub connect_timeout: Duration,
    /// For a client to read an answer, or each MiB of a large one.
    pub answer_timeout: Duration,
}

impl Default for Limits {
    /// Limits by address are off: behind a load balancer, all clients have the same address. A limit by user is off,
    /// because without tokens a client can name any user.
    fn default() -> Self {
        Self {
            trusted_proxies: TrustedProxies::default(),
            connections: None,
            connections_per_address: None,
            sockets_per_address: None,
            sockets_per_user: None,
            handshake_rate: None,
            event_rate: Some(EVENT_RATE),
            websocket_read_rate: Some(WEBSOCKET_READ_RATE),
            concurrent_roll_calls: MAX_CONCURRENT_ROLL_CALLS,
            head_size: MAX_HEAD_SIZE,
            message_size: MAX_MESSAGE_SIZE,
            head_timeout: HEAD_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            answer_timeout: ANSWER_TIMEOUT,
        }
    }
}
