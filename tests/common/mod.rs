//! What the cluster tests stand on: nodes through the production entry point, a real Redis, and a small Socket.IO
//! client that can be rude. Nothing here sleeps for a result: `until` polls a predicate with a bound.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

pub mod anybody;
pub mod holder;
pub mod log;
pub mod process;
pub mod signals;

use std::collections::BTreeSet;
use std::future::Future;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use rollcall::auth::AccessPolicy;
use rollcall::directory::Directory;
use rollcall::directory::memory::MemoryDirectory;
use rollcall::directory::redis::RedisDirectory;
use rollcall::edge::connections::listener::listen;
use rollcall::edge::limits::Limits;
use rollcall::edge::socketio::SocketIoConfig;
use rollcall::membership::Membership;
use rollcall::mesh::channel;
use rollcall::mesh::channel::PeerChannel;
use rollcall::mesh::proto::mesh_service_client::MeshServiceClient;
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
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;

/// Long enough for a busy machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long one try of reaching a server that starts may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

pub async fn until<F: Future<Output = bool>>(what: &str, mut is: impl FnMut() -> F) {
    let began = Instant::now();
    while !is().await {
        assert!(began.elapsed() < PATIENCE, "never came true: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// What stands for redis-server: `make test-valkey` names another.
pub fn redis_program() -> String {
    std::env::var("ROLLCALL_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

/// A real redis-server on a port of its own, gone with the value.
pub struct RedisServer {
    process: Child,
    pub port: u16,
    _folder: TempDir,
}

impl RedisServer {
    pub async fn start() -> Self {
        for _ in 0..10 {
            let port = StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(server) = Self::try_start(port).await {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    /// The same on a port where one has been.
    pub async fn start_on(port: u16) -> Self {
        Self::try_start(port).await.expect("redis-server starts")
    }

    /// `None`: another program took the port in between.
    async fn try_start(port: u16) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let process = Command::new(redis_program())
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed for the tests; `make tools` installs it");
        let mut server = Self { process, port, _folder: folder };
        let began = Instant::now();
        while server.process.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE {
            if let Ok(true) = timeout(ANSWER_WITHIN, server.answers()).await {
                server.age().await;
                return Some(server);
            }
            sleep(Duration::from_millis(10)).await;
        }
        None
    }

    /// Whether it answers at its port, and not another program, which would also take connections there.
    async fn answers(&self) -> bool {
        let client = redis::Client::open(self.url()).unwrap();
        let Ok(mut redis) = client.get_multiplexed_async_connection().await else { return false };
        let about = redis::cmd("INFO").arg("server").query_async::<String>(&mut redis).await;
        about.is_ok_and(|about| about.contains(&format!("process_id:{}\r\n", self.process.id())))
    }

    /// Makes its index one that began long ago, so that nodes need not wait for others that may come back to it.
    pub async fn age(&self) {
        let mut redis = self.connection().await;
        let about: String = redis::cmd("INFO").arg("server").query_async(&mut redis).await.unwrap();
        let run_id = about.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap().trim();
        let epoch = format!("made-long-ago.0@{run_id}");
        redis::cmd("SET").arg("rollcall:epoch").arg(epoch).query_async::<()>(&mut redis).await.unwrap();
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    /// Every key there is.
    pub async fn keys(&self) -> BTreeSet<String> {
        redis::cmd("KEYS").arg("*").query_async(&mut self.connection().await).await.unwrap()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the nodes of a test share.
pub enum Index {
    Memory(Arc<MemoryDirectory>),
    Redis(RedisServer),
}

impl Index {
    pub fn memory() -> Self {
        Self::Memory(MemoryDirectory::new())
    }

    pub async fn redis() -> Self {
        Self::Redis(RedisServer::start().await)
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
pub struct Running {
    pub name: String,
    pub public: SocketAddr,
    pub mesh: SocketAddr,
    pub roster: Arc<Roster>,
    pub membership: Arc<Membership>,
    pub anomalies: Anomalies,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// A socket that is in the room for as long as what is returned, without a client.
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
    pub nodes: Vec<Running>,
    pub http: reqwest::Client,
    clients: SocketIoConfig,
    access: AccessPolicy,
    limits: Limits,
}

impl Cluster {
    /// Starts `count` nodes, each ready and known to all.
    pub async fn start(count: usize, index: Index) -> Self {
        Self::holding(count, index, SocketIoConfig::default()).await
    }

    /// The same with nodes that hold their clients to these limits.
    pub async fn holding(count: usize, index: Index, clients: SocketIoConfig) -> Self {
        Self::admitting(count, index, clients, AccessPolicy::default()).await
    }

    /// The same with nodes that let in, and answer, whom this says.
    pub async fn admitting(count: usize, index: Index, clients: SocketIoConfig, access: AccessPolicy) -> Self {
        Self::of(count, index, clients, access, Limits::default()).await
    }

    /// The same with nodes that hold everybody to these limits.
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

    /// Starts a node that the others reach at `advertised`, from where whatever listens there leads to `mesh`.
    pub async fn add_behind(&mut self, mesh: TcpListener, advertised: SocketAddr) {
        let public = listen_anywhere();
        let name = format!("node-{}", self.nodes.len() + 1);
        let config = NodeConfig {
            name: NodeName::parse(&name).unwrap(),
            mesh_advertise: advertised.to_string(),
            lease: config::DEFAULT_LEASE,
            // The tests share two cores with everything they start.
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
        let running = Running { name, public, mesh, roster, membership, anomalies, shutdown, task };
        until("the node is ready", || async { running.membership.readiness().is_ready() }).await;
        self.nodes.push(running);
    }

    pub async fn get(&self, node: usize, path: &str) -> reqwest::Response {
        self.http.get(format!("http://{}{path}", self.nodes[node].public)).send().await.unwrap()
    }

    /// Whether the answer is complete, and its (socket, user) pairs; a pair that is listed twice fails the test.
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

/// Who asks the node at this address over the mesh.
pub fn mesh_client(mesh: SocketAddr) -> MeshServiceClient<PeerChannel> {
    channel::client(&mesh.to_string().into(), channel::connect_tcp).unwrap()
}

pub fn listen_anywhere() -> TcpListener {
    listen(SocketAddr::from(([127, 0, 0, 1], 0)), false).unwrap()
}

pub fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no text {key} in {value}")).to_owned()
}

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens a WebSocket with this handshake query and sends `40` with this payload; nothing is read yet.
pub async fn open(address: SocketAddr, query: &str, auth: &str) -> Socket {
    let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket&{query}");
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    socket.send(Message::text(format!("40{auth}"))).await.unwrap();
    socket
}

/// A client that answers pings and can join, leave and go.
pub struct Client {
    pub id: String,
    commands: mpsc::UnboundedSender<(String, oneshot::Sender<Value>)>,
    task: JoinHandle<()>,
}

impl Client {
    /// Connects; the message of a `connect_error` otherwise.
    pub async fn connect(address: SocketAddr, user: &str, rooms: &[&str]) -> Result<Self, String> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("id_user", user);
        for room in rooms {
            query.append_pair("room", room);
        }
        Self::with(address, &query.finish(), "").await
    }

    pub async fn with(address: SocketAddr, query: &str, auth: &str) -> Result<Self, String> {
        let mut socket = open(address, query, auth).await;
        let id = loop {
            let message = timeout(PATIENCE, socket.next()).await.expect("an answer").expect("not closed").unwrap();
            let message = message.to_text().unwrap().to_owned();
            if let Some(answer) = message.strip_prefix("40") {
                break text(&serde_json::from_str(answer).unwrap(), "sid");
            }
            if let Some(answer) = message.strip_prefix("44") {
                return Err(text(&serde_json::from_str(answer).unwrap(), "message"));
            }
            if message == "2" {
                socket.send(Message::text("3")).await.unwrap();
            }
        };
        let (commands, inbox) = mpsc::unbounded_channel();
        let task = tokio::spawn(converse(socket, inbox));
        Ok(Self { id, commands, task })
    }

    /// Emits an event with one argument and returns its acknowledgement.
    pub async fn emit(&self, event: &str, argument: &Value) -> Value {
        let (ack, answer) = oneshot::channel();
        self.commands.send((format!("{}", serde_json::json!([event, argument])), ack)).unwrap();
        timeout(PATIENCE, answer).await.expect("an ack in time").expect("an ack")
    }

    pub async fn join(&self, room: &str) -> Value {
        self.emit("join", &room.into()).await
    }

    pub async fn leave(&self, room: &str) -> Value {
        self.emit("leave", &room.into()).await
    }

    /// Ends when the server has closed the transport.
    pub async fn closed(self) {
        timeout(PATIENCE, self.task).await.expect("closed in time").unwrap();
    }

    /// Goes without a word.
    pub fn drop_connection(self) {
        self.task.abort();
    }
}

async fn converse(mut socket: Socket, mut inbox: mpsc::UnboundedReceiver<(String, oneshot::Sender<Value>)>) {
    let mut acks: Vec<Option<oneshot::Sender<Value>>> = Vec::new();
    loop {
        tokio::select! {
            Some((event, ack)) = inbox.recv() => {
                let packet = format!("42{}{event}", acks.len());
                acks.push(Some(ack));
                if socket.send(Message::text(packet)).await.is_err() {
                    return;
                }
            }
            message = socket.next() => {
                let Some(Ok(message)) = message else { return };
                let Ok(message) = message.to_text() else { return };
                if message == "2" {
                    let _ = socket.send(Message::text("3")).await;
                } else if let Some(answer) = message.strip_prefix("43") {
                    let begin = answer.find('[').unwrap();
                    let number: usize = answer[..begin].parse().unwrap();
                    let mut values: Vec<Value> = serde_json::from_str(&answer[begin..]).unwrap();
                    if let Some(ack) = acks[number].take() {
                        let _ = ack.send(values.remove(0));
                    }
                }
            }
        }
    }
}
