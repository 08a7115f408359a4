//! Nodes in this process through the production entry point: what clients, callers and peers rely on, and every limit.

mod bad_input;
mod conditional;
mod cost;
mod limits;
mod polling;
mod revalidation;
mod roll_calls;
