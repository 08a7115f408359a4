//! The process of a subcommand: the runtime, signals, exit codes and standard output.
//!
//! Owns no subcommand. Each one passes a future, and gets a token that the first signal cancels.

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::edge::connections::listener::raise_file_limit;
use crate::telemetry::NodeTelemetry;
use crate::telemetry::logging::{self, Logging};
use crate::telemetry::traces::export::TraceExporter;

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
    raise_open_file_limit();
    let trace_sampling = traces.map(TraceExporter::sampling).unwrap_or_default();
    NodeTelemetry { log_levels: Some(log_levels), trace_sampling, ..NodeTelemetry::default() }
}

/// Raises the soft limit of open files to the hard limit; returns the limit that is then in force.
pub(super) fn raise_open_file_limit() -> Option<u64> {
    raise_file_limit()
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
pub(super) fn print(text: anyhow::Result<Vec<u8>>) -> ExitCode {
    let printed = text.and_then(|text| {
        let mut out = std::io::stdout().lock();
        match out.write_all(&text).and_then(|()| out.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
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
            std::process::exit(EXIT_INTERRUPTED);
        }
        shutdown.cancel();
    }
}
