//! The flags of the limits: what one address, one user, one client and all callers together may take of a node.
//!
//! Owns their words, their ranges and which of them are on unless told otherwise. Those that count by address are not,
//! since a node cannot know by itself whether an address is a client's or that of a balancer with all clients behind it;
//! they are as soon as `--trusted-proxy` has said so.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use ipnet::IpNet;

use super::effective::Implied;
use super::values::{duration, in_range};
use crate::edge::limits::address::Proxies;
use crate::edge::limits::rate::Rate;
use crate::edge::limits::{FILES_RESERVED, HANDSHAKES, Limits, PER_ADDRESS};

/// The most that any count may be.
const COUNT_MOST: u32 = 10_000_000;
/// A forwarded request of a polling client must fit into a message between nodes.
const MESSAGE_MOST: ByteSize = ByteSize::kib(512);
const MESSAGE_LEAST: ByteSize = ByteSize::kib(1);
const PACE_LEAST: ByteSize = ByteSize::kib(1);
const PACE_MOST: ByteSize = ByteSize::mib(256);
/// hyper needs so much.
const HEAD_LEAST: ByteSize = ByteSize::kib(8);
const HEAD_MOST: ByteSize = ByteSize::mib(1);

/// What anybody may take of the node.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// A balancer or proxy in front, an address or a network as in `10.0.0.0/8`; may be repeated or separated by commas.
    /// Whoever comes from there is who its `X-Forwarded-For` names last that is no such proxy; of nobody else is that
    /// header read. `none`: there is no proxy, and every address is a client's own. Either turns the limits by address
    /// on, which are off otherwise: behind a balancer that nobody named, all clients would be one address. An IPv6
    /// address counts as its /64 network
    #[arg(long = "trusted-proxy", env = "ROLLCALL_TRUSTED_PROXY", value_name = "ADDRESS", value_delimiter = ',')]
    trusted_proxies: Vec<TrustedProxy>,

    /// How many connections may be open on the public port, upgraded ones included; one more is answered `503`. Unless
    /// told otherwise: what open files there may be, less 256 for the other nodes, Redis and the probes
    #[arg(long, env = "ROLLCALL_CONNECTIONS", value_name = "COUNT|none")]
    connections: Option<Most>,

    /// How many connections one address may have open; one more is answered `429`. Trusted proxies are not counted.
    /// Unless told otherwise: none, or 1000 with --trusted-proxy
    #[arg(long, env = "ROLLCALL_CONNECTIONS_PER_ADDRESS", value_name = "COUNT|none")]
    connections_per_address: Option<Most>,

    /// How many Socket.IO clients one address may have here, by whatever transport; one more is answered `429`, and
    /// official clients try again. Unless told otherwise: none, or 1000 with --trusted-proxy
    #[arg(long, env = "ROLLCALL_SOCKETS_PER_ADDRESS", value_name = "COUNT|none")]
    sockets_per_address: Option<Most>,

    /// How many sockets one user may have on this node; one more is refused by a `connect_error`, `sockets_too_many`,
    /// after which official clients do not try again. A client whose connection was lost without a word still counts
    /// for a ping interval and timeout, so leave room for that. With `--identity query` anybody can use up the sockets of
    /// anybody, so none unless told otherwise
    #[arg(long, default_value = "none", env = "ROLLCALL_SOCKETS_PER_USER", value_name = "COUNT|none")]
    sockets_per_user: Most,

    /// How many Socket.IO sessions one address may open each second, and after the colon how many at once (ten times as
    /// many unless given); more are answered `429`. Unless told otherwise: none, or 50:1000 with --trusted-proxy, so that
    /// all of one address may come back together
    #[arg(long, env = "ROLLCALL_HANDSHAKES_PER_SECOND", value_name = "RATE|none")]
    handshakes_per_second: Option<AtMost<Rate>>,

    /// How many events one client may send each second, unknown ones and its connecting included, and after the colon
    /// how many at once. More are acknowledged with `events_too_many`, and who sends twice as many is disconnected
    #[arg(long, default_value = "20:200", env = "ROLLCALL_EVENTS_PER_SECOND", value_name = "RATE|none")]
    events_per_second: AtMost<Rate>,

    /// How fast a WebSocket is read, eight seconds' worth at once. Who sends more is not refused, but read slowly: that
    /// bounds what is no event
    #[arg(long, default_value = "64KiB", env = "ROLLCALL_BYTES_PER_SECOND", value_name = "SIZE|none")]
    bytes_per_second: AtMost<Pace>,

    /// How many roll calls are answered at the same time; one more is answered `503` at once instead of waiting. They
    /// take memory while nodes that are asked do not answer
    #[arg(
        long,
        default_value_t = crate::edge::limits::REQUESTS_AT_ONCE,
        env = "ROLLCALL_REQUESTS_AT_ONCE",
        value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    requests_at_once: u32,

    /// How large the head of a request may be, about; a larger one is answered `431`. No head has more than 100 headers
    /// over HTTP/1.1
    #[arg(long, default_value = "32KiB", env = "ROLLCALL_HEAD_SIZE", value_name = "SIZE", value_parser = head_size)]
    head_size: ByteSize,

    /// How large a message of a client may be, its `auth` payload included; a larger one ends its connection, or is
    /// answered `413` where it came by long-polling
    #[arg(long, default_value = "64KiB", env = "ROLLCALL_MESSAGE_SIZE", value_name = "SIZE", value_parser = message_size)]
    message_size: ByteSize,

    /// How long each of these may take: a TLS handshake, the head of a request, and the body of a polling client's
    #[arg(long, default_value = "10s", env = "ROLLCALL_HEAD_WITHIN", value_name = "DURATION", value_parser = within)]
    head_within: Duration,

    /// How long a client may take from its transport to being connected to Socket.IO
    #[arg(long, default_value = "5s", env = "ROLLCALL_CONNECT_WITHIN", value_name = "DURATION", value_parser = within)]
    connect_within: Duration,

    /// How long a reader may take to take an answer, or each MiB of a large one; then its connection is closed
    #[arg(long, default_value = "60s", env = "ROLLCALL_ANSWER_WITHIN", value_name = "DURATION", value_parser = within)]
    answer_within: Duration,
}

