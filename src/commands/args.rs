//! The command line: flags, their environment variables, and what is refused before anything starts.
//!
//! Owns the words of `--help` and of every refusal: one plain line, exit code 2. What the flags mean is decided where
//! they end up; here they become checked values.

mod access;
mod admin;
mod advertise;
mod audit;
mod certs;
mod effective;
mod file;
mod health;
mod limits;
mod logs;
mod operator;
mod origin;
mod pages;
mod redis;
mod sentinel;
mod traces;
mod trust;
mod values;

use std::ffi::OsString;
use std::time::Duration;

use axum::http::HeaderValue;
use bytesize::ByteSize;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::edge::socketio::Transports;
use crate::names::NodeName;
use crate::telemetry::logging;
use crate::telemetry::logging::Logging;
pub use access::AccessArgs;
pub use admin::{AdminArgs, Asked};
pub use advertise::Advertise;
pub use audit::Audit;
pub use certs::Certs;
pub use effective::Effective;
use effective::{Implied, Setting};
pub use file::FileArgs;
pub use health::Health;
pub use limits::LimitArgs;
pub use logs::{Log, LogArgs};
pub use operator::{Status, Users};
use origin::{Given, Origins};
pub use pages::{Completions, Manual};
pub use redis::RedisArgs;
pub use sentinel::SentinelArgs;
pub use traces::TraceArgs;
pub use trust::Trust;
pub use values::{Advertised, ListenAddress, RedisUrl};
use values::{cache, deadline, drain, lease, node_name, origin, ping};

/// The port that `dev` is reached on.
const DEV_LISTEN: &str = "localhost:5009";
/// What `serve` logs unless told otherwise.
const LOG_OF_SERVE: &str = "info";

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
    /// Run a cluster in this process, to see it work: four nodes behind one https address
    ///
    /// Clients say who they are in the query (`?id_user=`), and anyone who reaches the address can call the roll: this
    /// is for development.
    Dev(Box<Dev>),

    /// Run one node
    ///
    /// Nodes that share a Redis are one cluster: any of them answers for all. Without Redis the node is a cluster of
    /// one. Every flag can be set by its environment variable, and in a configuration file; a flag outranks both, and the
    /// environment the file.
    Serve(Box<Serve>),

    /// Print what `serve` would run with, as a configuration file, and where each value came from
    ///
    /// Give it the flags, the environment and the file of `serve`: what that would refuse is refused here. Nothing is
    /// opened or connected to. Passwords are replaced by `REDACTED`; the rest can be used as a file for --config. Flags
    /// that are `not set` mean what `serve --help` says.
    Config(Effective),

    /// Ask how the cluster is: its nodes, its busiest rooms, its roll calls. Exit code 0 when every node answers and is active
    ///
    /// One node asks all that it knows, and each answers for itself; one that does not is listed with the reason. Exit
    /// code 1 when a node does not answer, is not active, or is of a version that cannot say.
    Status(Status),

    /// Call the roll of a room: a line for each socket, its user and its node. Exit code 0 when that is complete
    ///
    /// The last line says how complete it is, and which nodes did not answer; the exit code is then 1.
    Users(Users),

    /// Compare what Redis says with what every node says, and print what differs
    ///
    /// Asks the nodes that are registered in Redis, and those that they know, for everything they have, and reads all that
    /// is under the prefix. What differs is looked at a second time: what was under way differs only once. Mends nothing.
    /// Exit code 0: nothing differs; 1: something does; 2: Redis or a node could not be asked.
    Audit(Box<Audit>),

    /// Say what a node logs, or change that while it runs
    Log(Log),

    /// Ask a node on this machine whether it is well, for probes: exit code 0 or 1, and one line that says why
    Health(Health),

    /// Make a CA and certificates for the nodes of a mesh
    ///
    /// For `--mesh-ca`, `--mesh-cert` and `--mesh-key` of `serve`. Whoever has a CA already needs none of this: any
    /// certificate does that names the node's host and is for both server and client authentication.
    Certs(Certs),

    /// Print the completions of this command line for a shell
    ///
    /// For bash: `rollcall completions bash > /etc/bash_completion.d/rollcall`.
    Completions(Completions),

    /// Print a page of the manual, or write all of them
    ///
    /// To read one: `rollcall man serve | man -l -`.
    Man(Manual),
}

