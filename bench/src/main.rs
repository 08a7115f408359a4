//! A benchmark of rollcall and its alternatives: the same rooms, crowd and requests, on one machine.
//!
//! Owns the order of a run. [`system`] starts each system as four processes with its own Redis. [`crowd`] fills the rooms,
//! [`measure`] sends the requests, [`parts`] measures a lower bound, and [`report`] and [`figure`] show the results. Systems
//! take turns within each round, because the speed of a machine varies over time. Only ratios of one run are meaningful.

mod big_room;
mod crowd;
mod figure;
mod measure;
mod pace;
mod parts;
mod report;
mod storm;
mod system;
mod worker;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use big_room::{node, reader};
use crowd::Crowd;
use crowd::client::Target;
use crowd::process;
use measure::Requester;
use report::{Load, Report};
use system::{Kind, Protocol, System};
use tikv_jemallocator::Jemalloc;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::sleep;

/// The allocator of rollcall, because `rows` runs its nodes in this program.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

const PROCESSES: usize = 4;
/// Churn replaces one socket in this number each second.
const CHURN_SHARE: usize = 100;
/// The memory of an empty system is read after this delay.
const MEMORY_SETTLE_DELAY: Duration = Duration::from_secs(5);
const ROOM: &str = "Maths";

#[derive(Parser)]
#[command(name = "rollcall-bench", about = "Compares rollcall with its alternatives on this machine")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// Sizes of the room that is asked for
    #[arg(long, default_value = "10,100,1000,10000", value_delimiter = ',')]
    rooms: Vec<usize>,

    /// Number of measurements of each system in each room
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// Number of clients in the reconnect storm; 0 turns it off
    #[arg(long, default_value_t = 10_000, value_name = "CLIENTS")]
    storm: usize,

    /// Number of rows in the big room, which is measured for rollcall only; 0 turns it off
    #[arg(long, default_value_t = 100_000, value_name = "ROWS")]
    big_room: usize,

    /// Duration of each measurement
    #[arg(long, default_value = "1.5", value_name = "SECONDS", value_parser = seconds)]
    time: Duration,

    /// Systems to measure; the report names those that do not start
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    systems: Vec<Kind>,

    /// Folder of the programs: `rollcall`, and those of the peers
    #[arg(long, default_value = "target/dist", value_name = "FOLDER")]
    programs: PathBuf,

    /// Draw latency over the size of the room into this file (SVG)
    #[arg(long, value_name = "FILE")]
    figure: Option<PathBuf>,

    /// Folder of the peers' sources
    #[arg(long, default_value = "bench/peers", value_name = "FOLDER")]
    peers: PathBuf,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Answers every request with a prepared roll of this number of users
    #[command(hide = true)]
    Prepared { users: usize },
    /// Runs a part of the crowd, with commands from stdin
    #[command(hide = true)]
    Crowd {
        protocol: Protocol,
        room: String,
        /// Number of the first client of this process
        first: usize,
        #[arg(required = true)]
        addresses: Vec<SocketAddr>,
    },
    /// Runs a rollcall node without clients, with commands from stdin
    #[command(hide = true)]
    Rows { redis: String, name: String },
    /// Requests one path repeatedly, with commands from stdin
    #[command(hide = true)]
    Reader { address: SocketAddr, path: String },
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "is not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    rollcall::edge::connections::listener::raise_file_limit();
    let mut runtime = match cli.command {
        // One thread: a request on one thread whose answer arrives on another would wake one more processor, and that
        // cost would be part of every measurement.
        None | Some(Command::Crowd { .. } | Command::Reader { .. }) => Builder::new_current_thread(),
        Some(Command::Prepared { .. } | Command::Rows { .. }) => Builder::new_multi_thread(),
    };
    runtime.enable_all().build()?.block_on(run(cli))
}

async fn run(mut cli: Cli) -> Result<()> {
    match cli.command.take() {
        Some(Command::Prepared { users }) => return parts::serve_prepared(users).await,
        Some(Command::Crowd { protocol, room, first, addresses }) => {
            let cut = watch::Sender::default();
            return process::run(Target { protocol, addresses, room, cut }, first).await;
        }
        Some(Command::Rows { redis, name }) => return node::run(&redis, &name).await,
        Some(Command::Reader { address, path }) => return reader::run(address, path).await,
        None => {}
    }
    let mut report = Report::new(&cli.rooms, cli.rounds);
    let measured = measure_all(&cli, &mut report).await;
    // Printed before an error is returned, so that the completed measurements are not lost.
    println!("{report}");
    if let Some(path) = &cli.figure {
        figure::draw(path, "One roll call after another, median", &report.lines())?;
    }
    measured
}

