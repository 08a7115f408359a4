//! What those see who run nodes: probes, metrics, the page and the commands of operators, and what Prometheus makes of them. Real `rollcall serve` processes over
//! a real Redis, and the real promtool and Prometheus.

#[path = "../common/mod.rs"]
mod common;

mod health;
mod metrics;
mod monitoring;
mod operator;
mod process;
