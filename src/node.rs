//! One node: every part of it, wired in the order that data flows, its tasks, and the order in which it stops.
//!
//! Owns the wiring and the life of the process's parts; no behaviour of its own. Listeners come in already bound, so
//! that port 0 works, and tests start nodes exactly as `main` does.

pub mod scrape;
pub mod state;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Layer;
use tower::layer::layer_fn;
use tower::util::{MapRequest, MapResponse, option_layer};
use tracing::{info, warn};

use crate::auth::AccessPolicy;
use crate::auth::reload::{RELOAD_INTERVAL, Reloadable};
use crate::auth::tls::Tls;
use crate::auth::tokens::NamedTokens;
use crate::directory::Directory;
use crate::edge::connections::ConnectionServer;
use crate::edge::connections::handle::ConnectionRegistry;
use crate::edge::limits::Limits;
use crate::edge::limits::connection_limiter::limit_connections;
use crate::edge::limits::session_limiter::SessionLimiter;
use crate::edge::polling::forward::ForwardedPolling;
use crate::edge::polling::sessions::{EngineService, PollingSessions};
use crate::edge::polling::{PollingMiddleware, SessionRouter};
use crate::edge::readiness_gate;
use crate::edge::readiness_gate::ReadinessGate;
use crate::edge::socketio;
use crate::edge::socketio::Transports;
use crate::edge::socketio::expiry::Expiry;
use crate::http;
use crate::http::admin::guard::Guard;
use crate::http::concurrency_limit::ConcurrencyLimit;
use crate::http::request_id::RequestIds;
use crate::membership::{Leaving, Membership, NodeInfo};
use crate::mesh::accept::{MeshConnection, accept_connections};
use crate::mesh::peers::Peers;
use crate::mesh::security::Security;
use crate::mesh_service;
use crate::mesh_service::PollingForwarding;
use crate::names::{NodeId, NodeName};
use crate::node::scrape::{Scrape, Sources};
use crate::reconciler::Reconciler;
use crate::roll_call::cache::Parts;
use crate::roll_call::{MAX_DEADLINE, RollCall};
use crate::roster::Roster;
use crate::status::Overview;
use crate::status::description::Describer;
use crate::telemetry::metrics::Metrics;

/// How long a lease lasts unless told otherwise.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(5);
/// How long stopping may take, unless told otherwise.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(10);

/// How much of the drain clients have to go elsewhere; the rest is for giving back what this node has in the directory.
const CLIENTS_SHARE: f64 = 0.6;
/// The most that a step after that may take of the drain, before the next one begins all the same.
const STEP_SHARE: f64 = 0.1;
/// No step takes longer, however long the drain.
const STEP_MOST: Duration = Duration::from_secs(2);
/// How long after the start clients are kept waiting until this node knows the others, before they are told.
const INTRODUCED_WITHIN: Duration = Duration::from_secs(1);
/// Connections of the mesh port: each node has one, and `grpcurl` another.
const MESH_CONNECTIONS: usize = 1024;
/// Connections of the admin port: probes are few.
const ADMIN_CONNECTIONS: u32 = 128;
/// How often a roster that is emptying is looked at.
const EMPTY_EVERY: Duration = Duration::from_millis(5);

/// What one node is told.
pub struct Config {
    pub name: NodeName,
    /// Where the other nodes reach this one's mesh, `host:port`.
    pub mesh_advertise: String,
    pub lease: Duration,
    pub deadline: Duration,
    /// How long stopping may take.
    pub drain: Duration,
    /// How long a claim outlives the room's last socket.
    pub release_delay: Duration,
    /// How many bytes of the answers of nodes are held, at most.
    pub cache: u64,
    /// What Socket.IO clients are held to.
    pub clients: socketio::SocketIoConfig,
    /// Who is let in, and who may call the roll.
    pub access: AccessPolicy,
    /// What anybody may take of this node.
    pub limits: Limits,
    /// Origins whose pages may read the answers of the public port.
    pub cors_origins: Vec<HeaderValue>,
    /// TLS of the public port.
    pub tls: Option<Tls>,
    /// Who may speak on the mesh.
    pub mesh_security: Security,
    /// Who may see and change what is the operator's, on the admin port.
    pub admin_tokens: Option<Reloadable<NamedTokens>>,
}