async fn measure_all(cli: &Cli, report: &mut Report) -> Result<()> {
    let mut systems = Vec::new();
    for kind in &cli.systems {
        match System::start(*kind, PROCESSES, &cli.programs, &cli.peers).await {
            Ok(system) => {
                measure::expect_empty(&system, ROOM).await.with_context(|| kind.to_string())?;
                systems.push(system);
            }
            Err(error) => report.missing(*kind, &error),
        }
    }
    ensure!(!systems.is_empty(), "no system could be started");
    let mut gave_up = BTreeSet::new();
    for room in &cli.rooms {
        for round in 1..=cli.rounds {
            for system in &systems {
                if gave_up.contains(&(system.kind, *room)) {
                    continue;
                }
                eprintln!("room of {room}, round {round} of {}: {}", cli.rounds, system.kind);
                if let Err(error) = measure_one(system, *room, cli.time, report).await {
                    ensure!(system.kind != Kind::Rollcall, "a room of {room}: {error:#}");
                    if !report.discard_round(system.kind, *room, &error) {
                        // Every further round would fail too, and only after a long time.
                        gave_up.insert((system.kind, *room));
                    }
                    // Otherwise sockets of this round would be in the next one.
                    measure::expect_empty(system, ROOM).await.with_context(|| system.kind.to_string())?;
                }
            }
        }
    }
    if cli.storm > 0 {
        for system in &systems {
            eprintln!("reconnect storm of {}: {}", cli.storm, system.kind);
            match storm::measure(system, ROOM, cli.storm).await {
                Ok(storm) => report.storm(system.kind, cli.storm, storm),
                Err(error) if system.kind == Kind::Rollcall => return Err(error.context("a reconnect storm")),
                Err(error) => report.failed(system.kind, &format!("a reconnect storm of {}", cli.storm), &error),
            }
        }
    }
    drop(systems);
    if cli.big_room > 0 {
        eprintln!("a room of {} rows: rollcall", cli.big_room);
        report.big_room(big_room::measure(PROCESSES, cli.big_room, cli.time).await.context("the big room")?);
    }
    Ok(())
}

/// Fills the room, measures, and empties it.
async fn measure_one(system: &System, size: usize, time: Duration, report: &mut Report) -> Result<()> {
    let kind = system.kind;
    let (before, cpu) = (system.memory()?, system.cpu()?);
    let (mut crowd, took) = Crowd::fill(kind.protocol(), &system.addresses, ROOM, size).await?;
    let cpu = system.cpu()? - cpu;
    measure::expect_listing(system, ROOM, &crowd.listing().await?).await?;
    report.filled(kind, size, took, cpu, before, system.memory()?);

    for load in [Load::Quiet, Load::Churn] {
        if load == Load::Churn {
            crowd.churn(size.div_ceil(CHURN_SHARE)).await?;
        }
        // Opened for each load, because servers close idle connections.
        let mut requester = Requester::connect(system.addresses[0], ROOM).await?;
        // Warm-up: an idle machine takes up to a second to reach its full speed.
        requester.sequential(time).await?;
        report.latencies(kind, size, load, requester.sequential(time).await?);
        let cpu = system.cpu()?;
        let (answers, took) = measure::concurrent(system.addresses[0], ROOM, time).await?;
        let (per_second, each) = (answers as f64 / took.as_secs_f64(), (system.cpu()? - cpu) / answers as f64);
        report.throughput(kind, size, load, per_second, each);
        if load == Load::Quiet && kind == Kind::Rollcall {
            report.parts(size, parts::measure(system, ROOM, size, time / 2).await.context("the parts of a roll call")?);
        }
    }
    crowd.leave().await?;
    measure::expect_empty(system, ROOM).await?;
    sleep(MEMORY_SETTLE_DELAY).await;
    report.emptied(kind, size, system.memory()?);
    Ok(())
}
