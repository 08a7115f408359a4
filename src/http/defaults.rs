//! Default response headers and fallback handlers, for the routes of both ports.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Uri, header};
use axum::response::Response;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::problem::Problem;

/// Permits caches to store a response only if they revalidate it.
pub(super) fn revalidate() -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))
}

/// Prevents browsers from guessing the content type, and pages of other origins from embedding a response.
pub(super) fn same_origin() -> (SetResponseHeaderLayer<HeaderValue>, SetResponseHeaderLayer<HeaderValue>) {
    let set = |name, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    let policy = HeaderName::from_static("cross-origin-resource-policy");
    (set(header::X_CONTENT_TYPE_OPTIONS, "nosniff"), set(policy, "same-origin"))
}

/// The response to a path that has no route.
pub(super) async fn not_found(uri: Uri) -> Problem {
    Problem::not_found(format!("no route matches {}", uri.path()))
}

/// The response to a method that the route does not have. For routers whose routes are all read-only.
pub(super) async fn method_not_allowed(request: Request) -> Response {
    Problem::read_only(request.method())
}
