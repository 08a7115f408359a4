//! `rollcall config`: what `serve` would run with, and where each value came from.
//!
//! Owns how that is shown: as a configuration file, or as JSON. What may be secret never gets this far: it is taken out of
//! a value as soon as that is read. What a flag means that nobody was given is asked of those who decide it.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Args};
use serde::Serialize;
use toml::Value as Toml;

use super::Serve;
use super::origin::{Origin, Origins, long, settings};

/// What is shown in place of a secret.
const REDACTED: &str = "REDACTED";
/// What the query of a URL may say that is no secret.
const PLAIN_PARAMETERS: [&str; 2] = ["db", "protocol"];

#[derive(Debug, Args)]
pub struct Effective {
    #[command(flatten)]
    pub serve: Box<Serve>,

    /// Print JSON: of each flag its value, as text, and its source
    #[arg(long)]
    json: bool,

    #[arg(skip)]
    pub(super) settings: Vec<Setting>,
}

/// A flag, what it was given, and by whom. `None`: nothing.
#[derive(Debug)]
pub(super) struct Setting {
    flag: String,
    value: Option<Value>,
    origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Value {
    Switch(bool),
    One(String),
    Many(Vec<String>),
}

/// What is in effect of a flag that nobody was given.
#[derive(Debug)]
pub(super) struct Implied {
    pub(super) flag: &'static str,
    pub(super) value: String,
    /// What it follows from.
    pub(super) by: &'static str,
}

/// One flag in JSON.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    value: Option<&'a Value>,
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    variable: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'static str>,
}

impl Setting {
    /// All that can be in a file, in the order of `--help`.
    pub(super) fn all(matches: &ArgMatches, origins: &Origins) -> Vec<Self> {
        let of = |flag: &Arg| Self {
            flag: long(flag),
            value: Value::of(flag, matches, origins.of(&long(flag))),
            origin: origins.of(&long(flag)).clone(),
        };
        settings().iter().map(of).collect()
    }
}

impl Value {
    fn of(flag: &Arg, matches: &ArgMatches, origin: &Origin) -> Option<Self> {
        let id = flag.get_id().as_str();
        let texts: Vec<String> = matches
            .get_raw(id)
            .into_iter()
            .flatten()
            .map(|text| redact(&text.to_string_lossy(), flag.is_hide_env_values_set(), may_be_a_file(flag)))
            .collect();
        match flag.get_action() {
            ArgAction::SetTrue | ArgAction::SetFalse => Some(Self::Switch(matches.get_flag(id))),
            // A list in a file may be empty, which outranks a default and is not the same as none.
            ArgAction::Append if !texts.is_empty() || *origin != Origin::Default => Some(Self::Many(texts)),
            _ => texts.into_iter().next().map(Self::One),
        }
    }

    fn toml(&self) -> Toml {
        match self {
            Self::Switch(on) => Toml::Boolean(*on),
            Self::One(text) => scalar(text),
            Self::Many(texts) => Toml::Array(texts.iter().map(|text| scalar(text)).collect()),
        }
    }
}

impl Effective {
    /// All of it, in a process that may have so many files open.
    ///
    /// # Errors
    /// Never, but for what JSON might not take.
    pub fn show(&self, files: Option<u64>) -> anyhow::Result<String> {
        let implied = self.serve.implied(files);
        let rows = self.settings.iter().map(|setting| {
            let implied = implied.iter().find(|implied| setting.value.is_none() && implied.flag == setting.flag);
            let value = implied.map(|implied| Value::One(implied.value.clone())).or_else(|| setting.value.clone());
            (setting, value, implied.map(|implied| implied.by))
        });
        if self.json {
            let all: Vec<_> = rows.collect();
            let shown =
                all.iter().map(|(setting, value, by)| (&setting.flag, shown(&setting.origin, value.as_ref(), *by)));
            return Ok(serde_json::to_string_pretty(&shown.collect::<BTreeMap<_, _>>())? + "\n");
        }
        let mut text = "# What `rollcall serve` would run with.\n".to_owned();
        for (setting, value, by) in rows {
            let Setting { flag, origin, .. } = setting;
            let by = by.map(|by| format!(", by {by}")).unwrap_or_default();
            text += &match value {
                Some(value) => format!("{flag} = {}  # {origin}{by}\n", value.toml()),
                None => format!("# {flag}: not set\n"),
            };
        }
        Ok(text)
    }
}

