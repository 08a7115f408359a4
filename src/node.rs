//! One node: its wiring in dependency order, its tasks, and the order in which it stops.
//!
//! Owns the life of the process's components and no behavior of its own. Listeners are passed in already bound, so that
//! port 0 works and tests start nodes exactly as the binary does. [`Node::run`] reads as the list of components:
//! [`core`], [`background`], [`public`], [`mesh`], [`admin`], and then [`shutdown`].

mod admin;
mod background;
pub mod core;
mod mesh;
mod metrics;
mod public;
mod shutdown;
pub mod tasks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use axum::http::HeaderValue;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::core::NodeCore;
use crate::auth::AccessPolicy;
use crate::auth::reload::Reloadable;
use crate::auth::tls::Tls;
use crate::auth::tokens::NamedTokens;
use crate::directory::Directory;
use crate::edge::limits::Limits;
use crate::edge::socketio::SocketIoConfig;
use crate::membership::{Membership, NodeInfo};
use crate::mesh::peers::Peers;
use crate::mesh::security::Security;
use crate::names::NodeName;
use crate::roll_call::cache::SnapshotCache;
use crate::roster::Roster;
use crate::telemetry::NodeTelemetry;
use shutdown::RunningNode;
use tasks::EssentialTasks;

/// The duration of a lease, unless configured otherwise.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(5);
/// The time for a clean shutdown, unless configured otherwise.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(10);

/// The configuration of one node.
pub struct NodeConfig {
    pub name: NodeName,
    /// The address at which the other nodes reach the mesh port of this one, `host:port`.
    pub mesh_advertise: String,
    pub lease: Duration,
    /// The deadline of a roll call whose caller names none.
    pub deadline: Duration,
    /// The time that a clean shutdown may take.
    pub drain: Duration,
    /// How long the ownership of a room is kept after its last socket left.
    pub release_delay: Duration,
    /// The size of the cache of room snapshots, in bytes.
    pub cache: u64,
    pub clients: SocketIoConfig,
    /// How clients and callers of the API are authenticated.
    pub access: AccessPolicy,
    pub limits: Limits,
    /// The origins whose pages may read the answers of the public port.
    pub cors_origins: Vec<HeaderValue>,
    /// TLS of the public port.
    pub tls: Option<Tls>,
    /// TLS and tokens of the mesh.
    pub mesh_security: Security,
    /// The tokens of operators, for the admin port.
    pub admin_tokens: Option<Reloadable<NamedTokens>>,
    /// What the process shares with its nodes: the log levels and the sampling of traces.
    pub telemetry: NodeTelemetry,
}

/// The bound listeners of one node.
pub struct NodeListeners {
    /// Clients: Socket.IO, REST and the pages.
    pub public: TcpListener,
    /// gRPC between nodes.
    pub mesh: TcpListener,
    /// Probes, Prometheus and operators.
    pub admin: Option<TcpListener>,
}

/// A node that is wired and does not run yet.
pub struct Node {
    config: NodeConfig,
    listeners: NodeListeners,
    core: NodeCore,
}

impl Node {
    pub fn new(config: NodeConfig, listeners: NodeListeners, directory: Arc<dyn Directory>) -> Self {
        let node_info = NodeInfo {
            name: config.name.clone(),
            mesh: config.mesh_advertise.as_str().into(),
            since: format!("{:.3}", Timestamp::now()).into(),
        };
        let (peers, cache) = (Peers::secured(config.mesh_security.clone()), SnapshotCache::new(config.cache));
        let core = NodeCore::new(node_info, config.lease, config.release_delay, directory, peers, cache);
        Self { config, listeners, core }
    }

    pub fn roster(&self) -> &Arc<Roster> {
        &self.core.roster
    }

    pub fn membership(&self) -> &Arc<Membership> {
        &self.core.membership
    }

    /// The address of the public port.
    ///
    /// # Errors
    /// When the operating system does not report it.
    pub fn public_address(&self) -> std::io::Result<SocketAddr> {
        self.listeners.public.local_addr()
    }

    /// The address of the mesh port.
    ///
    /// # Errors
    /// When the operating system does not report it.
    pub fn mesh_address(&self) -> std::io::Result<SocketAddr> {
        self.listeners.mesh.local_addr()
    }

    /// Runs until `shutdown`, and then stops cleanly: nothing of the node is left in the directory.
    ///
    /// # Errors
    /// When an essential task or a port ended before `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { config, listeners, core } = self;
        let (stop_public, stop_mesh) = (CancellationToken::new(), CancellationToken::new());

        let mut tasks = EssentialTasks::default();
        core.start(&mut tasks);
        background::start(&config, &mut tasks);
        let public = public::build(&config, &core, listeners.public, stop_public.clone(), &mut tasks);
        if let Some(listener) = listeners.admin {
            admin::start(&config, &core, &public, listener, stop_mesh.clone(), &mut tasks)?;
        }
        let connections = public.connections.clone();
        let mut mesh_port = mesh::serve(&config, &core, public.sessions.clone(), listeners.mesh, stop_mesh.clone());
        let mut public_port = tokio::spawn(public.serve);

        tokio::select! {
            () = shutdown.cancelled() => {}
            name = tasks.one_ended() => bail!("the {name} task ended"),
            ended = &mut mesh_port => bail!("the mesh port closed: {ended:?}"),
            ended = &mut public_port => bail!("the public port closed: {ended:?}"),
        }
        let running = RunningNode { core, tasks, connections, public_port, stop_public, mesh_port, stop_mesh };
        running.shut_down(config.drain).await;
        Ok(())
    }
}
