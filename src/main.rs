//! The process: the allocator, the command that was asked for, and its exit code.

#![warn(clippy::unwrap_used)]

use std::process::ExitCode;

/// Global, because a process has one allocator. glibc keeps most of the memory of clients that left. `.cargo/config.toml`
/// configures this allocator to return it.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    rollcall::commands::run(std::env::args_os())
}