#[derive(Debug, Args)]
pub struct Dev {
    /// How many nodes
    #[arg(long, default_value_t = 4, env = "ROLLCALL_NODES", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub nodes: u8,

    /// The one address that all nodes accept on
    #[arg(long, default_value = DEV_LISTEN, env = "ROLLCALL_LISTEN", value_name = "HOST:PORT")]
    pub listen: ListenAddress,

    /// By what clients may come: `websocket`, or `websocket,polling`
    #[arg(long, default_value = "websocket", env = "ROLLCALL_TRANSPORTS", value_name = "TRANSPORTS")]
    pub transports: Transports,

    /// `on`: https, with a certificate made at start. `off`: http
    #[arg(long, default_value = "on", env = "ROLLCALL_TLS")]
    pub tls: OnOff,

    #[command(flatten)]
    pub redis: RedisArgs,
}

#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    pub file: FileArgs,

    #[command(flatten)]
    pub access: AccessArgs,

    /// Where clients connect: Socket.IO, REST and the page
    #[arg(long, default_value = "127.0.0.1:5001", env = "ROLLCALL_LISTEN", value_name = "HOST:PORT")]
    pub listen: ListenAddress,

    /// Where the other nodes connect. Off loopback addresses the mesh must be closed: by certificates (--mesh-ca) or by a
    /// token (--mesh-token-file)
    #[arg(long, default_value = "127.0.0.1:7001", env = "ROLLCALL_MESH_LISTEN", value_name = "HOST:PORT")]
    pub mesh_listen: ListenAddress,

    /// Where the other nodes reach this one, if that is not the address it listens on (a proxy, an address translation).
    /// `auto`: the address from which this machine reaches Redis, for containers that all start with the same words
    #[arg(long, env = "ROLLCALL_MESH_ADVERTISE", value_name = "HOST:PORT|auto")]
    pub mesh_advertise: Option<Advertise>,

    /// Where probes and Prometheus connect (/livez, /readyz and /metrics, which ask nobody who it is), and the operator
    /// (what is under /_/, which asks for a token where other machines reach it)
    #[arg(long, default_value = "127.0.0.1:9001", env = "ROLLCALL_ADMIN_LISTEN", value_name = "HOST:PORT")]
    pub admin_listen: ListenAddress,

    #[command(flatten)]
    pub admin: AdminArgs,

    #[command(flatten)]
    pub trust: Trust,

    #[command(flatten)]
    pub redis: RedisArgs,

    /// What people call this node, `[A-Za-z0-9._-]{1,64}`. Unless told otherwise `<hostname>-<mesh port>`
    #[arg(long, env = "ROLLCALL_NODE_NAME", value_name = "NAME", value_parser = node_name)]
    pub node_name: Option<NodeName>,

    /// How long a roll call may take that names no deadline; what was not answered by then is reported as missing
    #[arg(long, default_value = "500ms", env = "ROLLCALL_DEADLINE", value_name = "DURATION", value_parser = deadline)]
    pub deadline: Duration,

    /// How long this node counts as alive after its last sign of life. Renewed five times as often
    #[arg(long, default_value = "5s", env = "ROLLCALL_LEASE", value_name = "DURATION", value_parser = lease)]
    pub lease: Duration,

    /// How long stopping may take, from the signal to the exit. Clients are let go one by one in its first half, so that
    /// they come back elsewhere; keep the time after which the process is killed longer than this
    #[arg(long, default_value = "10s", env = "ROLLCALL_DRAIN", value_name = "DURATION", value_parser = drain)]
    pub drain: Duration,

    /// How much of what nodes answered is held, so that a room which has not changed need not be told again
    #[arg(long, default_value = "64MiB", env = "ROLLCALL_CACHE", value_name = "SIZE", value_parser = cache)]
    pub cache: ByteSize,

    /// How many threads do the work. Fewer is faster where machines are shared: give each of four nodes on two cores
    /// one. Unless told otherwise: as many as this process has cores
    #[arg(long, env = "ROLLCALL_THREADS", value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// By what clients may come: `websocket`, or `websocket,polling` to let those in, too, that begin with HTTP
    /// long-polling or cannot do anything else. No sticky sessions are needed: whichever node a request gets to hands it
    /// on to the one that has the session
    #[arg(long, default_value = "websocket", env = "ROLLCALL_TRANSPORTS", value_name = "TRANSPORTS")]
    pub transports: Transports,

    /// How often a client is asked for a sign of life
    #[arg(long, default_value = "25s", env = "ROLLCALL_PING_INTERVAL", value_name = "DURATION", value_parser = ping)]
    pub ping_interval: Duration,

    /// How long a client may take to answer, and to read what it was sent; then it is out
    #[arg(long, default_value = "20s", env = "ROLLCALL_PING_TIMEOUT", value_name = "DURATION", value_parser = ping)]
    pub ping_timeout: Duration,

    /// How many rooms a socket can be in
    #[arg(
        long,
        default_value_t = 64,
        env = "ROLLCALL_ROOMS_PER_SOCKET",
        value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    pub rooms_per_socket: u32,

    /// An origin whose pages may read the answers and poll, as in `https://example.org`. May be repeated or separated by
    /// commas. Unless told otherwise: none
    #[arg(long = "cors-origin", env = "ROLLCALL_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', value_parser = origin)]
    pub cors_origins: Vec<HeaderValue>,

    #[command(flatten)]
    pub traces: TraceArgs,

    #[command(flatten)]
    pub limits: LimitArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnOff {
    On,
    Off,
}

