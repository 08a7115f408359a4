//! The admin port: is this node well, what has it counted, and what its operator alone may see and change.
//!
//! Owns two groups of routes. The open one is for probes and Prometheus, and names no room and no user: `/livez` answers
//! as long as the process does; `/readyz` says whether new clients should be sent here, and if not, why; `/metrics` is
//! what Prometheus reads; the page for operators is there, too, since it holds nothing by itself. The closed one is the
//! rest of `/_/`: what that page and the commands ask ([`operator`]). [`guard`] says who gets in.

pub mod guard;
pub mod log;
pub mod operator;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use prometheus::TEXT_FORMAT;
use tokio::task::spawn_blocking;
use tracing::error;

use super::request_id::RequestIds;
use super::{not_found, sealed};
use crate::auth::IdentityMode;
use crate::membership::Membership;
use crate::problem::Problem;
use crate::roll_call::RollCall;
use crate::status::StatusCollector;
use crate::status::health::ReadinessReport;
use crate::telemetry::logging::LogLevelHandle;
use crate::telemetry::traces::TraceSampling;
use guard::AdminGuard;

/// The most bytes of a request's body.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Renders the metrics as text, or says why it cannot. A closure, since what is measured is wired above HTTP.
pub type RenderMetrics = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// What the admin port needs.
pub struct AdminConfig {
    pub membership: Arc<Membership>,
    /// Without a key to check tokens with, no client is sent here.
    pub identity: IdentityMode,
    /// Renders all metrics. Blocks: it reads files of `/proc`.
    pub render_metrics: RenderMetrics,
    /// Who gets into the closed group.
    pub guard: AdminGuard,
    pub status: StatusCollector,
    pub roll_call: RollCall,
    /// Of a roll call that names none.
    pub deadline: Duration,
    /// The levels of the process's log, if it has one.
    pub log_levels: Option<LogLevelHandle>,
}

pub fn router(config: AdminConfig) -> Router {
    let config = Arc::new(config);
    let answers = operator::answers(&config);
    let guarded = closed().with_state(Arc::clone(&config)).merge(answers);
    let guarded = guarded.route_layer(from_fn_with_state(config.guard.clone(), guard::let_in));
    let routes = open()
        .with_state(config)
        .merge(operator::page())
        .merge(guarded)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    routes.layer((
        RequestIds { https: false, sampling: TraceSampling::default() },
        sealed(),
        DefaultBodyLimit::max(MAX_BODY_BYTES),
    ))
}

/// What whoever reaches the port may have: nothing about anybody, and nothing secret.
fn open() -> Router<Arc<AdminConfig>> {
    Router::new().route("/livez", get(async || "ok\n")).route("/readyz", get(readyz)).route("/metrics", get(metrics))
}

/// What the operator alone may have: whatever is listed here is guarded, and what changes something is no GET.
fn closed() -> Router<Arc<AdminConfig>> {
    Router::new()
        .route("/_/log", get(log::show).put(log::change))
        // Nobody learns from a refusal what there is.
        .route("/_/{*elsewhere}", any(not_found))
        .method_not_allowed_fallback(method_not_allowed)
}

/// What can be done there is in the header `Allow`.
async fn method_not_allowed(method: Method) -> Problem {
    Problem::not_done_here(&method)
}

async fn readyz(State(config): State<Arc<AdminConfig>>) -> Response {
    let report = ReadinessReport::of(config.membership.readiness(), config.identity.is_ready());
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

/// Renders on a blocking thread, because reading `/proc` would hold up the tasks of a worker.
async fn metrics(State(config): State<Arc<AdminConfig>>) -> Result<Response, Problem> {
    let rendered = spawn_blocking(move || (config.render_metrics)()).await;
    let failed = |error: String| {
        error!(%error, "cannot render the metrics");
        Problem::unavailable("the metrics cannot be rendered; see the log of this node")
    };
    let text = rendered.unwrap_or_else(|panicked| Err(panicked.to_string())).map_err(failed)?;
    Ok(([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response())
}
