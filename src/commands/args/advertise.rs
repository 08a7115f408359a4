//! `--mesh-advertise`: the address at which other nodes reach the mesh port of this node.
//!
//! Owns the meaning of `auto`: the local address from which this machine reaches Redis, since all nodes of a cluster share
//! that network. The kernel's routing table answers this without a packet. So replicated containers and pods can all
//! start with the same command line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{UdpSocket, lookup_host};
use tokio::time::timeout;

use super::values::HostPort;

/// The timeout of the DNS lookup of Redis.
const DNS_TIMEOUT: Duration = Duration::from_secs(5);

/// The value of `--mesh-advertise`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advertise {
    At(HostPort),
    /// Found when the node starts.
    Auto,
}

impl Advertise {
    /// The address to announce. `listening`: the address of the mesh listener; `redis`: its possible addresses, each
    /// `host:port`.
    ///
    /// # Errors
    /// With `auto`: the name of Redis cannot be resolved, or there is no route to it.
    pub async fn resolve(self, listening: SocketAddr, redis: &[String]) -> anyhow::Result<String> {
        match self {
            Self::At(address) => Ok(address.as_str().to_owned()),
            Self::Auto if !listening.ip().is_unspecified() => Ok(listening.to_string()),
            Self::Auto => {
                let address = first_own_address(listening, redis).await.with_context(|| {
                    format!(
                        "--mesh-advertise auto finds no address from which this machine reaches the redis at {}",
                        redis.join(",")
                    )
                })?;
                Ok(SocketAddr::new(address, listening.port()).to_string())
            }
        }
    }
}

impl FromStr for Advertise {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::At).map_err(|error: String| format!("{error}, or `auto`"))
    }
}

/// The local address on the route to the first reachable host.
async fn first_own_address(listening: SocketAddr, hosts: &[String]) -> anyhow::Result<IpAddr> {
    let mut failed = None;
    for host in hosts {
        match own_address(listening, host).await {
            Ok(address) => return Ok(address),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or_else(|| anyhow::anyhow!("no address of redis is known")))
}

/// The first local address on the route to `host` that a listener on an unspecified address accepts connections at.
async fn own_address(listening: SocketAddr, host: &str) -> anyhow::Result<IpAddr> {
    let found = timeout(DNS_TIMEOUT, lookup_host(host)).await.context("the DNS lookup timed out")??;
    // A listener on [::] accepts IPv4 as well; one on 0.0.0.0 accepts only IPv4.
    let mut failed = "it has no address that can be used".to_owned();
    for peer in found.filter(|peer| listening.is_ipv6() || peer.is_ipv4()) {
        match source_towards(peer).await {
            // A link-local address is meaningless on other machines.
            Ok(IpAddr::V6(address)) if address.is_unicast_link_local() => {}
            Ok(address) => return Ok(address),
            Err(error) => failed = error.to_string(),
        }
    }
    anyhow::bail!(failed)
}

/// The source address that the kernel would choose. Connecting a UDP socket sends no packet.
async fn source_towards(peer: SocketAddr) -> std::io::Result<IpAddr> {
    let any = match peer {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(peer).await?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn auto(listening: &str, redis: &str) -> Result<String, String> {
        let listening = listening.parse().unwrap();
        let redis: Vec<String> = redis.split(' ').map(str::to_owned).collect();
        Advertise::Auto.resolve(listening, &redis).await.map_err(|error| format!("{error:#}"))
    }

    #[tokio::test]
    async fn auto_is_the_local_address_on_the_route_to_redis() {
        assert_eq!(auto("127.0.0.9:7001", "nowhere.invalid:6379").await.unwrap(), "127.0.0.9:7001");
        assert_eq!(auto("0.0.0.0:7001", "127.0.0.1:6379").await.unwrap(), "127.0.0.1:7001");
        assert_eq!(auto("[::]:7001", "127.0.0.1:6379").await.unwrap(), "127.0.0.1:7001");
        // Machines without IPv6 have no way to a neighbour in it.
        if std::net::UdpSocket::bind("[::1]:0").is_ok() {
            assert_eq!(auto("[::]:7001", "[::1]:6379").await.unwrap(), "[::1]:7001");
        }
        let several = "nowhere.invalid:6379 127.0.0.1:6379 127.0.0.2:6379";
        assert_eq!(auto("0.0.0.0:7001", several).await.unwrap(), "127.0.0.1:7001", "the first reachable address");
        let error = auto("0.0.0.0:7001", "[::1]:6379").await.unwrap_err();
        assert!(error.contains("no address that can be used"), "{error}");
        let error = auto("0.0.0.0:7001", "nowhere.invalid:6379").await.unwrap_err();
        assert!(error.contains("--mesh-advertise auto") && error.contains("nowhere.invalid:6379"), "{error}");
    }

    #[test]
    fn the_value_is_a_host_with_a_port_or_auto() {
        assert_eq!("auto".parse(), Ok(Advertise::Auto));
        for address in ["node-1:7001", "10.0.0.1:7001", "[fd00::1]:7001"] {
            assert_eq!(address.parse(), Ok(Advertise::At(address.parse().unwrap())));
        }
        for wrong in ["", "node-1", "node-1:0", "me@node-1:7001", "fd00::1:7001", "auto:7001x", "http://node-1:7001"] {
            assert!(wrong.parse::<Advertise>().is_err(), "{wrong}");
        }
    }
}
