//! The flags of the log, and those of `rollcall log`.
//!
//! Owns their words. What levels are is checked where the log is, [`crate::telemetry::logging`].

use clap::Args;

use super::admin::Asked;
use crate::telemetry::logging::{Error, Format, Logging};

#[derive(Debug, Args)]
pub struct LogArgs {
    /// What is logged to standard error: a level (error, warn, info, debug, off), or levels by module as in
    /// `info,rollcall::reconciler=debug`. Unless told otherwise `serve` logs info, and `dev` warn. `rollcall log` changes it
    /// while a node runs
    #[arg(long = "log", global = true, env = "ROLLCALL_LOG", value_name = "LEVELS")]
    pub levels: Option<String>,

    /// How a line of the log looks: `text`, or `json` for one object a line. Unless told otherwise text
    #[arg(long = "log-format", global = true, env = "ROLLCALL_LOG_FORMAT", value_name = "FORMAT")]
    pub format: Option<Format>,
}

/// What `rollcall log` is told.
#[derive(Debug, Args)]
pub struct Log {
    /// What to log from now on, as in --log; takes a token. Without it the node says what it logs
    #[arg(value_name = "LEVELS")]
    pub change: Option<String>,

    #[command(flatten)]
    pub asked: Asked,
}

impl LogArgs {
    /// The log that is asked for; `default` says the levels where no flag does.
    ///
    /// # Errors
    /// When the levels make no sense.
    pub fn open(&self, default: &str) -> Result<Logging, Error> {
        Logging::new(self.levels.as_deref().unwrap_or(default), self.format.unwrap_or_default())
    }
}