/// A limit that can be turned off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtMost<T> {
    None,
    So(T),
}

/// A count that can be.
type Most = AtMost<Count>;

/// From 1 to ten million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count(u32);

/// Bytes each second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace(NonZeroU32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TrustedProxy {
    /// There is none.
    None,
    Network(IpNet),
}

impl LimitArgs {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.trusted_proxies.contains(&TrustedProxy::None) && self.trusted_proxies.len() > 1 {
            return Err("--trusted-proxy: `none` says that there is no proxy, so no other can be named".to_owned());
        }
        Ok(())
    }

    /// What follows from --trusted-proxy and from how many files may be open.
    pub(super) fn implied(&self, files: Option<u64>) -> Vec<Implied> {
        fn text<T: fmt::Display>(limit: Option<T>) -> String {
            limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string())
        }
        let limits = self.limits(files);
        let (files, proxies) = ("the limit of open files", "trusted-proxy");
        [
            ("connections", text(limits.connections), files),
            ("connections-per-address", text(limits.connections_per_address), proxies),
            ("sockets-per-address", text(limits.sockets_per_address), proxies),
            ("handshakes-per-second", text(limits.handshakes), proxies),
        ]
        .map(|(flag, value, by)| Implied { flag, value, by })
        .into()
    }

    /// What these flags mean in a process that may have so many files open.
    pub fn limits(&self, files: Option<u64>) -> Limits {
        let known = !self.trusted_proxies.is_empty();
        let networks = self.trusted_proxies.iter().filter_map(|proxy| match proxy {
            TrustedProxy::None => None,
            TrustedProxy::Network(network) => Some(*network),
        });
        let per_address = |told: Option<Most>| match told {
            Some(told) => told.count(),
            None => known.then_some(PER_ADDRESS),
        };
        let of_files = files.map(|files| {
            let left = files.saturating_sub(FILES_RESERVED).max(files / 2);
            u32::try_from(left).unwrap_or(u32::MAX)
        });
        Limits {
            proxies: Proxies::new(networks),
            connections: self.connections.map_or(of_files, AtMost::count),
            connections_per_address: per_address(self.connections_per_address),
            sockets_per_address: per_address(self.sockets_per_address),
            sockets_per_user: self.sockets_per_user.count(),
            handshakes: self.handshakes_per_second.map_or(known.then_some(HANDSHAKES), AtMost::some),
            events: self.events_per_second.some(),
            bytes: self.bytes_per_second.some().map(|Pace(bytes)| bytes),
            requests_at_once: self.requests_at_once,
            head_size: bytes(self.head_size),
            message_size: bytes(self.message_size),
            head_within: self.head_within,
            connect_within: self.connect_within,
            answer_within: self.answer_within,
        }
    }
}

