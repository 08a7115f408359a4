//! `rollcall` as an operator runs it, with everything that it logs.

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::Deref;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::process::{Process, rollcall, serve};
use crate::common::{PATIENCE, RedisServer, text, until};

/// A node with a name.
pub struct Node {
    process: Process,
    pub name: String,
}

/// What a node is started with, apart from addresses that the system picks.
pub struct Start {
    command: Command,
    name: String,
}

/// What a node knows of a room: whether that is all, who did not answer and why, and the sockets.
#[derive(Debug, PartialEq, Eq)]
pub struct Roll {
    pub unanswered: Option<String>,
    pub sockets: BTreeSet<String>,
}

/// Runs it to its end.
pub fn run(arguments: &[&str]) -> Output {
    rollcall().args(arguments).output().unwrap()
}

impl Start {
    pub fn named(name: &str) -> Self {
        let mut command = serve();
        command.args(["--identity", "query", "--node-name", name]);
        Self { command, name: name.to_owned() }
    }

    /// On a port that is known before.
    pub fn mesh_on(self, port: u16) -> Self {
        self.env("ROLLCALL_MESH_LISTEN", &format!("127.0.0.1:{port}"))
    }

    pub fn with<T: AsRef<str>>(mut self, arguments: &[T]) -> Self {
        self.command.args(arguments.iter().map(AsRef::as_ref));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn redis(self, redis: &RedisServer) -> Self {
        self.with(&["--redis", &redis.url()])
    }

    /// Started, and listening; whether it becomes ready is another question.
    pub fn launch(mut self) -> Node {
        Node { process: Process::launch(&mut self.command), name: self.name }
    }

    pub async fn ready(self) -> Node {
        let node = self.launch();
        node.is_ready().await;
        node
    }

    /// Ends by itself: returns what it said.
    pub fn refused(mut self) -> String {
        let mut child = self.command.stderr(Stdio::piped()).spawn().unwrap();
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
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        assert!(status.code().is_some_and(|code| code != 0), "it is not refused ({status}):\n{said}");
        said
    }
}

impl Node {
    /// The lines of the log with this in them.
    pub fn logged(&self, what: &str) -> Vec<String> {
        self.log().lines().filter(|line| line.contains(what)).map(ToOwned::to_owned).collect()
    }

    pub async fn logs(&self, what: &str) {
        until(&format!("{} logs {what}", self.name), || async { !self.logged(what).is_empty() }).await;
    }

    pub async fn roll(&self, room: &str) -> Roll {
        self.roll_at(&format!("/{room}/users?deadline_ms=5000")).await
    }

    pub async fn roll_at(&self, path: &str) -> Roll {
        let response = reqwest::get(format!("http://{}{path}", self.public)).await.unwrap();
        assert_eq!(response.status(), 200);
        let unanswered = response.headers().get("rollcall-unanswered").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(response.headers()["rollcall-complete"] == "true", unanswered.is_none());
        let rows: Vec<Value> = response.json().await.unwrap();
        Roll { unanswered, sockets: rows.iter().map(|row| text(row, "id_socket")).collect() }
    }

    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }
}

impl Deref for Node {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// A complete answer with these sockets.
pub fn complete(sockets: &[&str]) -> Roll {
    Roll { unanswered: None, sockets: sockets.iter().map(|socket| (*socket).to_owned()).collect() }
}
