//! The socket-id sets of rollcall's index during a storm, read from Redis at a fixed interval.
//!
//! A roll call does not read these sets. They are written behind; this module measures the delay.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Disconnect;

pub const READ_INTERVAL: Duration = Duration::from_millis(50);
/// The index may change for this long after the storm.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

pub struct IndexReader {
    redis: MultiplexedConnection,
    room: String,
}

/// The observed changes of the index.
pub struct IndexHistory {
    /// When an id was listed first, since 1970.
    first_listed: HashMap<String, Duration>,
    /// When an id of a cut connection was listed last, since 1970.
    last_dead_listing: Duration,
}

/// The delays of the index. Each is an upper bound, because the index is read at an interval.
pub struct IndexLag {
    /// The longest time from the acknowledgement of a client until its id was listed.
    pub joined: Duration,
    /// From the cut until no id of a cut connection was listed.
    pub dead: Duration,
}

impl IndexReader {
    /// # Errors
    /// When Redis does not answer.
    pub async fn connect(url: &str, room: &str) -> Result<Self> {
        let redis = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
        Ok(Self { redis, room: room.to_owned() })
    }

    /// Reads until the storm is over, and the index lists `size` ids, none of them of a cut connection.
    ///
    /// # Errors
    /// When the index does not reach that state in time.
    pub async fn watch(
        mut self,
        size: usize,
        disconnect: Arc<Disconnect>,
        over: watch::Receiver<bool>,
    ) -> Result<IndexHistory> {
        let mut history = IndexHistory { first_listed: HashMap::new(), last_dead_listing: Duration::ZERO };
        let mut ticks = interval(READ_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut over_since = None;
        loop {
            ticks.tick().await;
            let listed = self.read().await?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            let (mut dead, count) = (0, listed.len());
            for id in listed {
                if disconnect.dead.contains(&id) {
                    dead += 1;
                } else {
                    history.first_listed.entry(id).or_insert(now);
                }
            }
            if dead > 0 {
                history.last_dead_listing = now;
            }
            if *over.borrow() {
                if dead == 0 && count == size {
                    return Ok(history);
                }
                if over_since.get_or_insert_with(Instant::now).elapsed() > SETTLE_TIMEOUT {
                    bail!("the index lists {count} ids instead of {size}, and {dead} of cut connections");
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

impl IndexHistory {
    /// `acknowledged`: by id, when the client was acknowledged. `cut_at`: when the connections were cut. Both since 1970.
    pub fn lag(&self, acknowledged: &BTreeMap<String, Duration>, cut_at: Duration) -> IndexLag {
        let lags = acknowledged.iter().filter_map(|(id, when)| Some(self.first_listed.get(id)?.saturating_sub(*when)));
        IndexLag {
            joined: lags.max().unwrap_or_default(),
            dead: self.last_dead_listing.saturating_sub(cut_at) + READ_INTERVAL,
        }
    }
}
