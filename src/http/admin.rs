//! The admin port: probes, metrics, and the operators' API.
//!
//! Owns two groups of routes. The open routes name no room and no user: `/livez` (the process runs), `/readyz` (load
//! balancers should send new clients here), `/metrics` for Prometheus, and the operators' page without its data. The guarded
//! routes are the rest of `/_/`: the log levels ([`log`]), and the data for the page and for the command line
//! ([`operator`]). [`guard`] authorizes their requests.

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

use super::defaults::{not_found, same_origin};
use super::request_id::RequestIds;
use crate::auth::IdentityMode;
use crate::membership::Membership;
use crate::problem::Problem;
use crate::roll_call::RollCall;
use crate::status::StatusCollector;
use crate::status::health::ReadinessReport;
use crate::telemetry::logging::LogLevelHandle;
use crate::telemetry::traces::TraceSampling;
use guard::AdminGuard;

/// The limit of a request body on every route.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Renders all metrics as text, or returns the reason of the failure. Blocks: it reads files in `/proc`.
///
/// This is a closure, because it reads the state of layers that this one must not import.
pub type RenderMetrics = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// The components and settings that the admin port uses.
pub struct AdminConfig {
    pub membership: Arc<Membership>,
    /// For `/readyz`: a node without keys cannot verify the tokens of clients.
    pub identity: IdentityMode,
    pub render_metrics: RenderMetrics,
    /// Authorizes the requests of the guarded routes.
    pub guard: AdminGuard,
    pub status: StatusCollector,
    pub roll_call: RollCall,
    /// The deadline of a roll call whose caller names none.
    pub deadline: Duration,
    /// The log levels of the process; `None` if the process has no log.
    pub log_levels: Option<LogLevelHandle>,
}

pub fn router(config: AdminConfig) -> Router {
    let config = Arc::new(config);
    let data = operator::data_routes(config.roll_call.clone(), config.status.clone(), config.deadline);
    let guarded = guarded_routes().merge(log::routes(config.log_levels.clone())).merge(data);
    let guarded = guarded.route_layer(from_fn_with_state(config.guard.clone(), guard::authorize));
    let routes = open_routes()
        .with_state(config)
        .merge(operator::page_routes())
        .merge(guarded)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    routes.layer((
        RequestIds { https: false, sampling: TraceSampling::default() },
        same_origin(),
        DefaultBodyLimit::max(MAX_BODY_BYTES),
    ))
}

/// Routes without a guard. Their responses name no room and no user, and contain no secret.
fn open_routes() -> Router<Arc<AdminConfig>> {
    Router::new().route("/livez", get(async || "ok\n")).route("/readyz", get(readyz)).route("/metrics", get(metrics))
}

/// Routes for operators only. A change is never a GET, so that the guard can tell reading from changing by the method.
fn guarded_routes() -> Router {
    Router::new()
        // Guarded too, so that a refusal does not reveal which paths exist.
        .route("/_/{*unknown}", any(not_found))
        .method_not_allowed_fallback(method_not_allowed)
}

/// Does not set `Allow`: the routes have different methods, and the router knows them.
async fn method_not_allowed(method: Method) -> Problem {
    Problem::method_not_allowed(&method)
}

async fn readyz(State(config): State<Arc<AdminConfig>>) -> Response {
    let report = ReadinessReport::of(config.membership.readiness(), config.identity.is_ready());
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

async fn metrics(State(config): State<Arc<AdminConfig>>) -> Result<Response, Problem> {
    // On a blocking thread: reading /proc would delay the other tasks of a worker.
    let rendered = spawn_blocking(move || (config.render_metrics)()).await;
    let failed = |error: String| {
        error!(%error, "cannot render the metrics");
        Problem::unavailable("the metrics cannot be rendered; see the log of this node")
    };
    let text = rendered.unwrap_or_else(|panicked| Err(panicked.to_string())).map_err(failed)?;
    Ok(([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response())
}
