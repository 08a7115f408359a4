//! Failover while everything goes on: real nodes over a master that Sentinels watch, and over a Cluster, whose master is
//! killed, stopped or replaced, while roll calls are asked all the time and each is judged by the oracle of the faults.
//!
//! Each scenario takes the better part of a minute, so `make failover` runs them, which `make test-all` does.

mod cluster;
mod scene;
mod sentinel;
