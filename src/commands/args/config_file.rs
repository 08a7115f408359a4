//! The configuration file: TOML with the long names of the flags of `serve` as its keys.
//!
//! Owns the reading, and errors that name the file, the line and the key, but never a value, which may be a secret. Values
//! become the text that the flag would be given, and the parser of the flag checks them. Precedence is in
//! [`mod@super::origin`].

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs, io};

use clap::{Arg, ArgAction, Args};
use toml::de::{DeTable, DeValue};

const MAX_FILE_BYTES: u64 = 1 << 20;
/// The permission bit "others may read".
const MODE_OTHERS_READ: u32 = 0o004;
/// The similarity (Jaro-Winkler, 0 to 1) from which an unknown key is explained as a misspelt flag.
const MIN_SIMILARITY: f64 = 0.8;

#[derive(Debug, Args)]
pub struct ConfigFileArgs {
    /// Configuration file (TOML). Its keys are the long names of the flags of `serve`, as in `lease = "5s"`; a flag that may
    /// be repeated takes a list. Flags and environment variables override it. Read once, at the start. Paths are relative
    /// to the working directory. It may contain a Redis URL with a password only if other users cannot read it
    #[arg(long, env = "ROLLCALL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The entries of a file, in order.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    pub(crate) entries: Vec<ConfigEntry>,
}

/// One key and its value.
#[derive(Debug)]
pub(crate) struct ConfigEntry {
    /// The long name of the flag.
    pub(crate) key: String,
    /// As text for the flag; `true` or `false` for a switch.
    pub(crate) values: Vec<String>,
    pub(crate) location: FileLocation,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLocation {
    pub file: Arc<str>,
    pub line: usize,
    /// Every user of the machine can read the file.
    pub world_readable: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("--config: {} cannot be read: {error}", file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("--config: {} {what}", file.display())]
    NotAConfigFile { file: PathBuf, what: &'static str },
    #[error("{location}: not valid TOML: {what}")]
    Syntax { location: FileLocation, what: String },
    #[error("{location}: sections are not supported; a key is the long name of a flag, as in lease = \"5s\"")]
    Section { location: FileLocation },
    #[error("{location}: `{key}` is not a flag of `rollcall serve`{}", did_you_mean(.nearest.as_deref()))]
    Unknown { location: FileLocation, key: String, nearest: Option<String> },
    #[error("{location}: {key} must be {kind}")]
    Kind { location: FileLocation, key: String, kind: &'static str },
}

impl fmt::Display for FileLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl ConfigFileArgs {
    pub(crate) const ID: &'static str = "config";
}

impl ConfigFile {
    /// Reads a file that may contain these flags.
    pub(crate) fn read(path: &Path, flags: &[&Arg]) -> Result<Self, Error> {
        let unreadable = |error| Error::Unreadable { file: path.to_owned(), error };
        let not_a_config_file = |what| Error::NotAConfigFile { file: path.to_owned(), what };
        // Opening a FIFO would block until another process writes to it.
        if !fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(not_a_config_file("is not a regular file"));
        }
        let file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.permissions().mode();
        let mut contents = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut contents).map_err(unreadable)?;
        if contents.len() as u64 > MAX_FILE_BYTES {
            return Err(not_a_config_file("is larger than 1 MiB"));
        }
        let text = String::from_utf8(contents).map_err(|_| not_a_config_file("is not UTF-8"))?;
        let name = path.display().to_string().replace(char::is_control, "?");
        Self::parse(&text, &name.into(), mode & MODE_OTHERS_READ != 0, flags)
    }

    fn parse(text: &str, file: &Arc<str>, world_readable: bool, flags: &[&Arg]) -> Result<Self, Error> {
        let location = |span: Range<usize>| {
            let line = 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count();
            FileLocation { file: Arc::clone(file), line, world_readable }
        };
        let table = DeTable::parse(text).map_err(|error| Error::Syntax {
            location: location(error.span().unwrap_or_default()),
            what: error.message().to_owned(),
        })?;
        let mut entries = Vec::new();
        let mut table: Vec<_> = table.get_ref().iter().collect();
        table.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in table {
            let (name, location) = (key.get_ref().to_string(), location(key.span()));
            if value.get_ref().is_table() || value.get_ref().as_array().is_some_and(contains_tables) {
                return Err(Error::Section { location });
            }
            let Some(flag) = flags.iter().find(|flag| flag.get_long() == Some(&name)) else {
                return Err(Error::Unknown { location, nearest: nearest(&name, flags), key: name });
            };
            match texts(value.get_ref(), flag.get_action()) {
                Ok(values) => entries.push(ConfigEntry { key: name, values, location }),
                Err(kind) => return Err(Error::Kind { location, key: name, kind }),
            }
        }
        Ok(Self { entries })
    }
}

fn contains_tables(array: &toml::de::DeArray<'_>) -> bool {
    array.iter().any(|value| value.get_ref().is_table())
}

/// The values as text for the flag, or the description of a valid value.
fn texts(value: &DeValue<'_>, action: &ArgAction) -> Result<Vec<String>, &'static str> {
    match (action, value) {
        (ArgAction::SetTrue | ArgAction::SetFalse, DeValue::Boolean(on)) => Ok(vec![on.to_string()]),
        (ArgAction::SetTrue | ArgAction::SetFalse, _) => Err("true or false"),
        (ArgAction::Append, DeValue::Array(values)) => {
            let values = values.iter().map(|value| text(value.get_ref()));
            values.collect::<Option<_>>().ok_or("a list of strings or numbers")
        }
        (_, DeValue::Array(_)) => Err("one value, not a list"),
        (_, value) => text(value).map(|text| vec![text]).ok_or("a string or a number"),
    }
}

fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            i128::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
        }
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(on) => Some(on.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(": did you mean `{name}`?")).unwrap_or_default()
}

/// The most similar flag. The name of its variable and a name with underscores match as well.
fn nearest(key: &str, flags: &[&Arg]) -> Option<String> {
    let key = key.to_lowercase().replace('_', "-");
    let key = key.strip_prefix("rollcall-").unwrap_or(&key).trim_start_matches('-');
    let similarities =
        flags.iter().filter_map(|flag| flag.get_long()).map(|name| (strsim::jaro_winkler(key, name), name));
    let (similarity, name) = similarities.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (similarity >= MIN_SIMILARITY).then(|| name.to_owned())
}
