//! What those see who run nodes: probes, metrics, what Prometheus makes of them, logs, traces, and what operators are told.
//! Real `rollcall serve` processes over a real Redis, the real promtool and Prometheus, and OpenTelemetry's own messages
//! over gRPC's own implementation.

mod access;
mod collector;
mod health;
mod logs;
mod metrics;
mod monitoring;
mod operator;
mod requests;
mod traces;
