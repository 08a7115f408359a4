//! A redis-server process that tests kill, stop, empty, roll back, demote, and restart at the same address. It runs as a
//! single server, as a node of a Redis Cluster, or as a Sentinel.
//!
//! Owns the process and its folder. The IP address belongs to this server, and no other program connects from it. The
//! port is therefore still free when the next process binds it.

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

use crate::programs::{faketime_libraries, redis_program};
use crate::{signals, until};

/// The maximum duration of a Redis command in a test.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

static ADDRESSES: AtomicU8 = AtomicU8::new(1);

/// A loopback address that only this test process uses. Outgoing connections use 127.0.0.1, so they cannot occupy a port
/// of this address.
pub fn own_ip() -> [u8; 4] {
    let pid = std::process::id();
    let number = ADDRESSES.fetch_add(1, Ordering::Relaxed);
    [127, 64 + (pid >> 8) as u8 % 128, pid as u8, number]
}

pub struct RedisServer {
    process: Option<Child>,
    pub address: SocketAddr,
    /// The cluster bus port, of a node of a Redis Cluster.
    pub bus: u16,
    folder: TempDir,
    /// The clock of the process can be stepped.
    has_own_clock: bool,
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// As [`Self::start`], with an index that began long ago, so that nodes need not wait for peers to return to it.
    pub async fn start_aged() -> Self {
        let server = Self::start().await;
        server.age().await;
        server
    }

    /// Writes an index epoch that began long ago.
    pub async fn age(&self) {
        let about: String = self.run(&mut redis::cmd("INFO")).await;
        let field = |name: &str| about.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        let epoch = format!("made-long-ago.{}.0@{}", field("master_replid:"), field("run_id:"));
        self.run::<()>(redis::cmd("SET").arg("rollcall:epoch").arg(epoch)).await;
    }

    pub async fn start_with(options: &[&str]) -> Self {
        let mut server = Self::place();
        server.launch(options);
        server.answering().await;
        server
    }

    /// A server with a wall clock of its own, for [`Self::step_clock`].
    pub async fn start_with_clock() -> Self {
        let mut server = Self::place();
        server.has_own_clock = true;
        server.set_clock(0.0);
        server.launch(&[]);
        server.answering().await;
        server
    }

    /// Steps the wall clock by these seconds, as an operator or NTP does. They may be negative.
    pub async fn step_clock(&self, seconds: f64) {
        assert!(self.has_own_clock, "start this server with `start_with_clock`");
        let file = self.folder.path().join("clock");
        let before: f64 = fs::read_to_string(file).unwrap().trim().parse().unwrap();
        self.set_clock(before + seconds);
        // Redis reads the clock once per round of its event loop.
        self.run::<String>(&mut redis::cmd("PING")).await;
    }

    /// Sets the difference between the clock of the server and that of the machine.
    fn set_clock(&self, seconds: f64) {
        let (file, new) = (self.folder.path().join("clock"), self.folder.path().join("clock.new"));
        fs::write(&new, format!("{seconds:+.3}\n")).unwrap();
        fs::rename(new, file).unwrap();
    }

