//! HTTP: the REST API, the pages, and the admin port.
//!
//! Owns the routers. [`rest`] answers roll calls, [`access`] authenticates the callers, and [`openapi`] describes the API.
//! [`page`] serves the pages, and [`admin`] is the router of the admin port. Every error is a problem document
//! ([`crate::problem`]). Owns no roll call: the handlers adapt [`RollCall::call`](crate::roll_call::RollCall::call).

pub mod access;
pub mod admin;
pub mod concurrency_limit;
pub mod config;
mod defaults;
pub mod openapi;
mod page;
pub mod request_id;
pub mod rest;
mod roll_call_body;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use axum_extra::TypedHeader;
use bytes::Bytes;
use headers::ContentType;
use tower::util::option_layer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::auth::ApiAuth;
use crate::telemetry::route::{ROLL_CALL_PATH, USERS_PATH};
use config::PublicHttpConfig;
use defaults::{method_not_allowed, not_found, revalidate, same_origin};
use request_id::REQUEST_ID;

/// The public port, without Socket.IO.
pub fn router(config: PublicHttpConfig) -> Router {
    let config = Arc::new(config);
    let is_restricted = !matches!(config.callers, ApiAuth::Anyone);
    let authenticate = is_restricted.then(|| from_fn_with_state(Arc::clone(&config), access::authenticate));
    let roll_calls = Router::new()
        .route(USERS_PATH, get(rest::users))
        .route(ROLL_CALL_PATH, get(rest::roll_call))
        // Authentication is the outer layer: a caller that is refused never takes a permit of the concurrency limit.
        .route_layer((option_layer(authenticate), config.concurrency_limit.clone()));
    let openapi = openapi::document(&config.callers);
    let openapi = Bytes::from(serde_json::to_vec(&openapi).expect("strings, numbers and lists can be serialized"));
    let routes = Router::new()
        .route("/", get(page::front))
        .route("/_/assets/{asset}", get(page::asset))
        .route("/_/openapi.json", get(async move || (TypedHeader(ContentType::json()), openapi.clone())))
        .route("/{room}", get(page::room))
        .merge(roll_calls)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(config);
    routes.layer((same_origin(), revalidate()))
}

/// Makes browsers use https only, for a year (HSTS).
pub fn https_only() -> SetResponseHeaderLayer<HeaderValue> {
    let year = HeaderValue::from_static("max-age=31536000");
    SetResponseHeaderLayer::if_not_present(header::STRICT_TRANSPORT_SECURITY, year)
}

/// Permits pages of these origins to read responses of the public port (CORS); `None` without origins.
pub fn cors(origins: Vec<HeaderValue>) -> Option<CorsLayer> {
    let completeness = [rest::COMPLETE, rest::UNANSWERED, rest::UNRESOLVED].map(HeaderName::from_static);
    let exposed: Vec<_> = completeness.into_iter().chain([header::ETAG, REQUEST_ID]).collect();
    let layer = CorsLayer::new()
        // Clients with long-polling send their packets by POST.
        .allow_methods([Method::GET, Method::HEAD, Method::POST])
        .allow_headers([header::AUTHORIZATION, header::IF_NONE_MATCH, header::CONTENT_TYPE, REQUEST_ID])
        .expose_headers(exposed);
    (!origins.is_empty()).then(|| layer.allow_origin(AllowOrigin::list(origins)))
}
