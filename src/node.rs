//! One node: its wiring in dependency order, its tasks, and the order of its shutdown.
//!
//! Owns the lifetime of the components, and no behavior. The caller passes bound listeners, so that port 0 works and tests
//! start nodes exactly as the binary does. [`Node::run`] reads as the list of components: [`core`], the [`tasks`],
//! the [`ports`], and then [`shutdown`].

pub mod config;
pub mod core;
mod metrics;
mod ports;
mod shutdown;
pub mod tasks;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::bail;
use jiff::Timestamp;
use smol_str::SmolStr;
use tokio_util::sync::CancellationToken;

use self::core::NodeCore;
use crate::directory::Directory;
use crate::membership::{Membership, NodeInfo};
use crate::mesh::peers::Peers;
use crate::roll_call::cache::SnapshotCache;
use crate::roster::Roster;
use config::{NodeConfig, NodeListeners};
use shutdown::RunningNode;
use tasks::EssentialTasks;

/// A node that is wired but does not run yet.
pub struct Node {
    config: NodeConfig,
    listeners: NodeListeners,
    core: NodeCore,
}

impl Node {
    pub fn new(config: NodeConfig, listeners: NodeListeners, directory: Arc<dyn Directory>) -> Self {
        let node_info = NodeInfo {
            name: config.name.clone(),
            mesh: SmolStr::default(),
            since: format!("{:.3}", Timestamp::now()).into(),
        };
        let anomalies = &config.telemetry.anomalies;
        let peers = Peers::secured(config.mesh_security.clone()).with_anomalies(anomalies.clone());
        let cache = SnapshotCache::new(config.cache, anomalies.clone());
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

    /// Runs until `shutdown`, then stops cleanly: the directory keeps no entry of the node.
    ///
    /// # Errors
    /// When an essential task or a port ended before `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { config, listeners, core } = self;
        let (stop_public, stop_mesh) = (CancellationToken::new(), CancellationToken::new());

        let mut tasks = EssentialTasks::default();
        core.start(Arc::clone(&config.mesh_advertise), &mut tasks);
        tasks::start_reloads(&config, &mut tasks);
        let public = ports::build_public(&config, &core, listeners.public, stop_public.clone(), &mut tasks);
        if let Some(listener) = listeners.admin {
            ports::start_admin(&config, &core, &public, listener, stop_mesh.clone(), &mut tasks)?;
        }
        let connections = public.connections.clone();
        let mut mesh_port =
            ports::serve_mesh(&config, &core, public.sessions.clone(), listeners.mesh, stop_mesh.clone());
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
