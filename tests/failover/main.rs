//! Failover while everything goes on: real nodes over a master that Sentinels watch, and over a Cluster, whose master is
//! killed, stopped or replaced, while roll calls are asked all the time and each is judged by the oracle of the faults.
//!
//! Each scenario takes the better part of a minute, so `make failover` runs them, which `make test-all` does.

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "shared with the fault tests, and each uses its own part")]
#[path = "../faults/crowd.rs"]
mod crowd;
#[allow(dead_code, reason = "shared with the fault tests, and each uses its own part")]
#[path = "../faults/oracle.rs"]
mod oracle;
#[allow(dead_code, reason = "shared with the fault tests, and each uses its own part")]
#[path = "../faults/processes.rs"]
mod processes;
#[allow(dead_code, reason = "shared with the fault tests, and each uses its own part")]
#[path = "../faults/proxy.rs"]
mod proxy;
#[allow(dead_code, reason = "shared with the fault tests, and each uses its own part")]
#[path = "../faults/redis_server.rs"]
mod redis_server;
#[allow(dead_code, reason = "shared with the tests of the directory, and each uses its own part")]
mod topology;
#[allow(dead_code, reason = "shared with the fault tests, and each uses its own part")]
#[path = "../faults/watch.rs"]
mod watch;

mod cluster;
mod scene;
mod sentinel;
