//! The REST handlers: `GET /{room}/users` and `GET /{room}/rollcall`.
//!
//! Owns their parameters and headers. Both report in headers whether the answer is complete; the second also has the details
//! in its body. [`super::roll_call_body`] writes the bodies.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Query, RawPathParams, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum_extra::TypedHeader;
use headers::{ContentType, ETag, HeaderMapExt, IfNoneMatch};
use serde::Deserialize;
use utoipa::{IntoParams, IntoResponses};

use crate::http::config::PublicHttpConfig;
use crate::http::roll_call_body::{document_body, users_body};
use crate::names::Room;
use crate::problem::{Problem, ProblemDocument};
use crate::roll_call::answer::RollCallAnswer;
use crate::roll_call::document::{RollCallDocument, SocketDocument, UNKNOWN_NODES};

/// `true` or `false`: whether every node that may have sockets in the room has replied.
pub const COMPLETE: &str = "rollcall-complete";
/// In an incomplete answer: `<node name>=<reason>, …`.
pub const UNANSWERED: &str = "rollcall-unanswered";
/// In an incomplete answer: the number of sockets of nodes that did not reply, or `unknown`.
pub const UNRESOLVED: &str = "rollcall-unresolved";

/// The validated parameters of a roll call.
#[derive(Debug, Clone, PartialEq)]
pub struct RollCallRequest {
    room: Room,
    deadline: Duration,
    strict: bool,
    /// The `ETag` of the answer that the caller has.
    if_none_match: Option<IfNoneMatch>,
}

#[derive(Deserialize)]
struct RawQuery {
    deadline_ms: Option<String>,
    strict: Option<String>,
}

/// Lists the sockets of the room
///
/// One row for each socket, in no particular order. The headers say whether the answer is complete.
#[utoipa::path(
    get,
    path = "/{room}/users",
    params(RoomParameter, QueryParameters, IfNoneMatchHeader),
    responses(
        (
            status = 200,
            body = [SocketDocument<'static>],
            headers(
                ("Rollcall-Complete" = bool, description = "Whether every node that may have sockets in the room has replied."),
                ("Rollcall-Unanswered" = String, description = "In an incomplete answer: `<node>=<reason>`, separated by commas."),
                ("Rollcall-Unresolved" = String, description = "In an incomplete answer: the number of sockets of nodes that did not reply, or `unknown`."),
                ("ETag" = String, description = "In a complete answer: identifies its rows, with the same value on every node."),
            )
        ),
        (status = 304, description = "The rows have not changed since the answer that `If-None-Match` names. The nodes were asked for this."),
        RollCallProblems,
    )
)]
pub async fn users(State(config): State<Arc<PublicHttpConfig>>, request: RollCallRequest) -> Result<Response, Problem> {
    let answer = request_answer(&config, &request).await?;
    let tag = answer.tag().map(etag);
    let response = match (&tag, &request.if_none_match) {
        (Some(tag), Some(cached)) if !cached.precondition_passes(tag) => StatusCode::NOT_MODIFIED.into_response(),
        // This serializes no row: `SerializedRows` has held the JSON of each owner since its rows arrived.
        _ => (TypedHeader(ContentType::json()), users_body(&answer)).into_response(),
    };
    Ok((tag.map(TypedHeader), with_completeness(&answer, response)).into_response())
}

/// Lists the sockets of the room, the nodes that were asked, and the outcome of each node
#[utoipa::path(
    get,
    path = "/{room}/rollcall",
    params(RoomParameter, QueryParameters),
    responses(
        (
            status = 200,
            body = RollCallDocument<'static>,
            headers(
                ("Rollcall-Complete" = bool, description = "As `complete` in the body."),
                ("Rollcall-Unanswered" = String, description = "In an incomplete answer: `<node>=<reason>`, separated by commas."),
                ("Rollcall-Unresolved" = String, description = "In an incomplete answer: the number of sockets of nodes that did not reply, or `unknown`."),
            )
        ),
        RollCallProblems,
    )
)]
pub async fn roll_call(
    State(config): State<Arc<PublicHttpConfig>>,
    request: RollCallRequest,
) -> Result<Response, Problem> {
    let answer = request_answer(&config, &request).await?;
    let response = (TypedHeader(ContentType::json()), document_body(&answer)).into_response();
    Ok(with_completeness(&answer, response))
}

/// Weak, because the order of the rows is unspecified.
fn etag(tag: u128) -> ETag {
    format!("W/\"{tag:032x}\"").parse().expect("hexadecimal digits in quotes")
}

