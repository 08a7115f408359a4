//! A reconnect storm: all connections are cut at once, and all clients reconnect.
//!
//! Owns one storm and its measurements from outside: when each client has reconnected, the answers of roll calls during
//! the storm, and when every process lists exactly the reconnected clients. For rollcall also the delay of the [`index`],
//! which is written behind.

pub mod index;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::crowd::Crowd;
use crate::measure::{self, Requester, Row};
use crate::system::{Kind, System};
use index::{IndexLag, IndexReader};

const ROLL_CALL_INTERVAL: Duration = Duration::from_millis(20);
/// Roll calls begin this long before the connections are cut.
const WARM_UP: Duration = Duration::from_millis(500);

pub struct Storm {
    /// The time from the cut to the acknowledgement, for each client, sorted.
    pub reconnect_times: Vec<Duration>,
    /// Failed attempts to connect, by reason.
    pub failures: BTreeMap<String, usize>,
    pub calls: RollCalls,
    /// From the last acknowledgement until every process has listed exactly the reconnected clients. It includes the time
    /// of the requests.
    pub listed: Duration,
    /// Answers until then that were not right.
    pub wrong: usize,
    /// For rollcall only.
    pub lag: Option<IndexLag>,
}

/// Roll calls on one process during a storm.
#[derive(Default)]
pub struct RollCalls {
    /// Durations of the answered ones, sorted.
    pub took: Vec<Duration>,
    pub incomplete: usize,
    pub failed: usize,
    /// The time from the cut to the last answer that lists a socket of a cut connection.
    pub last_dead_listing: Duration,
}

/// The cut of all connections, and the ids of their sockets.
pub struct Disconnect {
    pub began: Instant,
    pub dead: HashSet<String>,
}

/// Connects `size` clients, cuts their connections, and measures until they are listed again.
///
/// # Errors
/// When a client does not reconnect, or is not listed.
pub async fn measure(system: &System, room: &str, size: usize) -> Result<Storm> {
    let (mut crowd, _) = Crowd::fill(system.kind.protocol(), &system.addresses, room, size).await?;
    let listing = crowd.listing().await?;
    measure::expect_listing(system, room, &listing).await?;
    let (over, is_over) = watch::channel(false);
    let dead = listing.into_iter().map(|(id, _)| id).collect();
    let disconnect = Arc::new(Disconnect { began: Instant::now() + WARM_UP, dead });
    let calls =
        tokio::spawn(call_repeatedly(system.addresses[0], room.to_owned(), Arc::clone(&disconnect), is_over.clone()));
    let index = match system.kind {
        Kind::Rollcall => Some(IndexReader::connect(&system.redis.url, room).await?),
        _ => None,
    };
    let index = index.map(|index| tokio::spawn(index.watch(size, Arc::clone(&disconnect), is_over)));

    sleep(WARM_UP).await;
    let cut_at = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let reconnects = crowd.storm().await?;
    let last = reconnects.acknowledged.values().max().copied().context("the crowd has no clients")?;
    let wrong = measure::expect_listing(system, room, &reconnects.listing).await?;
    let listed = SystemTime::now().duration_since(UNIX_EPOCH)?.saturating_sub(last);

    over.send_replace(true);
    let calls = calls.await??;
    let lag = match index {
        Some(index) => Some(index.await??.lag(&reconnects.acknowledged, cut_at)),
        None => None,
    };
    crowd.leave().await?;
    measure::expect_empty(system, room).await?;
    let mut reconnect_times: Vec<Duration> =
        reconnects.acknowledged.values().map(|when| when.saturating_sub(cut_at)).collect();
    reconnect_times.sort_unstable();
    Ok(Storm { reconnect_times, failures: reconnects.failures, calls, listed, wrong, lag })
}

/// Calls the roll at an interval until `over` is true.
async fn call_repeatedly(
    address: SocketAddr,
    room: String,
    disconnect: Arc<Disconnect>,
    over: watch::Receiver<bool>,
) -> Result<RollCalls> {
    let mut calls = RollCalls::default();
    let mut requester = Requester::connect(address, &room).await?;
    let mut ticks = interval(ROLL_CALL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*over.borrow() {
        ticks.tick().await;
        let requested = Instant::now();
        let Ok((complete, body)) = requester.request().await else {
            calls.failed += 1;
            requester = Requester::connect(address, &room).await?;
            continue;
        };
        if requested < disconnect.began {
            continue;
        }
        calls.took.push(requested.elapsed());
        calls.incomplete += usize::from(!complete);
        let rows: Vec<Row> = serde_json::from_slice(&body)?;
        if rows.iter().any(|row| disconnect.dead.contains(&row.id_socket)) {
            calls.last_dead_listing = requested.duration_since(disconnect.began);
        }
    }
    calls.took.sort_unstable();
    Ok(calls)
}
