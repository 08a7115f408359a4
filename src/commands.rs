//! The command line: one module for each subcommand, and their arguments.
//!
//! Owns the dispatch to a subcommand. [`process`] has the runtime, signals, exit codes and standard output, and
//! [`admin_client`] is the HTTP client of the admin port. Owns no behavior of a node.

pub mod admin_client;
pub mod args;
pub mod audit;
pub mod certs;
pub mod cli;
pub mod config;
pub mod dev;
pub mod health;
pub mod log;
pub mod man;
mod process;
pub mod serve;
pub mod status;
pub mod users;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::edge::connections::listener::raise_file_limit;
use cli::{Cli, Command};

/// Runs the subcommand that these arguments name. Returns when it ends, or when a signal ended it.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::read(arguments) {
        Ok(cli) => cli,
        Err(exit) if exit.failed => {
            eprint!("{}", exit.text);
            return ExitCode::from(process::EXIT_USAGE);
        }
        Err(exit) => {
            print!("{}", exit.text);
            return ExitCode::SUCCESS;
        }
    };
    let logging = cli.logging();
    match cli.command {
        // These ask a running node, or print what this program knows.
        Command::Health(args) => process::block_on(health::run(&args)),
        Command::Log(args) => process::block_on(log::run(&args)),
        Command::Status(args) => process::block_on(status::run(&args)),
        Command::Users(args) => process::block_on(users::run(&args)),
        Command::Config(args) => process::print_document(args.show(raise_file_limit()).map(String::into_bytes)),
        Command::Completions(args) => process::print_document(Ok(args.render(Cli::command()))),
        Command::Man(args) => process::print_document(args.render(Cli::command())),
        // These log, and end at a signal.
        Command::Serve(args) => serve::run(*args, logging),
        Command::Dev(args) => dev::run(*args, logging),
        Command::Audit(args) => audit::run(*args, logging),
        Command::Certs(args) => certs::run(&args, logging),
    }
}
