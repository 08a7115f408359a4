//! The types of flag values, and their parsers.
//!
//! A parser reads only its text, except that host names of listeners are resolved. Its error says what the value must be.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::http::uri::Authority;
use bytesize::ByteSize;

use crate::names::{NodeName, Room};
use crate::roll_call;

const MIN_CACHE: ByteSize = ByteSize::mib(1);
const MAX_CACHE: ByteSize = ByteSize::gib(64);

/// A Redis URL. Its `Debug` shows no credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

/// `host:port` of a listener, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    host: String,
    pub address: SocketAddr,
}

/// `host:port`, not resolved: the name may resolve on other machines only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort(String);

impl RedisUrl {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn has_password(&self) -> bool {
        self.userinfo().contains(':')
    }

    pub(crate) fn has_user(&self) -> bool {
        !matches!(self.userinfo().bytes().next(), None | Some(b':'))
    }

    fn userinfo(&self) -> &str {
        let authority = self.0.split_once("://").map_or("", |(_, rest)| rest).split(['/', '?']).next().unwrap_or("");
        authority.rsplit_once('@').map_or("", |(userinfo, _)| userinfo)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisUrl(…)")
    }
}

impl FromStr for RedisUrl {
    type Err = std::convert::Infallible;

    /// Accepts any text: clap would print an invalid value, and with it the password. The flags are checked later.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl ListenAddress {
    /// The names and addresses for a certificate of this listener.
    pub fn certificate_names(&self) -> Vec<String> {
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        if !names.contains(&self.host) && !self.address.ip().is_unspecified() {
            names.push(self.host.clone());
        }
        names
    }

    /// The origin that a browser uses.
    pub fn origin(&self, tls: bool, port: u16) -> String {
        let scheme = if tls { "https" } else { "http" };
        let host = match self.host.as_str() {
            _ if self.address.ip().is_unspecified() => "localhost".to_owned(),
            host if host.contains(':') => format!("[{host}]"),
            host => host.to_owned(),
        };
        format!("{scheme}://{host}:{port}")
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, _port) = text.rsplit_once(':').ok_or("must be HOST:PORT, as in 127.0.0.1:5001")?;
        let addresses = text.to_socket_addrs().map_err(|error| format!("must be HOST:PORT ({error})"))?;
        // `localhost` is both ::1 and 127.0.0.1 on most machines. IPv4: every client falls back to it.
        let address = addresses.min_by_key(SocketAddr::is_ipv6).ok_or("the name resolves to no address")?;
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), address })
    }
}

impl HostPort {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usable = text
            .parse::<Authority>()
            .ok()
            .filter(|authority| authority.port_u16().is_some_and(|port| port > 0) && !authority.as_str().contains('@'));
        usable.map(|_| Self(text.to_owned())).ok_or_else(|| "must be HOST:PORT".to_owned())
    }
}

pub(crate) fn node_name(text: &str) -> Result<NodeName, String> {
    NodeName::parse(text).map_err(|error| error.to_string())
}

pub(crate) fn room(text: &str) -> Result<Room, String> {
    Room::parse(text).map_err(|error| error.to_string())
}

pub(crate) fn deadline(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_millis(10), roll_call::MAX_DEADLINE)
}

pub(crate) fn lease(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_secs(1), Duration::from_secs(60))
}

pub(crate) fn drain(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_secs(1), Duration::from_secs(3600))
}

pub(crate) fn cache(text: &str) -> Result<ByteSize, String> {
    let parsed = text.parse().map_err(|_| "is not a size; write it as 64MiB or 1GiB".to_owned())?;
    in_range(parsed, MIN_CACHE..=MAX_CACHE, |size| size.to_string())
}

pub(crate) fn ping(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_millis(100), Duration::from_secs(300))
}

pub(crate) fn grace(text: &str) -> Result<Duration, String> {
    duration(text, Duration::ZERO, Duration::from_secs(86_400))
}

pub(crate) fn pause(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_millis(100), Duration::from_secs(60))
}

pub(crate) fn duration(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 500ms or 5s"))?;
    in_range(parsed, min..=max, |duration| humantime::format_duration(*duration).to_string())
}

pub(crate) fn in_range<T: PartialOrd>(
    value: T,
    range: RangeInclusive<T>,
    show: impl Fn(&T) -> String,
) -> Result<T, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("must be from {} to {}", show(range.start()), show(range.end())))
}

/// An origin as browsers send it: scheme, host, and a port that is not the default of the scheme.
pub(crate) fn origin(text: &str) -> Result<HeaderValue, String> {
    let invalid = || "must be an origin, as in https://example.org".to_owned();
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or_else(invalid)?;
    let authority: Authority = rest.parse().map_err(|_| invalid())?;
    if authority.as_str().contains('@') {
        return Err(invalid());
    }
    HeaderValue::from_str(text).map_err(|_| invalid())
}
