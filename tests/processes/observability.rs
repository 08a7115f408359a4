//! Observability: probes, metrics, Prometheus rules and dashboards, logs, traces, and the status pages for operators.
//! The tests use real `rollcall serve` processes, a real Redis, the real promtool and Prometheus. The collector uses the
//! official OpenTelemetry messages and the official gRPC library.

mod access;
mod collector;
mod health;
mod logs;
mod metrics;
mod monitoring;
mod operator;
mod requests;
mod traces;
