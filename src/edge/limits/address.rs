//! Whose a request is, by address.
//!
//! Owns what counts as one address, and whom to believe when somebody says on whose behalf it comes: nobody but the
//! proxies that were named. Only `X-Forwarded-For` is read. A proxy that writes that header lets `Forwarded` pass as the
//! client wrote it, so whoever reads both can be told anything. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

/// The one header that names clients: a list, to which every proxy adds whom it was asked by.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// How many bits of an IPv6 address name a network, within which its owner picks addresses at will.
const NETWORK_BITS: u32 = 64;

/// Who is counted as one: an IPv4 address, or the /64 network of an IPv6 one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address(IpAddr);

/// The proxies that may say on whose behalf they come. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Arc<[IpNet]>);

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & !(u128::MAX >> NETWORK_BITS);
                Self(Ipv6Addr::from_bits(network).into())
            }
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(network) => write!(f, "{network}/{NETWORK_BITS}"),
        }
    }
}

impl Proxies {
    pub fn new(proxies: impl IntoIterator<Item = IpNet>) -> Self {
        Self(proxies.into_iter().collect())
    }

    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whom a request comes from, that came from `peer` with these headers: the nearest who is no trusted proxy. What
    /// makes no sense counts as said by nobody, and whoever passed it on is taken for the client.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut nearest = peer.to_canonical();
        if !self.contain(nearest) {
            return nearest;
        }
        let lines = headers.get_all(FORWARDED_FOR).iter().rev();
        for line in lines {
            let Ok(line) = line.to_str() else { return nearest };
            for named in line.rsplit(',') {
                let Some(named) = parse(named.trim()) else { return nearest };
                nearest = named.to_canonical();
                if !self.contain(nearest) {
                    return nearest;
                }
            }
        }
        nearest
    }
}

/// An address; some proxies add the port.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn client(trusted: &[&str], peer: &str, lines: &[&str]) -> String {
        let proxies = Proxies::new(trusted.iter().map(|network| network.parse().unwrap()));
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn nobody_is_believed_who_was_not_named() {
        for lines in [&["203.0.113.7"][..], &["203.0.113.7, 10.0.0.1"], &["10.0.0.1"], &[]] {
            assert_eq!(client(&[], "192.0.2.1", lines), "192.0.2.1");
            assert_eq!(client(&["10.0.0.0/8"], "192.0.2.1", lines), "192.0.2.1");
        }
    }

    #[test]
    fn the_nearest_that_is_no_trusted_proxy_is_the_client() {
        let trusted = ["10.0.0.0/8", "2001:db8::/32"];
        for (lines, expected) in [
            (&["203.0.113.7"][..], "203.0.113.7"),
            // What the client wrote itself stands further left.
            (&["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
            (&["198.51.100.1, 203.0.113.7, 10.1.2.3"], "203.0.113.7"),
            (&["198.51.100.1", "203.0.113.7,10.1.2.3", "10.9.9.9"], "203.0.113.7"),
            (&["203.0.113.7:4711"], "203.0.113.7"),
            (&["[2001:db9::1]:4711"], "2001:db9::1"),
            (&["[2001:db9::1]"], "2001:db9::1"),
            (&["::ffff:203.0.113.7"], "203.0.113.7"),
            // Nobody else is named, so it is a proxy's own request.
            (&["10.1.2.3"], "10.1.2.3"),
            (&[], "10.0.0.1"),
            // Whoever passed nonsense on answers for it.
            (&["203.0.113.7, unknown"], "10.0.0.1"),
            (&["203.0.113.7, unknown, 10.1.2.3"], "10.1.2.3"),
            (&["203.0.113.7,"], "10.0.0.1"),
        ] {
            assert_eq!(client(&trusted, "10.0.0.1", lines), expected, "{lines:?}");
            assert_eq!(client(&trusted, "::ffff:10.0.0.1", lines), expected, "{lines:?}");
        }
        assert_eq!(client(&trusted, "2001:db8::1", &["203.0.113.7"]), "203.0.113.7");
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let count = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(count("2001:db8:0:1::1"), count("2001:db8:0:1:ffff::2"));
        assert_ne!(count("2001:db8:0:1::1"), count("2001:db8:0:2::1"));
        assert_ne!(count("192.0.2.1"), count("192.0.2.2"));
        assert_eq!(count("::ffff:192.0.2.1"), count("192.0.2.1"));
        assert_eq!(count("2001:db8:0:1:2:3:4:5").to_string(), "2001:db8:0:1::/64");
    }

    proptest! {
        #[test]
        fn whatever_is_said_somebody_is_the_client(line in "[0-9a-f.:,\\[\\] x]{0,60}") {
            client(&["10.0.0.0/8"], "10.0.0.1", &[&line]);
        }
    }
}
