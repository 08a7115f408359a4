//! `/_/log`: shows the log levels of this process, and changes them while it runs.
//!
//! Owns the two handlers and the JSON of their responses. [`crate::telemetry::logging`] owns the levels.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::info;

use super::guard::Operator;
use crate::problem::Problem;
use crate::telemetry::logging::LogLevelHandle;

/// The path on the admin port.
pub const PATH: &str = "/_/log";
/// The limit of a body of levels.
const MAX_BODY_BYTES: usize = 64 << 10;
/// The time for the client to send the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The route. `levels` is `None` in a process that does not log.
pub fn routes(levels: Option<LogLevelHandle>) -> Router {
    Router::new().route(PATH, get(show).put(change)).with_state(levels)
}

/// The body of a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevels {
    pub levels: String,
}

/// `GET`: the current levels.
async fn show(State(levels): State<Option<LogLevelHandle>>) -> Result<Json<LogLevels>, Problem> {
    Ok(Json(LogLevels { levels: handle(levels.as_ref())?.current() }))
}

/// `PUT`: changes the levels.
async fn change(
    State(levels): State<Option<LogLevelHandle>>,
    Extension(Operator(by)): Extension<Operator>,
    body: Body,
) -> Result<Json<LogLevels>, Problem> {
    let body = timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY_BYTES)).await;
    let body = body.map_err(|_elapsed| {
        Problem::bad_request(format!("timeout: the body did not arrive within {BODY_TIMEOUT:?}"))
    })?;
    let too_large = format!("the body has more than {MAX_BODY_BYTES} bytes, or is incomplete");
    let body = body.map_err(|_| Problem::bad_request(too_large))?;
    let text = str::from_utf8(&body).map_err(|_| Problem::bad_request("the body is not valid UTF-8"))?;
    let levels = handle(levels.as_ref())?;
    let before = levels.current();
    // Logged before and after the change, so that a line appears if either the old or the new level permits it.
    info!(%by, %before, "changing the log levels");
    levels.change(text).map_err(|error| Problem::bad_request(error.to_string()))?;
    let now = levels.current();
    info!(%by, %before, levels = %now, "changed the log levels");
    Ok(Json(LogLevels { levels: now }))
}

fn handle(levels: Option<&LogLevelHandle>) -> Result<&LogLevelHandle, Problem> {
    levels.ok_or_else(|| Problem::unavailable("this process does not log"))
}
