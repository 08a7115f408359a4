//! What is there for operators on the admin port, under `/_/`: a page, and what it and `rollcall status` ask.
//!
//! Owns the routes. `/_/status` is how the cluster is, `/_/rooms/{room}` the same answer as `/{room}/rollcall` of the
//! public port, and both name rooms or users, so they are for operators alone ([`answers`]); `/_/` and its assets are for
//! everybody who reaches the port, since there is nothing about anybody in them ([`page()`]).

use std::sync::Arc;

use axum::response::Redirect;
use axum::routing::get;
use axum::{Json, Router};

use crate::auth::ApiAuth;
use crate::http::concurrency_limit::ConcurrencyLimit;
use crate::http::{PublicHttpConfig, asked_again, method_not_allowed, page, rest};
use crate::roll_call::MAX_DEADLINE;

/// How many questions of operators are answered at the same time: each is put to every node.
const MAX_CONCURRENT_REQUESTS: u32 = 16;

/// The page, and what it loads.
pub fn page() -> Router {
    let routes = Router::new()
        .route("/_", get(async || Redirect::permanent("/_/")))
        .route("/_/", get(page::operator))
        .route("/_/assets/{asset}", get(page::any_asset));
    routes.method_not_allowed_fallback(method_not_allowed).layer(asked_again())
}

/// What it asks. Whoever got so far may have it.
pub fn answers(admin: &super::AdminConfig) -> Router {
    let limit = ConcurrencyLimit::new(MAX_CONCURRENT_REQUESTS);
    let config = PublicHttpConfig {
        roll_call: admin.roll_call.clone(),
        callers: ApiAuth::Anyone,
        deadline: admin.deadline,
        max_deadline: MAX_DEADLINE,
        concurrency_limit: limit.clone(),
    };
    let status = admin.status.clone();
    Router::new()
        .route("/_/status", get(async move || Json(status.status().await)))
        .route("/_/rooms/{room}", get(rest::roll_call))
        .route_layer(limit)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::new(config))
}
