//! A system under measurement: its Redis and its processes, from start to end.
//!
//! Owns the command line and the addresses of each kind, and reads memory and CPU time from `/proc`.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::timeout;

const START_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    Rollcall,
    /// socket.io 4, Redis adapter, `fetchSockets()`
    FetchSockets,
    /// centrifuge, presence in Redis
    Centrifuge,
    /// socket.io 2, one request over Redis for each socket
    PerSocket,
    /// socketioxide, Redis adapter, `fetch_sockets()`
    SocketioxideRedis,
}

/// The protocol of the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    EngineIo4,
    EngineIo3,
    Centrifuge,
}

pub struct System {
    pub kind: Kind,
    /// The public addresses, one for each process.
    pub addresses: Vec<SocketAddr>,
    /// The mesh addresses; empty for systems without a mesh.
    pub meshes: Vec<SocketAddr>,
    processes: Vec<Child>,
    pub redis: Redis,
}

pub struct Redis {
    pub url: String,
    _process: Child,
    _folder: TempDir,
}

/// Resident bytes of a process.
pub struct Memory {
    pub now: u64,
    pub peak: u64,
}

impl Kind {
    pub const ALL: [Self; 5] =
        [Self::Rollcall, Self::FetchSockets, Self::Centrifuge, Self::SocketioxideRedis, Self::PerSocket];

    pub fn protocol(self) -> Protocol {
        match self {
            Self::Rollcall | Self::FetchSockets | Self::SocketioxideRedis => Protocol::EngineIo4,
            Self::PerSocket => Protocol::EngineIo3,
            Self::Centrifuge => Protocol::Centrifuge,
        }
    }

    /// Whether the answers contain user ids, not only socket ids.
    pub fn lists_users(self) -> bool {
        self != Self::SocketioxideRedis
    }

    fn command(self, programs: &Path, peers: &Path, threads: usize) -> Command {
        let node = |program: &str| {
            let mut command = Command::new("node");
            command.arg(peers.join("node").join(program));
            command
        };
        match self {
            Self::FetchSockets => node("fetch-sockets.mjs"),
            Self::PerSocket => node("per-socket.mjs"),
            Self::Centrifuge => {
                let mut command = Command::new(programs.join("centrifuge-peer"));
                command.env("GOMAXPROCS", threads.to_string());
                command
            }
            Self::SocketioxideRedis => {
                let mut command = Command::new(programs.join("socketioxide-peer"));
                command.env("TOKIO_WORKER_THREADS", threads.to_string());
                command
            }
            Self::Rollcall => {
                let mut command = Command::new(programs.join("rollcall"));
                let any = "127.0.0.1:0";
                command.args(["serve", "--identity", "query", "--listen", any, "--mesh-listen", any]);
                command.args(["--admin-listen", any, "--mesh-open"]);
                command.args(["--threads", &threads.to_string()]);
                command
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rollcall => "rollcall",
            Self::FetchSockets => "socket.io 4, fetchSockets",
            Self::Centrifuge => "centrifuge",
            Self::PerSocket => "socket.io 2, one request per socket",
            Self::SocketioxideRedis => "socketioxide, fetch_sockets (ids only)",
        })
    }
}

