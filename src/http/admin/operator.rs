//! What is there for operators on the admin port, under `/_/`: a page, and what it and `rollcall status` ask.
//!
//! Owns the routes. `/_/status` is how the cluster is, `/_/rooms/{room}` the same answer as `/{room}/rollcall` of the
//! public port, and both name rooms or users, so they are for operators alone ([`answers`]); `/_/` and its assets are for
//! everybody who reaches the port, since there is nothing about anybody in them ([`page()`]).

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, header};
use axum::response::Redirect;
use axum::routing::get;
use axum::{Json, Router};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::http::{Config, method_not_allowed, page, rest, sealed};
use crate::identity::Callers;
use crate::limits::at_once::AtOnce;
use crate::node::DEADLINE_MOST;
use crate::roll_call::RollCall;
use crate::status::Overview;

/// How many questions of operators are answered at the same time: each is put to every node.
const AT_ONCE: u32 = 16;

/// The page, and what it loads.
pub fn page() -> Router {
    let routes = Router::new()
        .route("/_", get(async || Redirect::permanent("/_/")))
        .route("/_/", get(page::operator))
        .route("/_/assets/{asset}", get(page::any_asset));
    sealed(routes.method_not_allowed_fallback(method_not_allowed))
}

/// What it asks. `deadline`: of a roll call that names none.
pub fn answers(overview: Overview, roll_call: RollCall, deadline: Duration) -> Router {
    let at_once = AtOnce::new(AT_ONCE);
    let callers = Callers::Anyone;
    let config = Config { roll_call, callers, deadline, deadline_most: DEADLINE_MOST, at_once: at_once.clone() };
    let routes = Router::new()
        .route("/_/status", get(async move || Json(overview.status().await)))
        .route("/_/rooms/{room}", get(rest::roll_call))
        .route_layer(at_once)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::new(config))
        .layer(SetResponseHeaderLayer::if_not_present(header::CACHE_CONTROL, HeaderValue::from_static("no-store")));
    sealed(routes)
}
