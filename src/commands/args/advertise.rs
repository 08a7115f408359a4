//! `--mesh-advertise`: a configured address, or `auto`.
//!
//! Owns the syntax. [`crate::mesh::advertise`] finds the address that `auto` means.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use super::values::HostPort;
use crate::mesh::advertise::{AdvertisedAddress, FixedAddress, RouteAddress};

/// The value of `--mesh-advertise`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advertise {
    At(HostPort),
    /// Found while the node runs.
    Auto,
}

impl Advertise {
    /// `listening`: the address of the mesh listener; `redis`: its possible addresses, each `host:port`.
    pub fn address(self, listening: SocketAddr, redis: Vec<String>) -> Arc<dyn AdvertisedAddress> {
        match self {
            Self::At(address) => Arc::new(FixedAddress(address.as_str().into())),
            Self::Auto => Arc::new(RouteAddress::new(listening, redis)),
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

#[cfg(test)]
mod tests {
    use super::*;

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
