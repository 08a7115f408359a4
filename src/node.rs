//! One node: every part of it, wired in the order that data flows, its tasks, and the order in which it stops.
//!
//! Owns the wiring and the life of the process's parts; no behaviour of its own. Listeners come in already bound, so
//! that port 0 works, and tests start nodes exactly as `main` does.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use axum::http::HeaderValue;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Layer;
use tracing::{info, warn};

use crate::connections::{self, Connections};
use crate::directory::Directory;
use crate::http;
use crate::membership::{Identity, Leaving, Membership};
use crate::mesh;
use crate::mesh::peers::Peers;
use crate::names::{NodeId, NodeName};
use crate::registrar::Registrar;
use crate::roll_call::RollCall;
use crate::roster::Roster;
use crate::socket_edge;

/// How long a lease lasts unless told otherwise.
pub const LEASE: Duration = Duration::from_secs(5);
/// The deadline of a roll call that names none, unless told otherwise.
pub const DEADLINE: Duration = Duration::from_millis(500);
/// The longest deadline a caller may ask for.
pub const DEADLINE_MOST: Duration = Duration::from_secs(5);
/// How many rooms a socket can be in, unless told otherwise.
pub const ROOMS_PER_SOCKET: usize = 64;

/// How long each step of stopping may take before the next one begins all the same.
const STEP_WITHIN: Duration = Duration::from_secs(2);
/// How often a roster that is emptying is looked at.
const EMPTY_EVERY: Duration = Duration::from_millis(5);

/// What one node is told.
pub struct Config {
    pub name: NodeName,
    /// Where the other nodes reach this one's mesh, `host:port`.
    pub mesh_advertise: String,
    pub lease: Duration,
    pub deadline: Duration,
    pub rooms_per_socket: usize,
    /// How long a claim outlives the room's last socket.
    pub linger: Duration,
    /// Origins whose pages may read the REST answers.
    pub cors_origins: Vec<HeaderValue>,
    /// TLS of the public port.
    pub tls: Option<TlsAcceptor>,
}

/// Where one node listens.
pub struct Listeners {
    /// Clients: Socket.IO, REST and the page.
    pub public: TcpListener,
    /// The other nodes.
    pub mesh: TcpListener,
    /// Probes.
    pub admin: Option<TcpListener>,
}

/// A node that is wired and does not run yet.
pub struct Node {
    config: Config,
    listeners: Listeners,
    directory: Arc<dyn Directory>,
    roster: Arc<Roster>,
    membership: Arc<Membership>,
}

impl Node {
    pub fn new(config: Config, listeners: Listeners, directory: Arc<dyn Directory>) -> Self {
        let roster = Roster::new(NodeId::new_process());
        let identity = Identity {
            name: config.name.clone(),
            mesh: config.mesh_advertise.as_str().into(),
            since: format!("{:.3}", Timestamp::now()).into(),
        };
        let membership = Membership::new(identity, config.lease, Arc::clone(&roster));
        Self { config, listeners, directory, roster, membership }
    }

    /// The node's own sockets.
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// Whether it counts, and whom it knows.
    pub fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    /// Where clients connect to.
    ///
    /// # Errors
    /// When the listener has lost its address.
    pub fn public_address(&self) -> std::io::Result<SocketAddr> {
        self.listeners.public.local_addr()
    }

    /// Where the other nodes connect to.
    ///
    /// # Errors
    /// When the listener has lost its address.
    pub fn mesh_address(&self) -> std::io::Result<SocketAddr> {
        self.listeners.mesh.local_addr()
    }

    /// Runs until `shutdown`, and then stops cleanly: nothing of the node is left in the directory.
    ///
    /// # Errors
    /// When a part of the node ended that must not.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { config, listeners, directory, roster, membership } = self;
        let repairs = TaskTracker::new();
        let connections = Connections::default();
        let (stop_public, stop_mesh) = (CancellationToken::new(), CancellationToken::new());

        // Socket in: socket edge -> roster -> registrar -> directory.
        let registrar =
            Registrar::new(Arc::clone(&roster), Arc::clone(&membership), Arc::clone(&directory), config.linger);
        let (socket_io, live) =
            socket_edge::build(Arc::clone(&roster), Arc::clone(&registrar), config.rooms_per_socket);

