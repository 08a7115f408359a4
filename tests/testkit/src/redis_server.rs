//! A redis-server that can be killed, stopped, emptied, rolled back, demoted, and started again at the same address; alone,
//! as a node of a Cluster, or as a Sentinel.
//!
//! Owns the process and its folder. The address is one that nothing else of this machine connects from, so it is still
//! free when the next process wants it.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::programs::redis_program;
use crate::{signals, until};

/// The longest a command of a test may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

static ADDRESSES: AtomicU8 = AtomicU8::new(1);

/// A loopback address of this test process's own. Whoever connects to one does so from 127.0.0.1.
pub fn own_ip() -> [u8; 4] {
    let pid = std::process::id();
    let number = ADDRESSES.fetch_add(1, Ordering::Relaxed);
    [127, 64 + (pid >> 8) as u8 % 128, pid as u8, number]
}

pub struct RedisServer {
    process: Option<Child>,
    pub address: SocketAddr,
    /// Of a node of a Cluster: where the others reach it.
    pub bus: u16,
    folder: TempDir,
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with an index that began long ago, so that nodes need not wait for others that may come back to it.
    pub async fn start_aged() -> Self {
        let server = Self::start().await;
        server.age().await;
        server
    }

    /// Writes an epoch that began long ago.
    pub async fn age(&self) {
        let about: String = self.run(redis::cmd("INFO").arg("server")).await;
        let run_id = about.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap().trim();
        let epoch = format!("made-long-ago.0@{run_id}");
        self.run::<()>(redis::cmd("SET").arg("rollcall:epoch").arg(epoch)).await;
    }

    pub async fn start_with(options: &[&str]) -> Self {
        let mut server = Self::place();
        server.launch(options);
        server.answering().await;
        server
    }

    /// A node of a Cluster that consists of itself alone, and has no slots.
    pub async fn cluster_node() -> Self {
        let mut server = Self::place();
        let bus = std::net::TcpListener::bind((server.address.ip(), 0)).unwrap();
        server.bus = bus.local_addr().unwrap().port();
        drop(bus);
        let (ip, bus) = (server.address.ip().to_string(), server.bus.to_string());
        // Whoever it connects to would otherwise take it to be where it connects from.
        server.launch(&[
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "1000",
            "--cluster-announce-ip",
            &ip,
            "--cluster-port",
            &bus,
        ]);
        server.answering().await;
        server
    }

    /// A Sentinel that watches nobody yet.
    pub async fn sentinel(configuration: &str) -> Self {
        let mut server = Self::place();
        let (ip, port) = (server.address.ip(), server.address.port());
        let configuration = format!("sentinel announce-ip {ip}\nsentinel announce-port {port}\n{configuration}\n");
        fs::write(server.configuration(), configuration).unwrap();
        server.launch(&[]);
        until("it listens", || async { tokio::net::TcpStream::connect(server.address).await.is_ok() }).await;
        server
    }

    /// An address that nobody listens on, and a folder.
    fn place() -> Self {
        let free = std::net::TcpListener::bind(SocketAddr::from((own_ip(), 0))).unwrap();
        Self { process: None, address: free.local_addr().unwrap(), bus: 0, folder: TempDir::new().unwrap() }
    }

    /// A replica of `master` that has caught up.
    pub async fn replica_of(master: &Self) -> Self {
        let SocketAddr::V4(address) = master.address else { unreachable!("the address is of 127.0.0.0/8") };
        let replica = Self::start_with(&["--replicaof", &format!("{} {}", address.ip(), address.port())]).await;
        until("the replica has caught up", || async {
            let about: String = replica.run(redis::cmd("INFO").arg("replication")).await;
            about.contains("master_link_status:up")
        })
        .await;
        replica
    }

    fn launch(&mut self, options: &[&str]) {
        let mut command = Command::new(redis_program());
        let (ip, port) = (self.address.ip().to_string(), self.address.port().to_string());
        if self.configuration().exists() {
            command.arg(self.configuration()).arg("--sentinel");
        } else {
            command.args(["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]);
            command.args(["--replica-announce-ip", &ip]);
        }
        command.args(["--port", &port, "--bind", &ip, "--dir"]).arg(self.folder.path());
        let process = command.args(options).stdout(Stdio::null()).spawn();
        self.process = Some(process.expect("redis-server is needed for the tests; `make tools` installs it"));
    }

    /// Ends when it answers, with its data loaded.
    pub async fn answering(&self) {
        until("redis-server answers", || async {
            let Ok(Ok(mut connection)) = timeout(ANSWER_WITHIN, self.try_connection()).await else { return false };
            redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
        })
        .await;
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    async fn try_connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER_WITHIN))
            .set_response_timeout(Some(ANSWER_WITHIN));
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection_with_config(&patient).await
    }

