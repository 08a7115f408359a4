//! A reconnect storm: all connections are cut at once, and everybody comes back at will.
//!
//! Owns one such storm and what is observed of it from outside: when each client is back, what roll calls say meanwhile,
//! and when every process lists exactly those who are back. For rollcall also the [`index`], which is written behind.

pub mod index;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::crowd::Crowd;
use crate::measure::{self, Asker, Row};
use crate::system::{Kind, System};
use index::Lag;

/// How often the roll is called during a storm.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How long roll calls go on before the connections are cut.
const CALM: Duration = Duration::from_millis(500);

/// One storm.
pub struct Storm {
    /// How long each client was away, sorted.
    pub away: Vec<Duration>,
    /// How many attempts to connect failed, by reason.
    pub failures: BTreeMap<String, usize>,
    pub calls: Calls,
    /// From when the last client was told that it is in until every process had listed exactly those who are back: with
    /// the time that asking takes, and how many answers were wrong.
    pub listed: Duration,
    pub wrong: usize,
    /// For rollcall: what its index lists.
    pub lag: Option<Lag>,
}

/// Roll calls on one process during a storm.
#[derive(Default)]
pub struct Calls {
    /// Of those that were answered, sorted.
    pub took: Vec<Duration>,
    pub incomplete: usize,
    pub failed: usize,
    /// How long after the cut somebody was listed last whose connection had been cut.
    pub dead_until: Duration,
}

/// Which ids are those of connections that are cut, and since when.
pub struct Cut {
    pub began: Instant,
    pub dead: HashSet<String>,
}

/// Has so many clients in the room cut off, and watches how they come back.
///
/// # Errors
/// When they do not, or are not listed.
pub async fn measure(system: &System, room: &str, size: usize) -> Result<Storm> {
    let (mut crowd, _) = Crowd::fill(system.kind.protocol(), &system.addresses, room, size).await?;
    let pairs = crowd.pairs().await?;
    measure::expect_right(system, room, &pairs).await?;
    let (over, is_over) = watch::channel(false);
    let dead = pairs.into_iter().map(|(id, _)| id).collect();
    // A moment of calm comes first, so that what watches is under way.
    let cut = Arc::new(Cut { began: Instant::now() + CALM, dead });
    let calls = tokio::spawn(call(system.addresses[0], room.to_owned(), Arc::clone(&cut), is_over.clone()));
    let index = match system.kind {
        Kind::Rollcall => Some(index::connect(&system.redis.url, room).await?),
        _ => None,
    };
    let index = index.map(|index| tokio::spawn(index.watch(size, Arc::clone(&cut), is_over)));

    sleep(CALM).await;
    let began = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let returned = crowd.storm().await?;
    let last = returned.back.values().max().copied().context("nobody was cut off")?;
    let wrong = measure::expect_right(system, room, &returned.pairs).await?;
    let listed = SystemTime::now().duration_since(UNIX_EPOCH)?.saturating_sub(last);

    over.send_replace(true);
    let calls = calls.await??;
    let lag = match index {
        Some(index) => Some(index.await??.lag(&returned.back, began)),
        None => None,
    };
    crowd.leave().await?;
    measure::expect_empty(system, room).await?;
    let mut away: Vec<Duration> = returned.back.values().map(|back| back.saturating_sub(began)).collect();
    away.sort_unstable();
    Ok(Storm { away, failures: returned.failures, calls, listed, wrong, lag })
}

/// Calls the roll again and again until it is over.
async fn call(address: SocketAddr, room: String, cut: Arc<Cut>, over: watch::Receiver<bool>) -> Result<Calls> {
    let mut calls = Calls::default();
    let mut asker = Asker::connect(address, &room).await?;
    let mut ticks = interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*over.borrow() {
        ticks.tick().await;
        let asked = Instant::now();
        let Ok((complete, body)) = asker.ask().await else {
            calls.failed += 1;
            asker = Asker::connect(address, &room).await?;
            continue;
        };
        if asked < cut.began {
            continue;
        }
        calls.took.push(asked.elapsed());
        calls.incomplete += usize::from(!complete);
        let rows: Vec<Row> = serde_json::from_slice(&body)?;
        if rows.iter().any(|row| cut.dead.contains(&row.id_socket)) {
            calls.dead_until = asked.duration_since(cut.began);
        }
    }
    calls.took.sort_unstable();
    Ok(calls)
}
