//! The address at which other nodes reach the mesh port of this node.
//!
//! Owns how the address is found: it is configured, or it is the local address from which this machine reaches Redis, since
//! all nodes of a cluster share that network. The kernel's routing table answers this without a packet. So replicated
//! containers and pods can all start with the same command line. A container may get another address while it runs, so
//! [`Membership`](crate::membership::Membership) asks before each renewal of the lease.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use parking_lot::Mutex;
use smol_str::{SmolStr, ToSmolStr};
use tokio::net::{UdpSocket, lookup_host};
use tokio::time::timeout;

/// The timeout of the DNS lookup of Redis. The lease is not renewed meanwhile.
const DNS_TIMEOUT: Duration = Duration::from_secs(1);

/// Finds the advertised address of this node, `host:port`.
#[async_trait]
pub trait AdvertisedAddress: Send + Sync {
    /// The present address.
    ///
    /// # Errors
    /// It is not known, for example because a name cannot be resolved now.
    async fn find(&self) -> anyhow::Result<SmolStr>;
}

/// An address that was configured.
pub struct FixedAddress(pub SmolStr);

/// The local address on the route to Redis.
pub struct RouteAddress {
    listening: SocketAddr,
    /// The possible addresses of Redis, each `host:port`.
    redis: Vec<String>,
    /// The address of Redis that the last answer is based on. It saves a DNS lookup.
    resolved: Mutex<Option<SocketAddr>>,
}

#[async_trait]
impl AdvertisedAddress for FixedAddress {
    async fn find(&self) -> anyhow::Result<SmolStr> {
        Ok(self.0.clone())
    }
}

#[async_trait]
impl AdvertisedAddress for RouteAddress {
    async fn find(&self) -> anyhow::Result<SmolStr> {
        if !self.listening.ip().is_unspecified() {
            return Ok(self.listening.to_smolstr());
        }
        let resolved = *self.resolved.lock();
        if let Some(redis) = resolved
            && let Ok(address) = self.source_towards(redis).await
        {
            return Ok(self.with_port(address));
        }
        let (redis, address) = self.resolve().await.with_context(|| {
            format!(
                "--mesh-advertise auto finds no address from which this machine reaches the redis at {}",
                self.redis.join(",")
            )
        })?;
        *self.resolved.lock() = Some(redis);
        Ok(self.with_port(address))
    }
}

impl RouteAddress {
    /// `listening`: the address of the mesh listener; `redis`: its possible addresses, each `host:port`.
    pub fn new(listening: SocketAddr, redis: Vec<String>) -> Self {
        Self { listening, redis, resolved: Mutex::new(None) }
    }

    fn with_port(&self, address: IpAddr) -> SmolStr {
        SocketAddr::new(address, self.listening.port()).to_smolstr()
    }

    /// The first reachable address of Redis, and the local address on the route to it.
    async fn resolve(&self) -> anyhow::Result<(SocketAddr, IpAddr)> {
        let mut failed = None;
        for host in &self.redis {
            match self.resolve_host(host).await {
                Ok(found) => return Ok(found),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.unwrap_or_else(|| anyhow::anyhow!("no address of redis is known")))
    }

    async fn resolve_host(&self, host: &str) -> anyhow::Result<(SocketAddr, IpAddr)> {
        let found = timeout(DNS_TIMEOUT, lookup_host(host)).await.context("the DNS lookup timed out")??;
        let mut failed = anyhow::anyhow!("it has no address that can be used");
        // A listener on [::] accepts IPv4 as well; one on 0.0.0.0 accepts only IPv4.
        for redis in found.filter(|redis| self.listening.is_ipv6() || redis.is_ipv4()) {
            match self.source_towards(redis).await {
                Ok(address) => return Ok((redis, address)),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// The source address that the kernel would choose. Connecting a UDP socket sends no packet.
    async fn source_towards(&self, redis: SocketAddr) -> anyhow::Result<IpAddr> {
        let any = match redis {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(redis).await?;
        match socket.local_addr()?.ip() {
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                anyhow::bail!("{address} is a link-local address, which is meaningless on other machines")
            }
            address => Ok(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn auto(listening: &str, redis: &str) -> Result<SmolStr, String> {
        let redis = redis.split(' ').map(str::to_owned).collect();
        let address = RouteAddress::new(listening.parse().unwrap(), redis);
        let first = address.find().await;
        let again = address.find().await;
        assert_eq!(first.as_ref().ok(), again.as_ref().ok(), "the second answer needs no DNS lookup");
        first.map_err(|error| format!("{error:#}"))
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
}
