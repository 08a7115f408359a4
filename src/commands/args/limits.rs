//! The flags of the limits: resources of a node for one address, one user, one client, and all callers together.
//!
//! Owns their ranges and defaults. Limits by address are off by default, because a node cannot distinguish the address of
//! a client from that of a balancer with all clients behind it. `--trusted-proxy` answers that and turns them on.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use ipnet::IpNet;

use super::origin::ImpliedValue;
use super::values::{duration, in_range};
use crate::edge::limits::address::TrustedProxies;
use crate::edge::limits::rate::Rate;
use crate::edge::limits::{HANDSHAKE_RATE, Limits, MAX_PER_ADDRESS, RESERVED_FILES};

const MAX_COUNT: u32 = 10_000_000;
/// A forwarded polling request must fit into one message between nodes.
const MAX_MESSAGE_SIZE: ByteSize = ByteSize::kib(512);
const MIN_MESSAGE_SIZE: ByteSize = ByteSize::kib(1);
const MIN_READ_RATE: ByteSize = ByteSize::kib(1);
const MAX_READ_RATE: ByteSize = ByteSize::mib(256);
/// The smallest buffer that hyper accepts.
const MIN_HEAD_SIZE: ByteSize = ByteSize::kib(8);
const MAX_HEAD_SIZE: ByteSize = ByteSize::mib(1);

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Address or network (as in `10.0.0.0/8`) of a balancer in front of the node; may be repeated or separated by commas.
    /// For its connections, the client is the last address in `X-Forwarded-For` that is not such a proxy; on other
    /// connections the header is ignored. `none`: there is no proxy. Either value turns on the limits by address, which
    /// are off by default: behind an unnamed balancer all clients would share one address. An IPv6 address is limited
    /// together with its /64 network
    #[arg(long = "trusted-proxy", env = "ROLLCALL_TRUSTED_PROXY", value_name = "ADDRESS", value_delimiter = ',')]
    trusted_proxies: Vec<TrustedProxy>,

    /// Maximum of open connections on the public port, WebSockets included; one more is answered `503`. Default: the limit
    /// of open files, less 256 for other nodes, Redis and probes
    #[arg(long, env = "ROLLCALL_CONNECTIONS", value_name = "COUNT|none")]
    connections: Option<CountLimit>,

    /// Maximum of open connections for one address; one more is answered `429`. Trusted proxies are exempt. Default: none,
    /// or 1000 with --trusted-proxy
    #[arg(long, env = "ROLLCALL_CONNECTIONS_PER_ADDRESS", value_name = "COUNT|none")]
    connections_per_address: Option<CountLimit>,

    /// Maximum of Socket.IO clients for one address on this node, of any transport; one more is answered `429`, and official
    /// clients retry. Default: none, or 1000 with --trusted-proxy
    #[arg(long, env = "ROLLCALL_SOCKETS_PER_ADDRESS", value_name = "COUNT|none")]
    sockets_per_address: Option<CountLimit>,

    /// Maximum of sockets for one user on this node; one more gets the `connect_error` `sockets_too_many`, after which
    /// official clients do not retry. A connection that was lost silently remains until ping interval plus ping timeout, so
    /// leave room for that. Off by default, because with `--identity query` one user could use up the sockets of another
    #[arg(long, default_value = "none", env = "ROLLCALL_SOCKETS_PER_USER", value_name = "COUNT|none")]
    sockets_per_user: CountLimit,

    /// Rate of new Socket.IO sessions for one address: per second, and after the colon the burst (default: ten times the
    /// rate); more are answered `429`. Default: none, or 50:1000 with --trusted-proxy, so that all clients of one address
    /// can reconnect together
    #[arg(long, env = "ROLLCALL_HANDSHAKES_PER_SECOND", value_name = "RATE|none")]
    handshakes_per_second: Option<LimitArg<Rate>>,

    /// Rate of events of one client: per second, and after the colon the burst. The connect and unknown events are included.
    /// Further events are acknowledged with `events_too_many`; at twice the rate the client is disconnected
    #[arg(long, default_value = "20:200", env = "ROLLCALL_EVENTS_PER_SECOND", value_name = "RATE|none")]
    events_per_second: LimitArg<Rate>,

    /// Read rate of one WebSocket, with a burst of eight seconds. A faster sender is read more slowly, not refused: this
    /// limits packets that are not events
    #[arg(long, default_value = "64KiB", env = "ROLLCALL_BYTES_PER_SECOND", value_name = "SIZE|none")]
    bytes_per_second: LimitArg<ReadRate>,

    /// Maximum of concurrent roll calls; one more is answered `503` at once. A roll call holds memory until all nodes
    /// answered or its deadline passed
    #[arg(
        long,
        default_value_t = crate::edge::limits::MAX_CONCURRENT_ROLL_CALLS,
        env = "ROLLCALL_REQUESTS_AT_ONCE",
        value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    requests_at_once: u32,

    /// Approximate maximum size of a request head; a larger one is answered `431`. HTTP/1.1 requests are limited to 100
    /// headers
    #[arg(long, default_value = "32KiB", env = "ROLLCALL_HEAD_SIZE", value_name = "SIZE", value_parser = head_size)]
    head_size: ByteSize,

    /// Maximum size of a client's message, its `auth` payload included; a larger one closes the connection, or is answered
    /// `413` with long-polling
    #[arg(long, default_value = "64KiB", env = "ROLLCALL_MESSAGE_SIZE", value_name = "SIZE", value_parser = message_size)]
    message_size: ByteSize,

    /// Timeout for each of: the TLS handshake, the head of a request, the body of a polling request
    #[arg(long, default_value = "10s", env = "ROLLCALL_HEAD_WITHIN", value_name = "DURATION", value_parser = timeout)]
    head_within: Duration,

    /// Timeout from the open transport to the Socket.IO connect
    #[arg(long, default_value = "5s", env = "ROLLCALL_CONNECT_WITHIN", value_name = "DURATION", value_parser = timeout)]
    connect_within: Duration,

    /// Timeout for a client to read an answer, or each MiB of a large one; then its connection is closed
    #[arg(long, default_value = "60s", env = "ROLLCALL_ANSWER_WITHIN", value_name = "DURATION", value_parser = timeout)]
    answer_within: Duration,
}