/// Calls the roll, and refuses an incomplete answer with `503` if the caller asked for `strict`.
async fn request_answer(config: &PublicHttpConfig, request: &RollCallRequest) -> Result<Arc<RollCallAnswer>, Problem> {
    let answer = config.roll_call.call(&request.room, request.deadline).await;
    let answer = answer.map_err(|error| Problem::unavailable(error.to_string()))?;
    if request.strict && !answer.complete {
        config.roll_call.count_strict_refusal();
        let (unanswered, unresolved) = (unanswered(&answer), unresolved(&answer));
        let reason = if unanswered.is_empty() { UNKNOWN_NODES.to_owned() } else { unanswered };
        return Err(Problem::unavailable(format!(
            "the roll call is incomplete: {reason}; unresolved sockets: {unresolved}"
        )));
    }
    Ok(answer)
}

fn with_completeness(answer: &RollCallAnswer, mut response: Response) -> Response {
    let headers = response.headers_mut();
    let mut set = |name, value: &str| {
        let value = HeaderValue::from_str(value).expect("node names, reasons and numbers are plain ASCII");
        headers.insert(HeaderName::from_static(name), value);
    };
    set(COMPLETE, if answer.complete { "true" } else { "false" });
    if !answer.complete {
        let unanswered = unanswered(answer);
        if !unanswered.is_empty() {
            set(UNANSWERED, &unanswered);
        }
        set(UNRESOLVED, &unresolved(answer));
    }
    response
}

fn unanswered(answer: &RollCallAnswer) -> String {
    let mut text = String::new();
    for (node, error) in answer.unanswered() {
        let separator = if text.is_empty() { "" } else { ", " };
        write!(text, "{separator}{node}={error}").expect("writing to a String does not fail");
    }
    text
}

fn unresolved(answer: &RollCallAnswer) -> String {
    answer.unresolved.map_or_else(|| "unknown".to_owned(), |count| count.to_string())
}

impl FromRequestParts<Arc<PublicHttpConfig>> for RollCallRequest {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, config: &Arc<PublicHttpConfig>) -> Result<Self, Problem> {
        let RoomPath(room) = RoomPath::from_request_parts(parts, config).await?;
        let Query(raw) = Query::<RawQuery>::from_request_parts(parts, config)
            .await
            .map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        let deadline = deadline(raw.deadline_ms.as_deref(), config)?;
        let strict = match raw.strict.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(Problem::bad_request("strict must be true or false")),
        };
        // A malformed header is ignored, as RFC 9110 requires.
        let if_none_match = parts.headers.typed_get();
        Ok(Self { room, deadline, strict, if_none_match })
    }
}

fn deadline(given: Option<&str>, config: &PublicHttpConfig) -> Result<Duration, Problem> {
    let Some(given) = given else { return Ok(config.deadline) };
    let max = config.max_deadline.as_millis();
    let parsed = given.parse::<u64>().ok().filter(|&milliseconds| milliseconds > 0 && u128::from(milliseconds) <= max);
    let problem = || Problem::bad_request(format!("deadline_ms must be a whole number from 1 to {max}"));
    parsed.map(Duration::from_millis).ok_or_else(problem)
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes `RoomPath` in OpenAPI")]
struct RoomParameter {
    /// The room, percent-encoded: 1 to 256 bytes of UTF-8 without control characters. `_`, `.`, `..` and `socket.io` are
    /// reserved. The pattern is stricter than the node, because a pattern cannot count bytes.
    #[param(
        min_length = 1,
        max_length = 256,
        pattern = r"^([ -\-/-\^`-~][ -~]{0,255}|[^\u0000-\u001f\u007f-\u009f._][^\u0000-\u001f\u007f-\u009f]{0,63})$",
        example = "Maths"
    )]
    room: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes `RollCallRequest` in OpenAPI")]
struct QueryParameters {
    /// The longest time until the answer, in milliseconds. The default is configured on the node.
    #[param(minimum = 1, maximum = 5000)]
    deadline_ms: Option<u32>,
    /// Return `503` instead of an incomplete answer.
    strict: Option<bool>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes `RollCallRequest` in OpenAPI")]
struct IfNoneMatchHeader {
    /// The `ETag` of the answer that the caller has cached.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
}

#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes the problems of both handlers in OpenAPI")]
enum RollCallProblems {
    /// The name of the room or a parameter is invalid.
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(#[to_schema] ProblemDocument<'static>),
    /// The token is missing or invalid; `WWW-Authenticate` says which.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(#[to_schema] ProblemDocument<'static>),
    /// The token does not permit a roll call of this room.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(#[to_schema] ProblemDocument<'static>),
    /// The node is overloaded or not ready, or `strict` was set and the answer would be incomplete. `Retry-After` says when
    /// to try again.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(#[to_schema] ProblemDocument<'static>),
}

/// Extracts the first path parameter as a room, or refuses the request with `400`.
pub struct RoomPath(pub Room);

impl<S: Send + Sync> FromRequestParts<S> for RoomPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::bad_request("the room's name must be valid UTF-8"))?;
        let (_, room) = params.iter().next().ok_or_else(|| Problem::not_found("the path names no room"))?;
        let room = Room::parse(room).map_err(|error| Problem::bad_request(format!("the room's name {error}")))?;
        Ok(Self(room))
    }
}
