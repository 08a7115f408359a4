//! A big room, whose rows are registered in the rosters of four nodes, and its effect on small rooms.
//!
//! Owns the check of the answer, and three measurements. These are the memory of the node that answers, the latency of
//! small rooms on that node while the big room is read, and the durations of Redis commands. For comparison, the small
//! rooms are also measured while a plain server sends as many bytes: any such load slows down a machine.

mod commands;
pub mod node;
pub mod reader;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::{try_join, try_join_all};
use tokio::time::sleep;

use crate::crowd::Listing;
use crate::measure::{self, Requester};
use crate::parts;
use crate::system::{Memory, Redis};
use crate::worker::Worker;
use commands::CommandMonitor;
pub use commands::CommandStats;
use reader::{ReadResult, Reader};

const ROOM: &str = "Big";
/// The rooms whose latency is measured.
pub const SMALL: [usize; 2] = [10, 1_000];
/// Churn replaces one row in this number each second.
const CHURN_SHARE: usize = 100;
/// The reader starts this long before the measurement of a small room, and ends this long after it.
const READ_MARGIN: Duration = Duration::from_millis(500);
/// Time for the socket-id sets, which are written behind.
const INDEX_WRITE_DELAY: Duration = Duration::from_secs(3);

/// The load on the machine while the small rooms are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConcurrentLoad {
    Nothing,
    /// Reads of as many bytes from a plain server.
    PreparedBody,
    /// Reads of the big room, in which no row changes.
    Quiet,
    /// Reads of `/rollcall`, which adds the node of each row.
    Full,
    /// Reads of the big room, of which 1 % of the rows are replaced per second.
    Churn,
}

pub struct BigRoom {
    pub rows: usize,
    /// Bytes of its JSON.
    pub json: usize,
    /// Resident bytes of the measured node with its own rows, before the first request.
    pub before: u64,
    pub measured: BTreeMap<ConcurrentLoad, LoadResult>,
    /// The commands that wrote the rows into Redis.
    pub writing: CommandStats,
}

pub struct LoadResult {
    /// Durations by size of the small room, sorted.
    pub small: BTreeMap<usize, Vec<Duration>>,
    pub read: Option<ReadResult>,
    /// The maximum of resident bytes of the measured node.
    pub peak: u64,
    pub redis: CommandStats,
}

struct Nodes {
    processes: Vec<Worker>,
    addresses: Vec<SocketAddr>,
}

/// Registers `rows` rows, and measures each load for `time`.
///
/// # Errors
/// When an answer is wrong, or a request fails.
pub async fn measure(nodes: usize, rows: usize, time: Duration) -> Result<BigRoom> {
    let redis = Redis::start().await?;
    let mut nodes = Nodes::start(&redis, nodes).await?;
    let mut commands = CommandMonitor::connect(&redis.url).await?;
    for room in SMALL {
        nodes.put(&format!("Small-{room}"), room).await?;
    }
    let expected = nodes.put(ROOM, rows).await?;
    sleep(INDEX_WRITE_DELAY).await;
    let writing = commands.take().await?;
    let before = nodes.memory()?.now;
    measure::expect_at(&nodes.addresses, ROOM, &expected).await?;
    let (_, body) = Requester::connect(nodes.addresses[0], ROOM).await?.request().await?;

    let (_server, plain_server) = parts::start_prepared(rows).await?;
    let mut big_room = BigRoom { rows, json: body.len(), before, measured: BTreeMap::new(), writing };
    for load in [
        ConcurrentLoad::Nothing,
        ConcurrentLoad::PreparedBody,
        ConcurrentLoad::Quiet,
        ConcurrentLoad::Full,
        ConcurrentLoad::Churn,
    ] {
        let users = format!("/{ROOM}/users");
        let mut reader = match load {
            ConcurrentLoad::Nothing => None,
            ConcurrentLoad::PreparedBody => Some(Reader::start(plain_server, &users)?),
            ConcurrentLoad::Quiet | ConcurrentLoad::Churn => Some(Reader::start(nodes.addresses[0], &users)?),
            ConcurrentLoad::Full => Some(Reader::start(nodes.addresses[0], &format!("/{ROOM}/rollcall"))?),
        };
        if load == ConcurrentLoad::Churn {
            nodes.churn(rows / CHURN_SHARE).await?;
        }
        commands.take().await?;
        Memory::reset_peak(nodes.processes[0].pid()?)?;
        let mut small = BTreeMap::new();
        let mut read = None;
        for room in SMALL {
            let requests = request_small(nodes.addresses[0], room, time);
            let took = match &mut reader {
                None => requests.await?,
                Some(reader) => {
                    let (took, result) = try_join(requests, reader.read(time + 2 * READ_MARGIN)).await?;
                    read = Some(result);
                    took
                }
            };
            small.insert(room, took);
        }
        let (peak, redis) = (nodes.memory()?.peak, commands.take().await?);
        big_room.measured.insert(load, LoadResult { small, read, peak, redis });
    }
    Ok(big_room)
}

/// Returns the durations of sequential requests for a small room, sorted.
async fn request_small(address: SocketAddr, room: usize, time: Duration) -> Result<Vec<Duration>> {
    sleep(READ_MARGIN).await;
    let mut requester = Requester::connect(address, &format!("Small-{room}")).await?;
    let mut took = requester.sequential(time).await?;
    took.sort_unstable();
    Ok(took)
}

impl Nodes {
    async fn start(redis: &Redis, count: usize) -> Result<Self> {
        let names: Vec<String> = (1..=count).map(|number| format!("node-{number}")).collect();
        let processes = names.iter().map(|name| Worker::start(&["rows", &redis.url, name]));
        let mut processes = processes.collect::<Result<Vec<_>>>()?;
        let replies = try_join_all(processes.iter_mut().map(|process| process.send("address"))).await?;
        let addresses = replies.concat().iter().map(|address| address.parse()).collect::<Result<_, _>>()?;
        Ok(Self { processes, addresses })
    }

    /// Spreads `rows` rows evenly over the nodes, and returns them.
    async fn put(&mut self, room: &str, rows: usize) -> Result<Listing> {
        let count = self.processes.len();
        let mut listing = Listing::new();
        for (index, process) in self.processes.iter_mut().enumerate() {
            let share = (rows + index) / count;
            process.send(&format!("put {room} {share}")).await?;
            listing.extend((0..share).map(|number| node::row(&format!("node-{}", index + 1), room, number)));
        }
        Ok(listing)
    }

    async fn churn(&mut self, each_second: usize) -> Result<()> {
        let share = each_second / self.processes.len();
        for process in &mut self.processes {
            process.send(&format!("churn {ROOM} {share}")).await?;
        }
        Ok(())
    }

    /// The memory of the first node, the only one that gets requests.
    fn memory(&self) -> Result<Memory> {
        Memory::of(self.processes.first().context("there are no nodes")?.pid()?)
    }
}
