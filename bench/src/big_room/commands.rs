//! How long Redis was busy with single commands, by its own account.
//!
//! It counts the time of the clock, also while the machine let something else run in the middle of a command: the mean
//! tells what a command costs, and the longest what cannot be ruled out.

use anyhow::{Context, Result};
use redis::Value;
use redis::aio::MultiplexedConnection;

/// Shorter ones are not looked at one by one, in microseconds.
const LOOKED_AT_FROM: u64 = 20;
const LOOKED_AT_MOST: usize = 100_000;
/// What is said of this measurement itself does not count.
const OURS: [&str; 3] = ["config", "slowlog", "info"];

pub struct Commands(MultiplexedConnection);

/// The commands of a while.
#[derive(Debug, Default)]
pub struct Busy {
    pub commands: u64,
    /// Microseconds of all of them.
    pub took: u64,
    /// How many took longer than a millisecond.
    pub over_a_millisecond: usize,
    /// Microseconds, and the command without its arguments; 0 where all were short.
    pub longest: (u64, String),
}

impl Commands {
    /// # Errors
    /// When Redis does not answer.
    pub async fn watch(url: &str) -> Result<Self> {
        let mut redis = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
        let mut config = redis::cmd("CONFIG");
        config.arg("SET").arg("slowlog-log-slower-than").arg(LOOKED_AT_FROM).arg("slowlog-max-len").arg(LOOKED_AT_MOST);
        config.query_async::<()>(&mut redis).await?;
        Ok(Self(redis))
    }

    /// What there was since the last time.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn since(&mut self) -> Result<Busy> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("INFO").arg("commandstats").cmd("SLOWLOG").arg("GET").arg(LOOKED_AT_MOST);
        pipeline.cmd("CONFIG").arg("RESETSTAT").ignore().cmd("SLOWLOG").arg("RESET").ignore();
        let (statistics, log): (String, Vec<Value>) = pipeline.query_async(&mut self.0).await?;
        let mut busy = Busy::default();
        for line in statistics.lines() {
            let Some((command, numbers)) = line.strip_prefix("cmdstat_").and_then(|line| line.split_once(':')) else {
                continue;
            };
            if is_ours(command) {
                continue;
            }
            let number = |name| numbers.split(',').find_map(|field| field.strip_prefix(name)?.parse::<u64>().ok());
            busy.commands += number("calls=").context("no calls in commandstats")?;
            busy.took += number("usec=").context("no usec in commandstats")?;
        }
        for entry in log {
            // Its number, when, how long, and its words; then who sent it.
            let Value::Array(mut fields) = entry else { continue };
            fields.truncate(4);
            let (_, _, took, words): (u64, u64, u64, Vec<Value>) = redis::from_redis_value(Value::Array(fields))?;
            let command: String = redis::from_redis_value(words.into_iter().next().context("a command has words")?)?;
            if !is_ours(&command.to_lowercase()) {
                busy.over_a_millisecond += usize::from(took > 1_000);
                busy.longest = busy.longest.max((took, command));
            }
        }
        Ok(busy)
    }
}

fn is_ours(command: &str) -> bool {
    OURS.iter().any(|ours| command.starts_with(ours))
}
