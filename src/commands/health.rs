//! `rollcall health`: a probe for container runtimes and init systems, which asks the admin port of a node.

use std::process::ExitCode;
use std::time::Duration;

use axum::http::StatusCode;
use clap::Args;
use serde::Deserialize;

use crate::commands::admin_client::{AdminClient, truncated_line};
use crate::commands::args::{ConfigFileArgs, HostPort};
use crate::commands::process::print_line;

/// The timeout of the probe, from the DNS lookup to the answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// An answer has a few hundred bytes.
const MAX_ANSWER_BYTES: usize = 16 << 10;

#[derive(Debug, Args)]
pub struct HealthArgs {
    #[command(flatten)]
    file: ConfigFileArgs,

    /// Admin port of the node. An address that means "all interfaces", such as 0.0.0.0, is asked over loopback
    #[arg(long, default_value = "127.0.0.1:9001", env = "ROLLCALL_ADMIN_LISTEN", value_name = "HOST:PORT")]
    pub admin: HostPort,

    /// Ask whether the process answers (`/livez`) instead of whether it takes new clients (`/readyz`)
    #[arg(long)]
    live: bool,
}

/// The two questions that a probe may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProbeKind {
    /// `/readyz`: whether a balancer should send new clients to the node.
    Ready,
    /// `/livez`: whether the process answers.
    Live,
}

/// The fields of `/readyz` that the probe prints.
#[derive(Deserialize)]
struct ReadinessFields {
    #[serde(default)]
    reasons: Vec<String>,
    #[serde(default)]
    directory: String,
}

impl HealthArgs {
    fn kind(&self) -> ProbeKind {
        if self.live { ProbeKind::Live } else { ProbeKind::Ready }
    }
}

/// Runs the subcommand.
pub(super) async fn run(args: &HealthArgs) -> ExitCode {
    print_line(probe(args.admin.as_str(), args.kind()).await)
}

/// Probes the admin port at `admin` (`host:port`). An unspecified address, such as 0.0.0.0, means loopback.
async fn probe(admin: &str, kind: ProbeKind) -> Result<String, String> {
    let client = AdminClient::new(admin, None).bounded(PROBE_TIMEOUT, MAX_ANSWER_BYTES);
    let answer = client.get(kind.path()).await.map_err(|error| error.to_string());
    answer.and_then(|answer| kind.verdict(answer.status, &answer.body)).map_err(|error| format!("{admin}: {error}"))
}

impl ProbeKind {
    fn path(self) -> &'static str {
        match self {
            Self::Ready => "/readyz",
            Self::Live => "/livez",
        }
    }

    fn verdict(self, status: StatusCode, body: &[u8]) -> Result<String, String> {
        match (self, status) {
            (Self::Live, StatusCode::OK) => Ok("alive".to_owned()),
            (Self::Ready, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE) => {
                let fields: ReadinessFields =
                    serde_json::from_slice(body).map_err(|_| "the answer is not that of a node".to_owned())?;
                match status {
                    StatusCode::OK if fields.directory == "ok" => Ok("ready".to_owned()),
                    StatusCode::OK => Ok(truncated_line(&format!("ready, though the directory {}", fields.directory))),
                    _ => Err(truncated_line(&format!("not ready: {}", fields.reasons.join("; ")))),
                }
            }
            (_, status) => Err(format!("the answer is not that of a node: status {status}")),
        }
    }
}