    /// A node of a Redis Cluster that knows no other node and has no slots.
    pub async fn cluster_node() -> Self {
        let mut server = Self::place();
        let bus = std::net::TcpListener::bind((server.address.ip(), 0)).unwrap();
        server.bus = bus.local_addr().unwrap().port();
        drop(bus);
        let (ip, bus) = (server.address.ip().to_string(), server.bus.to_string());
        // Without an announced address, peers would use the source address of its connections.
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

    /// A Sentinel that monitors no master yet.
    pub async fn sentinel(configuration: &str) -> Self {
        let mut server = Self::place();
        let (ip, port) = (server.address.ip(), server.address.port());
        let configuration = format!("sentinel announce-ip {ip}\nsentinel announce-port {port}\n{configuration}\n");
        fs::write(server.configuration(), configuration).unwrap();
        server.launch(&[]);
        until("the Sentinel listens", || async { tokio::net::TcpStream::connect(server.address).await.is_ok() }).await;
        server
    }

    /// Reserves a free address and a folder, without a process.
    fn place() -> Self {
        let free = std::net::TcpListener::bind(SocketAddr::from((own_ip(), 0))).unwrap();
        Self {
            process: None,
            address: free.local_addr().unwrap(),
            bus: 0,
            folder: TempDir::new().unwrap(),
            has_own_clock: false,
        }
    }

    /// A replica of `master` that has caught up.
    pub async fn replica_of(master: &Self) -> Self {
        let SocketAddr::V4(address) = master.address else { unreachable!("the address is of 127.0.0.0/8") };
        let replica = Self::start_with(&["--replicaof", &format!("{} {}", address.ip(), address.port())]).await;
        replica.caught_up().await;
        replica
    }

    /// Makes this running server a replica of `master`. Ends when it has the data of `master`, and has lost its own.
    pub async fn follow(&self, master: &Self) {
        let (ip, port) = (master.address.ip().to_string(), master.address.port());
        self.run::<()>(redis::cmd("REPLICAOF").arg(ip).arg(port)).await;
        self.caught_up().await;
    }

    async fn caught_up(&self) {
        until("the replica has caught up", || self.says("master_link_status:up")).await;
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
        if self.has_own_clock {
            command
                .env("LD_PRELOAD", faketime_libraries())
                .env("FAKETIME_TIMESTAMP_FILE", self.folder.path().join("clock"))
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let process = command.args(options).stdout(Stdio::null()).spawn();
        self.process = Some(process.expect("redis-server is needed for the tests; `make tools` installs it"));
    }

    /// Ends when the server answers, with its data loaded.
    pub async fn answering(&self) {
        until("redis-server answers", || async {
            let Ok(Ok(mut connection)) = timeout(COMMAND_TIMEOUT, self.try_connection()).await else { return false };
            redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
        })
        .await;
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    async fn try_connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(COMMAND_TIMEOUT))
            .set_response_timeout(Some(COMMAND_TIMEOUT));
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
        self.process.as_ref().expect("redis-server runs")
    }

    /// Sends SIGSTOP: the server hangs, with its connections open, until [`Self::resume`].
    pub async fn stop(&self) {
        signals::stop(self.running()).await;
    }

    pub fn resume(&self) {
        signals::resume(self.running());
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Restarts the server without data.
    pub async fn restart_empty(&mut self) {
        self.kill();
        let _ = fs::remove_file(self.dump());
        self.launch(&[]);
        self.answering().await;
    }

    /// The present data, as an RDB file.
    pub async fn snapshot(&self) -> Vec<u8> {
        self.run::<()>(&mut redis::cmd("SAVE")).await;
        fs::read(self.dump()).unwrap()
    }

    /// Restarts the server with the data of `snapshot`, or without data if that is empty. Returns before it has loaded.
    pub fn restart_from(&mut self, snapshot: &[u8], options: &[&str]) {
        self.kill();
        if snapshot.is_empty() {
            let _ = fs::remove_file(self.dump());
        } else {
            fs::write(self.dump(), snapshot).unwrap();
        }
        self.launch(options);
    }

    /// Whether the server answers `LOADING`.
    pub async fn is_loading(&self) -> bool {
        let Ok(mut connection) = self.try_connection().await else { return false };
        let answer = redis::cmd("GET").arg("anything").query_async::<Option<String>>(&mut connection).await;
        answer.is_err_and(|error| error.code() == Some("LOADING"))
    }

    /// Makes background saves fail. Redis then refuses writes.
    pub async fn break_saving(&self) {
        self.config("save", "3600 1000000").await;
        // Redis renames the new snapshot to this path. The rename fails while the path is a folder that is not empty.
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

    /// Makes the server a replica of an unreachable master: it keeps its data and refuses writes.
    pub async fn demote(&self) {
        self.run::<()>(redis::cmd("REPLICAOF").arg("127.0.0.1").arg("1")).await;
    }

    pub async fn promote(&self) {
        self.run::<()>(redis::cmd("REPLICAOF").arg("NO").arg("ONE")).await;
    }

    /// Whether the output of `INFO` contains this text.
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
