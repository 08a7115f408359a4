//! The definition of the command line: the subcommands, and the order in which their arguments are checked.
//!
//! Owns the parse. A wrong command line is one line on standard error and exit code 2. The arguments of a subcommand are in
//! its own module, and flags that several of them have are in [`super::args`].

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::args::LogArgs;
use crate::commands::args::origin::{CliExit, MergedArgs, Origins, exit_for, refuse};
use crate::commands::audit::AuditArgs;
use crate::commands::certs::CertsArgs;
use crate::commands::config::{ConfigArgs, Setting};
use crate::commands::dev::DevArgs;
use crate::commands::health::HealthArgs;
use crate::commands::log::LogLevelArgs;
use crate::commands::man::{CompletionsArgs, ManualArgs};
use crate::commands::serve::{DEFAULT_LOG, ServeArgs};
use crate::commands::status::StatusArgs;
use crate::commands::users::UsersArgs;
use crate::telemetry::logging;
use crate::telemetry::logging::Logging;

/// Who is in this Socket.IO room right now, across the whole cluster, and which user is each socket?
#[derive(Debug, Parser)]
#[command(name = "rollcall", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a cluster of four nodes in this process, for a first look and for development
    ///
    /// All nodes share one https address. Clients send their user id in the query (`?id_user=`) unchecked, and anyone who
    /// reaches the address can call the roll.
    Dev(Box<DevArgs>),

    /// Run one node
    ///
    /// Nodes that share a Redis are one cluster, and each of them answers for all. Without Redis the node is a cluster of
    /// one. Every flag can also be set by its environment variable or in a configuration file. A flag overrides the
    /// environment, and the environment overrides the file.
    Serve(Box<ServeArgs>),

    /// Print the effective configuration of `serve`, with the origin of each value
    ///
    /// Takes the flags, the environment and the file of `serve`, and fails where `serve` would. Opens no file but that of
    /// --config, and connects to nothing. Passwords are replaced by `REDACTED`; otherwise the output is a file for --config.
    /// For a flag that is `not set`, see `serve --help`.
    Config(ConfigArgs),

    /// Print the state of the cluster: its nodes, its busiest rooms and its roll calls
    ///
    /// One node asks all nodes that it knows; a node that does not respond is listed with the reason. Exit code 0: every
    /// node responds and is active. Exit code 1: a node does not respond, is isolated, or has a version that cannot report
    /// its state.
    Status(StatusArgs),

    /// Call the roll of a room: a line for each socket, with its user and its node
    ///
    /// The last line says whether the answer is complete, and which nodes did not answer. Exit code 0: complete; 1:
    /// incomplete.
    Users(UsersArgs),

    /// Compare the content of Redis with the sockets of every node, and print the differences
    ///
    /// Asks the nodes that are registered in Redis, and the members that they know, for their sockets, and reads all keys
    /// under the prefix. Differences are checked a second time, since a change in progress differs in one pass only.
    /// Repairs nothing. Exit code 0: no difference; 1: differences; 2: Redis or a node could not be asked.
    Audit(Box<AuditArgs>),

    /// Print the log levels of a running node, or change them
    Log(LogLevelArgs),

    /// Probe a node: exit code 0 or 1, and one line with the reason
    Health(HealthArgs),

    /// Create a CA and certificates for the nodes of a mesh
    ///
    /// They are for `--mesh-ca`, `--mesh-cert` and `--mesh-key` of `serve`. An existing CA works as well: a certificate must
    /// name the host of the node and allow both server and client authentication.
    Certs(CertsArgs),

    /// Print shell completions
    ///
    /// For bash: `rollcall completions bash > /etc/bash_completion.d/rollcall`.
    Completions(CompletionsArgs),

    /// Print a manual page, or write all of them
    ///
    /// To read one: `rollcall man serve | man -l -`.
    Man(ManualArgs),
}

impl Cli {
    /// Reads and checks the command line, the environment and the configuration file.
    ///
    /// # Errors
    /// Help, or one line that says what is wrong.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, CliExit> {
        let command = Self::command();
        let MergedArgs { arguments, origins } = MergedArgs::read(&command, arguments.into_iter().collect())?;
        let matches = command.clone().try_get_matches_from(arguments).map_err(|error| exit_for(&error, &origins))?;
        let mut cli = Self::from_arg_matches(&matches).map_err(|error| exit_for(&error, &origins))?;
        cli.check(&origins).map_err(|error| refuse(&origins.explain(&error)))?;
        if let (Command::Config(config), Some((_, matches))) = (&mut cli.command, matches.subcommand()) {
            config.settings = Setting::all(&command, matches, &origins);
        }
        Ok(cli)
    }

    /// The log of the subcommand.
    ///
    /// # Errors
    /// The levels cannot be parsed.
    pub fn logging(&self) -> Result<Logging, logging::Error> {
        self.log.open(match self.command {
            Command::Dev(_) => "warn",
            Command::Audit(_) => "warn,rollcall::commands::audit=info",
            _ => DEFAULT_LOG,
        })
    }

    fn check(&self, origins: &Origins) -> Result<(), String> {
        match &self.command {
            Command::Dev(dev) => dev.redis.check(origins),
            Command::Serve(serve) => serve.check(origins),
            Command::Audit(audit) => {
                audit.check()?;
                audit.redis.check(origins)
            }
            Command::Config(config) => config.serve.check(origins),
            Command::Certs(_) | Command::Health(_) | Command::Status(_) | Command::Users(_) => Ok(()),
            Command::Log(_) | Command::Completions(_) | Command::Man(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
