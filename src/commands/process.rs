//! The process of a subcommand: the runtime, signals, exit codes and standard output.
//!
//! Owns no subcommand. Each one passes a future, and gets a token that the first signal cancels.
//!
//! Owns also the escaping of control characters, bidirectional overrides and invisible characters in the output. Names of
//! Rollcall contain no control characters, but another program may answer on the port of a node.

use std::fmt::Write as _;
use std::io;
use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::edge::connections::listener::raise_file_limit;
use crate::telemetry::logging::Logging;
use crate::telemetry::traces::export::TraceExporter;
use crate::telemetry::{NodeTelemetry, logging};

/// The command line or the configuration file is wrong.
pub(super) const EXIT_USAGE: u8 = 2;
/// The command failed.
pub(super) const EXIT_FAILED: u8 = 1;
/// A second signal ended the process; shells report SIGINT with this code.
const EXIT_INTERRUPTED: i32 = 130;

/// Runs `work` until it ends; the first SIGINT or SIGTERM cancels its token. Returns `failed` when it fails.
pub(super) fn run_until_signal<W: Future<Output = anyhow::Result<ExitCode>>>(
    logging: Result<Logging, logging::Error>,
    threads: Option<u16>,
    failed: u8,
    work: impl FnOnce(Logging, CancellationToken) -> W,
) -> ExitCode {
    let logging = match logging {
        Ok(logging) => logging,
        Err(error) => {
            eprintln!("rollcall: --log: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let result = runtime(threads).map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            let shutdown = CancellationToken::new();
            tokio::spawn(cancel_at_signal(shutdown.clone()));
            work(logging, shutdown).await
        })
    });
    result.unwrap_or_else(|error| {
        // An error before the log is set up must not be lost.
        if tracing::dispatcher::has_been_set() {
            error!("{error:#}");
        } else {
            eprintln!("rollcall: {error:#}");
        }
        ExitCode::from(failed)
    })
}

/// Starts the log, exports spans if there are `traces`, and raises the limit of open files. Returns the telemetry of a
/// node in this process.
pub(super) fn start_logging(logging: Logging, traces: Option<&TraceExporter>) -> NodeTelemetry {
    let log_levels = logging.start(traces.map(TraceExporter::tracer));
    raise_file_limit();
    let trace_sampling = traces.map(TraceExporter::sampling).unwrap_or_default();
    NodeTelemetry { log_levels: Some(log_levels), trace_sampling, ..NodeTelemetry::default() }
}

/// Runs a short command on one thread.
pub(super) fn block_on(command: impl Future<Output = ExitCode>) -> ExitCode {
    match runtime(Some(1)) {
        Ok(runtime) => {
            let code = runtime.block_on(command);
            // A DNS lookup on the blocking pool would otherwise delay the exit until its own timeout.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("rollcall: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints `text` to standard output. A reader that closes the pipe early, such as `head`, is no error.
pub(super) fn print_document(text: anyhow::Result<Vec<u8>>) -> ExitCode {
    let printed = text.and_then(|text| match print(text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rollcall: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the one line of a short command: its result to standard output, its error to standard error.
pub(super) fn print_line(result: Result<String, String>) -> ExitCode {
    match result {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("rollcall: {error}");
            ExitCode::FAILURE
        }
    }
}

fn runtime(threads: Option<u16>) -> std::io::Result<Runtime> {
    let mut builder = match threads {
        // On one thread no task moves to another: this saves the wake-ups, most of a roll call's time on few cores.
        Some(1) => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if let Some(threads) = threads {
        builder.worker_threads(usize::from(threads));
    }
    builder.enable_all().build()
}

/// The first signal starts a clean shutdown; the second exits at once.
async fn cancel_at_signal(shutdown: CancellationToken) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        error!("cannot handle SIGINT and SIGTERM; stop this process with SIGKILL");
        return;
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if shutdown.is_cancelled() {
            warn!("second signal: exiting at once");
            std::process::exit(EXIT_INTERRUPTED);
        }
        info!("signal received: shutting down");
        shutdown.cancel();
    }
}

/// The output of a command, and whether its exit code is 0.
pub(super) struct CommandOutput {
    pub(super) text: String,
    pub(super) success: bool,
}

/// Prints the output or the error, and returns the exit code.
pub(super) fn finish(output: Result<CommandOutput, String>) -> ExitCode {
    match output {
        Ok(CommandOutput { text, success }) if print(&text).is_ok() && success => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Fails when standard output is closed.
pub(super) fn print(text: impl AsRef<[u8]>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref())?;
    out.flush()
}

pub(super) fn print_error(error: &str) {
    eprintln!("rollcall: {}", escaped_line(error));
}

/// Escapes as in `\u{202e}`.
pub(super) fn escaped_line(text: &str) -> String {
    escaped(text, |shown, char| write!(shown, "\\u{{{:x}}}", u32::from(char)))
}

/// One line of JSON, escaped by the rules of JSON, so that the value stays the same.
///
/// # Errors
/// When the value cannot be serialised, which is a bug.
pub(super) fn json(value: &impl Serialize) -> Result<String, String> {
    let text = serde_json::to_string(value).map_err(|error| error.to_string())?;
    // JSON contains these characters only inside strings. Tag characters (U+E0000) need a surrogate pair.
    let mut text = escaped(&text, |shown, char| {
        let mut units = [0; 2];
        char.encode_utf16(&mut units).iter().try_for_each(|unit| write!(shown, "\\u{unit:04x}"))
    });
    text.push('\n');
    Ok(text)
}

/// At most `max` characters; a longer text loses its middle.
pub(super) fn shortened(text: &str, max: usize) -> String {
    let text = escaped_line(text);
    let length = text.chars().count();
    if length <= max {
        return text;
    }
    let kept = max.saturating_sub(1);
    let begin: String = text.chars().take(kept.div_ceil(2)).collect();
    let end: String = text.chars().skip(length - kept / 2).collect();
    format!("{begin}…{end}")
}

fn escaped(text: &str, escape: impl Fn(&mut String, char) -> std::fmt::Result) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if needs_escape(char) {
            escape(&mut shown, char).expect("a String takes any text");
        } else {
            shown.push(char);
        }
    }
    shown
}

fn needs_escape(char: char) -> bool {
    let invisible = matches!(
        char,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    );
    char.is_control() || invisible
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_bidirectional_characters_are_escaped() {
        assert_eq!(escaped_line("a\x1b[2Jb\nc\u{9b}d"), "a\\u{1b}[2Jb\\u{a}c\\u{9b}d");
        assert_eq!(escaped_line("abc\u{202e}cba"), "abc\\u{202e}cba");
        assert_eq!(escaped_line("café au lait 数学 👋"), "café au lait 数学 👋");
    }

    #[test]
    fn escaped_json_is_the_same_value() {
        let value = "a\x1b\u{9b}\u{202e}\u{e0041}\"\\\n";
        let text = json(&value).unwrap();
        assert!(!text.trim_end().chars().any(needs_escape), "{text:?}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
    }

    #[test]
    fn a_long_text_keeps_both_ends() {
        assert_eq!(shortened("node-1", 6), "node-1");
        assert_eq!(shortened("rollcall-frankfurt-node-17", 12), "rollca…de-17");
        assert_eq!(shortened("é".repeat(100).as_str(), 5), "éé…éé");
    }
}
