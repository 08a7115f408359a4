//! The configuration file: TOML with the long names of the flags of `serve` as its keys.
//!
//! Owns how it is read, and what is said of one that cannot be: the file, the line and the key, and never a value, which
//! may be a secret. What a value may be is its flag's business: here it becomes the text that the flag would be given.
//! Which of them count is decided in [`mod@super::origin`].

use std::fs::File as Opened;
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs, io};

use clap::{Arg, ArgAction, Args};
use toml::de::{DeTable, DeValue};

/// As much as may be read of a file.
const FILE_MOST: u64 = 1 << 20;
/// The right of every user of a machine to read a file.
const READ_BY_ALL: u32 = 0o004;
/// How alike a key and a flag must be for one to be taken for the other, from 0 to 1.
const ALIKE: f64 = 0.8;

#[derive(Debug, Args)]
pub struct FileArgs {
    /// A file (TOML) that says what flags would: the long names of the flags of `serve` are its keys, as in `lease =
    /// "5s"`, and a flag that may be repeated can have a list. Flags and environment variables outrank it. Read once, at
    /// the start. Paths in it mean what they mean in flags: they begin at the working directory, not at the file. A Redis
    /// URL with a password may be in it, if not every user of the machine can read it
    #[arg(long, env = "ROLLCALL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What a file says, in order.
#[derive(Debug)]
pub(super) struct File {
    pub(super) entries: Vec<Entry>,
}

/// What it says of one flag.
#[derive(Debug)]
pub(super) struct Entry {
    /// The long name of the flag.
    pub(super) key: String,
    /// As the flag would be given them. Of a switch: `true` or `false`.
    pub(super) values: Vec<String>,
    pub(super) place: Place,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    pub line: usize,
    /// Every user of the machine can read the file.
    pub read_by_all: bool,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("--config: {} cannot be read: {error}", file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error("--config: {} {what}", file.display())]
    NoConfiguration { file: PathBuf, what: &'static str },
    #[error("{place}: this is no TOML: {what}")]
    Syntax { place: Place, what: String },
    #[error("{place}: there are no sections; a key is the long name of a flag, as in lease = \"5s\"")]
    Section { place: Place },
    #[error("{place}: `{key}` is no flag of `rollcall serve`{}", meant(.nearest.as_deref()))]
    Unknown { place: Place, key: String, nearest: Option<String> },
    #[error("{place}: {key} must be {kind}")]
    Kind { place: Place, key: String, kind: &'static str },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl FileArgs {
    pub(super) const ID: &'static str = "config";
}

impl File {
    /// Reads a file that may have these flags in it.
    pub(super) fn read(path: &Path, flags: &[&Arg]) -> Result<Self, Error> {
        let unreadable = |error| Error::Unreadable { file: path.to_owned(), error };
        let no_configuration = |what| Error::NoConfiguration { file: path.to_owned(), what };
        // Opening a pipe would wait for somebody to write into it.
        if !fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(no_configuration("is no file"));
        }
        let file = Opened::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.permissions().mode();
        let mut contents = Vec::new();
        file.take(FILE_MOST + 1).read_to_end(&mut contents).map_err(unreadable)?;
        if contents.len() as u64 > FILE_MOST {
            return Err(no_configuration("is larger than 1 MiB"));
        }
        let text = String::from_utf8(contents).map_err(|_| no_configuration("is not UTF-8"))?;
        let name = path.display().to_string().replace(char::is_control, "?");
        Self::parse(&text, &name.into(), mode & READ_BY_ALL != 0, flags)
    }

    fn parse(text: &str, file: &Arc<str>, read_by_all: bool, flags: &[&Arg]) -> Result<Self, Error> {
        let place = |span: Range<usize>| {
            let line = 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count();
            Place { file: Arc::clone(file), line, read_by_all }
        };
        let table = DeTable::parse(text).map_err(|error| Error::Syntax {
            place: place(error.span().unwrap_or_default()),
            what: error.message().to_owned(),
        })?;
        let mut entries = Vec::new();
        let mut table: Vec<_> = table.get_ref().iter().collect();
        table.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in table {
            let (name, place) = (key.get_ref().to_string(), place(key.span()));
            if value.get_ref().is_table() || value.get_ref().as_array().is_some_and(of_tables) {
                return Err(Error::Section { place });
            }
            let Some(flag) = flags.iter().find(|flag| flag.get_long() == Some(&name)) else {
                return Err(Error::Unknown { place, nearest: nearest(&name, flags), key: name });
            };
            match texts(value.get_ref(), flag.get_action()) {
                Ok(values) => entries.push(Entry { key: name, values, place }),
                Err(kind) => return Err(Error::Kind { place, key: name, kind }),
            }
        }
        Ok(Self { entries })
    }
}

fn of_tables(array: &toml::de::DeArray<'_>) -> bool {
    array.iter().any(|value| value.get_ref().is_table())
}

/// What the flag would be given; else what it must be.
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

fn meant(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(": did you mean `{name}`?")).unwrap_or_default()
}

/// The flag that was meant. Its variable and its name with underscores are near to it.
fn nearest(key: &str, flags: &[&Arg]) -> Option<String> {
    let key = key.to_lowercase().replace('_', "-");
    let key = key.strip_prefix("rollcall-").unwrap_or(&key).trim_start_matches('-');
    let likeness = flags.iter().filter_map(|flag| flag.get_long()).map(|name| (strsim::jaro_winkler(key, name), name));
    let (likeness, name) = likeness.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (likeness >= ALIKE).then(|| name.to_owned())
}
