//! Who may call the roll, as HTTP says it.
//!
//! Owns the `Authorization` header, the `401` and `403` (RFC 6750), and what caches may keep of an answer that is not for
//! everybody. Who a token belongs to is decided by [`ApiAuth`](crate::auth::ApiAuth); the page and its assets are
//! open to all, since there is nothing about anybody in them.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use headers::HeaderMapExt as _;
use headers::authorization::{Authorization, Bearer};

use super::{PublicHttpConfig, rest};
use crate::auth::AuthError;
use crate::problem::{Problem, SOON};

/// What a caller is asked for that presented no token.
pub const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"rollcall\"");
/// What a caller is asked for whose token is not known.
pub const INVALID: HeaderValue = HeaderValue::from_static("Bearer realm=\"rollcall\", error=\"invalid_token\"");
const INSUFFICIENT: HeaderValue = HeaderValue::from_static("Bearer realm=\"rollcall\", error=\"insufficient_scope\"");

/// A problem, and the header that says what to do about it.
type Refused = ((HeaderName, HeaderValue), Problem);

/// The token of a request, from its header: never from its query, which logs and histories keep.
pub fn bearer(headers: &HeaderMap) -> Option<Bearer> {
    headers.typed_get::<Authorization<Bearer>>().map(|Authorization(bearer)| bearer)
}

/// In front of the routes that call a roll, unless anyone may.
pub async fn guard(State(config): State<Arc<PublicHttpConfig>>, request: Request, next: Next) -> Response {
    let (mut response, kept) = match known(&config, request).await {
        Ok(request) => (next.run(request).await, HeaderValue::from_static("private, no-cache")),
        Err(((name, value), problem)) => (problem.with(name, value), HeaderValue::from_static("no-store")),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, kept);
    response.headers_mut().append(header::VARY, HeaderValue::from_static("authorization"));
    response
}

/// The request again, if whoever sent it may call the roll of the room that it names.
async fn known(config: &Arc<PublicHttpConfig>, request: Request) -> Result<Request, Refused> {
    let presented = bearer(request.headers());
    let presented =
        presented.ok_or_else(|| unauthorized(CHALLENGE, "pass a token in the header Authorization: Bearer"))?;
    let caller = config.callers.know(presented.token()).await.map_err(|denied| match denied {
        AuthError::Invalid(_) => unauthorized(INVALID, "this token gets nobody in here; get another one"),
        AuthError::Expired => unauthorized(INVALID, "the token has expired; get a new one"),
        AuthError::Unavailable => {
            ((header::RETRY_AFTER, SOON), Problem::unavailable("tokens cannot be checked here yet"))
        }
    })?;
    let Some(caller) = caller else { return Ok(request) };
    let (mut parts, body) = request.into_parts();
    // What names no room is answered by the route.
    if let Ok(room) = rest::room(&mut parts, config).await
        && !caller.may_call(&room)
    {
        let problem = Problem::forbidden("this token does not cover the roll of this room");
        return Err(((header::WWW_AUTHENTICATE, INSUFFICIENT), problem));
    }
    Ok(Request::from_parts(parts, body))
}

fn unauthorized(challenge: HeaderValue, what_to_do: &str) -> Refused {
    ((header::WWW_AUTHENTICATE, challenge), Problem::unauthorized(what_to_do))
}
