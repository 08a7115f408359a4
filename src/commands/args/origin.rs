//! The origin of each flag's value, and the merge of the configuration file with the flags.
//!
//! Owns the precedence: flag, environment variable, file, default. A value of the file is inserted into the arguments,
//! so that the parsers and checks of the flags apply to it. All of it is derived from clap's definition of the flags:
//! there is no second list.
//! An error is one line. For a value from the file it names the file and the line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::config_file::{ConfigFile, ConfigFileArgs, FileLocation};

/// The subcommand whose flags are the keys of the file.
const CONFIGURED_COMMAND: &str = "serve";

/// The origin of one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Flag,
    /// The name of the variable.
    Environment(String),
    File(FileLocation),
    Default,
}

/// The default of a flag that depends on another flag or on the machine.
#[derive(Debug)]
pub(crate) struct ImpliedValue {
    pub(crate) flag: &'static str,
    pub(crate) value: String,
    /// The flag or the limit that it depends on.
    pub(crate) by: &'static str,
}

/// The origin of each flag's value, by its long name.
#[derive(Debug, Default)]
pub(crate) struct Origins(BTreeMap<String, Origin>);

/// The text to print instead of running a subcommand: help, the version or an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliExit {
    pub text: String,
    /// False for help and version.
    pub failed: bool,
}

/// The command line, merged with the file.
pub(crate) struct MergedArgs {
    pub(crate) arguments: Vec<OsString>,
    pub(crate) origins: Origins,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::File(location) => write!(f, "file {location}"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl MergedArgs {
    /// Reads the file, if the arguments or the environment name one.
    ///
    /// # Errors
    /// Help, or what is wrong with the file. Wrong arguments are found when the merged arguments are parsed.
    pub(crate) fn read(command: &Command, arguments: Vec<OsString>) -> Result<Self, CliExit> {
        let first = command.clone().ignore_errors(true).try_get_matches_from(&arguments);
        let first = first.map_err(|error| exit_for(&error, &Origins::default()))?;
        let command = built(command);
        let mut merged = Self { arguments, origins: Origins::default() };
        let Some((name, matches)) = first.subcommand() else { return Ok(merged) };
        let Some(command_flags) = command.find_subcommand(name).map(flags) else { return Ok(merged) };
        for flag in &command_flags {
            merged.origins.0.insert(long(flag), Origin::of(flag, matches));
        }
        let Ok(Some(path)) = matches.try_get_one::<PathBuf>(ConfigFileArgs::ID) else { return Ok(merged) };
        let keys = keys(&command);
        let file = ConfigFile::read(path, &keys).map_err(|error| refuse(&error.to_string()))?;
        for entry in file.entries {
            // A flag may have another name in another subcommand; its variable is the same.
            let variable = keys.iter().find(|key| key.get_long() == Some(&entry.key)).and_then(|key| key.get_env());
            let Some(flag) = command_flags.iter().find(|flag| flag.get_env() == variable) else { continue };
            if merged.origins.of(&long(flag)) == &Origin::Default {
                merged.insert(flag, &entry.values);
                merged.origins.0.insert(long(flag), Origin::File(entry.location));
            }
        }
        Ok(merged)
    }

    fn insert(&mut self, flag: &Arg, values: &[String]) {
        let takes_values = flag.get_action().takes_values();
        let inserted = values.iter().filter_map(|value| match (takes_values, value.as_str()) {
            (true, value) => Some(format!("--{}={value}", long(flag)).into()),
            (false, "true") => Some(format!("--{}", long(flag)).into()),
            (false, _) => None,
        });
        // Arguments after `--` are not flags.
        let end = self.arguments.iter().position(|argument| argument == "--").unwrap_or(self.arguments.len());
        self.arguments.splice(end..end, inserted.collect::<Vec<OsString>>());
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
    pub(crate) fn of(&self, flag: &str) -> &Origin {
        self.0.get(flag).unwrap_or(&Origin::Default)
    }

    /// Appends to an error where the values of the flags that it names come from.
    pub(crate) fn explain(&self, error: &str) -> String {
        let mut found = Vec::new();
        for flag in flags_in(error) {
            let origin = match self.of(flag) {
                Origin::Flag | Origin::Default => continue,
                Origin::Environment(variable) => format!("--{flag} is {variable}"),
                Origin::File(location) => format!("--{flag} is in {location}"),
            };
            if !found.contains(&origin) {
                found.push(origin);
            }
        }
        if found.is_empty() { error.to_owned() } else { format!("{error} ({})", found.join(", ")) }
    }

    /// The line of the file that contains the invalid value.
    pub(crate) fn location(&self, error: &clap::Error) -> Option<&FileLocation> {
        if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
            return None;
        }
        let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
        match self.of(flags_in(flag).next()?) {
            Origin::File(location) => Some(location),
            _ => None,
        }
    }
}

/// All subcommands, with the global flags.
fn built(command: &Command) -> Command {
    let mut command = command.clone();
    command.build();
    command
}

/// The flags of a subcommand that have an environment variable.
pub(crate) fn flags(command: &Command) -> Vec<&Arg> {
    command.get_arguments().filter(|arg| arg.get_long().is_some() && arg.get_env().is_some()).collect()
}

/// The flags that may be in the file.
fn keys(command: &Command) -> Vec<&Arg> {
    let mut keys = command.find_subcommand(CONFIGURED_COMMAND).map(flags).unwrap_or_default();
    keys.retain(|flag| flag.get_id() != ConfigFileArgs::ID);
    keys
}

/// The flags that may be in the file, as clap knows them.
pub(crate) fn settings(command: &Command) -> Vec<Arg> {
    keys(&built(command)).into_iter().cloned().collect()
}

pub(crate) fn long(flag: &Arg) -> String {
    flag.get_long().unwrap_or_default().to_owned()
}

/// The long names of flags in a text.
fn flags_in(text: &str) -> impl Iterator<Item = &str> {
    text.split("--").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
        Some(&rest[..end]).filter(|name| !name.is_empty())
    })
}

pub(crate) fn exit_for(error: &clap::Error, origins: &Origins) -> CliExit {
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

pub(crate) fn refuse(error: &str) -> CliExit {
    CliExit { text: format!("rollcall: {error}\n"), failed: true }
}
