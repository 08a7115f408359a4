//! Authentication and authorization of roll calls over HTTP.
//!
//! Owns the header `Authorization`, the responses `401` and `403` (RFC 6750), and the caching headers of restricted
//! responses. Owns no token: [`ApiAuth`](crate::auth::ApiAuth) checks them. The pages and their assets contain no data and
//! need no token.

use std::sync::Arc;

use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use headers::HeaderMapExt as _;
use headers::authorization::{Authorization, Bearer};

use super::config::PublicHttpConfig;
use super::rest::RoomPath;
use crate::auth::AuthError;
use crate::problem::{Problem, SOON};

/// The challenge for a request without a token.
pub const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"rollcall\"");
/// The challenge for a request with an invalid token.
pub const INVALID: HeaderValue = HeaderValue::from_static("Bearer realm=\"rollcall\", error=\"invalid_token\"");
const INSUFFICIENT: HeaderValue = HeaderValue::from_static("Bearer realm=\"rollcall\", error=\"insufficient_scope\"");

/// A problem, and the header that tells the client what to do (`WWW-Authenticate` or `Retry-After`).
type Refusal = ((HeaderName, HeaderValue), Problem);

/// The bearer token of a request. It is read from the header only: queries end up in logs and browser histories.
pub fn bearer(headers: &HeaderMap) -> Option<Bearer> {
    headers.typed_get::<Authorization<Bearer>>().map(|Authorization(bearer)| bearer)
}

/// The middleware of the roll call routes, on a node whose [`ApiAuth`](crate::auth::ApiAuth) requires tokens.
pub async fn authenticate(State(config): State<Arc<PublicHttpConfig>>, request: Request, next: Next) -> Response {
    let (mut response, cache_control) = match authorize(&config, request).await {
        Ok(request) => (next.run(request).await, HeaderValue::from_static("private, no-cache")),
        Err(((name, value), problem)) => (problem.with(name, value), HeaderValue::from_static("no-store")),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, cache_control);
    response.headers_mut().append(header::VARY, HeaderValue::from_static("authorization"));
    response
}

/// Returns the request if its token permits a roll call of the room in its path.
async fn authorize(config: &Arc<PublicHttpConfig>, request: Request) -> Result<Request, Refusal> {
    let presented = bearer(request.headers());
    let presented =
        presented.ok_or_else(|| unauthorized(CHALLENGE, "pass a token in the header Authorization: Bearer"))?;
    let caller = config.callers.authenticate(presented.token()).await.map_err(|error| match error {
        AuthError::Invalid(_) => unauthorized(INVALID, "invalid token; get a new one from the token issuer"),
        AuthError::Expired => unauthorized(INVALID, "the token has expired; get a new one"),
        AuthError::Unavailable => (
            (header::RETRY_AFTER, SOON),
            Problem::unavailable("this node has no keys yet (JWKS) to verify tokens; try again in a moment"),
        ),
    })?;
    let Some(caller) = caller else { return Ok(request) };
    let (mut parts, body) = request.into_parts();
    // A path without a valid room passes: the handler refuses it with 400.
    if let Ok(RoomPath(room)) = RoomPath::from_request_parts(&mut parts, config).await
        && !caller.may_call(&room)
    {
        let problem = Problem::forbidden("this token does not cover the roll of this room");
        return Err(((header::WWW_AUTHENTICATE, INSUFFICIENT), problem));
    }
    Ok(Request::from_parts(parts, body))
}

fn unauthorized(challenge: HeaderValue, detail: &str) -> Refusal {
    ((header::WWW_AUTHENTICATE, challenge), Problem::unauthorized(detail))
}
