//! `/_/log`: what this process logs, to be seen and changed while it runs.
//!
//! Owns the two handlers. What levels are is the log's own ([`crate::telemetry::logging`]).

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::{Extension, Json};
use tokio::time::timeout;
use tracing::info;

use super::BODY_MOST;
use super::guard::Operator;
use crate::commands::log::Told;
use crate::problem::Problem;
use crate::telemetry::logging;
use crate::telemetry::logging::Levels;

/// How long the body of a change may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(5);

pub async fn show() -> Result<Json<Told>, Problem> {
    Ok(Json(Told { levels: levels()?.current() }))
}

/// Logged on both sides of the change, so that one of the two lines is there unless neither would be.
pub async fn change(Extension(Operator(by)): Extension<Operator>, body: Body) -> Result<Json<Told>, Problem> {
    let body = timeout(BODY_WITHIN, to_bytes(body, BODY_MOST)).await;
    let body = body.map_err(|_elapsed| Problem::bad_request("the body took too long"))?;
    let body =
        body.map_err(|_| Problem::bad_request(format!("the body has more than {BODY_MOST} bytes, or broke off")))?;
    let text = str::from_utf8(&body).map_err(|_| Problem::bad_request("the body is not text"))?;
    let levels = levels()?;
    let before = levels.current();
    info!(%by, %before, "somebody changes the levels of the log");
    levels.change(text).map_err(|error| Problem::bad_request(error.to_string()))?;
    let now = levels.current();
    info!(%by, %before, levels = %now, "the levels of the log are changed");
    Ok(Json(Told { levels: now }))
}

fn levels() -> Result<&'static Levels, Problem> {
    logging::levels().ok_or_else(|| Problem::unavailable("this process does not log"))
}