/// What goes to the user instead of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    pub text: String,
    /// Help and version are no failures.
    pub failed: bool,
}

impl Cli {
    /// Reads and checks the command line, the environment and the configuration file.
    ///
    /// # Errors
    /// [`Stop`]: help, or the one line that says what is wrong.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Stop> {
        let Given { arguments, origins } = Given::read(arguments.into_iter().collect())?;
        let matches = Self::command().try_get_matches_from(arguments).map_err(|error| stop(&error, &origins))?;
        let mut cli = Self::from_arg_matches(&matches).map_err(|error| stop(&error, &origins))?;
        cli.check(&origins).map_err(|what| refuse(&origins.explain(&what)))?;
        if let (Command::Config(config), Some((_, matches))) = (&mut cli.command, matches.subcommand()) {
            config.settings = Setting::all(matches, &origins);
        }
        Ok(cli)
    }

    /// What is logged.
    ///
    /// # Errors
    /// When the levels make no sense.
    pub fn logging(&self) -> Result<Logging, logging::Error> {
        self.log.open(match self.command {
            Command::Dev(_) => "warn",
            Command::Audit(_) => "warn,rollcall::commands::audit=info",
            _ => LOG_OF_SERVE,
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

impl Serve {
    /// What is in effect of flags that nobody was given, and follows from others or from this machine.
    fn implied(&self, files: Option<u64>) -> Vec<Implied> {
        let mut implied = self.access.implied();
        implied.extend(self.limits.implied(files));
        implied.push(Implied { flag: "log", value: LOG_OF_SERVE.to_owned(), by: "command" });
        implied
    }

    fn check(&self, origins: &Origins) -> Result<(), String> {
        self.access.check()?;
        self.limits.check()?;
        self.traces.check()?;
        let mesh = self.mesh_listen.address;
        if mesh.ip().is_unspecified() && self.mesh_advertise.is_none() {
            return Err(format!(
                "--mesh-listen {mesh} listens on every address, so the others must be told one: pass --mesh-advertise \
                 HOST:PORT, or --mesh-advertise auto"
            ));
        }
        if self.mesh_advertise == Some(Advertise::Auto) && self.redis.url.is_none() {
            return Err("--mesh-advertise auto is the address on the way to Redis, and --redis is missing".to_owned());
        }
        self.trust.check(mesh)?;
        self.redis.check(origins)
    }
}

fn stop(error: &clap::Error, origins: &Origins) -> Stop {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop { text: error.to_string(), failed: false },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Stop { text: error.to_string(), failed: true },
        _ => {
            let text = error.to_string();
            let first = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
            let first = first.split_whitespace().collect::<Vec<_>>().join(" ");
            match origins.place(error) {
                Some(place) => refuse(&format!("{place}: {first}")),
                None => refuse(&origins.explain(&first)),
            }
        }
    }
}

fn refuse(what: &str) -> Stop {
    Stop { text: format!("rollcall: {what}\n"), failed: true }
}

#[cfg(test)]
mod tests;
