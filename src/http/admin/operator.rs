//! The operators' routes of the admin port, under `/_/`: a page, and the data for the page and for `rollcall status`.
//!
//! `/_/status` is the state of the cluster. `/_/rooms/{room}` has the same response as `/{room}/rollcall` of the public port.
//! Both name rooms or users, so they need the guard ([`data_routes`]). The page and its assets contain no data and need none
//! ([`page_routes`]).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Redirect;
use axum::routing::get;
use axum::{Json, Router};

use crate::auth::ApiAuth;
use crate::http::concurrency_limit::ConcurrencyLimit;
use crate::http::config::PublicHttpConfig;
use crate::http::defaults::{method_not_allowed, revalidate};
use crate::http::{page, rest};
use crate::roll_call::{MAX_DEADLINE, RollCall};
use crate::status::{ClusterStatus, StatusCollector};

/// Low, because each of these requests asks every node.
const MAX_CONCURRENT_REQUESTS: u32 = 16;

/// The page and its assets.
pub fn page_routes() -> Router {
    let routes = Router::new()
        .route("/_", get(async || Redirect::permanent("/_/")))
        .route("/_/", get(page::operator))
        .route("/_/assets/{asset}", get(page::asset));
    routes.method_not_allowed_fallback(method_not_allowed).layer(revalidate())
}

/// The routes of the data, without the guard: the caller adds it.
pub fn data_routes(roll_call: RollCall, status: StatusCollector, deadline: Duration) -> Router {
    let limit = ConcurrencyLimit::new(MAX_CONCURRENT_REQUESTS);
    let config = PublicHttpConfig {
        roll_call,
        callers: ApiAuth::Anyone,
        deadline,
        max_deadline: MAX_DEADLINE,
        concurrency_limit: limit.clone(),
    };
    Router::new()
        .route("/_/status", get(cluster_status).with_state(status))
        .route("/_/rooms/{room}", get(rest::roll_call))
        .route_layer(limit)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::new(config))
}

/// The status of the cluster
///
/// Every node that this node knows reports itself, within a second.
#[utoipa::path(get, path = "/_/status", responses((status = 200, body = ClusterStatus)))]
pub async fn cluster_status(State(collector): State<StatusCollector>) -> Json<ClusterStatus> {
    Json(collector.status().await)
}
