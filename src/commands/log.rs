//! `rollcall log`: prints the log levels of a running node, or changes them.

use std::process::ExitCode;

use clap::Args;

use crate::commands::admin_client::{AdminClient, Error, one_line};
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
    let result = match args.target.client() {
        Ok(client) => request(&client, args.change.as_deref()).await,
        Err(error) => Err(format!("{error:#}")),
    };
    print_line(result)
}

/// Sets the levels if any are given, and returns the levels that are then in force.
async fn request(client: &AdminClient, levels: Option<&str>) -> Result<String, String> {
    let exchange = async {
        let answer = match levels {
            None => client.get(PATH).await?,
            Some(levels) => client.put(PATH, levels.to_owned()).await?,
        };
        answer.json::<LogLevels>()
    };
    let body = exchange.await.map_err(|error: Error| format!("{}: {error}", client.address()))?;
    Ok(one_line(&body.levels))
}