        // Question in: HTTP -> roll call -> directory -> mesh.
        let peers = Peers::default();
        let roll_call = RollCall::new(
            Arc::clone(&roster),
            Arc::clone(&membership),
            Arc::clone(&directory),
            peers.clone(),
            repairs.clone(),
        );
        let rest = http::router(http::Config {
            roll_call,
            deadline: config.deadline,
            deadline_most: DEADLINE_MOST,
            cors_origins: config.cors_origins,
        });
        // Socket.IO stands in front of the router, or a room's path could shadow it.
        let public = socket_io.layer(rest);

        // What keeps going. If one of these ends, the node ends.
        let mut tasks = Tasks::default();
        tasks.spawn("directory", {
            let directory = Arc::clone(&directory);
            async move { directory.upkeep().await }
        });
        tasks.spawn("lease", {
            let (membership, directory) = (Arc::clone(&membership), Arc::clone(&directory));
            async move { membership.keep_lease(&*directory).await }
        });
        tasks.spawn("announcer", {
            let membership = Arc::clone(&membership);
            async move { membership.announce(&peers).await }
        });
        tasks.spawn("registrar", {
            let registrar = Arc::clone(&registrar);
            async move { registrar.keep_equal().await }
        });
        tasks.spawn("comparison", async move { live.compare().await });
        if let Some(admin) = listeners.admin {
            let service = http::admin::router(Arc::clone(&membership));
            tasks.spawn("admin", connections::serve(admin, None, service, Connections::default(), stop_mesh.clone()));
        }
        let mut mesh = tokio::spawn(mesh::server::serve(
            listeners.mesh,
            Arc::clone(&roster),
            Arc::clone(&membership),
            stop_mesh.clone(),
        ));
        let mut public = tokio::spawn(connections::serve(
            listeners.public,
            config.tls,
            public,
            connections.clone(),
            stop_public.clone(),
        ));
        tokio::select! {
            () = shutdown.cancelled() => {}
            name = tasks.one_ended() => bail!("the {name} task ended"),
            ended = &mut mesh => bail!("the mesh ended: {ended:?}"),
            ended = &mut public => bail!("the public port ended: {ended:?}"),
        }

        // Stopping. Each step is bounded; the order is what keeps every answer of the others true meanwhile.
        info!("stopping");
        // 1. No new clients: probes say so, the lease says so, and the listener closes once requests are answered.
        membership.leave(Leaving::Draining);
        stop_public.cancel();
        step("answering requests", &mut public).await;
        // 2. The sockets go. Their transports end without a Socket.IO disconnect, so clients come back elsewhere.
        connections.end_all();
        step("letting sockets go", empty(&roster)).await;
        // 3. Claims go with the rooms' last sockets.
        step("giving rooms back", registrar.give_everything_back()).await;
        // 4. The others hear that there is nobody to ask here any more.
        membership.leave(Leaving::Goodbye);
        step("saying goodbye", membership.everyone_knows()).await;
        // 5. The lease goes last: until now, silence would have counted.
        tasks.stop().await;
        repairs.close();
        step("repairing", repairs.wait()).await;
        let node = roster.incarnation();
        step("giving the lease back", async {
            if let Err(error) = directory.forget(&node).await {
                warn!(%node, %error, "the lease stays in the directory until it runs out");
            }
        })
        .await;
        // 6. Peers that asked meanwhile are answered.
        stop_mesh.cancel();
        step("answering peers", &mut mesh).await;
        mesh.abort();
        info!("stopped");
        Ok(())
    }
}

/// Tasks that go on for as long as the node does.
#[derive(Default)]
struct Tasks(JoinSet<&'static str>);

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            task.await;
            name
        });
    }

    /// Ends when one of them ended, which none should.
    async fn one_ended(&mut self) -> String {
        match self.0.join_next().await {
            Some(Ok(name)) => name.to_owned(),
            Some(Err(error)) => error.to_string(),
            None => "last".to_owned(),
        }
    }

    async fn stop(&mut self) {
        self.0.shutdown().await;
    }
}

/// Waits for a step of stopping, but not for ever.
async fn step<T>(what: &str, done: impl Future<Output = T>) {
    if timeout(STEP_WITHIN, done).await.is_err() {
        warn!(what, "took too long, going on");
    }
}

/// Ends when no socket is left.
async fn empty(roster: &Roster) {
    while roster.size().sockets > 0 {
        sleep(EMPTY_EVERY).await;
    }
}
