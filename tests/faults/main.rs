//! The promises, held while things break: real `rollcall serve` processes over a real Redis, real signals, and an oracle
//! that knows every client. Each scenario asserts the answers during the fault and after it.

#[path = "../common/mod.rs"]
mod common;

mod crash;
#[allow(dead_code, reason = "shared with the churn test, and each uses its own part")]
mod crowd;
#[allow(dead_code, reason = "shared with the churn test, and each uses its own part")]
mod oracle;
#[allow(dead_code, reason = "shared with the churn test, and each uses its own part")]
mod processes;
#[allow(dead_code, reason = "shared with the churn test, and each uses its own part")]
mod proxy;
#[allow(dead_code, reason = "shared with the churn test, and each uses its own part")]
mod redis_server;
#[allow(dead_code, reason = "shared with the churn test, and each uses its own part")]
mod watch;
