//! The client address of a request, behind proxies too.
//!
//! Owns the [`AddressKey`] by which limits count, and the [`TrustedProxies`] whose `X-Forwarded-For` is believed. The
//! `Forwarded` header is not read: a proxy that writes `X-Forwarded-For` passes a client's `Forwarded` on unchanged, so a
//! client could forge its address. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

/// A list of addresses; each proxy appends the address of its client.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The prefix length of an IPv6 network that one customer gets, and within which it uses any address.
const IPV6_PREFIX_BITS: u32 = 64;

/// The key under which limits count an address: an IPv4 address, or the /64 network of an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressKey(IpAddr);

/// The proxies whose `X-Forwarded-For` is believed. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Arc<[IpNet]>);

impl From<IpAddr> for AddressKey {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & !(u128::MAX >> IPV6_PREFIX_BITS);
                Self(Ipv6Addr::from_bits(network).into())
            }
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

impl fmt::Display for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(network) => write!(f, "{network}/{IPV6_PREFIX_BITS}"),
        }
    }
}

impl TrustedProxies {
    pub fn new(proxies: impl IntoIterator<Item = IpNet>) -> Self {
        Self(proxies.into_iter().collect())
    }

    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client of a request that came from `peer` with these headers: the nearest address that is not a trusted proxy.
    /// An entry that cannot be parsed ends the search, and the proxy that sent it is taken for the client.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut nearest = peer.to_canonical();
        if !self.contain(nearest) {
            return nearest;
        }
        let lines = headers.get_all(FORWARDED_FOR).iter().rev();
        for line in lines {
            let Ok(line) = line.to_str() else { return nearest };
            for entry in line.rsplit(',') {
                let Some(address) = parse(entry.trim()) else { return nearest };
                nearest = address.to_canonical();
                if !self.contain(nearest) {
                    return nearest;
                }
            }
        }
        nearest
    }
}

/// Parses an address; some proxies append the port.
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
        let proxies = TrustedProxies::new(trusted.iter().map(|network| network.parse().unwrap()));
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn an_untrusted_peer_cannot_name_its_client() {
        for lines in [&["203.0.113.7"][..], &["203.0.113.7, 10.0.0.1"], &["10.0.0.1"], &[]] {
            assert_eq!(client(&[], "192.0.2.1", lines), "192.0.2.1");
            assert_eq!(client(&["10.0.0.0/8"], "192.0.2.1", lines), "192.0.2.1");
        }
    }

    #[test]
    fn the_client_is_the_nearest_untrusted_address() {
        let trusted = ["10.0.0.0/8", "2001:db8::/32"];
        for (lines, expected) in [
            (&["203.0.113.7"][..], "203.0.113.7"),
            // Entries that the client wrote itself are further left.
            (&["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
            (&["198.51.100.1, 203.0.113.7, 10.1.2.3"], "203.0.113.7"),
            (&["198.51.100.1", "203.0.113.7,10.1.2.3", "10.9.9.9"], "203.0.113.7"),
            (&["203.0.113.7:4711"], "203.0.113.7"),
            (&["[2001:db9::1]:4711"], "2001:db9::1"),
            (&["[2001:db9::1]"], "2001:db9::1"),
            (&["::ffff:203.0.113.7"], "203.0.113.7"),
            // The proxy's own request.
            (&["10.1.2.3"], "10.1.2.3"),
            (&[], "10.0.0.1"),
            // A proxy that forwards an invalid entry is taken for the client.
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
    fn an_ipv6_network_is_one_key() {
        let key = |text: &str| AddressKey::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(key("2001:db8:0:1::1"), key("2001:db8:0:1:ffff::2"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_eq!(key("2001:db8:0:1:2:3:4:5").to_string(), "2001:db8:0:1::/64");
    }

    proptest! {
        #[test]
        fn any_header_names_some_client(line in "[0-9a-f.:,\\[\\] x]{0,60}") {
            client(&["10.0.0.0/8"], "10.0.0.1", &[&line]);
        }
    }
}
