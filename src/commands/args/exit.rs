//! The text and the exit status of a command line that does not run a subcommand: help, the version, or an error.
//!
//! An error is one line. For a value from the configuration file it names the file and the line.

use clap::error::ErrorKind;

use super::origin::Origins;

/// What to print instead of running a subcommand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliExit {
    pub text: String,
    /// False for help and version.
    pub failed: bool,
}

pub(super) fn exit_for(error: &clap::Error, origins: &Origins) -> CliExit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => CliExit { text: error.to_string(), failed: false },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => CliExit { text: error.to_string(), failed: true },
        _ => {
            let text = error.to_string();
            let first = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
            let first = first.split_whitespace().collect::<Vec<_>>().join(" ");
            match origins.location(error) {
                Some(location) => refuse(&format!("{location}: {first}")),
                None => refuse(&origins.explain(&first)),
            }
        }
    }
}

pub(super) fn refuse(error: &str) -> CliExit {
    CliExit { text: format!("rollcall: {error}\n"), failed: true }
}
