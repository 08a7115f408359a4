//! What those see who run nodes: probes, metrics, what Prometheus makes of them, and what operators are told. Real
//! `rollcall serve` processes over a real Redis, and the real promtool and Prometheus.

#[path = "../common/mod.rs"]
mod common;

mod access;
mod health;
mod metrics;
mod monitoring;
mod operator;
mod process;