    pub async fn connection(&self) -> MultiplexedConnection {
        self.try_connection().await.unwrap()
    }

    pub async fn run<T: FromRedisValue>(&self, command: &mut redis::Cmd) -> T {
        command.query_async(&mut self.connection().await).await.unwrap()
    }

    pub async fn config(&self, parameter: &str, value: &str) {
        self.run::<()>(redis::cmd("CONFIG").arg("SET").arg(parameter).arg(value)).await;
    }

    pub async fn flush(&self) {
        self.run::<()>(&mut redis::cmd("FLUSHALL")).await;
    }

    fn running(&self) -> &Child {
        self.process.as_ref().expect("it runs")
    }

    /// It hangs, with its connections open, until [`Self::resume`].
    pub async fn stop(&self) {
        signals::stop(self.running()).await;
    }

    pub fn resume(&self) {
        signals::resume(self.running());
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts it again, with nothing in it.
    pub async fn restart_empty(&mut self) {
        self.kill();
        let _ = fs::remove_file(self.dump());
        self.launch(&[]);
        self.answering().await;
    }

    /// What is in it now.
    pub async fn snapshot(&self) -> Vec<u8> {
        self.run::<()>(&mut redis::cmd("SAVE")).await;
        fs::read(self.dump()).unwrap()
    }

    /// Starts it again with what was in it once, and ends before it has loaded that. Of nothing, it starts empty.
    pub fn restart_from(&mut self, snapshot: &[u8], options: &[&str]) {
        self.kill();
        if snapshot.is_empty() {
            let _ = fs::remove_file(self.dump());
        } else {
            fs::write(self.dump(), snapshot).unwrap();
        }
        self.launch(options);
    }

    /// Whether it answers that it has not loaded its data yet.
    pub async fn is_loading(&self) -> bool {
        let Ok(mut connection) = self.try_connection().await else { return false };
        let answer = redis::cmd("GET").arg("anything").query_async::<Option<String>>(&mut connection).await;
        answer.is_err_and(|error| error.code() == Some("LOADING"))
    }

    /// Makes its background saves fail, and so its writes.
    pub async fn break_saving(&self) {
        self.config("save", "3600 1000000").await;
        // A snapshot cannot take the place of a folder that is not empty.
        fs::create_dir_all(self.dump().join("in the way")).unwrap();
        self.save_in_background("err").await;
    }

    pub async fn mend_saving(&self) {
        fs::remove_dir_all(self.dump()).unwrap();
        self.save_in_background("ok").await;
    }

    async fn save_in_background(&self, status: &str) {
        self.run::<()>(&mut redis::cmd("BGSAVE")).await;
        let status = format!("rdb_last_bgsave_status:{status}");
        until("the background save has ended", || async {
            let about: String = self.run(redis::cmd("INFO").arg("persistence")).await;
            about.contains(&status)
        })
        .await;
    }

    /// Makes it a replica of nobody who answers: it keeps its data and refuses writes.
    pub async fn demote(&self) {
        self.run::<()>(redis::cmd("REPLICAOF").arg("127.0.0.1").arg("1")).await;
    }

    pub async fn promote(&self) {
        self.run::<()>(redis::cmd("REPLICAOF").arg("NO").arg("ONE")).await;
    }

    /// Whether `INFO` holds this.
    pub async fn says(&self, about: &str) -> bool {
        let Ok(mut connection) = self.try_connection().await else { return false };
        let answer = redis::cmd("INFO").query_async::<String>(&mut connection).await;
        answer.is_ok_and(|answer| answer.contains(about))
    }

    pub async fn members(&self, key: &str) -> Vec<String> {
        self.run(redis::cmd("SMEMBERS").arg(key)).await
    }

    pub async fn keys(&self, pattern: &str) -> BTreeSet<String> {
        self.run(redis::cmd("KEYS").arg(pattern)).await
    }

    fn configuration(&self) -> PathBuf {
        self.folder.path().join("sentinel.conf")
    }

    fn dump(&self) -> PathBuf {
        self.folder.path().join("dump.rdb")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