fn shown<'a>(origin: &'a Origin, value: Option<&'a Value>, by: Option<&'static str>) -> Shown<'a> {
    let mut shown = Shown { value, source: "default", variable: None, file: None, line: None, by };
    match origin {
        Origin::Flag => shown.source = "flag",
        Origin::Environment(variable) => (shown.source, shown.variable) = ("environment", Some(variable.as_str())),
        Origin::File(place) => {
            (shown.source, shown.file, shown.line) = ("file", Some(&*place.file), Some(place.line));
        }
        Origin::Default => {}
    }
    shown
}

/// A number where a number says the same.
fn scalar(text: &str) -> Toml {
    match text.parse::<i64>() {
        Ok(number) if number.to_string() == text => Toml::Integer(number),
        _ => Toml::String(text.to_owned()),
    }
}

fn may_be_a_file(flag: &Arg) -> bool {
    let mut names = flag.get_value_names().unwrap_or_default().iter();
    names.any(|name| name.split('|').any(|form| form == "FILE"))
}

/// A value without the secrets that may be in it: the password of a URL; and of a flag whose variable `--help` does not
/// show, the query of a URL as well, and all of what is neither a URL nor a file.
fn redact(text: &str, hidden: bool, may_be_a_file: bool) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return if hidden && !may_be_a_file { REDACTED.to_owned() } else { text.to_owned() };
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let authority = match authority.rsplit_once('@') {
        Some((who, host)) => match who.split_once(':') {
            Some((user, _)) => format!("{user}:{REDACTED}@{host}"),
            None => authority.to_owned(),
        },
        None => authority.to_owned(),
    };
    let rest = if hidden { without_parameters(rest) } else { rest.to_owned() };
    format!("{scheme}://{authority}{rest}")
}

/// A path, and of the query and the fragment after it only what is known to be no secret.
fn without_parameters(rest: &str) -> String {
    let (rest, fragment) = match rest.split_once('#') {
        Some((rest, _)) => (rest, format!("#{REDACTED}")),
        None => (rest, String::new()),
    };
    let Some((path, query)) = rest.split_once('?') else { return format!("{rest}{fragment}") };
    let parameters = query.split('&').map(|parameter| match parameter.split_once('=') {
        Some((name, _)) if PLAIN_PARAMETERS.contains(&name) => parameter.to_owned(),
        Some((name, _)) => format!("{name}={REDACTED}"),
        None => REDACTED.to_owned(),
    });
    format!("{path}?{}{fragment}", parameters.collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_left_out_and_the_rest_is_as_it_was() {
        for (text, hidden, file, shown) in [
            ("redis://me:hunter2@a:1/0", true, false, "redis://me:REDACTED@a:1/0"),
            ("redis://:hunter2@a", true, false, "redis://:REDACTED@a"),
            ("redis://me:hun@ter2@[::1]:1", true, false, "redis://me:REDACTED@[::1]:1"),
            ("redis://a?protocol=resp3&pass=hunter2", true, false, "redis://a?protocol=resp3&pass=REDACTED"),
            ("redis+unix:///tmp/a?db=1&pass=hunter2", true, false, "redis+unix:///tmp/a?db=1&pass=REDACTED"),
            ("https://a/keys?hunter2", true, true, "https://a/keys?REDACTED"),
            ("https://a/keys?b=hunter2#hunter2", true, true, "https://a/keys?b=REDACTED#REDACTED"),
            ("https://a/keys#?b=hunter2", true, true, "https://a/keys#REDACTED"),
            ("authorization=hunter2", true, false, "REDACTED"),
            ("keys.json", true, true, "keys.json"),
            ("https://me:hunter2@a/b?c=d", false, false, "https://me:REDACTED@a/b?c=d"),
            ("127.0.0.1:5001", false, false, "127.0.0.1:5001"),
        ] {
            assert_eq!(redact(text, hidden, file), shown, "{text}");
        }
    }
}
