//! Where the other nodes are told to reach this one's mesh: `--mesh-advertise`.
//!
//! Owns its forms, and what `auto` comes to: the address from which this machine reaches Redis, since the nodes of a
//! cluster have that network in common. The kernel is asked for it; nothing is sent. So nodes that are made by the
//! number, containers or pods, all start with the same words and need no shell to find their own address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{UdpSocket, lookup_host};
use tokio::time::timeout;

use super::values::Advertised;

/// How long looking up the name of Redis may take.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(5);

/// How the others are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advertise {
    /// As they are told.
    At(Advertised),
    /// Found at the start.
    Auto,
}

impl Advertise {
    /// What the others are told. `listening`: where the mesh does; `redis`: where that may be, each `host:port`.
    ///
    /// # Errors
    /// When `auto` finds none: the name of Redis cannot be looked up, or there is no way to it.
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

/// That on the way to the first of these that there is a way to.
async fn first_own_address(listening: SocketAddr, hosts: &[String]) -> anyhow::Result<IpAddr> {
    let mut failed = None;
    for host in hosts {
        match own_address(listening, host).await {
            Ok(address) => return Ok(address),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or_else(|| anyhow::anyhow!("it is nowhere")))
}

/// The first address of this machine on the way to `host` that a listener on every address of its family is reached at.
async fn own_address(listening: SocketAddr, host: &str) -> anyhow::Result<IpAddr> {
    let found = timeout(LOOK_UP_WITHIN, lookup_host(host)).await.context("looking it up takes too long")??;
    // A listener on [::] is reached by IPv4 too, one on 0.0.0.0 by nothing else.
    let mut failed = "it has no address that can be used".to_owned();
    for peer in found.filter(|peer| listening.is_ipv6() || peer.is_ipv4()) {
        match source_towards(peer).await {
            // An address that means something on one link only cannot be told to others.
            Ok(IpAddr::V6(address)) if address.is_unicast_link_local() => {}
            Ok(address) => return Ok(address),
            Err(error) => failed = error.to_string(),
        }
    }
    anyhow::bail!(failed)
}

/// What the kernel would write as the source of what is sent there. Connecting a datagram socket sends nothing.
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
    async fn auto_is_where_the_mesh_listens_or_on_every_address_the_one_on_the_way_to_redis() {
        assert_eq!(auto("127.0.0.9:7001", "nowhere.invalid:6379").await.unwrap(), "127.0.0.9:7001");
        assert_eq!(auto("0.0.0.0:7001", "127.0.0.1:6379").await.unwrap(), "127.0.0.1:7001");
        assert_eq!(auto("[::]:7001", "127.0.0.1:6379").await.unwrap(), "127.0.0.1:7001");
        // Machines without IPv6 have no way to a neighbour in it.
        if std::net::UdpSocket::bind("[::1]:0").is_ok() {
            assert_eq!(auto("[::]:7001", "[::1]:6379").await.unwrap(), "[::1]:7001");
        }
        let several = "nowhere.invalid:6379 127.0.0.1:6379 127.0.0.2:6379";
        assert_eq!(auto("0.0.0.0:7001", several).await.unwrap(), "127.0.0.1:7001", "the first that there is a way to");
        let error = auto("0.0.0.0:7001", "[::1]:6379").await.unwrap_err();
        assert!(error.contains("no address that can be used"), "{error}");
        let error = auto("0.0.0.0:7001", "nowhere.invalid:6379").await.unwrap_err();
        assert!(error.contains("--mesh-advertise auto") && error.contains("nowhere.invalid:6379"), "{error}");
    }

    #[test]
    fn it_is_a_host_with_a_port_or_auto() {
        assert_eq!("auto".parse(), Ok(Advertise::Auto));
        for address in ["node-1:7001", "10.0.0.1:7001", "[fd00::1]:7001"] {
            assert_eq!(address.parse(), Ok(Advertise::At(address.parse().unwrap())));
        }
        for wrong in ["", "node-1", "node-1:0", "me@node-1:7001", "fd00::1:7001", "auto:7001x", "http://node-1:7001"] {
            assert!(wrong.parse::<Advertise>().is_err(), "{wrong}");
        }
    }
}
