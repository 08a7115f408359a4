//! Nodes in this process through the production entry point: what clients, callers and peers rely on, and every limit.

mod bad_input;
mod conditional;
mod cost;
mod disconnects;
mod joins;
mod limits;
mod lookups;
mod node_changes;
mod polling;
mod rest_errors;
mod revalidation;
mod roll_calls;