/// Where one node listens.
pub struct Listeners {
    /// Clients: Socket.IO, REST and the page.
    pub public: TcpListener,
    /// The other nodes.
    pub mesh: TcpListener,
    /// Probes, and the operator.
    pub admin: Option<TcpListener>,
}

/// What makes a process a node of the cluster: its roster, its membership, and the two flows between them and the
/// directory. Knows no clients and no HTTP.
#[derive(Clone)]
pub struct Core {
    pub roster: Arc<Roster>,
    pub membership: Arc<Membership>,
    pub reconciler: Arc<Reconciler>,
    pub roll_call: RollCall,
    /// What says how this node is.
    pub describer: Describer,
    directory: Arc<dyn Directory>,
    peers: Peers,
    parts: Parts,
    metrics: Metrics,
    /// What roll calls leave running.
    background: TaskTracker,
}

/// A node that is wired and does not run yet.
pub struct Node {
    config: Config,
    listeners: Listeners,
    core: Core,
}

impl Core {
    /// `release_delay`: how long a claim outlives the room's last socket.
    pub fn new(
        node_info: NodeInfo,
        lease: Duration,
        release_delay: Duration,
        directory: Arc<dyn Directory>,
        peers: Peers,
        parts: Parts,
    ) -> Self {
        let metrics = Metrics::default();
        let directory = metrics.calls.measure(directory);
        let roster = Roster::new(NodeId::new_process());
        let membership = Membership::new(node_info, lease, Arc::clone(&roster));
        // Socket in: socket edge -> roster -> reconciler -> directory.
        let reconciler = Reconciler::new(
            Arc::clone(&roster),
            Arc::clone(&membership),
            Arc::clone(&directory),
            release_delay,
            metrics.flushes.clone(),
        );
        // Question in: HTTP -> roll call -> directory -> mesh.
        let background = TaskTracker::new();
        let roll_call = RollCall::new(
            Arc::clone(&roster),
            Arc::clone(&membership),
            Arc::clone(&directory),
            peers.clone(),
            parts.clone(),
            background.clone(),
            metrics.roll_calls.clone(),
        );
        let recent = metrics.roll_calls.recent().clone();
        let describer = Describer::new(Arc::clone(&roster), Arc::clone(&membership), recent);
        Self { roster, membership, reconciler, roll_call, describer, directory, peers, parts, metrics, background }
    }

    /// Starts what keeps going. None of these tasks ends by itself.
    pub fn start(&self, tasks: &mut Tasks) {
        tasks.spawn("directory", {
            let directory = Arc::clone(&self.directory);
            async move { directory.maintain().await }
        });
        tasks.spawn("lease", {
            let (membership, directory) = (Arc::clone(&self.membership), Arc::clone(&self.directory));
            async move { membership.keep_lease(&*directory).await }
        });
        tasks.spawn("announcer", {
            let (membership, peers) = (Arc::clone(&self.membership), self.peers.clone());
            async move { membership.announce(&peers).await }
        });
        tasks.spawn("reconciler", {
            let reconciler = Arc::clone(&self.reconciler);
            async move { reconciler.run().await }
        });
    }
}

impl Node {
    pub fn new(config: Config, listeners: Listeners, directory: Arc<dyn Directory>) -> Self {
        let node_info = NodeInfo {
            name: config.name.clone(),
            mesh: config.mesh_advertise.as_str().into(),
            since: format!("{:.3}", Timestamp::now()).into(),
        };
        let (peers, parts) = (Peers::secured(config.mesh_security.clone()), Parts::new(config.cache));
        let core = Core::new(node_info, config.lease, config.release_delay, directory, peers, parts);
        Self { config, listeners, core }
    }

    /// The node's own sockets.
    pub fn roster(&self) -> &Arc<Roster> {
        &self.core.roster
    }

