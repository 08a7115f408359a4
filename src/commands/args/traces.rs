//! The flags of the traces.
//!
//! Owns what may be an endpoint and a ratio, and that a secret header goes to nobody in the clear.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use reqwest::Url;

use super::access::{is_loopback, read};
use crate::names::NodeName;
use crate::telemetry::traces::export::{Headers, Settings, Traces};

#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Export traces to this collector by OTLP over gRPC, as in `http://127.0.0.1:4317`. One trace shows a roll call with
    /// what each node did for it, and names rooms. Unless told otherwise nothing is traced; OTEL_EXPORTER_OTLP_ENDPOINT,
    /// which may be meant for others, is not read
    #[arg(long, env = "ROLLCALL_OTLP_ENDPOINT", value_name = "URL", value_parser = endpoint)]
    otlp_endpoint: Option<Url>,

    /// A file of lines `<name>: <value>`: what the collector wants to know, such as a key. Read again when it changes
    #[arg(long, env = "ROLLCALL_OTLP_HEADERS_FILE", value_name = "FILE")]
    otlp_headers_file: Option<PathBuf>,

    /// How many of the requests begin a trace, from 0 to 1. One that comes with a `traceparent` is traced if that says so
    #[arg(long, default_value = "1", env = "ROLLCALL_TRACE_RATIO", value_name = "RATIO", value_parser = ratio)]
    trace_ratio: f64,
}

impl TraceArgs {
    /// # Errors
    /// What does not fit together, in one line.
    pub(super) fn check(&self) -> Result<(), String> {
        match (&self.otlp_endpoint, &self.otlp_headers_file) {
            (None, Some(_)) => Err("--otlp-headers-file goes with --otlp-endpoint, which is missing".to_owned()),
            (Some(endpoint), Some(_)) if endpoint.scheme() != "https" && !is_loopback(endpoint) => {
                Err("--otlp-endpoint must be https where --otlp-headers-file is sent to another machine".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// What exports the spans of the node `name`, if any are to be. Belongs to the runtime that it is called in.
    ///
    /// # Errors
    /// The flag, and what is wrong with it.
    pub fn open(&self, name: &NodeName) -> anyhow::Result<Option<Traces>> {
        let Some(endpoint) = &self.otlp_endpoint else { return Ok(None) };
        let headers = self.otlp_headers_file.as_ref();
        let headers = headers.map(|file| read("--otlp-headers-file", file, Headers::parse)).transpose()?;
        let settings = Settings { endpoint: endpoint.to_string(), headers, ratio: self.trace_ratio };
        Traces::open(settings, name).context("--otlp-endpoint").map(Some)
    }
}

fn endpoint(text: &str) -> Result<Url, String> {
    let wrong = || "must be the URL of a collector, as in http://127.0.0.1:4317".to_owned();
    let url = Url::parse(text).map_err(|_| wrong())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a name or a password: pass --otlp-headers-file".to_owned());
    }
    let plain = matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none();
    if plain { Ok(url) } else { Err(wrong()) }
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}
