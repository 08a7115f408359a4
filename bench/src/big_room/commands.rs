//! The duration of single Redis commands, as Redis itself measures it.
//!
//! Redis measures wall-clock time, which includes any time in which the machine ran another process. So the mean is the
//! cost of a command, and the maximum is only an upper bound.

use anyhow::{Context, Result};
use redis::Value;
use redis::aio::MultiplexedConnection;

/// Shorter commands are not in the slow log.
const MIN_LOGGED_MICROSECONDS: u64 = 20;
const MAX_LOGGED_COMMANDS: usize = 100_000;
/// The commands of this measurement itself.
const OWN_COMMANDS: [&str; 3] = ["config", "slowlog", "info"];

pub struct CommandMonitor(MultiplexedConnection);

/// The commands between two calls of [`CommandMonitor::take`].
#[derive(Debug, Default)]
pub struct CommandStats {
    pub commands: u64,
    /// The sum of all durations, in microseconds.
    pub took: u64,

    pub over_a_millisecond: usize,
    /// Microseconds, and the command without its arguments; 0 if no command was in the slow log.
    pub longest: (u64, String),
}

impl CommandMonitor {
    /// # Errors
    /// When Redis does not answer.
    pub async fn connect(url: &str) -> Result<Self> {
        let mut redis = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
        let mut config = redis::cmd("CONFIG");
        config
            .arg("SET")
            .arg("slowlog-log-slower-than")
            .arg(MIN_LOGGED_MICROSECONDS)
            .arg("slowlog-max-len")
            .arg(MAX_LOGGED_COMMANDS);
        config.query_async::<()>(&mut redis).await?;
        Ok(Self(redis))
    }

    /// Returns the statistics since the last call, and resets them.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn take(&mut self) -> Result<CommandStats> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("INFO").arg("commandstats").cmd("SLOWLOG").arg("GET").arg(MAX_LOGGED_COMMANDS);
        pipeline.cmd("CONFIG").arg("RESETSTAT").ignore().cmd("SLOWLOG").arg("RESET").ignore();
        let (statistics, log): (String, Vec<Value>) = pipeline.query_async(&mut self.0).await?;
        let mut stats = CommandStats::default();
        for line in statistics.lines() {
            let Some((command, numbers)) = line.strip_prefix("cmdstat_").and_then(|line| line.split_once(':')) else {
                continue;
            };
            if is_own(command) {
                continue;
            }
            let number = |name| numbers.split(',').find_map(|field| field.strip_prefix(name)?.parse::<u64>().ok());
            stats.commands += number("calls=").context("no calls in commandstats")?;
            stats.took += number("usec=").context("no usec in commandstats")?;
        }
        for entry in log {
            // Its number, time, duration and words; then the address and name of its client.
            let Value::Array(mut fields) = entry else { continue };
            fields.truncate(4);
            let (_, _, took, words): (u64, u64, u64, Vec<Value>) = redis::from_redis_value(Value::Array(fields))?;
            let command: String = redis::from_redis_value(words.into_iter().next().context("a command has words")?)?;
            if !is_own(&command.to_lowercase()) {
                stats.over_a_millisecond += usize::from(took > 1_000);
                stats.longest = stats.longest.max((took, command));
            }
        }
        Ok(stats)
    }
}

fn is_own(command: &str) -> bool {
    OWN_COMMANDS.iter().any(|own| command.starts_with(own))
}
