//! The promises, held while things break: real `rollcall serve` processes over a real Redis, real signals, and an oracle
//! that knows every client. Each scenario asserts the answers during the fault and after it.

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod crash;
#[allow(dead_code, reason = "shared with the churn test, and each uses its own part")]
mod crowd;
mod hang;
#[allow(dead_code, reason = "shared with the churn test, and each uses its own part")]
mod oracle;
mod partition;
#[allow(dead_code, reason = "shared with the churn test, and each uses its own part")]
mod processes;
#[allow(dead_code, reason = "shared with the churn test, and each uses its own part")]
mod proxy;
mod redis;
#[allow(dead_code, reason = "shared with the churn test, and each uses its own part")]
mod redis_server;
mod rolling;
#[allow(dead_code, reason = "shared with the churn test, and each uses its own part")]
mod watch;
