//! `rollcall health`: asks a node's admin port, for the probes of those who run nodes.
//!
//! Owns what is asked and how the answer is read; the asking itself is [`crate::commands::admin_client`]'s.

use std::time::Duration;

use axum::http::StatusCode;
use serde::Deserialize;

use crate::commands::admin_client::{AdminClient, one_line};

/// The longest that asking may take.
pub const WITHIN: Duration = Duration::from_secs(2);
/// The most bytes that are read of an answer, which has a few hundred.
const ANSWER_MOST: usize = 16 << 10;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Should new clients be sent there?
    Ready,
    /// Does the process answer?
    Live,
}

/// What matters here of what `/readyz` answers.
#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    reasons: Vec<String>,
    #[serde(default)]
    directory: String,
}

/// Asks the admin port at `admin`, `host:port`; one that listens on every address is asked over loopback.
///
/// # Errors
/// One line that says why the answer is no, or why there is none within [`WITHIN`].
pub async fn ask(admin: &str, question: Question) -> Result<String, String> {
    let client = AdminClient::new(admin, None).bounded(WITHIN, ANSWER_MOST);
    let answer = client.get(question.path()).await.map_err(|error| error.to_string());
    answer.and_then(|answer| question.read(answer.status, &answer.body)).map_err(|why| format!("{admin}: {why}"))
}

impl Question {
    fn path(self) -> &'static str {
        match self {
            Self::Ready => "/readyz",
            Self::Live => "/livez",
        }
    }

    fn read(self, status: StatusCode, body: &[u8]) -> Result<String, String> {
        match (self, status) {
            (Self::Live, StatusCode::OK) => Ok("alive".to_owned()),
            (Self::Ready, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE) => {
                let told: Told = serde_json::from_slice(body).map_err(|_| "what answers is not a node".to_owned())?;
                match status {
                    StatusCode::OK if told.directory == "ok" => Ok("ready".to_owned()),
                    StatusCode::OK => Ok(one_line(&format!("ready, though the directory {}", told.directory))),
                    _ => Err(one_line(&format!("not ready: {}", told.reasons.join("; ")))),
                }
            }
            (_, status) => Err(format!("what answers is not a node: it says {status}")),
        }
    }
}
