//! Failover under load: real nodes over a master that Sentinels watch, and over a Redis Cluster. A scenario kills, stops
//! or replaces the master during continuous roll calls, and the oracle checks every answer.
//!
//! Each scenario takes most of a minute, so `make test` skips it. `make failover` runs all of them, and `make test-all`
//! includes them.

mod cluster;
mod scene;
mod sentinel;
