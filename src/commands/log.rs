//! `rollcall log`: prints the log levels of a running node, or changes them.

use std::process::ExitCode;

use clap::Args;

use crate::commands::admin_client::{Error, truncated_line};
use crate::commands::args::AdminTarget;
use crate::commands::process::print_line;
use crate::http::admin::log::{LogLevels, PATH};

#[derive(Debug, Args)]
pub struct LogLevelArgs {
    /// The new levels, in the form of --log; requires a token. Without it the current levels are printed
    #[arg(value_name = "LEVELS")]
    pub change: Option<String>,

    #[command(flatten)]
    pub target: AdminTarget,
}

/// Runs the subcommand.
pub(super) async fn run(args: &LogLevelArgs) -> ExitCode {
    print_line(request(args).await)
}

/// Sets the levels if any are given, and returns the levels that are then in force.
async fn request(args: &LogLevelArgs) -> Result<String, String> {
    let client = args.target.client()?;
    let exchange = async {
        let answer = match &args.change {
            None => client.get(PATH).await?,
            Some(levels) => client.put(PATH, levels.clone()).await?,
        };
        answer.json::<LogLevels>()
    };
    let body = exchange.await.map_err(|error: Error| format!("{}: {error}", client.address()))?;
    Ok(truncated_line(&body.levels))
}