impl<T> AtMost<T> {
    fn some(self) -> Option<T> {
        match self {
            Self::None => None,
            Self::So(limit) => Some(limit),
        }
    }
}

impl Most {
    fn count(self) -> Option<u32> {
        self.some().map(|Count(count)| count)
    }
}

impl<T: FromStr> FromStr for AtMost<T>
where
    T::Err: fmt::Display,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        text.parse().map(Self::So).map_err(|error: T::Err| format!("{error}; `none` turns the limit off"))
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let count = text.parse().ok().filter(|count| (1..=COUNT_MOST).contains(count));
        count.map(Self).ok_or_else(|| format!("must be a whole number from 1 to {COUNT_MOST}"))
    }
}

impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = bytes(size(text, PACE_LEAST, PACE_MOST)?);
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
    size(text, HEAD_LEAST, HEAD_MOST)
}

fn message_size(text: &str) -> Result<ByteSize, String> {
    size(text, MESSAGE_LEAST, MESSAGE_MOST)
}

fn size(text: &str, least: ByteSize, most: ByteSize) -> Result<ByteSize, String> {
    let parsed = text.parse().map_err(|_| "is not a size; write it as 64KiB".to_owned())?;
    in_range(parsed, least..=most, |size: &ByteSize| size.to_string())
}

fn within(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_millis(100), Duration::from_secs(3600))
}

fn bytes(size: ByteSize) -> u32 {
    u32::try_from(size.as_u64()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::{Cli, Command};
    use super::*;
    use crate::edge::limits::EVENTS;

    fn limits(arguments: &str) -> Limits {
        let arguments = "rollcall serve --identity query".split(' ').chain(arguments.split_whitespace());
        let Ok(Cli { command: Command::Serve(serve), .. }) = Cli::read(arguments.map(OsString::from)) else {
            panic!("they are refused")
        };
        serve.limits.limits(Some(10_000))
    }

    /// What is counted by address: connections, sockets, handshakes.
    fn by_address(limits: &Limits) -> (Option<u32>, Option<u32>, Option<Rate>) {
        (limits.connections_per_address, limits.sockets_per_address, limits.handshakes)
    }

    #[test]
    fn addresses_are_counted_once_it_is_known_whose_they_are() {
        assert_eq!(by_address(&limits("")), (None, None, None));
        let counted = (Some(PER_ADDRESS), Some(PER_ADDRESS), Some(HANDSHAKES));
        for known in ["none", "10.0.0.1", "10.0.0.0/8,2001:db8::/32"] {
            assert_eq!(by_address(&limits(&format!("--trusted-proxy {known}"))), counted, "{known}");
        }
        let off = "--trusted-proxy none --connections-per-address none --sockets-per-address none \
                   --handshakes-per-second none";
        assert_eq!(by_address(&limits(off)), (None, None, None));
        assert_eq!(by_address(&limits("--sockets-per-address 7")), (None, Some(7), None));
    }

    #[test]
    fn what_is_on_by_default_and_how_it_is_changed() {
        let default = limits("");
        assert_eq!((default.connections, default.events), (Some(10_000 - 256), Some(EVENTS)));
        assert_eq!(default.sockets_per_user, None);
        let told = limits("--connections 5 --events-per-second none --sockets-per-user 3 --message-size 2KiB");
        assert_eq!((told.connections, told.events, told.sockets_per_user), (Some(5), None, Some(3)));
        assert_eq!(told.message_size, 2048);
        assert_eq!(limits("--connections none").connections, None);
    }

    #[test]
    fn the_defaults_of_the_flags_are_those_of_the_library() {
        let library = Limits { connections: Some(10_000 - 256), ..Limits::default() };
        assert_eq!(format!("{:?}", limits("")), format!("{library:?}"));
    }
}
