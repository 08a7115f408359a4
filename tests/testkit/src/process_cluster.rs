//! A cluster of `rollcall serve` processes, which tests start, signal, restart at the same address, and query.
//!
//! Owns the processes and their logs, and prints the logs when the test fails. Every node has its own IP address, so no
//! other program takes its ports while it is down. With [`Options::proxied`] the connections between nodes, and from
//! each node to Redis, lead through proxies.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use futures::future::join_all;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::HeaderMap;
use rollcall::mesh::proto::LookupSocketsRequest;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep;

use crate::captured_log::CapturedLog;
use crate::oracle::{Call, CurrentProcess, Oracle, ProcessId, Row};
use crate::process::rollcall;
use crate::proxy::{Callers, Mode, Processes, Proxy};
use crate::redis_server::{RedisServer, own_ip};
use crate::tracked_client::{Endpoint, Refused, TrackedClient};
use crate::{PATIENCE, POLL_INTERVAL, mesh_client, signals, text, until};

/// The number of clusters at a time. With more, the nodes compete for the processor and answer late.
const MAX_CLUSTERS: usize = 3;
static CLUSTER_PERMITS: Semaphore = Semaphore::const_new(MAX_CLUSTERS);

/// The settings of a cluster's nodes.
#[derive(Debug, Clone)]
pub struct Options {
    pub lease: Duration,
    pub deadline: Duration,
    /// Whether links lead through proxies.
    pub proxied: bool,
    /// A `--redis` URL to use instead of the address of [`ProcessCluster::redis`].
    pub redis: Option<String>,
    /// The prefix of the Redis keys.
    pub prefix: &'static str,
    /// Further arguments.
    pub more: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        let (lease, deadline) = (Duration::from_secs(2), Duration::from_millis(500));
        Self { lease, deadline, proxied: false, redis: None, prefix: "rollcall:", more: Vec::new() }
    }
}

impl Options {
    pub fn lease(seconds: u64) -> Self {
        Self { lease: Duration::from_secs(seconds), ..Self::default() }
    }

    pub fn proxied() -> Self {
        Self { proxied: true, ..Self::default() }
    }

    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.more.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }
}

/// One node, across restarts of its process.
pub struct ProcessNode {
    pub name: String,
    pub public: SocketAddr,
    pub mesh: SocketAddr,
    pub admin: SocketAddr,
    /// The oracle's id of the current process.
    pub process: CurrentProcess,
    pub log: CapturedLog,
    child: Option<Child>,
    arguments: Vec<String>,
}

impl ProcessNode {
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.public, process: self.process.clone() }
    }

    pub fn pid(&self) -> u32 {
        self.running().id()
    }

    fn running(&self) -> &Child {
        self.child.as_ref().expect("the node runs")
    }

    /// The resident memory of the process, in bytes.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    fn launch(&mut self) {
        let mut command = rollcall();
        command
            .args(["serve", "--identity", "query", "--node-name", &self.name])
            .args(["--listen", &self.public.to_string(), "--mesh-listen", &self.mesh.to_string()])
            .args(["--admin-listen", &self.admin.to_string(), "--mesh-open"])
            .args(&self.arguments)
            .stderr(self.log.writer());
        self.child = Some(command.spawn().unwrap());
    }

    /// The exit status, if the process has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().unwrap()
    }
}

impl Drop for ProcessNode {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- {} wrote:\n{}", self.name, self.log.text());
        }
    }
}

/// The proxies of a cluster: one in front of each node's mesh port, and one in front of Redis for each node.
struct Proxies {
    processes: Processes,
    mesh: Vec<Proxy>,
    redis: Vec<Proxy>,
}

/// Nodes that share one Redis.
pub struct ProcessCluster {
    pub redis: RedisServer,
    pub nodes: Vec<ProcessNode>,
    pub oracle: Oracle,
    pub options: Options,
    client: RollCallClient,
    proxies: Option<Proxies>,
    _permit: SemaphorePermit<'static>,
}

