//! A system under measurement: its Redis and its processes, from their start to their end.
//!
//! Owns how each kind is started, and where it listens; what it costs is read from `/proc`.

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

const START_WITHIN: Duration = Duration::from_secs(20);

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

/// What clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    EngineIo4,
    EngineIo3,
    Centrifuge,
}

pub struct System {
    pub kind: Kind,
    /// Of the public ports, one for each process.
    pub addresses: Vec<SocketAddr>,
    /// Of the mesh ports, where there are any.
    pub meshes: Vec<SocketAddr>,
    processes: Vec<Child>,
    pub redis: Redis,
}

pub struct Redis {
    pub url: String,
    _process: Child,
    _folder: TempDir,
}

/// Bytes that a process has resident.
pub struct Memory {
    pub now: u64,
    pub most: u64,
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

    /// Whether its answers name the users, and not only the sockets.
    pub fn tells_users(self) -> bool {
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
                command.args(["--admin-listen", any]);
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
    /// Starts so many processes with a Redis of their own.
    ///
    /// # Errors
    /// When a program is not there or does not start.
    pub async fn start(kind: Kind, processes: usize, programs: &Path, peers: &Path) -> Result<Self> {
        let redis = Redis::start().await?;
        // What an operator would give each: its share of the cores. Node.js has one thread anyway.
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
                (Some(out), _) => said(out, "listening ").await?,
                (None, Some(log)) => said(log, "listen=").await?,
                (None, None) => bail!("nothing is heard of the process"),
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

    /// Seconds of CPU that its processes have used.
    ///
    /// # Errors
    /// When a process is gone.
    pub fn cpu(&self) -> Result<f64> {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let mut used = 0;
        for process in self.pids()? {
            let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
            // After the name in parentheses; user and system time are fields 14 and 15 of all.
            let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
            let fields: Vec<&str> = fields.split_whitespace().collect();
            used += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        }
        Ok(used as f64 / ticks)
    }

    /// Bytes of memory that its processes have resident.
    ///
    /// # Errors
    /// When a process is gone.
    pub fn memory(&self) -> Result<u64> {
        self.pids()?.into_iter().map(|process| Ok(Memory::of(process)?.now)).sum()
    }

    fn pids(&self) -> Result<Vec<u32>> {
        self.processes.iter().map(|process| process.id().context("a process has ended")).collect()
    }
}

impl Memory {
    /// # Errors
    /// When the process is gone.
    pub fn of(process: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let field = |name| {
            let kilobytes = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
            anyhow::Ok(kilobytes.with_context(|| format!("no {name} in status"))?.parse::<u64>()? << 10)
        };
        Ok(Self { now: field("VmRSS:")?, most: field("VmHWM:")? })
    }

    /// From now on `most` is counted anew.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn forget_most(process: u32) -> Result<()> {
        Ok(fs::write(format!("/proc/{process}/clear_refs"), "5")?)
    }
}

impl Redis {
    /// # Errors
    /// When there is no `redis-server`, or it does not start.
    pub async fn start() -> Result<Self> {
        // Somebody may take the port in between; then this Redis does not start, and the run says so.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?.port();
        let folder = TempDir::new()?;
        let mut process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(folder.path())
            // A subscriber that is behind by 32 MB is cut off by default: `fetchSockets()` of 10,000 for 16 callers.
            .args(["--client-output-buffer-limit", "pubsub 0 0 0"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("redis-server")?;
        let output = process.stdout.take().expect("its output is piped");
        said(output, "Ready to accept connections").await.context("redis-server")?;
        Ok(Self { url: format!("redis://127.0.0.1:{port}"), _process: process, _folder: folder })
    }
}

/// The first line with this in it. What comes later is read and dropped, so that the process is not held up.
async fn said(from: impl tokio::io::AsyncRead + Unpin + Send + 'static, what: &'static str) -> Result<String> {
    let mut lines = BufReader::new(from).lines();
    let line = timeout(START_WITHIN, async {
        while let Some(line) = lines.next_line().await? {
            if line.contains(what) {
                return Ok(line);
            }
        }
        bail!("it ended without having said where it listens")
    })
    .await
    .context("it does not say where it listens")??;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(line)
}

fn field(line: &str, name: &str) -> Result<SocketAddr> {
    // The first is `listen=`, and `mesh=` follows; colours are off where there is no terminal.
    let (_, rest) = line.split_once(name).with_context(|| format!("no {name} in {line}"))?;
    Ok(rest.split_whitespace().next().unwrap_or_default().trim_matches('"').parse()?)
}
