//! The `rollcall` binary with the flags of an operator: commands, configuration, logs, metrics, traces and trust. The
//! identity tests are in this folder too, with or without a process.

mod audit;
mod configuration;
mod identity;
mod observability;
mod serve;
mod trust;