impl ProcessCluster {
    /// Starts `count` nodes that know each other.
    pub async fn start(count: usize, options: Options) -> Self {
        Self::start_over(RedisServer::start().await, count, options).await
    }

    /// As [`Self::start`], with a Redis that already runs.
    pub async fn start_over(redis: RedisServer, count: usize, options: Options) -> Self {
        let mut cluster = Self::prepare_over(redis, options).await;
        for _ in 0..count {
            cluster.launch().await;
        }
        let all: Vec<usize> = (0..count).collect();
        cluster.settled(&all).await;
        cluster
    }

    /// Starts a Redis and no nodes.
    pub async fn prepare(options: Options) -> Self {
        Self::prepare_over(RedisServer::start().await, options).await
    }

    async fn prepare_over(redis: RedisServer, options: Options) -> Self {
        let permit = CLUSTER_PERMITS.acquire().await.expect("the semaphore is never closed");
        let oracle = Oracle::new(options.lease);
        let proxied = options.proxied;
        let proxies = proxied.then(|| Proxies { processes: Processes::default(), mesh: Vec::new(), redis: Vec::new() });
        let client = RollCallClient::new(options.deadline);
        Self { redis, nodes: Vec::new(), oracle, options, client, proxies, _permit: permit }
    }

    /// Starts one more node without waiting until it is ready.
    pub async fn launch(&mut self) -> usize {
        let number = self.nodes.len();
        let ip = own_ip();
        let [public, mesh, admin] = free(ip.into());
        let mut node = ProcessNode {
            name: format!("node-{}", number + 1),
            public,
            mesh,
            admin,
            process: CurrentProcess::new(self.oracle.started(&format!("node-{}", number + 1))),
            log: CapturedLog::new(),
            child: None,
            arguments: Vec::new(),
        };
        let mut redis = self.redis.address;
        if let Some(proxies) = &mut self.proxies {
            let mesh = Proxy::start(node.mesh, Callers::Many(proxies.processes.clone())).await;
            node.arguments = vec!["--mesh-advertise".to_owned(), mesh.address.to_string()];
            let to_redis = Proxy::start(redis, Callers::One(number)).await;
            redis = to_redis.address;
            proxies.mesh.push(mesh);
            proxies.redis.push(to_redis);
        }
        let duration = |given: Duration| humantime::format_duration(given).to_string();
        let (lease, deadline) = (duration(self.options.lease), duration(self.options.deadline));
        let redis = self.options.redis.clone().unwrap_or_else(|| format!("redis://{redis}"));
        let arguments = ["--redis", &redis, "--lease", &lease, "--deadline", &deadline, "--log", "info"];
        node.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        node.arguments.extend(self.options.more.iter().cloned());
        node.launch();
        if let Some(proxies) = &self.proxies {
            proxies.processes.insert(node.pid(), number);
        }
        self.nodes.push(node);
        number
    }

    /// Ends when these nodes are ready and each answers for an empty room completely, from the directory alone.
    pub async fn settled(&self, nodes: &[usize]) {
        for node in nodes {
            until("the node is ready", || self.ready(*node)).await;
        }
        until("the nodes know each other", || async {
            let calls = join_all(nodes.iter().map(|node| self.call(*node, "nobody-is-here"))).await;
            calls.iter().all(|(full, call)| call.complete && full["source"] == "directory")
        })
        .await;
    }

    pub async fn ready(&self, node: usize) -> bool {
        let url = format!("http://{}/readyz", self.nodes[node].admin);
        self.client.http.get(url).send().await.is_ok_and(|answer| answer.status() == 200)
    }

    /// Sends SIGKILL. Returns when the process has ended.
    pub fn kill(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        self.oracle.killing(node.process.get());
        let mut child = node.child.take().expect("the node runs");
        child.kill().unwrap();
        child.wait().unwrap();
        self.oracle.killed(node.process.get());
        if let Some(proxies) = &self.proxies {
            proxies.processes.remove(child.id());
        }
    }

