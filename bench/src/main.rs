//! Rollcall beside its alternatives: the same rooms, the same crowd, the same questions, on one machine.
//!
//! Owns the order of a run. [`system`] starts each system as four processes with a Redis of its own, [`crowd`] fills its
//! rooms, [`measure`] asks and counts, [`floor`] is what no roll call can be faster than, and [`report`] and [`figure`]
//! are what is told. Systems take turns within each round, so that the mood of the machine is everybody's; only ratios of
//! one run mean something.

mod apart;
mod big_room;
mod crowd;
mod figure;
mod floor;
mod measure;
mod pace;
mod report;
mod storm;
mod system;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use big_room::{reader, rows};
use crowd::Crowd;
use crowd::member::Place;
use crowd::share;
use measure::Asker;
use report::{Load, Report};
use system::{Kind, Protocol, System};
use tikv_jemallocator::Jemalloc;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::sleep;

/// That of rollcall, whose nodes run here too.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// How many processes each system has.
const PROCESSES: usize = 4;
/// One socket in so many comes and goes each second under churn.
const CHURN_SHARE: usize = 100;
/// How long after everybody left what is still in memory is read.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);
const ROOM: &str = "Maths";

#[derive(Parser)]
#[command(name = "rollcall-bench", about = "Measures rollcall beside its alternatives, all on this machine")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// Sizes of the room that is asked for
    #[arg(long, default_value = "10,100,1000,10000", value_delimiter = ',')]
    rooms: Vec<usize>,

    /// How often every system is measured in each room
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// How many clients a reconnect storm has; 0: no storm
    #[arg(long, default_value_t = 10_000, value_name = "CLIENTS")]
    storm: usize,

    /// How many rows are put into the rosters of rollcall for a big room; 0: no big room
    #[arg(long, default_value_t = 100_000, value_name = "ROWS")]
    big_room: usize,

    /// How long each measurement goes on
    #[arg(long, default_value = "1.5", value_name = "SECONDS", value_parser = seconds)]
    time: Duration,

    /// Which systems; those that cannot be started are named in the report
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    systems: Vec<Kind>,

    /// Where the programs are: `rollcall`, and those of the peers
    #[arg(long, default_value = "target/release", value_name = "FOLDER")]
    programs: PathBuf,

    /// Draw latency over the size of the room into this file (SVG)
    #[arg(long, value_name = "FILE")]
    figure: Option<PathBuf>,

    /// Where the peers' sources are
    #[arg(long, default_value = "bench/peers", value_name = "FOLDER")]
    peers: PathBuf,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Answers every request with a ready-made roll of so many users: the floor
    #[command(hide = true)]
    Ready { users: usize },
    /// Is a part of the crowd, and obeys
    #[command(hide = true)]
    Crowd {
        protocol: Protocol,
        room: String,
        /// The number of its first member
        first: usize,
        #[arg(required = true)]
        addresses: Vec<SocketAddr>,
    },
    /// Is a rollcall node whose rows are put into its roster, and obeys
    #[command(hide = true)]
    Rows { redis: String, name: String },
    /// Reads one roll again and again when told
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
        // Whoever keeps a system busy should keep the machine as little busy as can be: a question that is asked on one
        // thread and whose answer is heard of on another wakes a processor more, which every system would pay for.
        None | Some(Command::Crowd { .. } | Command::Reader { .. }) => Builder::new_current_thread(),
        Some(Command::Ready { .. } | Command::Rows { .. }) => Builder::new_multi_thread(),
    };
    runtime.enable_all().build()?.block_on(run(cli))
}

async fn run(mut cli: Cli) -> Result<()> {
    match cli.command.take() {
        Some(Command::Ready { users }) => return floor::serve_ready_made(users).await,
        Some(Command::Crowd { protocol, room, first, addresses }) => {
            let cut = watch::Sender::default();
            return share::run(Place { protocol, addresses, room, cut }, first).await;
        }
        Some(Command::Rows { redis, name }) => return rows::run(&redis, &name).await,
        Some(Command::Reader { address, path }) => return reader::run(address, path).await,
        None => {}
    }
    let mut report = Report::new(&cli.rooms, cli.rounds);
    let measured = measure_all(&cli, &mut report).await;
    // Also what was measured before something failed.
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
                    if !report.did_not_manage(system.kind, *room, &error) {
                        // What it cannot do at all takes long.
                        gave_up.insert((system.kind, *room));
                    }
                    // Its next round is not to pay for this one.
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
    measure::expect_right(system, ROOM, &crowd.pairs().await?).await?;
    report.filled(kind, size, took, cpu, before, system.memory()?);

    for load in [Load::Quiet, Load::Churn] {
        if load == Load::Churn {
            crowd.churn(size.div_ceil(CHURN_SHARE)).await?;
        }
        // A connection that is idle for long is closed.
        let mut asker = Asker::connect(system.addresses[0], ROOM).await?;
        // A machine that was idle takes up to a second until it is as fast as it then stays.
        asker.one_after_another(time).await?;
        report.latencies(kind, size, load, asker.one_after_another(time).await?);
        let cpu = system.cpu()?;
        let (answers, took) = measure::at_once(system.addresses[0], ROOM, time).await?;
        let (per_second, each) = (answers as f64 / took.as_secs_f64(), (system.cpu()? - cpu) / answers as f64);
        report.throughput(kind, size, load, per_second, each);
        if load == Load::Quiet && kind == Kind::Rollcall {
            report.floor(size, floor::measure(system, ROOM, size, time / 2).await.context("the floor")?);
        }
    }
    crowd.leave().await?;
    measure::expect_empty(system, ROOM).await?;
    sleep(SETTLES_WITHIN).await;
    report.emptied(kind, size, system.memory()?);
    Ok(())
}
