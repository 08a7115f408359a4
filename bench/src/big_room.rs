//! A big room: its rows are put into the rosters of four nodes, and it is read while small rooms are asked for.
//!
//! Owns what is asked of it: that its answer is right, what it costs the node that is asked in memory, what reading it
//! does to the small rooms of the same node, and how long Redis is busy with one command. The small rooms are also
//! measured beside somebody who reads as many bytes from another program, because that alone takes its share of the
//! machine.

mod commands;
pub mod reader;
pub mod rows;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::{try_join, try_join_all};
use tokio::time::sleep;

use crate::apart::Apart;
use crate::crowd::Pairs;
use crate::floor;
use crate::measure::{self, Asker};
use crate::system::{Memory, Redis};
pub use commands::Busy;
use commands::Commands;
use reader::{Read, Reader};

const ROOM: &str = "Big";
/// The rooms whose latency is measured.
pub const SMALL: [usize; 2] = [10, 1_000];
/// One row in so many comes and goes each second under churn.
const CHURN_SHARE: usize = 100;
/// How long somebody reads before the small rooms are asked for, and how much longer.
const READS_LONGER: Duration = Duration::from_millis(500);
/// How long what is written behind may take.
const WRITTEN_WITHIN: Duration = Duration::from_secs(3);

/// What goes on while the small rooms are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Beside {
    Nothing,
    /// As many bytes are read, ready-made, from another program.
    ReadyMade,
    /// The big room is read, and nothing changes in it.
    Quiet,
    /// The same, with the node of each row.
    Full,
    /// The big room is read, and 1 % of its rows come and go each second.
    Churn,
}

pub struct BigRoom {
    pub rows: usize,
    /// Bytes of its JSON.
    pub json: usize,
    /// Bytes that the node which is asked had resident with its own rows, before it was asked.
    pub before: u64,
    pub measured: BTreeMap<Beside, Measured>,
    /// Of the commands that wrote the rows into Redis.
    pub writing: Busy,
}

pub struct Measured {
    /// By size of the small room: sorted.
    pub small: BTreeMap<usize, Vec<Duration>>,
    pub read: Option<Read>,
    /// The most bytes that the node which is asked had resident.
    pub most: u64,
    pub redis: Busy,
}

struct Nodes {
    processes: Vec<Apart>,
    addresses: Vec<SocketAddr>,
}

/// Fills a room of so many rows, and asks; each measurement goes on for so long.
///
/// # Errors
/// When an answer is wrong, or none.
pub async fn measure(nodes: usize, rows: usize, time: Duration) -> Result<BigRoom> {
    let redis = Redis::start().await?;
    let mut nodes = Nodes::start(&redis, nodes).await?;
    let mut commands = Commands::watch(&redis.url).await?;
    for room in SMALL {
        nodes.put(&format!("Small-{room}"), room).await?;
    }
    let expected = nodes.put(ROOM, rows).await?;
    sleep(WRITTEN_WITHIN).await;
    let writing = commands.since().await?;
    let before = nodes.memory()?.now;
    measure::expect(&nodes.addresses, ROOM, &expected).await?;
    let (_, body) = Asker::connect(nodes.addresses[0], ROOM).await?.ask().await?;

    let (_ready, elsewhere) = floor::ready_made(rows).await?;
    let mut big_room = BigRoom { rows, json: body.len(), before, measured: BTreeMap::new(), writing };
    for beside in [Beside::Nothing, Beside::ReadyMade, Beside::Quiet, Beside::Full, Beside::Churn] {
        let users = format!("/{ROOM}/users");
        let mut reader = match beside {
            Beside::Nothing => None,
            Beside::ReadyMade => Some(Reader::start(elsewhere, &users)?),
            Beside::Quiet | Beside::Churn => Some(Reader::start(nodes.addresses[0], &users)?),
            Beside::Full => Some(Reader::start(nodes.addresses[0], &format!("/{ROOM}/rollcall"))?),
        };
        if beside == Beside::Churn {
            nodes.churn(rows / CHURN_SHARE).await?;
        }
        commands.since().await?;
        Memory::forget_most(nodes.processes[0].pid()?)?;
        let mut small = BTreeMap::new();
        let mut read = None;
        for room in SMALL {
            let asking = ask(nodes.addresses[0], room, time);
            let took = match &mut reader {
                None => asking.await?,
                Some(reader) => {
                    let (took, what) = try_join(asking, reader.read(time + 2 * READS_LONGER)).await?;
                    read = Some(what);
                    took
                }
            };
            small.insert(room, took);
        }
        let (most, redis) = (nodes.memory()?.most, commands.since().await?);
        big_room.measured.insert(beside, Measured { small, read, most, redis });
    }
    Ok(big_room)
}

/// How long each answer of a small room took, sorted.
async fn ask(address: SocketAddr, room: usize, time: Duration) -> Result<Vec<Duration>> {
    sleep(READS_LONGER).await;
    let mut asker = Asker::connect(address, &format!("Small-{room}")).await?;
    let mut took = asker.one_after_another(time).await?;
    took.sort_unstable();
    Ok(took)
}

impl Nodes {
    async fn start(redis: &Redis, count: usize) -> Result<Self> {
        let names: Vec<String> = (1..=count).map(|number| format!("node-{number}")).collect();
        let processes = names.iter().map(|name| Apart::start(&["rows", &redis.url, name]));
        let mut processes = processes.collect::<Result<Vec<_>>>()?;
        let answers = try_join_all(processes.iter_mut().map(|process| process.order("address"))).await?;
        let addresses = answers.concat().iter().map(|address| address.parse()).collect::<Result<_, _>>()?;
        Ok(Self { processes, addresses })
    }

    /// Spreads so many rows over the nodes. Returns what they are.
    async fn put(&mut self, room: &str, rows: usize) -> Result<Pairs> {
        let count = self.processes.len();
        let mut pairs = Pairs::new();
        for (place, process) in self.processes.iter_mut().enumerate() {
            let share = (rows + place) / count;
            process.order(&format!("put {room} {share}")).await?;
            pairs.extend((0..share).map(|number| rows::row(&format!("node-{}", place + 1), room, number)));
        }
        Ok(pairs)
    }

    async fn churn(&mut self, each_second: usize) -> Result<()> {
        let share = each_second / self.processes.len();
        for process in &mut self.processes {
            process.order(&format!("churn {ROOM} {share}")).await?;
        }
        Ok(())
    }

    /// Of the node that is asked.
    fn memory(&self) -> Result<Memory> {
        Memory::of(self.processes.first().context("there are no nodes")?.pid()?)
    }
}