    /// Starts a new process at the same addresses. The previous one must have ended.
    pub fn restart(&mut self, node: usize) {
        let number = node;
        let node = &mut self.nodes[node];
        node.process.set(self.oracle.started(&node.name));
        node.launch();
        if let Some(proxies) = &self.proxies {
            proxies.processes.insert(node.pid(), number);
        }
    }

    /// Sends SIGSTOP. Returns when every thread has stopped.
    pub async fn stop(&self, node: usize) {
        let node = &self.nodes[node];
        self.oracle.stopping(node.process.get());
        signals::stop(node.running()).await;
    }

    /// Sends SIGCONT.
    pub fn resume(&self, node: usize) {
        let node = &self.nodes[node];
        signals::resume(node.running());
        self.oracle.resumed(node.process.get());
    }

    /// Sends SIGTERM.
    pub fn terminate(&self, node: usize) {
        signals::terminate(self.nodes[node].running());
    }

    /// Waits until the process exits.
    pub async fn exited(&mut self, node: usize) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.nodes[node].exited() {
                let process = self.nodes[node].process.get();
                self.oracle.killing(process);
                self.oracle.killed(process);
                return status;
            }
            assert!(began.elapsed() < PATIENCE * 2, "{} does not exit", self.nodes[node].name);
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Sets the mode of the link from one node to another, in this direction only.
    pub fn link(&self, from: usize, to: usize, mode: Mode) {
        self.proxies.as_ref().expect("the cluster is proxied").mesh[to].set(from, mode);
    }

    /// Sets the mode of the link between two nodes, in both directions.
    pub fn between(&self, one: usize, other: usize, mode: Mode) {
        self.link(one, other, mode);
        self.link(other, one, mode);
    }

    pub fn link_to_redis(&self, from: usize, mode: Mode) {
        self.proxies.as_ref().expect("the cluster is proxied").redis[from].set(from, mode);
    }

    /// Redirects every node's Redis connections to this server.
    pub fn point_to(&self, server: &RedisServer) {
        for proxy in &self.proxies.as_ref().expect("the cluster is proxied").redis {
            proxy.point_to(server.address);
        }
    }

    pub async fn connect(&self, node: usize, user: &str, rooms: &[&str]) -> TrackedClient {
        let connected = TrackedClient::connect(&self.oracle, &self.nodes[node].endpoint(), user, rooms).await;
        connected.unwrap_or_else(|refused| panic!("node {node} refused {user}: {refused:?}"))
    }

    pub async fn try_connect(&self, node: usize, user: &str, rooms: &[&str]) -> Result<TrackedClient, Refused> {
        TrackedClient::connect(&self.oracle, &self.nodes[node].endpoint(), user, rooms).await
    }

    /// Connects, and retries when the node refuses, as real clients do.
    pub async fn persist(&self, node: usize, user: &str, rooms: &[&str]) -> TrackedClient {
        let began = Instant::now();
        loop {
            match self.try_connect(node, user, rooms).await {
                Ok(client) => return client,
                Err(refused) => assert!(began.elapsed() < PATIENCE, "node {node} still refuses {user}: {refused:?}"),
            }
            sleep(POLL_INTERVAL * 5).await;
        }
    }

    /// The full answer of a node: its JSON body, and the roll call for the oracle to judge.
    pub async fn call(&self, node: usize, room: &str) -> (Value, Call) {
        let (status, full, call) = self.client.ask(&self.nodes[node].endpoint(), room).await.expect("the node answers");
        assert_eq!(status, 200, "{full}");
        (full, call)
    }

    /// The sockets that the node lists, in a complete or partial answer.
    pub async fn rows(&self, node: usize, room: &str) -> BTreeSet<String> {
        sockets(&self.call(node, room).await.1)
    }

    /// Whether each of these nodes lists exactly the present sockets, in a complete or partial answer.
    pub async fn all_listed(&self, nodes: &[usize], room: &str) -> bool {
        self.all_list_present(nodes, room, |_| true).await
    }