/// A limit, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LimitArg<T> {
    None,
    Max(T),
}

type CountLimit = LimitArg<Count>;

/// From 1 to ten million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count(u32);

/// Bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ReadRate(NonZeroU32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TrustedProxy {
    None,
    Network(IpNet),
}

impl LimitArgs {
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.trusted_proxies.contains(&TrustedProxy::None) && self.trusted_proxies.len() > 1 {
            return Err("--trusted-proxy: `none` and an address exclude each other".to_owned());
        }
        Ok(())
    }

    /// The defaults that --trusted-proxy and the limit of open files imply.
    pub(crate) fn implied(&self, files: Option<u64>) -> Vec<ImpliedValue> {
        fn text<T: fmt::Display>(limit: Option<T>) -> String {
            limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string())
        }
        let limits = self.limits(files);
        let (files, proxies) = ("the limit of open files", "trusted-proxy");
        [
            ("connections", text(limits.connections), files),
            ("connections-per-address", text(limits.connections_per_address), proxies),
            ("sockets-per-address", text(limits.sockets_per_address), proxies),
            ("handshakes-per-second", text(limits.handshake_rate), proxies),
        ]
        .map(|(flag, value, by)| ImpliedValue { flag, value, by })
        .into()
    }

    /// The limits, in a process that may open this number of files.
    pub fn limits(&self, files: Option<u64>) -> Limits {
        let proxies_known = !self.trusted_proxies.is_empty();
        let networks = self.trusted_proxies.iter().filter_map(|proxy| match proxy {
            TrustedProxy::None => None,
            TrustedProxy::Network(network) => Some(*network),
        });
        let per_address = |given: Option<CountLimit>| match given {
            Some(limit) => limit.count(),
            None => proxies_known.then_some(MAX_PER_ADDRESS),
        };
        let of_files = files.map(|files| {
            let remaining = files.saturating_sub(RESERVED_FILES).max(files / 2);
            u32::try_from(remaining).unwrap_or(u32::MAX)
        });
        Limits {
            trusted_proxies: TrustedProxies::new(networks),
            connections: self.connections.map_or(of_files, LimitArg::count),
            connections_per_address: per_address(self.connections_per_address),
            sockets_per_address: per_address(self.sockets_per_address),
            sockets_per_user: self.sockets_per_user.count(),
            handshake_rate: self.handshakes_per_second.map_or(proxies_known.then_some(HANDSHAKE_RATE), LimitArg::some),
            event_rate: self.events_per_second.some(),
            websocket_read_rate: self.bytes_per_second.some().map(|ReadRate(bytes)| bytes),
            concurrent_roll_calls: self.requests_at_once,
            head_size: bytes(self.head_size),
            message_size: bytes(self.message_size),
            head_timeout: self.head_within,
            connect_timeout: self.connect_within,
            answer_timeout: self.answer_within,
        }
    }
}

