//! The log on standard error: its format and its levels.
//!
//! Owns the one subscriber of the process: log lines, whose levels change at run time ([`LogLevelHandle`]), and spans,
//! which go to the exporter of [`super::traces`]. The two are independent: a line carries a [`request`] id instead of a
//! span, and the log levels neither create nor hide exported spans. Lines that could repeat without end go through a
//! [`throttle`].

mod format;
pub mod request;
pub mod throttle;

use std::io::IsTerminal as _;
use std::sync::Arc;

use clap::ValueEnum;
use opentelemetry_sdk::trace::SdkTracer;
use parking_lot::Mutex;
use thiserror::Error;
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::telemetry::traces;
use format::{JsonFormat, TextFormat};

/// The limit of the length of the levels as text.
const MAX_LEVELS_BYTES: usize = 4096;

/// The format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The configuration of a log that has not started yet.
pub struct Logging {
    filter: EnvFilter,
    levels: String,
    format: LogFormat,
}

/// Reads and changes the levels of the running log. Cheap to clone.
#[derive(Clone)]
pub struct LogLevelHandle(Arc<ActiveLevels>);

struct ActiveLevels {
    /// The text that `filter` was parsed from.
    text: Mutex<String>,
    filter: Handle<EnvFilter, Registry>,
}

/// The fault of log levels.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    #[error("no level is named: pass error, warn, info, debug or off")]
    Empty,
    #[error("the levels have more than {MAX_LEVELS_BYTES} bytes")]
    TooLong,
    #[error("`{0}` is not a level (error, warn, info, debug, off); a module needs one, as in rollcall::mesh=debug")]
    NoLevel(String),
    #[error("`{0}` is not available in this program; the most is debug")]
    TooMuch(String),
    #[error("`{0}` is not valid; pass a level, or levels by module as in info,rollcall::mesh=debug")]
    Invalid(String),
    #[error("the log has stopped, so its levels cannot be changed")]
    Stopped,
}

impl Logging {
    /// # Errors
    /// When `levels` is not valid.
    pub fn new(levels: &str, format: LogFormat) -> Result<Self, Error> {
        Ok(Self { filter: parse(levels)?, levels: levels.trim().to_owned(), format })
    }

    /// Starts the log, and exports spans through `tracer`.
    ///
    /// # Panics
    /// When a log was started in this process before.
    pub fn start(self, tracer: Option<SdkTracer>) -> LogLevelHandle {
        let (filter, handle) = reload::Layer::new(self.filter);
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        let lines = fmt::layer().with_writer(std::io::stderr);
        let lines = match self.format {
            LogFormat::Text => lines.with_ansi(colours).event_format(TextFormat).boxed(),
            LogFormat::Json => lines.with_ansi(false).event_format(JsonFormat).boxed(),
        };
        let no_spans = filter_fn(|metadata| !metadata.is_span());
        let mut layers = vec![lines.with_filter(no_spans.and(filter)).boxed()];
        layers.extend(tracer.map(|tracer| {
            let exported = filter_fn(traces::is_exported).with_max_level_hint(LevelFilter::INFO);
            let layer = tracing_opentelemetry::layer().with_tracer(tracer);
            let layer =
                layer.with_location(false).with_threads(false).with_target(false).with_tracked_inactivity(false);
            layer.with_filter(exported).boxed()
        }));
        // Global to the process: the macros of `tracing`, also those in libraries, log to one subscriber.
        tracing_subscriber::registry().with(layers).init();
        LogLevelHandle(Arc::new(ActiveLevels { text: Mutex::new(self.levels), filter: handle }))
    }
}

impl LogLevelHandle {
    pub fn current(&self) -> String {
        self.0.text.lock().clone()
    }

    /// # Errors
    /// When `levels` is not valid; then nothing changes.
    pub fn change(&self, levels: &str) -> Result<(), Error> {
        let filter = parse(levels)?;
        // The lock is held while the filter is replaced, so that the text and the filter always agree.
        let mut text = self.0.text.lock();
        self.0.filter.reload(filter).map_err(|_| Error::Stopped)?;
        levels.trim().clone_into(&mut text);
        Ok(())
    }
}

/// Stricter than [`EnvFilter`], which treats a misspelled level as the name of a module, and then disables all others.
fn parse(levels: &str) -> Result<EnvFilter, Error> {
    let levels = levels.trim();
    if levels.len() > MAX_LEVELS_BYTES {
        return Err(Error::TooLong);
    }
    if levels.is_empty() {
        return Err(Error::Empty);
    }
    let quoted = |text: &str| text.chars().filter(|character| !character.is_control()).take(64).collect::<String>();
    for one in levels.split(',') {
        let level = one.rsplit_once('=').map_or(one, |(_, level)| level).trim();
        if level.parse::<LevelFilter>().is_ok_and(|level| level > STATIC_MAX_LEVEL) {
            return Err(Error::TooMuch(quoted(one)));
        }
        let with_module = one.contains(['=', '[', ']', '{', '}', '"']);
        if !with_module
            && !["error", "warn", "info", "debug", "off"].iter().any(|name| level.eq_ignore_ascii_case(name))
        {
            return Err(Error::NoLevel(quoted(one)));
        }
    }
    EnvFilter::try_new(levels).map_err(|_| Error::Invalid(quoted(levels)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_parsed_and_errors_quote_the_wrong_part() {
        for good in ["info", " WARN \n", "off", "info,rollcall::mesh=debug", "rollcall=DEBUG", "warn,[request]=debug"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for (bad, named) in [
            ("", "no level is named"),
            ("inof", "`inof`"),
            ("info,rollcall::mesh", "`rollcall::mesh`"),
            ("info,,debug", "``"),
            ("rollcall=loud", "rollcall=loud"),
            ("trace", "the most is debug"),
            ("info,h2 = TRACE", "`h2 = TRACE` is not available"),
            ("info\u{1b}[31m\nrollcall", "info"),
            (&"a".repeat(5000), "4096"),
        ] {
            let error = parse(bad).expect_err("it is not valid").to_string();
            assert!(error.contains(named) && !error.contains(char::is_control), "{bad}: {error}");
        }
    }
}
