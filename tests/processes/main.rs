//! The `rollcall` binary as an operator runs it: its commands, its configuration, its logs, metrics and traces, and whom
//! it trusts. The tests of identity are here too, those without a process as well.

mod audit;
mod configuration;
mod identity;
mod observability;
mod serve;
mod trust;