impl<T> LimitArg<T> {
    fn some(self) -> Option<T> {
        match self {
            Self::None => None,
            Self::Max(limit) => Some(limit),
        }
    }
}

impl CountLimit {
    fn count(self) -> Option<u32> {
        self.some().map(|Count(count)| count)
    }
}

impl<T: FromStr> FromStr for LimitArg<T>
where
    T::Err: fmt::Display,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        text.parse().map(Self::Max).map_err(|error: T::Err| format!("{error}; `none` turns the limit off"))
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let count = text.parse().ok().filter(|count| (1..=MAX_COUNT).contains(count));
        count.map(Self).ok_or_else(|| format!("must be a whole number from 1 to {MAX_COUNT}"))
    }
}

impl FromStr for ReadRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = bytes(size(text, MIN_READ_RATE, MAX_READ_RATE)?);
        Ok(Self(NonZeroU32::new(bytes).unwrap_or(NonZeroU32::MIN)))
    }
}

impl FromStr for TrustedProxy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self::None);
        }
        let network = text.parse::<IpAddr>().map(IpNet::from).or_else(|_| text.parse::<IpNet>());
        network.map(Self::Network).map_err(|_| "must be an address, a network as in 10.0.0.0/8, or `none`")
    }
}

fn head_size(text: &str) -> Result<ByteSize, String> {
    size(text, MIN_HEAD_SIZE, MAX_HEAD_SIZE)
}

fn message_size(text: &str) -> Result<ByteSize, String> {
    size(text, MIN_MESSAGE_SIZE, MAX_MESSAGE_SIZE)
}

fn size(text: &str, min: ByteSize, max: ByteSize) -> Result<ByteSize, String> {
    let parsed = text.parse().map_err(|_| "is not a size; write it as 64KiB".to_owned())?;
    in_range(parsed, min..=max, |size: &ByteSize| size.to_string())
}

fn timeout(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_millis(100), Duration::from_secs(3600))
}

fn bytes(size: ByteSize) -> u32 {
    u32::try_from(size.as_u64()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::commands::cli::{Cli, Command};
    use crate::edge::limits::EVENT_RATE;

    fn limits(arguments: &str) -> Limits {
        let arguments = "rollcall serve --identity query".split(' ').chain(arguments.split_whitespace());
        let Ok(Cli { command: Command::Serve(serve), .. }) = Cli::read(arguments.map(OsString::from)) else {
            panic!("the arguments are refused")
        };
        serve.limits.limits(Some(10_000))
    }

    /// The limits by address: connections, sockets, handshakes.
    fn by_address(limits: &Limits) -> (Option<u32>, Option<u32>, Option<Rate>) {
        (limits.connections_per_address, limits.sockets_per_address, limits.handshake_rate)
    }

    #[test]
    fn limits_by_address_need_trusted_proxy() {
        assert_eq!(by_address(&limits("")), (None, None, None));
        let counted = (Some(MAX_PER_ADDRESS), Some(MAX_PER_ADDRESS), Some(HANDSHAKE_RATE));
        for known in ["none", "10.0.0.1", "10.0.0.0/8,2001:db8::/32"] {
            assert_eq!(by_address(&limits(&format!("--trusted-proxy {known}"))), counted, "{known}");
        }
        let off = "--trusted-proxy none --connections-per-address none --sockets-per-address none \
                   --handshakes-per-second none";
        assert_eq!(by_address(&limits(off)), (None, None, None));
        assert_eq!(by_address(&limits("--sockets-per-address 7")), (None, Some(7), None));
    }

    #[test]
    fn defaults_can_be_changed_and_turned_off() {
        let default = limits("");
        assert_eq!((default.connections, default.event_rate), (Some(10_000 - 256), Some(EVENT_RATE)));
        assert_eq!(default.sockets_per_user, None);
        let changed = limits("--connections 5 --events-per-second none --sockets-per-user 3 --message-size 2KiB");
        assert_eq!((changed.connections, changed.event_rate, changed.sockets_per_user), (Some(5), None, Some(3)));
        assert_eq!(changed.message_size, 2048);
        assert_eq!(limits("--connections none").connections, None);
    }

    #[test]
    fn flags_and_library_have_the_same_defaults() {
        let library = Limits { connections: Some(10_000 - 256), ..Limits::default() };
        assert_eq!(format!("{:?}", limits("")), format!("{library:?}"));
    }
}
