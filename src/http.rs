//! HTTP: the REST answers, the page, and the admin port.
//!
//! Owns the routes, what pages of other origins may read, who is let in ([`access`]), the ids of requests
//! ([`request_id`]), and how meaning becomes a response; every error is one problem document ([`problem`]), and a large
//! list is [`paced`]. What can be asked is told to programs by [`openapi`]. Handlers adapt the roll call and know no more
//! about it than its answer.

pub mod access;
pub mod admin;
pub mod concurrency_limit;
pub mod full;
pub mod openapi;
pub mod paced;
pub mod page;
pub mod request_id;
pub mod rest;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::get;
use axum_extra::TypedHeader;
use bytes::Bytes;
use headers::ContentType;
use tower::util::option_layer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::auth::ApiAuth;

use crate::problem::Problem;
use crate::roll_call::RollCall;
use concurrency_limit::ConcurrencyLimit;
use request_id::REQUEST_ID;

/// What the public port needs.
pub struct PublicHttpConfig {
    pub roll_call: RollCall,
    /// Who may call it.
    pub callers: ApiAuth,
    /// The deadline of a roll call that names none.
    pub deadline: Duration,
    /// The longest deadline a caller may ask for.
    pub max_deadline: Duration,
    /// How many roll calls are answered at the same time.
    pub concurrency_limit: ConcurrencyLimit,
}

/// The public port, without Socket.IO.
pub fn router(config: PublicHttpConfig) -> Router {
    let config = Arc::new(config);
    let guarded = !matches!(config.callers, ApiAuth::Anyone);
    let guard = guarded.then(|| from_fn_with_state(Arc::clone(&config), access::guard));
    let rolls = Router::new()
        .route("/{room}/users", get(rest::users))
        .route("/{room}/rollcall", get(rest::roll_call))
        // Who may not call takes no place, however long it takes to find that out.
        .route_layer((option_layer(guard), config.concurrency_limit.clone()));
    let openapi = openapi::document(&config.callers);
    let openapi = Bytes::from(serde_json::to_vec(&openapi).expect("a document of texts, numbers and lists"));
    let routes = Router::new()
        .route("/", get(page::front))
        .route("/_/assets/{asset}", get(page::asset))
        .route("/_/openapi.json", get(async move || (TypedHeader(ContentType::json()), openapi.clone())))
        .route("/{room}", get(page::room))
        .merge(rolls)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(config);
    routes.layer((sealed(), asked_again()))
}

/// What keeps answers from caches that do not ask again.
fn asked_again() -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))
}

/// What keeps answers from pages of other origins, and browsers from taking them for something else.
fn sealed() -> (SetResponseHeaderLayer<HeaderValue>, SetResponseHeaderLayer<HeaderValue>) {
    let set = |name, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    // No page of another origin may embed what it may not read.
    let policy = HeaderName::from_static("cross-origin-resource-policy");
    (set(header::X_CONTENT_TYPE_OPTIONS, "nosniff"), set(policy, "same-origin"))
}

/// What tells browsers to come back by https alone, for a year.
pub fn https_only() -> SetResponseHeaderLayer<HeaderValue> {
    let year = HeaderValue::from_static("max-age=31536000");
    SetResponseHeaderLayer::if_not_present(header::STRICT_TRANSPORT_SECURITY, year)
}

/// The answer to whatever is no route.
pub async fn not_found(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}", uri.path()))
}

/// The answer to a method that the route does not have. All routes here are read-only.
pub async fn method_not_allowed(request: Request) -> Response {
    Problem::method_not_allowed(request.method())
}

/// What lets pages of these origins read the answers of the public port. None: no page of another origin.
pub fn cors(origins: Vec<HeaderValue>) -> Option<CorsLayer> {
    let ours = [rest::COMPLETE, rest::UNANSWERED, rest::UNRESOLVED].map(HeaderName::from_static);
    let exposed: Vec<_> = ours.into_iter().chain([header::ETAG, REQUEST_ID]).collect();
    let layer = CorsLayer::new()
        // Polling clients send what they say by POST.
        .allow_methods([Method::GET, Method::HEAD, Method::POST])
        .allow_headers([header::AUTHORIZATION, header::IF_NONE_MATCH, header::CONTENT_TYPE, REQUEST_ID])
        .expose_headers(exposed);
    (!origins.is_empty()).then(|| layer.allow_origin(AllowOrigin::list(origins)))
}
