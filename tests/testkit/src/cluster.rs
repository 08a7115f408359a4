//! Nodes inside the test process, started through the production entry point, that share one index.
//!
//! Owns the nodes and their index: in memory, or in a Redis server of the test.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rollcall::auth::AccessPolicy;
use rollcall::directory::Directory;
use rollcall::directory::memory::MemoryDirectory;
use rollcall::directory::redis::RedisDirectory;
use rollcall::edge::limits::Limits;
use rollcall::edge::socketio::SocketIoConfig;
use rollcall::membership::Membership;
use rollcall::mesh::advertise::FixedAddress;
use rollcall::mesh::security::Security;
use rollcall::names::{NodeName, Room, SocketId, UserId};
use rollcall::node::Node;
use rollcall::node::config::{self, NodeConfig, NodeListeners};
use rollcall::reconciler;
use rollcall::roll_call;
use rollcall::roster::{Registration, Roster};
use rollcall::telemetry::NodeTelemetry;
use rollcall::telemetry::anomalies::Anomalies;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::redis_server::RedisServer;
use crate::{PATIENCE, listen_anywhere, text, until};

/// Defines two tests for each function that takes an [`Index`]: over the directory in memory, and over a real Redis.
#[macro_export]
macro_rules! over_both_directories {
    ($($test:ident),* $(,)?) => {
        mod over_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test($crate::cluster::Index::memory()).await; })*
        }
        mod over_redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test($crate::cluster::Index::redis().await).await; })*
        }
    };
}

/// The index that the nodes of a test share.
pub enum Index {
    Memory(Arc<MemoryDirectory>),
    Redis(RedisServer),
}

impl Index {
    pub fn memory() -> Self {
        Self::Memory(MemoryDirectory::new())
    }

    pub async fn redis() -> Self {
        Self::Redis(RedisServer::start_aged().await)
    }

    fn open(&self) -> Arc<dyn Directory> {
        match self {
            Self::Memory(memory) => Arc::clone(memory) as Arc<dyn Directory>,
            Self::Redis(server) => Arc::new(RedisDirectory::open(&server.url(), "rollcall:", false).unwrap()),
        }
    }

    pub fn server(&self) -> &RedisServer {
        match self {
            Self::Redis(server) => server,
            Self::Memory(_) => panic!("this test runs over Redis"),
        }
    }
}

/// One running node.
pub struct ClusterNode {
    pub name: String,
    pub public: SocketAddr,
    pub mesh: SocketAddr,
    pub roster: Arc<Roster>,
    pub membership: Arc<Membership>,
    pub anomalies: Anomalies,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl ClusterNode {
    /// Registers a socket in the room without a client. Dropping the registration removes the socket.
    pub fn seat(&self, socket: &str, user: &str, room: &str) -> Registration {
        let (socket, user) = (SocketId::parse(socket).unwrap(), UserId::parse(user).unwrap());
        self.roster.register(socket, user, &[Room::parse(room).unwrap()])
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.task).await.expect("the node stops").unwrap().unwrap();
    }
}

/// Nodes that share an index.
pub struct Cluster {
    pub index: Index,
    pub nodes: Vec<ClusterNode>,
    pub http: reqwest::Client,
    clients: SocketIoConfig,
    access: AccessPolicy,
    limits: Limits,
}

impl Cluster {
    /// Starts `count` nodes, one after another, each of them ready.
    pub async fn start(count: usize, index: Index) -> Self {
        Self::holding(count, index, SocketIoConfig::default()).await
    }

    /// As [`Self::start`], with this Socket.IO configuration.
    pub async fn holding(count: usize, index: Index, clients: SocketIoConfig) -> Self {
        Self::admitting(count, index, clients, AccessPolicy::default()).await
    }

    /// As [`Self::holding`], with this access policy for clients and requests.
    pub async fn admitting(count: usize, index: Index, clients: SocketIoConfig, access: AccessPolicy) -> Self {
        Self::of(count, index, clients, access, Limits::default()).await
    }

    /// As [`Self::holding`], with these limits for every connection.
    pub async fn bounded(count: usize, index: Index, clients: SocketIoConfig, limits: Limits) -> Self {
        Self::of(count, index, clients, AccessPolicy::default(), limits).await
    }

    async fn of(count: usize, index: Index, clients: SocketIoConfig, access: AccessPolicy, limits: Limits) -> Self {
        let mut cluster = Self { index, nodes: Vec::new(), http: reqwest::Client::new(), clients, access, limits };
        for _ in 0..count {
            cluster.add().await;
        }
        cluster
    }

    pub async fn add(&mut self) {
        let mesh = listen_anywhere();
        let advertised = mesh.local_addr().unwrap();
        self.add_behind(mesh, advertised).await;
    }

    /// Starts a node that advertises `advertised` to its peers. A listener there must forward to `mesh`.
    pub async fn add_behind(&mut self, mesh: TcpListener, advertised: SocketAddr) {
        let public = listen_anywhere();
        let name = format!("node-{}", self.nodes.len() + 1);
        let config = NodeConfig {
            name: NodeName::parse(&name).unwrap(),
            mesh_advertise: Arc::new(FixedAddress(advertised.to_string().into())),
            lease: config::DEFAULT_LEASE,
            // Other tests and servers compete for the processor, so that a peer may answer late.
            deadline: roll_call::MAX_DEADLINE,
            drain: Duration::from_secs(2),
            cache: roll_call::cache::DEFAULT_CACHE_BYTES,
            clients: self.clients,
            access: self.access.clone(),
            limits: self.limits.clone(),
            release_delay: reconciler::RELEASE_DELAY,
            cors_origins: vec!["https://allowed.example".parse().unwrap()],
            tls: None,
            mesh_security: Security::default(),
            admin_tokens: None,
            telemetry: NodeTelemetry::default(),
        };
        let anomalies = config.telemetry.anomalies.clone();
        let node = Node::new(config, NodeListeners { public, mesh, admin: None }, self.index.open());
        let (public, mesh) = (node.public_address().unwrap(), node.mesh_address().unwrap());
        let (roster, membership) = (Arc::clone(node.roster()), Arc::clone(node.membership()));
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(node.run(shutdown.clone()));
        let running = ClusterNode { name, public, mesh, roster, membership, anomalies, shutdown, task };
        until("the node is ready", || async { running.membership.readiness().is_ready() }).await;
        self.nodes.push(running);
    }

    pub async fn get(&self, node: usize, path: &str) -> reqwest::Response {
        self.http.get(format!("http://{}{path}", self.nodes[node].public)).send().await.unwrap()
    }

    /// Whether the answer is complete, and its (socket, user) pairs. A duplicate pair fails the test.
    pub async fn users(&self, node: usize, room: &str) -> (bool, BTreeSet<(String, String)>) {
        let room = percent_encoding::utf8_percent_encode(room, percent_encoding::NON_ALPHANUMERIC);
        let response = self.get(node, &format!("/{room}/users")).await;
        assert_eq!(response.status(), 200);
        let complete = response.headers()["rollcall-complete"] == "true";
        let rows: Vec<Value> = response.json().await.unwrap();
        let pairs: BTreeSet<_> = rows.iter().map(|row| (text(row, "id_socket"), text(row, "id_user"))).collect();
        assert_eq!(pairs.len(), rows.len(), "a socket is listed twice");
        (complete, pairs)
    }

    pub async fn stop(self) -> Index {
        for node in self.nodes {
            node.stop().await;
        }
        self.index
    }
}
