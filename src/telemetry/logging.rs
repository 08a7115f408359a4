//! The log: what is written to standard error, in which form, and how much of it.
//!
//! Owns the one subscriber of the process: the lines, whose levels change while it runs ([`Levels`]), and beside them the
//! spans that are exported, where they are ([`crate::telemetry::traces`]). The two do not mix: a line carries the [`request`] that it
//! is about and no span, and no level of the log makes or hides a span that is exported. Lines that could
//! repeat without end go through a [`throttle`].

pub mod json;
pub mod request;
mod text;
pub mod throttle;

use std::io::IsTerminal as _;
use std::sync::{Mutex, OnceLock};

use clap::ValueEnum;
use opentelemetry_sdk::trace::SdkTracer;
use thiserror::Error;
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::telemetry::traces;
use json::Json;
use text::Text;

/// The longest text of levels, in bytes.
const LEVELS_MOST: usize = 4096;

/// The levels of this process, once it logs.
static LEVELS: OnceLock<Levels> = OnceLock::new();

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A log that has not begun.
pub struct Logging {
    filter: EnvFilter,
    levels: String,
    format: Format,
}

/// What is logged, and how to change it.
pub struct Levels {
    current: Mutex<String>,
    filter: Handle<EnvFilter, Registry>,
}

/// Why a text says no levels.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    #[error("no level is named: one is error, warn, info, debug or off")]
    Empty,
    #[error("more than {LEVELS_MOST} bytes of levels")]
    TooLong,
    #[error("`{0}` is no level (error, warn, info, debug, off); a module goes with one, as in rollcall::mesh=debug")]
    NoLevel(String),
    #[error("`{0}` is more than this program ever logs; the most is debug")]
    TooMuch(String),
    #[error("`{0}` makes no sense; write a level, or levels by module as in info,rollcall::mesh=debug")]
    Senseless(String),
    #[error("the levels cannot be changed any more")]
    Gone,
}

impl Logging {
    /// # Errors
    /// When `levels` makes no sense.
    pub fn new(levels: &str, format: Format) -> Result<Self, Error> {
        Ok(Self { filter: parse(levels)?, levels: levels.trim().to_owned(), format })
    }

    /// Logs from now on, and hands spans to `tracer`. Without one there is nothing that would take any.
    ///
    /// # Panics
    /// When it has begun in this process.
    pub fn begin(self, tracer: Option<SdkTracer>) {
        let (filter, handle) = reload::Layer::new(self.filter);
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        let lines = fmt::layer().with_writer(std::io::stderr);
        let lines = match self.format {
            Format::Text => lines.with_ansi(colours).event_format(Text).boxed(),
            Format::Json => lines.with_ansi(false).event_format(Json).boxed(),
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
        tracing_subscriber::registry().with(layers).init();
        // Whoever begins twice has panicked above.
        let _ = LEVELS.set(Levels { current: Mutex::new(self.levels), filter: handle });
    }
}

/// The levels of this process; `None` while it does not log.
pub fn levels() -> Option<&'static Levels> {
    LEVELS.get()
}

impl Levels {
    pub fn current(&self) -> String {
        self.current.lock().expect("no code panics while it holds the levels").clone()
    }

    /// # Errors
    /// When `levels` makes no sense; then nothing changes.
    pub fn change(&self, levels: &str) -> Result<(), Error> {
        let filter = parse(levels)?;
        let mut current = self.current.lock().expect("no code panics while it holds the levels");
        self.filter.reload(filter).map_err(|_| Error::Gone)?;
        levels.trim().clone_into(&mut current);
        Ok(())
    }
}

/// A word that is neither a level nor a module with one would otherwise turn everything off but the module of that name.
fn parse(levels: &str) -> Result<EnvFilter, Error> {
    let levels = levels.trim();
    if levels.len() > LEVELS_MOST {
        return Err(Error::TooLong);
    }
    if levels.is_empty() {
        return Err(Error::Empty);
    }
    let shown = |text: &str| text.chars().filter(|character| !character.is_control()).take(64).collect::<String>();
    for one in levels.split(',') {
        let level = one.rsplit_once('=').map_or(one, |(_, level)| level).trim();
        if level.parse::<LevelFilter>().is_ok_and(|level| level > STATIC_MAX_LEVEL) {
            return Err(Error::TooMuch(shown(one)));
        }
        let with_module = one.contains(['=', '[', ']', '{', '}', '"']);
        if !with_module
            && !["error", "warn", "info", "debug", "off"].iter().any(|name| level.eq_ignore_ascii_case(name))
        {
            return Err(Error::NoLevel(shown(one)));
        }
    }
    EnvFilter::try_new(levels).map_err(|_| Error::Senseless(shown(levels)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_one_or_one_for_each_module_and_anything_else_is_refused_with_what_it_was() {
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
            ("info,h2 = TRACE", "`h2 = TRACE` is more"),
            ("info\u{1b}[31m\nrollcall", "info"),
            (&"a".repeat(5000), "4096"),
        ] {
            let refused = parse(bad).expect_err("it is refused").to_string();
            assert!(refused.contains(named) && !refused.contains(char::is_control), "{bad}: {refused}");
        }
    }
}
