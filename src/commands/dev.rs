//! `rollcall dev`: a cluster in one process, for a first look and for development.
//!
//! Owns the set-up that `serve` leaves to the operator: the number of nodes, the one address that all of them accept on,
//! a self-signed certificate, and the printed introduction. Each node is complete, with its own sockets and mesh port.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::auth::AccessPolicy;
use crate::auth::tls::Tls;
use crate::commands::args::{ListenAddress, RedisArgs};
use crate::commands::process::{EXIT_FAILED, run_until_signal, start_logging};
use crate::commands::serve::check_redis;
use crate::directory::Directory;
use crate::directory::memory::MemoryDirectory;
use crate::edge::connections::listener::listen;
use crate::edge::limits::Limits;
use crate::edge::socketio::{SocketIoConfig, Transports};
use crate::mesh::advertise::FixedAddress;
use crate::mesh::security::Security;
use crate::names::NodeName;
use crate::node::Node;
use crate::node::config::{self, NodeConfig, NodeListeners};
use crate::reconciler;
use crate::roll_call;
use crate::telemetry::NodeTelemetry;
use crate::telemetry::anomalies::Anomalies;
use crate::telemetry::logging::{self, Logging};

/// Short, because all nodes stop together: the clients have no other node to reconnect to.
const DRAIN: Duration = Duration::from_secs(1);
const DEFAULT_LISTEN: &str = "localhost:5009";

#[derive(Debug, Args)]
pub struct DevArgs {
    /// Number of nodes
    #[arg(long, default_value_t = 4, env = "ROLLCALL_NODES", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub nodes: u8,

    /// The address that all nodes share
    #[arg(long, default_value = DEFAULT_LISTEN, env = "ROLLCALL_LISTEN", value_name = "HOST:PORT")]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnOff {
    On,
    Off,
}

/// The settings of the cluster.
pub struct DevCluster {
    pub nodes: usize,
    pub listen: ListenAddress,
    pub tls: bool,
    pub clients: SocketIoConfig,
}

/// Runs the cluster until a signal.
pub(super) fn run(dev: DevArgs, logging: Result<Logging, logging::Error>) -> ExitCode {
    run_until_signal(logging, None, EXIT_FAILED, |logging, shutdown| async move {
        let telemetry = start_logging(logging, None);
        let clients = SocketIoConfig { transports: dev.transports, ..SocketIoConfig::default() };
        let nodes = usize::from(dev.nodes);
        let cluster = DevCluster { nodes, listen: dev.listen, tls: dev.tls == OnOff::On, clients };
        let memory = MemoryDirectory::new();
        if let Some(redis) = dev.redis.open()? {
            check_redis(&redis).await?;
        }
        // Each node has its own connection to Redis.
        let directory = |anomalies: &Anomalies| {
            Ok(match dev.redis.open()? {
                Some(redis) => Arc::new(redis.with_anomalies(anomalies.clone())) as Arc<dyn Directory>,
                None => Arc::clone(&memory) as Arc<dyn Directory>,
            })
        };
        run_cluster(cluster, telemetry, directory, |introduction| println!("{introduction}"), shutdown).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Runs the cluster until `shutdown`. Calls `directory` once for each node, and `print` with the introduction when all
/// nodes listen.
///
/// # Errors
/// An address is in use, or a node ended before `shutdown`.
pub async fn run_cluster(
    cluster: DevCluster,
    telemetry: NodeTelemetry,
    directory: impl Fn(&Anomalies) -> anyhow::Result<Arc<dyn Directory>>,
    print: impl FnOnce(&str),
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let DevCluster { nodes, listen: address, tls, clients } = cluster;
    let acceptor = if tls { Some(Tls::self_signed(address.certificate_names())?.acceptor) } else { None };
    let mut public = address.address;
    let mut running = JoinSet::new();
    let mut meshes = Vec::with_capacity(nodes);
    for number in 1..=nodes {
        let listener = listen(public, true).with_context(|| format!("cannot listen on {public}"))?;
        // With port 0 the system picks the port for the first node, and the others share it.
        public = listener.local_addr()?;
        let mesh = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), false).context("cannot listen for the mesh")?;
        let mesh_address = mesh.local_addr()?;
        let name = NodeName::from_any(&format!("node-{number}"));
        let telemetry = telemetry.for_another_node();
        let directory = directory(&telemetry.anomalies)?;
        meshes.push((name.clone(), mesh_address));
        let config = NodeConfig {
            name,
            mesh_advertise: Arc::new(FixedAddress(mesh_address.to_string().into())),
            lease: config::DEFAULT_LEASE,
            deadline: roll_call::DEFAULT_DEADLINE,
            drain: DRAIN,
            cache: roll_call::cache::DEFAULT_CACHE_BYTES,
            clients,
            access: AccessPolicy::default(),
            release_delay: reconciler::RELEASE_DELAY,
            limits: Limits::default(),
            cors_origins: Vec::new(),
            tls: acceptor.clone().map(|acceptor| Tls { acceptor, files: None }),
            mesh_security: Security::default(),
            admin_tokens: None,
            telemetry,
        };
        let listeners = NodeListeners { public: listener, mesh, admin: None };
        running.spawn(Node::new(config, listeners, directory).run(shutdown.clone()));
    }
    print(&introduction(&address.origin(tls, public.port()), tls, &meshes));
    while let Some(ended) = running.join_next().await {
        ended.context("a node panicked")??;
    }
    Ok(())
}

fn introduction(origin: &str, tls: bool, meshes: &[(NodeName, SocketAddr)]) -> String {
    let insecure = if tls { "-k " } else { "" };
    let mut text = format!("Rollcall: {} nodes, one address.\n\n", meshes.len());
    let mut line = |what: &str, how: &str| writeln!(text, "  {what:<5} {how}").expect("a String takes any text");
    line("open", &format!("{origin}/Maths?id_user=foo"));
    line("ask", &format!("curl {insecure}{origin}/Maths/users"));
    for (number, (name, mesh)) in meshes.iter().enumerate() {
        line(if number == 0 { "mesh" } else { "" }, &format!("{name} on {mesh}"));
    }
    line("stop", "Ctrl-C");
    if tls {
        text.push_str("\nThe certificate is self-signed and new: a browser asks once whether to trust it.\n");
    }
    text
}