impl System {
    /// Starts the processes of a system, with their own Redis.
    ///
    /// # Errors
    /// When a program is missing, or does not start.
    pub async fn start(kind: Kind, processes: usize, programs: &Path, peers: &Path) -> Result<Self> {
        let redis = Redis::start().await?;
        // Each process gets its share of the cores, as an operator would configure it. Node.js always has one thread.
        let threads = (std::thread::available_parallelism()?.get() / processes).max(1);
        let mut system = Self { kind, addresses: Vec::new(), meshes: Vec::new(), processes: Vec::new(), redis };
        for number in 1..=processes {
            let mut command = kind.command(programs, peers, threads);
            command.env("REDIS_URL", &system.redis.url).env("PORT", "0");
            command.env("ROLLCALL_REDIS", &system.redis.url).env("ROLLCALL_NODE_NAME", format!("node-{number}"));
            let rollcall = kind == Kind::Rollcall;
            let (out, log) =
                if rollcall { (Stdio::null(), Stdio::piped()) } else { (Stdio::piped(), Stdio::inherit()) };
            let mut child = command.stdin(Stdio::null()).stdout(out).stderr(log).kill_on_drop(true).spawn()?;
            let line = match (child.stdout.take(), child.stderr.take()) {
                (Some(out), _) => wait_for_line(out, "listening ").await?,
                (None, Some(log)) => wait_for_line(log, "listen=").await?,
                (None, None) => bail!("neither stdout nor stderr is piped"),
            };
            if rollcall {
                system.addresses.push(field(&line, "listen=")?);
                system.meshes.push(field(&line, "mesh=")?);
            } else {
                let port = line.trim_start_matches("listening ").trim().parse()?;
                system.addresses.push(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
            }
            system.processes.push(child);
        }
        Ok(system)
    }

    /// The CPU seconds of all processes since their start.
    ///
    /// # Errors
    /// When a process has ended.
    pub fn cpu(&self) -> Result<f64> {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let mut used = 0;
        for process in self.pids()? {
            let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
            // The name in parentheses may contain spaces. User and system time are fields 14 and 15 of the whole line (proc(5)).
            let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
            let fields: Vec<&str> = fields.split_whitespace().collect();
            used += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        }
        Ok(used as f64 / ticks)
    }

    /// The resident bytes of all processes.
    ///
    /// # Errors
    /// When a process has ended.
    pub fn memory(&self) -> Result<u64> {
        self.pids()?.into_iter().map(|process| Ok(Memory::of(process)?.now)).sum()
    }

    fn pids(&self) -> Result<Vec<u32>> {
        self.processes.iter().map(|process| process.id().context("a process has ended")).collect()
    }
}

impl Memory {
    /// # Errors
    /// When the process has ended.
    pub fn of(process: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let field = |name| {
            let kilobytes = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
            anyhow::Ok(kilobytes.with_context(|| format!("no {name} in status"))?.parse::<u64>()? << 10)
        };
        Ok(Self { now: field("VmRSS:")?, peak: field("VmHWM:")? })
    }

    /// Resets `peak` to the current value.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn reset_peak(process: u32) -> Result<()> {
        Ok(fs::write(format!("/proc/{process}/clear_refs"), "5")?)
    }
}

impl Redis {
    /// # Errors
    /// When `redis-server` is missing, or does not start.
    pub async fn start() -> Result<Self> {
        // Another process may bind the port in between; then Redis does not start, and the run fails.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?.port();
        let folder = TempDir::new()?;
        let mut process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(folder.path())
            // By default, Redis disconnects a subscriber that is 32 MB behind, which 16 calls of `fetchSockets()` for 10,000
            // sockets exceed.
            .args(["--client-output-buffer-limit", "pubsub 0 0 0"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("redis-server")?;
        let output = process.stdout.take().expect("its output is piped");
        wait_for_line(output, "Ready to accept connections").await.context("redis-server")?;
        Ok(Self { url: format!("redis://127.0.0.1:{port}"), _process: process, _folder: folder })
    }
}

/// Returns the first line that contains `text`. Later lines are read and dropped, so that the pipe never fills up.
async fn wait_for_line(from: impl tokio::io::AsyncRead + Unpin + Send + 'static, text: &'static str) -> Result<String> {
    let mut lines = BufReader::new(from).lines();
    let line = timeout(START_TIMEOUT, async {
        while let Some(line) = lines.next_line().await? {
            if line.contains(text) {
                return Ok(line);
            }
        }
        bail!("the process ended before it printed {text:?}")
    })
    .await
    .with_context(|| format!("timed out waiting for {text:?}"))??;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(line)
}

fn field(line: &str, name: &str) -> Result<SocketAddr> {
    // The values have no colour codes, because stderr is not a terminal.
    let (_, rest) = line.split_once(name).with_context(|| format!("no {name} in {line}"))?;
    Ok(rest.split_whitespace().next().unwrap_or_default().trim_matches('"').parse()?)
}
