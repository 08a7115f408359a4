//! `rollcall serve`: one node of a cluster, configured by flags, environment and file.
//!
//! Owns the order in which the parts of a node are opened, so that a wrong file or address fails before the node
//! appears in Redis. The node itself is [`crate::node`].

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::HeaderValue;
use bytesize::ByteSize;
use clap::Args;
use smol_str::ToSmolStr as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::commands::args::origin::{ImpliedValue, Origins};
use crate::commands::args::values::{cache, deadline, drain, lease, node_name, origin, ping};
use crate::commands::args::{
    AccessArgs, AdminPortArgs, Advertise, ConfigFileArgs, LimitArgs, ListenAddress, RedisArgs, TlsArgs, TraceArgs,
};
use crate::commands::process::{EXIT_FAILED, run_until_signal, start_logging};
use crate::directory::Directory;
use crate::directory::memory::MemoryDirectory;
use crate::directory::redis::RedisDirectory;
use crate::edge::connections::listener::{file_limit, listen};
use crate::edge::socketio::{SocketIoConfig, Transports};
use crate::mesh::advertise::{AdvertisedAddress, FixedAddress};
use crate::names::NodeName;
use crate::node::Node;
use crate::node::config::{NodeConfig, NodeListeners};
use crate::reconciler;
use crate::telemetry::logging::{self, Logging};

/// The log levels unless --log names others.
pub(super) const DEFAULT_LOG: &str = "info";
/// The share of the drain time that exporting the last spans may take…
const SPAN_FLUSH_SHARE: f64 = 0.1;
/// …and its upper bound.
const MAX_SPAN_FLUSH: Duration = Duration::from_secs(2);

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

    /// Maximum duration of a shutdown, from the signal to the exit. Clients are disconnected one by one in its first 60 %,
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

    /// Timeout for the pong of a client, and for acknowledging sent data; then the client is disconnected
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

impl ServeArgs {
    /// The defaults that depend on other flags or on this machine.
    pub(super) fn implied(&self, files: Option<u64>) -> Vec<ImpliedValue> {
        let mut implied = self.access.implied();
        implied.extend(self.limits.implied(files));
        implied.extend(self.tls.implied());
        implied.push(ImpliedValue { flag: "log", value: DEFAULT_LOG.to_owned(), by: "command" });
        implied
    }

    pub(super) fn check(&self, origins: &Origins) -> Result<(), String> {
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

/// Runs one node until a signal.
pub(super) fn run(serve: ServeArgs, logging: Result<Logging, logging::Error>) -> ExitCode {
    let threads = serve.threads;
    run_until_signal(logging, threads, EXIT_FAILED, |logging, shutdown| run_node(serve, logging, shutdown))
}

async fn run_node(serve: ServeArgs, logging: Logging, shutdown: CancellationToken) -> anyhow::Result<ExitCode> {
    let bind = |address| listen(address, false).with_context(|| format!("cannot listen on {address}"));
    let public = bind(serve.listen.address)?;
    let mesh_listener = bind(serve.mesh_listen.address)?;
    let admin = bind(serve.admin_listen.address)?;
    let mesh = mesh_listener.local_addr()?;
    let name = serve.node_name.unwrap_or_else(|| {
        let host = gethostname::gethostname();
        NodeName::from_any(&format!("{}-{}", host.to_string_lossy(), mesh.port()))
    });
    // Spans carry the node's name, and its default contains the port of the mesh: bind first.
    let traces = serve.traces.open(&name)?;
    let telemetry = start_logging(logging, traces.as_ref());
    let access = serve.access.open()?;
    let admin_tokens = serve.admin.open()?;
    let redis = serve.redis.open()?.map(|redis| redis.with_anomalies(telemetry.anomalies.clone()));
    let mesh_advertise: Arc<dyn AdvertisedAddress> = match serve.mesh_advertise {
        Some(advertise) => advertise.address(mesh, redis.as_ref().map_or_else(Vec::new, RedisDirectory::addresses)),
        None => Arc::new(FixedAddress(mesh.to_smolstr())),
    };
    // Without DNS, the membership tries again later.
    let advertised = mesh_advertise.find().await.ok();
    let (tls, mesh_security) = (serve.tls.https()?, serve.tls.open_mesh(advertised.as_deref())?);
    let (admin_address, advertised) = (admin.local_addr()?, advertised.as_deref().unwrap_or("auto"));
    info!(%name, listen = %public.local_addr()?, %mesh, advertise = advertised, admin = %admin_address, "starting");
    let directory: Arc<dyn Directory> = match redis {
        Some(redis) => {
            check_redis(&redis).await?;
            Arc::new(redis)
        }
        None => {
            info!("no --redis: this node is a cluster of one");
            MemoryDirectory::new()
        }
    };
    let limits = serve.limits.limits(file_limit());
    let config = NodeConfig {
        name,
        mesh_advertise,
        lease: serve.lease,
        deadline: serve.deadline,
        drain: serve.drain,
        cache: serve.cache.as_u64(),
        clients: SocketIoConfig {
            transports: serve.transports,
            max_rooms: serve.rooms_per_socket as usize,
            ping_interval: serve.ping_interval,
            ping_timeout: serve.ping_timeout,
        },
        access,
        release_delay: reconciler::RELEASE_DELAY,
        limits,
        cors_origins: serve.cors_origins,
        tls,
        mesh_security,
        admin_tokens,
        telemetry,
    };
    let listeners = NodeListeners { public, mesh: mesh_listener, admin: Some(admin) };
    let drain = config.drain;
    let node = Node::new(config, listeners, directory).run(shutdown);
    let Some(traces) = traces else { return node.await.map(|()| ExitCode::SUCCESS) };
    let mut background = JoinSet::new();
    background.spawn(traces.reload_headers());
    let result = node.await;
    traces.close(drain.mul_f64(SPAN_FLUSH_SHARE).min(MAX_SPAN_FLUSH)).await;
    result.map(|()| ExitCode::SUCCESS)
}

/// Fails when Redis answers and is unsuitable. A Redis that does not answer is waited for later.
pub(super) async fn check_redis(redis: &RedisDirectory) -> anyhow::Result<()> {
    redis.check().await.with_context(|| format!("the redis at {} cannot be used", redis.address()))
}
