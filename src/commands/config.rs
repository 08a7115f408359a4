//! `rollcall config`: the effective configuration of `serve`, with the origin of each value.
//!
//! Owns the output, as a configuration file or as JSON. Secrets are redacted when the values are read. The modules that
//! decide a default also report it here.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Args, Command};
use serde::Serialize;
use toml::Value as Toml;

use crate::commands::args::origin::{Origin, Origins, long, settings};
use crate::commands::serve::ServeArgs;

const REDACTED: &str = "REDACTED";
/// The query parameters of a Redis URL that are no secrets.
const PUBLIC_PARAMETERS: [&str; 2] = ["db", "protocol"];

#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(flatten)]
    pub serve: Box<ServeArgs>,

    /// Print JSON: the value of each flag as text, and its source
    #[arg(long)]
    json: bool,

    #[arg(skip)]
    pub(super) settings: Vec<Setting>,
}

/// A flag with its value, if it has one.
#[derive(Debug)]
pub(super) struct Setting {
    flag: String,
    value: Option<SettingValue>,
    origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum SettingValue {
    Switch(bool),
    One(String),
    Many(Vec<String>),
}

/// One flag in JSON.
#[derive(Debug, Serialize)]
struct JsonSetting<'a> {
    value: Option<&'a SettingValue>,
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
    /// All flags that may be in the file, in the order of `--help`.
    pub(super) fn all(command: &Command, matches: &ArgMatches, origins: &Origins) -> Vec<Self> {
        let of = |flag: &Arg| Self {
            flag: long(flag),
            value: SettingValue::of(flag, matches, origins.of(&long(flag))),
            origin: origins.of(&long(flag)).clone(),
        };
        settings(command).iter().map(of).collect()
    }
}

impl SettingValue {
    fn of(flag: &Arg, matches: &ArgMatches, origin: &Origin) -> Option<Self> {
        let id = flag.get_id().as_str();
        let texts: Vec<String> = matches
            .get_raw(id)
            .into_iter()
            .flatten()
            .map(|text| redact(&text.to_string_lossy(), flag.is_hide_env_values_set(), takes_file(flag)))
            .collect();
        match flag.get_action() {
            ArgAction::SetTrue | ArgAction::SetFalse => Some(Self::Switch(matches.get_flag(id))),
            // An empty list in a file overrides a default, and differs from a missing key.
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

impl ConfigArgs {
    /// The output, for a process that may open `files` files.
    ///
    /// # Errors
    /// The JSON cannot be serialised, which is a bug.
    pub fn show(&self, files: Option<u64>) -> anyhow::Result<String> {
        let implied = self.serve.implied(files);
        let rows = self.settings.iter().map(|setting| {
            let implied = implied.iter().find(|implied| setting.value.is_none() && implied.flag == setting.flag);
            let value =
                implied.map(|implied| SettingValue::One(implied.value.clone())).or_else(|| setting.value.clone());
            (setting, value, implied.map(|implied| implied.by))
        });
        if self.json {
            let all: Vec<_> = rows.collect();
            let shown = all
                .iter()
                .map(|(setting, value, by)| (&setting.flag, json_setting(&setting.origin, value.as_ref(), *by)));
            return Ok(serde_json::to_string_pretty(&shown.collect::<BTreeMap<_, _>>())? + "\n");
        }
        let mut text = "# The effective configuration of `rollcall serve`.\n".to_owned();
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

fn json_setting<'a>(origin: &'a Origin, value: Option<&'a SettingValue>, by: Option<&'static str>) -> JsonSetting<'a> {
    let mut shown = JsonSetting { value, source: "default", variable: None, file: None, line: None, by };
    match origin {
        Origin::Flag => shown.source = "flag",
        Origin::Environment(variable) => (shown.source, shown.variable) = ("environment", Some(variable.as_str())),
        Origin::File(location) => {
            (shown.source, shown.file, shown.line) = ("file", Some(&*location.file), Some(location.line));
        }
        Origin::Default => {}
    }
    shown
}

/// A TOML integer if the text is one.
fn scalar(text: &str) -> Toml {
    match text.parse::<i64>() {
        Ok(number) if number.to_string() == text => Toml::Integer(number),
        _ => Toml::String(text.to_owned()),
    }
}

fn takes_file(flag: &Arg) -> bool {
    let mut names = flag.get_value_names().unwrap_or_default().iter();
    names.any(|name| name.split('|').any(|form| form == "FILE"))
}

/// A value without its secrets. A URL loses its password. A flag whose value `--help` hides also loses the query of a URL,
/// and any value that is neither a URL nor a file.
fn redact(text: &str, hidden: bool, takes_file: bool) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return if hidden && !takes_file { REDACTED.to_owned() } else { text.to_owned() };
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

/// A path, and the query without secrets. A fragment is redacted.
fn without_parameters(rest: &str) -> String {
    let (rest, fragment) = match rest.split_once('#') {
        Some((rest, _)) => (rest, format!("#{REDACTED}")),
        None => (rest, String::new()),
    };
    let Some((path, query)) = rest.split_once('?') else { return format!("{rest}{fragment}") };
    let parameters = query.split('&').map(|parameter| match parameter.split_once('=') {
        Some((name, _)) if PUBLIC_PARAMETERS.contains(&name) => parameter.to_owned(),
        Some((name, _)) => format!("{name}={REDACTED}"),
        None => REDACTED.to_owned(),
    });
    format!("{path}?{}{fragment}", parameters.collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_secrets_are_redacted() {
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
