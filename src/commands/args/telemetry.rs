//! The flags of the log and of the traces.
//!
//! Owns the rule that headers with secrets are sent to another machine over https only.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use reqwest::Url;

use super::access::{is_loopback, open_file};
use crate::names::NodeName;
use crate::telemetry::logging::{Error, LogFormat, Logging};
use crate::telemetry::traces::export::{CollectorHeaders, TraceExporter, TraceSettings};

#[derive(Debug, Args)]
pub struct LogArgs {
    /// Log levels for standard error: one level (error, warn, info, debug, off), or levels by module, as in
    /// `info,rollcall::reconciler=debug`. Default: info for `serve`, warn for `dev`. `rollcall log` changes the levels of a
    /// running node
    #[arg(long = "log", global = true, env = "ROLLCALL_LOG", value_name = "LEVELS")]
    pub levels: Option<String>,

    /// Format of the log: `text`, or `json` for one object a line. Default: text
    #[arg(long = "log-format", global = true, env = "ROLLCALL_LOG_FORMAT", value_name = "FORMAT")]
    pub format: Option<LogFormat>,
}

impl LogArgs {
    /// The log that these flags describe; `default` is the value of a missing --log.
    ///
    /// # Errors
    /// The levels cannot be parsed.
    pub fn open(&self, default: &str) -> Result<Logging, Error> {
        Logging::new(self.levels.as_deref().unwrap_or(default), self.format.unwrap_or_default())
    }
}

#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Export traces to this OpenTelemetry collector by OTLP over gRPC, as in `http://127.0.0.1:4317`. A trace shows a roll
    /// call with the work of each node, and contains room names. Default: no traces. The variable
    /// OTEL_EXPORTER_OTLP_ENDPOINT is ignored, since it may be meant for another program
    #[arg(long, env = "ROLLCALL_OTLP_ENDPOINT", value_name = "URL", value_parser = endpoint)]
    otlp_endpoint: Option<Url>,

    /// File with lines `<name>: <value>`: gRPC metadata for the collector, such as an API key. Reloaded when it changes
    #[arg(long, env = "ROLLCALL_OTLP_HEADERS_FILE", value_name = "FILE")]
    otlp_headers_file: Option<PathBuf>,

    /// Share of the requests that start a trace, from 0 to 1. For a request with a `traceparent` header, that decides
    #[arg(long, default_value = "1", env = "ROLLCALL_TRACE_RATIO", value_name = "RATIO", value_parser = ratio)]
    trace_ratio: f64,
}

impl TraceArgs {
    /// # Errors
    /// One line that names the flag to mend.
    pub(crate) fn check(&self) -> Result<(), String> {
        match (&self.otlp_endpoint, &self.otlp_headers_file) {
            (None, Some(_)) => Err("--otlp-headers-file needs --otlp-endpoint, which is missing".to_owned()),
            (Some(endpoint), Some(_)) if endpoint.scheme() != "https" && !is_loopback(endpoint) => {
                Err("--otlp-endpoint must be https when --otlp-headers-file is sent to another machine".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// The exporter of spans for the node `name`, if --otlp-endpoint is given. Call it within the runtime.
    ///
    /// # Errors
    /// The flag, and what is wrong with it.
    pub fn open(&self, name: &NodeName) -> anyhow::Result<Option<TraceExporter>> {
        let Some(endpoint) = &self.otlp_endpoint else { return Ok(None) };
        let headers = self.otlp_headers_file.as_ref();
        let headers =
            headers.map(|file| open_file("--otlp-headers-file", file, CollectorHeaders::parse)).transpose()?;
        let settings = TraceSettings { endpoint: endpoint.to_string(), headers, ratio: self.trace_ratio };
        TraceExporter::open(settings, name).context("--otlp-endpoint").map(Some)
    }
}

fn endpoint(text: &str) -> Result<Url, String> {
    let invalid = || "must be the URL of a collector, as in http://127.0.0.1:4317".to_owned();
    let url = Url::parse(text).map_err(|_| invalid())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain a user or a password: pass --otlp-headers-file".to_owned());
    }
    let plain = matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none();
    if plain { Ok(url) } else { Err(invalid()) }
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}
