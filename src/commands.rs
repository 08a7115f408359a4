//! The command line: one module for each subcommand, and their arguments.

pub mod admin_client;
pub mod args;
pub mod audit;
pub mod certs;
pub mod dev;
pub mod health;
pub mod log;
pub mod operator;