    /// Whether each of these nodes lists exactly the present sockets, in an acceptable answer. Prints every other answer,
    /// because the output of a failed test should show it.
    async fn all_list_present(&self, nodes: &[usize], room: &str, acceptable: impl Fn(&Call) -> bool) -> bool {
        let expected = self.oracle.present(room);
        let answers = join_all(nodes.iter().map(|node| self.call(*node, room))).await;
        let wrong = answers.iter().filter(|(_, call)| sockets(call) != expected || !acceptable(call));
        wrong.inspect(|(full, _)| eprintln!("{room} is {expected:?}, and not {full}")).count() == 0
    }

    /// Ends when each of these nodes answers completely and correctly, and Redis agrees with all rosters. Fails after
    /// `bound`. Returns the duration.
    pub async fn healed(&self, nodes: &[usize], bound: Duration) -> Duration {
        let began = Instant::now();
        loop {
            let mut missing = self.differences(nodes).await;
            for room in self.oracle.rooms() {
                if !self.agree(nodes, &room).await {
                    missing.push(format!("not every node lists {room} completely and correctly"));
                }
            }
            if missing.is_empty() {
                return began.elapsed();
            }
            assert!(began.elapsed() < bound, "not healed within {bound:?}: {missing:?}");
            sleep(POLL_INTERVAL).await;
        }
    }

    /// The sockets of a complete answer; `None` when the answer is partial.
    pub async fn listed(&self, node: usize, room: &str) -> Option<BTreeSet<String>> {
        let (_, call) = self.call(node, room).await;
        let listed = sockets(&call);
        call.complete.then_some(listed)
    }

    /// Whether each of these nodes lists exactly the present sockets, in a complete answer.
    pub async fn agree(&self, nodes: &[usize], room: &str) -> bool {
        self.all_list_present(nodes, room, |call| call.complete).await
    }

    pub fn roll_call_client(&self) -> RollCallClient {
        self.client.clone()
    }

    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.nodes.iter().map(ProcessNode::endpoint).collect()
    }

    /// The node's own roster of a room, from the mesh: its current node id, and its sockets.
    pub async fn roster(&self, node: usize, room: &str) -> Option<(String, BTreeSet<String>)> {
        let mut mesh = mesh_client(self.nodes[node].mesh);
        let request = LookupSocketsRequest { room: room.to_owned(), ..Default::default() };
        let answer = mesh.lookup_sockets(request).await.ok()?.into_inner();
        Some((answer.node_id, answer.sockets.into_iter().map(|socket| socket.id_socket).collect()))
    }

    /// The differences between Redis and the rosters of these nodes, in every room that has had a socket.
    pub async fn differences(&self, nodes: &[usize]) -> Vec<String> {
        let prefix = self.options.prefix;
        let mut differences = Vec::new();
        for room in self.oracle.rooms() {
            let mut owners = BTreeSet::new();
            for node in nodes {
                let name = &self.nodes[*node].name;
                let Some((id, sockets)) = self.roster(*node, &room).await else {
                    differences.push(format!("{name} does not answer"));
                    continue;
                };
                let key = format!("{prefix}room:{id}:{room}");
                let written: BTreeSet<String> = self.redis.members(&key).await.into_iter().collect();
                if written != sockets {
                    differences.push(format!("{key} is {written:?}, {name} has {sockets:?}"));
                }
                if !sockets.is_empty() {
                    owners.insert(id);
                }
            }
            let key = format!("{prefix}owners:{room}");
            let written: BTreeSet<String> = self.redis.members(&key).await.into_iter().collect();
            if written != owners {
                differences.push(format!("{key} is {written:?}, sockets are on {owners:?}"));
            }
        }
        differences
    }
}

/// An HTTP client that requests roll calls. Cheap to clone.
#[derive(Clone)]
pub struct RollCallClient {
    http: reqwest::Client,
    deadline: Duration,
}

