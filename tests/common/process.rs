//! One `rollcall serve` as an operator runs it: a process with addresses of its own, and everything that it logs.

use std::net::SocketAddr;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::log::Log;
use super::{PATIENCE, signals, until};

/// Killed with the value.
pub struct Process {
    pub child: Child,
    pub public: SocketAddr,
    pub mesh: SocketAddr,
    pub admin: SocketAddr,
    log: Log,
}

/// The program.
pub fn rollcall() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
    command.env("NO_COLOR", "1");
    command
}

/// `rollcall serve` on addresses that the system picks, unless the environment says otherwise afterwards.
pub fn serve() -> Command {
    let mut command = rollcall();
    let any = "127.0.0.1:0";
    command
        .arg("serve")
        .envs(["ROLLCALL_LISTEN", "ROLLCALL_MESH_LISTEN", "ROLLCALL_ADMIN_LISTEN"].map(|name| (name, any)));
    command
}

impl Process {
    /// Started, and listening; whether it becomes ready is another question. It must log what it logs by default.
    pub fn launch(command: &mut Command) -> Self {
        let (log, began) = (Log::new(), Instant::now());
        let mut child = command.stderr(log.end()).spawn().unwrap();
        let starting = loop {
            if let Some(line) = log.text().lines().find(|line| line.contains(" starting ")) {
                break line.to_owned();
            }
            let runs = child.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE;
            assert!(runs, "it does not start:\n{}", log.text());
            std::thread::sleep(Duration::from_millis(2));
        };
        let field = |name: &str| {
            let value = starting.split_whitespace().find_map(|word| word.strip_prefix(name)).expect("it is named");
            value.parse::<SocketAddr>().unwrap()
        };
        Self { child, public: field("listen="), mesh: field("mesh="), admin: field("admin="), log }
    }

    /// Ends when it is ready.
    pub async fn is_ready(&self) {
        let url = format!("http://{}/readyz", self.admin);
        until("ready", || async { reqwest::get(&url).await.is_ok_and(|answer| answer.status() == 200) }).await;
    }

    pub fn log(&self) -> String {
        self.log.text()
    }

    pub async fn stop(&self) {
        signals::stop(&self.child).await;
    }

    pub fn go_on(&self) {
        signals::go_on(&self.child);
    }

    pub fn terminate(&self) {
        signals::terminate(&self.child);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
