//! The arguments of the command line: flags, environment variables and the configuration file.
//!
//! Owns the texts of `--help`, and the checks before anything starts. A wrong command line is one line on standard error
//! and exit code 2. Each flag becomes a checked value here; its effect is decided where it is used.

mod access;
mod admin_port;
mod advertise;
mod config_file;
mod effective;
mod exit;
mod generated;
mod limits;
mod origin;
mod redis;
mod telemetry;
mod tls;
pub(in crate::commands) mod values;

use std::ffi::OsString;
use std::time::Duration;

use axum::http::HeaderValue;
use bytesize::ByteSize;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::commands::audit::AuditArgs;
use crate::commands::certs::CertsArgs;
use crate::edge::socketio::Transports;
use crate::names::NodeName;
use crate::telemetry::logging;
use crate::telemetry::logging::Logging;
pub use access::AccessArgs;
pub use admin_port::{AdminPortArgs, AdminTarget, HealthArgs, LogLevelArgs, StatusArgs, UsersArgs};
pub use advertise::Advertise;
pub use config_file::ConfigFileArgs;
pub use effective::ConfigArgs;
use effective::{ImpliedValue, Setting};
pub use exit::CliExit;
use exit::{exit_for, refuse};
pub use generated::{CompletionsArgs, ManualArgs};
pub use limits::LimitArgs;
use origin::{MergedArgs, Origins};
pub use redis::RedisArgs;
pub use telemetry::{LogArgs, TraceArgs};
pub use tls::{MeshAuthArgs, TlsArgs};
pub use values::{HostPort, ListenAddress, RedisUrl};
use values::{cache, deadline, drain, lease, node_name, origin, ping};

const DEV_LISTEN: &str = "localhost:5009";
const DEFAULT_SERVE_LOG: &str = "info";

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

#[derive(Debug, Args)]
pub struct DevArgs {
    /// Number of nodes
    #[arg(long, default_value_t = 4, env = "ROLLCALL_NODES", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub nodes: u8,

    /// The address that all nodes share
    #[arg(long, default_value = DEV_LISTEN, env = "ROLLCALL_LISTEN", value_name = "HOST:PORT")]
    pub listen: ListenAddress,

    /// Transports for clients: `websocket`, or `websocket,polling`
    #[arg(long, default_value = "websocket", env = "ROLLCALL_TRANSPORTS", value_name = "TRANSPORTS")]
    pub transports: Transports,

    /// `on`: https with a self-signed certificate, created at the start. `off`: http
    #[arg(long, default_value = "on", env = "ROLLCALL_TLS")]
    pub tls: OnOff,

    #[command(flatten)]
    pub redis: RedisArgs,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub file: ConfigFileArgs,

    #[command(flatten)]
    pub access: AccessArgs,

    /// Public address: Socket.IO, REST and the web page
    #[arg(long, default_value = "127.0.0.1:5001", env = "ROLLCALL_LISTEN", value_name = "HOST:PORT")]
    pub listen: ListenAddress,

    /// Mesh address, to which the other nodes connect. Other than on loopback, nodes must authenticate: with certificates
    /// (--mesh-ca) or with a token (--mesh-token-file)
    #[arg(long, default_value = "127.0.0.1:7001", env = "ROLLCALL_MESH_LISTEN", value_name = "HOST:PORT")]
    pub mesh_listen: ListenAddress,

    /// Address at which other nodes reach the mesh port, if it differs from --mesh-listen. `auto`: the local address on the
    /// route to Redis, for containers that all start with the same command line. Default: --mesh-listen
    #[arg(long, env = "ROLLCALL_MESH_ADVERTISE", value_name = "HOST:PORT|auto")]
    pub mesh_advertise: Option<Advertise>,

    /// Admin address: /livez, /readyz and /metrics for probes and Prometheus, without authentication, and the operators'
    /// page under /_/, with a token unless the address is loopback
    #[arg(long, default_value = "127.0.0.1:9001", env = "ROLLCALL_ADMIN_LISTEN", value_name = "HOST:PORT")]
    pub admin_listen: ListenAddress,

    #[command(flatten)]
    pub admin: AdminPortArgs,

    #[command(flatten)]
    pub tls: TlsArgs,

    #[command(flatten)]
    pub redis: RedisArgs,

    /// Name of this node, `[A-Za-z0-9._-]{1,64}`. Default: `<hostname>-<mesh port>`
    #[arg(long, env = "ROLLCALL_NODE_NAME", value_name = "NAME", value_parser = node_name)]
    pub node_name: Option<NodeName>,

