//! One `rollcall serve` process as an operator runs it, with its own addresses and its whole log.
//!
//! Owns the process: dropping the value kills it. [`ServeCommand`] builds its command line.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::captured_log::CapturedLog;
use crate::programs::rollcall_binary;
use crate::redis_server::RedisServer;
use crate::samples::Samples;
use crate::{PATIENCE, signals, text, until};

/// A running node. Dropping the value kills it.
pub struct Process {
    pub child: Child,
    pub name: String,
    pub public: SocketAddr,
    pub mesh: SocketAddr,
    pub admin: SocketAddr,
    log: CapturedLog,
}

/// The command line and the environment of a node. The kernel chooses its ports.
pub struct ServeCommand(Command);

/// A roll call's answer. `unanswered` names the nodes that did not answer, with reasons; `None` if the answer is complete.
#[derive(Debug, PartialEq, Eq)]
pub struct Roll {
    pub unanswered: Option<String>,
    pub sockets: BTreeSet<String>,
}

/// A complete answer with these sockets.
pub fn complete(sockets: &[&str]) -> Roll {
    Roll { unanswered: None, sockets: sockets.iter().map(|socket| (*socket).to_owned()).collect() }
}

/// The `rollcall` program, with plain output.
pub fn rollcall() -> Command {
    let mut command = Command::new(rollcall_binary());
    command.env("NO_COLOR", "1");
    command
}

/// `rollcall serve` on ports that the kernel chooses, with an open mesh. The caller may override the environment variables.
pub fn serve() -> Command {
    let mut command = rollcall();
    let any = "127.0.0.1:0";
    command
        .arg("serve")
        .env("ROLLCALL_MESH_OPEN", "true")
        .envs(["ROLLCALL_LISTEN", "ROLLCALL_MESH_LISTEN", "ROLLCALL_ADMIN_LISTEN"].map(|name| (name, any)));
    command
}

impl ServeCommand {
    /// A node with the default node name that takes the user from the query.
    pub fn unnamed() -> Self {
        let mut command = serve();
        command.args(["--identity", "query"]);
        Self(command)
    }

    /// As [`Self::unnamed`], with this node name.
    pub fn named(name: &str) -> Self {
        Self::unnamed().with(&["--node-name", name])
    }

    pub fn with<T: AsRef<str>>(mut self, arguments: &[T]) -> Self {
        self.0.args(arguments.iter().map(AsRef::as_ref));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    pub fn without_env(mut self, name: &str) -> Self {
        self.0.env_remove(name);
        self
    }

    pub fn redis(self, redis: &RedisServer) -> Self {
        self.with(&["--redis", &redis.url()])
    }

    /// Fixes the mesh port, for tests that must know it before the node starts.
    pub fn mesh_on(self, port: u16) -> Self {
        self.env("ROLLCALL_MESH_LISTEN", &format!("127.0.0.1:{port}"))
    }

    /// Starts the node and returns when it listens, which is before it is ready.
    pub fn launch(mut self) -> Process {
        Process::launch(&mut self.0)
    }

    /// Starts the node and returns when it is ready.
    pub async fn ready(self) -> Process {
        let node = self.launch();
        node.is_ready().await;
        node
    }

    /// Runs a node that must exit with an error. Returns what it wrote to standard error.
    pub fn refused(mut self) -> String {
        let mut child = self.0.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > PATIENCE {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut output = String::new();
        stderr.read_to_string(&mut output).unwrap();
        assert!(
            status.code().is_some_and(|code| code != 0),
            "the node did not exit with an error ({status}):\n{output}"
        );
        output
    }
}

impl Process {
    /// Starts a node and returns when it listens, which is before it is ready. Reads the addresses from the log, which
    /// must therefore have the default level.
    pub fn launch(command: &mut Command) -> Self {
        let (log, began) = (CapturedLog::new(), Instant::now());
        let mut child = command.stderr(log.writer()).spawn().unwrap();
        let starting = loop {
            if let Some(line) = log.text().lines().find(|line| line.contains(" starting ")) {
                break line.to_owned();
            }
            let runs = child.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE;
            assert!(runs, "the node did not start:\n{}", log.text());
            std::thread::sleep(Duration::from_millis(2));
        };
        let field = |name: &str| {
            let value = starting.split_whitespace().find_map(|word| word.strip_prefix(name));
            value.unwrap_or_else(|| panic!("no {name} in {starting}")).to_owned()
        };
        let address = |name: &str| field(name).parse::<SocketAddr>().unwrap();
        let (public, mesh, admin) = (address("listen="), address("mesh="), address("admin="));
        Self { child, name: field("name="), public, mesh, admin, log }
    }

    /// Starts a node with this Redis and further flags, and returns when it is ready.
    pub async fn start(redis: &RedisServer, name: &str, more: &[&str]) -> Self {
        ServeCommand::named(name).redis(redis).with(more).ready().await
    }

    /// Returns when the node is ready.
    pub async fn is_ready(&self) {
        let url = format!("http://{}/readyz", self.admin);
        until("the node is ready", || async { reqwest::get(&url).await.is_ok_and(|answer| answer.status() == 200) })
            .await;
    }

    pub fn log(&self) -> String {
        self.log.text()
    }

    /// The lines of the log that contain this text.
    pub fn logged(&self, part: &str) -> Vec<String> {
        self.log().lines().filter(|line| line.contains(part)).map(ToOwned::to_owned).collect()
    }

    /// Waits until a line of the log contains this text.
    pub async fn logs(&self, part: &str) {
        until(&format!("{} logs {part}", self.name), || async { !self.logged(part).is_empty() }).await;
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGSTOP.
    pub async fn stop(&self) {
        signals::stop(&self.child).await;
    }

    /// Sends SIGCONT.
    pub fn resume(&self) {
        signals::resume(&self.child);
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        signals::terminate(&self.child);
    }

    /// The answer of the admin port.
    pub async fn get(&self, path: &str) -> reqwest::Response {
        reqwest::get(format!("http://{}{path}", self.admin)).await.unwrap()
    }

    pub async fn samples(&self) -> Samples {
        Samples::read(&self.get("/metrics").await.text().await.unwrap())
    }

    /// The answer of the public port.
    pub async fn ask(&self, path: &str) -> reqwest::Response {
        reqwest::get(format!("http://{}{path}", self.public)).await.unwrap()
    }

    /// The answer of `/{room}/users` on the public port.
    pub async fn roll(&self, room: &str) -> Roll {
        self.roll_at(&format!("/{room}/users?deadline_ms=5000")).await
    }

    pub async fn roll_at(&self, path: &str) -> Roll {
        let response = self.ask(path).await;
        assert_eq!(response.status(), 200);
        let unanswered = response.headers().get("rollcall-unanswered").map(|value| value.to_str().unwrap().to_owned());
        let is_complete = response.headers()["rollcall-complete"] == "true";
        assert!(!is_complete || unanswered.is_none(), "a complete answer names {unanswered:?}");
        // A node that may not know all members is incomplete, and can name none.
        let unanswered = unanswered.or_else(|| (!is_complete).then(String::new));
        let rows: Vec<Value> = response.json().await.unwrap();
        Roll { unanswered, sockets: rows.iter().map(|row| text(row, "id_socket")).collect() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
