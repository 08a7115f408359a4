//! The process: the allocator, the command that was asked for, and its exit code.

#![warn(clippy::unwrap_used)]

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Global, because a process has one allocator. glibc keeps most of the memory of clients that left. `.cargo/config.toml`
/// configures this allocator to return it.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    rollcall::commands::run(std::env::args_os())
}
