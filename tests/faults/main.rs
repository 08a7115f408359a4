//! Fault tests: real `rollcall serve` processes over a real Redis, real signals, and an oracle that knows every client.
//! Each scenario asserts the answers during the fault and after it.

mod clients;
mod crash;
mod failover;
mod hang;
mod history;
mod liar;
mod partition;
mod pause;
mod redis;
mod rolling;