impl RollCallClient {
    fn new(deadline: Duration) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE * 3).build().unwrap();
        Self { http, deadline }
    }

    async fn get(&self, endpoint: &Endpoint, room: &str, path: &str, tag: Option<&str>) -> reqwest::Result<Exchange> {
        let room = utf8_percent_encode(room, NON_ALPHANUMERIC);
        let mut request = self.http.get(format!("http://{}/{room}/{path}", endpoint.address));
        if let Some(tag) = tag {
            request = request.header("if-none-match", tag);
        }
        let (process, asked) = (endpoint.process.get(), Instant::now());
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await?.to_vec();
        Ok(Exchange { process, asked, answered: Instant::now(), status, headers, body })
    }

    /// The status, the JSON body, and the roll call for the oracle to judge. The error is that of the connection.
    pub async fn ask(&self, endpoint: &Endpoint, room: &str) -> reqwest::Result<(u16, Value, Call)> {
        let Exchange { process, asked, answered, status, body, .. } =
            self.get(endpoint, room, "rollcall", None).await?;
        let full: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let rows = full["users"].as_array().into_iter().flatten().map(|row| Row {
            socket: text(row, "id_socket"),
            user: text(row, "id_user"),
            node: row["node"].as_str().map(str::to_owned),
        });
        let call = Call {
            room: room.to_owned(),
            node: process,
            asked,
            answered,
            deadline: self.deadline,
            complete: full["complete"] == true,
            rows: rows.collect(),
            about: format!("source {}, took {}, nodes {}", full["source"], full["took_ms"], full["nodes"]),
        };
        Ok((status, full, call))
    }
}

/// One request and its response, with the times between which the answer was made.
struct Exchange {
    process: ProcessId,
    asked: Instant,
    answered: Instant,
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// A complete short answer with its entity tag, for a conditional request.
#[derive(Clone)]
pub struct CachedAnswer {
    tag: String,
    rows: Vec<Row>,
}

impl RollCallClient {
    /// The short answer: its status, the roll call for the oracle to judge, and the answer to cache for the next request.
    /// Status 304 confirms `cached`, and counts as 200 with the rows of `cached`.
    pub async fn ask_users(
        &self,
        endpoint: &Endpoint,
        room: &str,
        cached: Option<&CachedAnswer>,
    ) -> reqwest::Result<(u16, Call, Option<CachedAnswer>)> {
        let exchange = self.get(endpoint, room, "users", cached.map(|cached| &*cached.tag)).await?;
        let Exchange { process, asked, answered, status, headers, body } = exchange;
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let (tag, complete, unanswered) = (header("etag"), header("rollcall-complete"), header("rollcall-unanswered"));
        let unchanged = status == 304;
        let rows = match cached {
            Some(cached) if unchanged => cached.rows.clone(),
            _ => {
                let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let row = |row| Row { socket: text(row, "id_socket"), user: text(row, "id_user"), node: None };
                body.as_array().into_iter().flatten().map(row).collect()
            }
        };
        let call = Call {
            room: room.to_owned(),
            node: process,
            asked,
            answered,
            deadline: self.deadline,
            complete: unchanged || complete.as_deref() == Some("true"),
            rows,
            about: format!("short answer, status {status}, unanswered {unanswered:?}"),
        };
        let to_cache = tag.filter(|_| call.complete).map(|tag| CachedAnswer { tag, rows: call.rows.clone() });
        Ok((if unchanged { 200 } else { status }, call, to_cache))
    }
}

/// The sockets that an answer lists.
fn sockets(call: &Call) -> BTreeSet<String> {
    let listed: BTreeSet<String> = call.rows.iter().map(|row| row.socket.clone()).collect();
    assert_eq!(listed.len(), call.rows.len(), "a socket is listed twice");
    listed
}

/// Distinct free ports. The IP address belongs to this node, so no other program takes the ports before the node starts.
fn free<const COUNT: usize>(ip: IpAddr) -> [SocketAddr; COUNT] {
    let listeners = [(); COUNT].map(|()| std::net::TcpListener::bind((ip, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}
