//! Where the value of each flag came from, and how those of a configuration file get among the flags.
//!
//! Owns the order: a flag outranks the environment, which outranks the file, which outranks the default. What the file
//! says of a flag that nobody else was given is put among the arguments, so that its value and what goes together are
//! checked as they always are. Everything is derived from what clap knows of the flags: there is no second list of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory as _};

use super::file::{File, FileArgs, Place};
use super::{Cli, Stop, refuse, stop};

/// Whose flags are the keys of a file.
const OWNER: &str = "serve";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Flag,
    /// With the name of the variable.
    Environment(String),
    File(Place),
    Default,
}

/// Where that of each flag came from, by its long name.
#[derive(Debug, Default)]
pub(super) struct Origins(BTreeMap<String, Origin>);

/// What was said on the command line and in the file.
pub(super) struct Given {
    pub(super) arguments: Vec<OsString>,
    pub(super) origins: Origins,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::File(place) => write!(f, "file {place}"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Given {
    /// Reads the file, if these arguments or the environment name one.
    ///
    /// # Errors
    /// [`Stop`]: help, or what is wrong with the file. What is wrong with the arguments is found by whoever reads them.
    pub(super) fn read(arguments: Vec<OsString>) -> Result<Self, Stop> {
        let first = Cli::command().ignore_errors(true).try_get_matches_from(&arguments);
        let first = first.map_err(|error| stop(&error, &Origins::default()))?;
        let command = built();
        let mut given = Self { arguments, origins: Origins::default() };
        let Some((name, matches)) = first.subcommand() else { return Ok(given) };
        let Some(command_flags) = command.find_subcommand(name).map(flags) else { return Ok(given) };
        for flag in &command_flags {
            given.origins.0.insert(long(flag), Origin::of(flag, matches));
        }
        let Ok(Some(path)) = matches.try_get_one::<PathBuf>(FileArgs::ID) else { return Ok(given) };
        let keys = keys(&command);
        let file = File::read(path, &keys).map_err(|error| refuse(&error.to_string()))?;
        for entry in file.entries {
            // Other commands may have a flag of `serve` by another name: then they share its variable.
            let variable = keys.iter().find(|key| key.get_long() == Some(&entry.key)).and_then(|key| key.get_env());
            let Some(flag) = command_flags.iter().find(|flag| flag.get_env() == variable) else { continue };
            if given.origins.of(&long(flag)) == &Origin::Default {
                given.put(flag, &entry.values);
                given.origins.0.insert(long(flag), Origin::File(entry.place));
            }
        }
        Ok(given)
    }

    fn put(&mut self, flag: &Arg, values: &[String]) {
        let takes_values = flag.get_action().takes_values();
        let put = values.iter().filter_map(|value| match (takes_values, value.as_str()) {
            (true, value) => Some(format!("--{}={value}", long(flag)).into()),
            (false, "true") => Some(format!("--{}", long(flag)).into()),
            (false, _) => None,
        });
        // What comes after `--` is no flag.
        let end = self.arguments.iter().position(|argument| argument == "--").unwrap_or(self.arguments.len());
        self.arguments.splice(end..end, put.collect::<Vec<OsString>>());
    }
}

impl Origin {
    fn of(flag: &Arg, matches: &ArgMatches) -> Self {
        match matches.value_source(flag.get_id().as_str()) {
            Some(ValueSource::CommandLine) => Self::Flag,
            Some(ValueSource::EnvVariable) => {
                Self::Environment(flag.get_env().unwrap_or_default().to_string_lossy().into_owned())
            }
            _ => Self::Default,
        }
    }
}

impl Origins {
    pub(super) fn of(&self, flag: &str) -> &Origin {
        self.0.get(flag).unwrap_or(&Origin::Default)
    }

    /// A refusal, and where to find what it speaks of.
    pub(super) fn explain(&self, refusal: &str) -> String {
        let mut found = Vec::new();
        for flag in flags_in(refusal) {
            let place = match self.of(flag) {
                Origin::Flag | Origin::Default => continue,
                Origin::Environment(variable) => format!("--{flag} is {variable}"),
                Origin::File(place) => format!("--{flag} is in {place}"),
            };
            if !found.contains(&place) {
                found.push(place);
            }
        }
        if found.is_empty() { refusal.to_owned() } else { format!("{refusal} ({})", found.join(", ")) }
    }

    /// The line of the file that has the value which is refused by this error.
    pub(super) fn place(&self, error: &clap::Error) -> Option<&Place> {
        if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
            return None;
        }
        let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
        match self.of(flags_in(flag).next()?) {
            Origin::File(place) => Some(place),
            _ => None,
        }
    }
}

/// All commands, with the flags that they share.
fn built() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// The flags of a command that can be set elsewhere, too.
pub(super) fn flags(command: &Command) -> Vec<&Arg> {
    command.get_arguments().filter(|arg| arg.get_long().is_some() && arg.get_env().is_some()).collect()
}

/// The flags whose names are the keys of a file.
fn keys(command: &Command) -> Vec<&Arg> {
    let mut keys = command.find_subcommand(OWNER).map(flags).unwrap_or_default();
    keys.retain(|flag| flag.get_id() != FileArgs::ID);
    keys
}

/// The flags whose names are the keys of a file, as they are described to clap.
pub(super) fn settings() -> Vec<Arg> {
    keys(&built()).into_iter().cloned().collect()
}

pub(super) fn long(flag: &Arg) -> String {
    flag.get_long().unwrap_or_default().to_owned()
}

/// The long names that a text speaks of.
fn flags_in(text: &str) -> impl Iterator<Item = &str> {
    text.split("--").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
        Some(&rest[..end]).filter(|name| !name.is_empty())
    })
}
