//! How long Redis was busy with single commands, by its own account.

use anyhow::{Context, Result};
use redis::Value;
use redis::aio::MultiplexedConnection;

/// Shorter ones are not told, in microseconds.
const TOLD_FROM: u64 = 20;
const TOLD_MOST: u64 = 10_000;

pub struct Commands(MultiplexedConnection);

/// One command, without its arguments.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Longest {
    pub microseconds: u64,
    pub command: String,
}

impl Commands {
    /// # Errors
    /// When Redis does not answer.
    pub async fn watch(url: &str) -> Result<Self> {
        let mut redis = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
        let mut config = redis::cmd("CONFIG");
        config.arg("SET").arg("slowlog-log-slower-than").arg(TOLD_FROM).arg("slowlog-max-len").arg(TOLD_MOST);
        config.query_async::<()>(&mut redis).await?;
        Ok(Self(redis))
    }

    /// The longest since the last time, over all that are not about this measurement itself.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn longest(&mut self) -> Result<Longest> {
        let log: Vec<Value> = redis::cmd("SLOWLOG").arg("GET").arg(TOLD_MOST).query_async(&mut self.0).await?;
        redis::cmd("SLOWLOG").arg("RESET").query_async::<()>(&mut self.0).await?;
        let mut longest = Longest { microseconds: 0, command: format!("all under {TOLD_FROM} µs") };
        for entry in log {
            // Its number, when, how long, and its words.
            let (_, _, microseconds, words): (u64, u64, u64, Vec<String>) = {
                let Value::Array(fields) = entry else { continue };
                let fields = fields.get(..4).context("four fields")?;
                redis::from_redis_value(Value::Array(fields.to_vec()))?
            };
            let command = words.into_iter().next().unwrap_or_default();
            if !["CONFIG", "SLOWLOG", "INFO"].contains(&command.as_str()) {
                longest = longest.max(Longest { microseconds, command });
            }
        }
        Ok(longest)
    }
}
