//! One `rollcall serve` as an operator runs it: a process with addresses of its own, and everything that it logs.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::until;

/// Killed with the value.
pub struct Process {
    pub child: Child,
    pub public: SocketAddr,
    pub mesh: SocketAddr,
    pub admin: SocketAddr,
    log: Arc<Mutex<String>>,
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
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let starting = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it ends:\n{}", log.lock().unwrap())).unwrap();
            log.lock().unwrap().push_str(&format!("{line}\n"));
            if line.contains(" starting ") {
                break line;
            }
        };
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || lines.map_while(Result::ok).for_each(|line| log.lock().unwrap().push_str(&format!("{line}\n")))
        });
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
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