    /// Deadline of a roll call that names none. Nodes that did not answer by then are reported as missing
    #[arg(long, default_value = "500ms", env = "ROLLCALL_DEADLINE", value_name = "DURATION", value_parser = deadline)]
    pub deadline: Duration,

    /// Lease of this node in Redis: the time after which a node that vanished is considered dead. Renewed five times per
    /// lease
    #[arg(long, default_value = "5s", env = "ROLLCALL_LEASE", value_name = "DURATION", value_parser = lease)]
    pub lease: Duration,

    /// Maximum duration of a shutdown, from the signal to the exit. Clients are disconnected one by one in its first half,
    /// so that they reconnect to other nodes. Configure a longer time before the process is killed
    #[arg(long, default_value = "10s", env = "ROLLCALL_DRAIN", value_name = "DURATION", value_parser = drain)]
    pub drain: Duration,

    /// Memory for cached answers of other nodes. An unchanged room is then confirmed by version, without its rows
    #[arg(long, default_value = "64MiB", env = "ROLLCALL_CACHE", value_name = "SIZE", value_parser = cache)]
    pub cache: ByteSize,

    /// Number of worker threads. Fewer are faster when nodes share cores: with four nodes on two cores, use 1. Default: the
    /// number of cores
    #[arg(long, env = "ROLLCALL_THREADS", value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// Transports for clients: `websocket`, or `websocket,polling` for clients that start with HTTP long-polling or support
    /// nothing else. No sticky sessions are needed: a node forwards a polling request to the node of its session
    #[arg(long, default_value = "websocket", env = "ROLLCALL_TRANSPORTS", value_name = "TRANSPORTS")]
    pub transports: Transports,

    /// Interval of the heartbeat pings to a client
    #[arg(long, default_value = "25s", env = "ROLLCALL_PING_INTERVAL", value_name = "DURATION", value_parser = ping)]
    pub ping_interval: Duration,

    /// Timeout for the pong of a client, and for reading what was sent to it; then it is disconnected
    #[arg(long, default_value = "20s", env = "ROLLCALL_PING_TIMEOUT", value_name = "DURATION", value_parser = ping)]
    pub ping_timeout: Duration,

    /// Maximum of rooms for one socket
    #[arg(
        long,
        default_value_t = 64,
        env = "ROLLCALL_ROOMS_PER_SOCKET",
        value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    pub rooms_per_socket: u32,

    /// Origin whose pages may read answers and use polling (CORS), as in `https://example.org`; may be repeated or separated
    /// by commas. Default: none
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

impl Cli {
    /// Reads and checks the command line, the environment and the configuration file.
    ///
    /// # Errors
    /// Help, or one line that says what is wrong.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, CliExit> {
        let MergedArgs { arguments, origins } = MergedArgs::read(arguments.into_iter().collect())?;
        let matches = Self::command().try_get_matches_from(arguments).map_err(|error| exit_for(&error, &origins))?;
        let mut cli = Self::from_arg_matches(&matches).map_err(|error| exit_for(&error, &origins))?;
        cli.check(&origins).map_err(|error| refuse(&origins.explain(&error)))?;
        if let (Command::Config(config), Some((_, matches))) = (&mut cli.command, matches.subcommand()) {
            config.settings = Setting::all(matches, &origins);
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
            _ => DEFAULT_SERVE_LOG,
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

impl ServeArgs {
    /// The defaults that depend on other flags or on this machine.
    fn implied(&self, files: Option<u64>) -> Vec<ImpliedValue> {
        let mut implied = self.access.implied();
        implied.extend(self.limits.implied(files));
        implied.push(ImpliedValue { flag: "log", value: DEFAULT_SERVE_LOG.to_owned(), by: "command" });
        implied
    }

    fn check(&self, origins: &Origins) -> Result<(), String> {
        self.access.check()?;
        self.limits.check()?;
        self.traces.check()?;
        let mesh = self.mesh_listen.address;
        if mesh.ip().is_unspecified() && self.mesh_advertise.is_none() {
            return Err(format!(
                "--mesh-listen {mesh} listens on all interfaces, so other nodes need one address: pass --mesh-advertise \
                 HOST:PORT, or --mesh-advertise auto"
            ));
        }
        if self.mesh_advertise == Some(Advertise::Auto) && self.redis.url.is_none() {
            return Err("--mesh-advertise auto is the address on the route to Redis, and --redis is missing".to_owned());
        }
        self.tls.check(mesh)?;
        self.redis.check(origins)
    }
}

#[cfg(test)]
mod tests;
