//! What rollcall's index lists during a storm, read from Redis every few milliseconds.
//!
//! A roll call does not read these lists: they are written behind, and how far behind is what is asked here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Cut;

/// How often it is read.
pub const READ_EVERY: Duration = Duration::from_millis(50);
/// How long after the storm it may still change.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);

/// The index, and the room that is read of it.
pub struct Index {
    redis: MultiplexedConnection,
    room: String,
}

/// What was seen of it.
pub struct Seen {
    /// When an id was there first, in time since 1970.
    first: HashMap<String, Duration>,
    /// When there was an id last that was cut off.
    dead_until: Duration,
}

/// How far it was behind, each at most: it is read from time to time.
pub struct Lag {
    /// The longest from when a client was told that it is in until it was there.
    pub joined: Duration,
    /// From the cut until nobody was there who had been cut off.
    pub dead: Duration,
}

/// # Errors
/// When Redis does not answer.
pub async fn connect(url: &str, room: &str) -> Result<Index> {
    let redis = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    Ok(Index { redis, room: room.to_owned() })
}

impl Index {
    /// Reads until the storm is over and exactly so many are there, none of them cut off.
    ///
    /// # Errors
    /// When that does not come true.
    pub async fn watch(mut self, size: usize, cut: Arc<Cut>, over: watch::Receiver<bool>) -> Result<Seen> {
        let mut seen = Seen { first: HashMap::new(), dead_until: Duration::ZERO };
        let mut ticks = interval(READ_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut since = None;
        loop {
            ticks.tick().await;
            let listed = self.read().await?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            let (mut dead, count) = (0, listed.len());
            for id in listed {
                if cut.dead.contains(&id) {
                    dead += 1;
                } else {
                    seen.first.entry(id).or_insert(now);
                }
            }
            if dead > 0 {
                seen.dead_until = now;
            }
            if *over.borrow() {
                if dead == 0 && count == size {
                    return Ok(seen);
                }
                if since.get_or_insert_with(Instant::now).elapsed() > SETTLES_WITHIN {
                    bail!("the index lists {count} instead of {size}, and {dead} that were cut off");
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Vec<String>> {
        let nodes: Vec<String> = redis::cmd("SMEMBERS").arg("rollcall:nodes").query_async(&mut self.redis).await?;
        let mut lists = redis::pipe();
        for node in nodes {
            lists.cmd("SMEMBERS").arg(format!("rollcall:room:{node}:{}", self.room));
        }
        let lists: Vec<Vec<String>> = lists.query_async(&mut self.redis).await?;
        Ok(lists.concat())
    }
}

impl Seen {
    /// `back`: when the client with this id was told that it is in. `began`: when the connections were cut.
    pub fn lag(&self, back: &BTreeMap<String, Duration>, began: Duration) -> Lag {
        let lags = back.iter().filter_map(|(id, back)| Some(self.first.get(id)?.saturating_sub(*back)));
        Lag { joined: lags.max().unwrap_or_default(), dead: self.dead_until.saturating_sub(began) + READ_EVERY }
    }
}