    /// Whether it counts, and whom it knows.
    pub fn membership(&self) -> &Arc<Membership> {
        &self.core.membership
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
        let Self { config, listeners, core } = self;
        let Core { roster, membership, reconciler, .. } = &core;
        // The longest that a poll may take to be answered: by then its session would have ended.
        let poll_timeout = config.clients.ping_interval + config.clients.ping_timeout;
        let longest_wait = poll_timeout.max(MAX_DEADLINE);
        let connections = ConnectionRegistry::default();
        let unacked_timeout = config.clients.ping_timeout;
        let public_server = ConnectionServer::new(connections.clone(), unacked_timeout, longest_wait, &config.limits);
        let session_limiter = SessionLimiter::new(&config.limits);
        let (stop_public, stop_mesh) = (CancellationToken::new(), CancellationToken::new());

        let AccessPolicy { identity, callers } = config.access.clone();
        let expiry = Arc::new(Expiry::default());
        let (socket_io, live) = socketio::build(
            Arc::clone(roster),
            Arc::clone(reconciler),
            identity.clone(),
            Arc::clone(&expiry),
            core.metrics.refusals.clone(),
            config.clients,
            &config.limits,
        );
        let rest = http::router(http::Config {
            roll_call: core.roll_call.clone(),
            callers,
            deadline: config.deadline,
            max_deadline: MAX_DEADLINE,
            concurrency_limit: ConcurrencyLimit::new(config.limits.concurrent_roll_calls),
        });
        // Socket.IO stands in front of the router, or a room's path could shadow it; polling before it, and the gate
        // before all of them.
        let public = MapResponse::new(socket_io.layer(rest), |response: Response<_>| response.map(Body::new));
        let sessions = match config.clients.transports {
            Transports::Websocket => None,
            Transports::WebsocketAndPolling => {
                let engine = EngineService::new(public.clone());
                Some(PollingSessions::new(&roster.incarnation(), connections.clone(), engine))
            }
        };
        let polling = sessions.clone().map(|sessions| {
            let (membership, peers) = (Arc::clone(membership), core.peers.clone());
            let router = SessionRouter::new(sessions, membership, peers, poll_timeout, &config.limits);
            let router = Arc::new(router);
            layer_fn(move |inner| PollingMiddleware::new(Arc::clone(&router), inner))
        });
        let public = option_layer(polling).layer(public);
        let public = ReadinessGate::new(Arc::clone(membership), identity.clone(), Arc::clone(&session_limiter), public);
        let public = option_layer(http::cors(config.cors_origins)).layer(public);
        let files = config.tls.as_ref().and_then(|tls| tls.files.clone());
        let public = option_layer(files.as_ref().map(|_| http::https_only())).layer(public);
        let public = core.metrics.requests.layer(public);
        let public = RequestIds { https: config.tls.is_some() }.layer(public);
        let public = MapRequest::new(public, |request: Request<Incoming>| request.map(Body::new));

        // What keeps going. If one of these ends, the node ends.
        let mut tasks = Tasks::default();
        core.start(&mut tasks);
        for (name, task) in config.access.reload_tasks() {
            tasks.spawn(name, task);
        }
        tasks.spawn("mesh files", config.mesh_security.clone().keep());
        if let Some(files) = files {
            tasks.spawn("certificate", files.keep(RELOAD_INTERVAL));
        }
        tasks.spawn("comparison", async move { live.compare().await });
        if identity.takes_tokens() {
            tasks.spawn("expiry", async move { expiry.keep().await });
        }
        tasks.spawn("gate", {
            let (membership, connections) = (Arc::clone(membership), connections.clone());
            async move { readiness_gate::disconnect_clients_while_inactive(&membership, &connections).await }
        });
        tasks.spawn("session limiter", async move { session_limiter.forget_idle_addresses().await });
        if let Some(tokens) = config.admin_tokens.clone() {
            tasks.spawn("admin tokens", tokens.keep(RELOAD_INTERVAL));
        }
        if let Some(admin) = listeners.admin {
            let sources = Sources {
                roster: Arc::clone(roster),
                membership: Arc::clone(membership),
                identity: identity.clone(),
                peers: core.peers.clone(),
                parts: core.parts.clone(),
                connections: connections.clone(),
                sessions: sessions.clone(),
                runtime: Handle::current(),
            };
            let scrape = Scrape::new(core.metrics.clone(), sources);
            let service = http::admin::router(http::admin::Config {
                membership: Arc::clone(membership),
                identity: identity.clone(),
                render_metrics: Arc::new(move || scrape.text().map_err(|error| error.to_string())),
                guard: Guard::new(config.admin_tokens.clone(), admin.local_addr()?.ip()),
                overview: Overview::new(core.describer.clone(), core.peers.clone()),
                roll_call: core.roll_call.clone(),
                deadline: config.deadline,
            });
            let connections = Some(ADMIN_CONNECTIONS);
            let limits = Limits { connections, connections_per_address: None, ..config.limits.clone() };
            let server = ConnectionServer::new(ConnectionRegistry::default(), unacked_timeout, MAX_DEADLINE, &limits);
            tasks.spawn("admin", server.serve(admin, None, service, stop_mesh.clone()));
        }
        let counter = core.peers.byte_counter().clone();
        let mesh_connections = accept_connections(listeners.mesh, config.mesh_security.clone(), counter);
        let polling = sessions.map(|sessions| Arc::new(ForwardedPolling(sessions)) as PollingForwarding);
        let mut mesh = tokio::spawn(mesh_service::serve(
            limit_connections(mesh_connections, MESH_CONNECTIONS, MeshConnection::with_permit),
            core.describer.clone(),
            identity,
            polling,
            config.mesh_security,
            stop_mesh.clone(),
        ));
        let mut public = tokio::spawn({
            let tls = config.tls.map(|tls| tls.acceptor);
            let (membership, stop) = (Arc::clone(membership), stop_public.clone());
            async move {
                // Whoever comes in the first moments waits in the kernel instead of being turned away.
                let _ = timeout(INTRODUCED_WITHIN, membership.introduced()).await;
                public_server.serve(listeners.public, tls, public, stop).await;
            }
        });
        tokio::select! {
            () = shutdown.cancelled() => {}
            name = tasks.one_ended() => bail!("the {name} task ended"),
            ended = &mut mesh => bail!("the mesh ended: {ended:?}"),
            ended = &mut public => bail!("the public port ended: {ended:?}"),
        }

        // Stopping. Each step is bounded, and all of them by the drain; the order is what keeps every answer of the
        // others true meanwhile, and this node answers them to the end.
        info!(drain = ?config.drain, "stopping");
        let within = config.drain.mul_f64(STEP_SHARE).min(STEP_MOST);
        // 1. No new clients: probes say so, the lease says so, and the listener closes.
        membership.leave(Leaving::Draining);
        stop_public.cancel();
        // 2. The sockets go. Their transports end without a Socket.IO disconnect, so clients come back elsewhere; the
        //    claim of a room goes with its last socket.
        reconciler.release_immediately();
        readiness_gate::disconnect_clients_over(config.drain.mul_f64(CLIENTS_SHARE), &connections).await;
        step("answering requests", within, &mut public).await;
        step("letting sockets go", within, empty(roster)).await;
        // 3. The last claims.
        step("giving rooms back", within, reconciler.wait_until_released()).await;
        // 4. The others hear that there is nobody to ask here any more.
        membership.leave(Leaving::Goodbye);
        step("saying goodbye", within, membership.everyone_knows()).await;
        // 5. The lease goes last: until now, silence would have counted.
        tasks.stop().await;
        core.background.close();
        step("giving the lease back", within, async {
            core.background.wait().await;
            let node = roster.incarnation();
            if let Err(error) = core.directory.deregister(&node).await {
                warn!(%node, %error, "the lease stays in the directory until it runs out");
            }
        })
        .await;
        // 6. Peers that asked meanwhile are answered.
        stop_mesh.cancel();
        step("answering peers", within, &mut mesh).await;
        mesh.abort();
        info!("stopped");
        Ok(())
    }
}

/// Tasks that go on for as long as the node does.
#[derive(Default)]
pub struct Tasks(JoinSet<&'static str>);

impl Tasks {
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
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
async fn step<T>(what: &str, within: Duration, done: impl Future<Output = T>) {
    if timeout(within, done).await.is_err() {
        warn!(what, "took too long, going on");
    }
}

/// Ends when no socket is left.
async fn empty(roster: &Roster) {
    while roster.size().sockets > 0 {
        sleep(EMPTY_EVERY).await;
    }
}
