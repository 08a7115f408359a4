//! The REST answers: `GET /{room}/users` and `GET /{room}/rollcall`.
//!
//! Owns their parameters and their headers. What the roll call could not have is in the headers of both, and in the body
//! of the full one, whose JSON is that of [`full`].

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

use super::openapi::{AskQuery, CallErrors, HeldHeader, RoomPath, Row};
use super::{PublicHttpConfig, full, paced};
use crate::names::Room;
use crate::problem::Problem;
use crate::roll_call::answer::Answer;

/// `true` or `false`: every node that may have sockets of the room has answered.
pub const COMPLETE: &str = "rollcall-complete";
/// When incomplete: `<node name>=<reason>, …`.
pub const UNANSWERED: &str = "rollcall-unanswered";
/// When incomplete: how many sockets are left open, or `unknown`.
pub const UNRESOLVED: &str = "rollcall-unresolved";

/// The parameters of a roll call, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    room: Room,
    deadline: Duration,
    strict: bool,
    /// What the caller holds, by `ETag`.
    held: Option<IfNoneMatch>,
}

#[derive(Deserialize)]
struct RawAsk {
    deadline_ms: Option<String>,
    strict: Option<String>,
}

/// Who is in the room
///
/// One row for each socket, in no particular order. Where somebody who may have sockets of the room did not answer, the
/// headers say so.
#[utoipa::path(
    get,
    path = "/{room}/users",
    params(RoomPath, AskQuery, HeldHeader),
    responses(
        (
            status = 200,
            body = [Row],
            headers(
                ("Rollcall-Complete" = bool, description = "Every node that may have sockets of the room has answered."),
                ("Rollcall-Unanswered" = String, description = "When incomplete: `<node>=<reason>`, separated by commas."),
                ("Rollcall-Unresolved" = String, description = "When incomplete: how many sockets are left open, or `unknown`."),
                ("ETag" = String, description = "When complete: names the roll, the same on every node."),
            )
        ),
        (status = 304, description = "It is what `If-None-Match` names, after the nodes were asked."),
        CallErrors,
    )
)]
pub async fn users(State(config): State<Arc<PublicHttpConfig>>, ask: Ask) -> Result<Response, Problem> {
    let answer = call(&config, &ask).await?;
    let tag = answer.tag().map(etag);
    let response = match (&tag, &ask.held) {
        (Some(tag), Some(held)) if !held.precondition_passes(tag) => StatusCode::NOT_MODIFIED.into_response(),
        _ => (TypedHeader(ContentType::json()), paced::body(&answer)).into_response(),
    };
    Ok((tag.map(TypedHeader), with_completeness(&answer, response)).into_response())
}

/// Who is in the room, who was asked, and what became of it
#[utoipa::path(
    get,
    path = "/{room}/rollcall",
    params(RoomPath, AskQuery),
    responses(
        (
            status = 200,
            body = full::Full,
            headers(
                ("Rollcall-Complete" = bool, description = "As `complete` in the body."),
                ("Rollcall-Unanswered" = String, description = "When incomplete: `<node>=<reason>`, separated by commas."),
                ("Rollcall-Unresolved" = String, description = "When incomplete: how many sockets are left open, or `unknown`."),
            )
        ),
        CallErrors,
    )
)]
pub async fn roll_call(State(config): State<Arc<PublicHttpConfig>>, ask: Ask) -> Result<Response, Problem> {
    let answer = call(&config, &ask).await?;
    let response = (TypedHeader(ContentType::json()), full::body(&answer)).into_response();
    Ok(with_completeness(&answer, response))
}

/// Weak: the order of the users is not part of what it names.
fn etag(tag: u128) -> ETag {
    format!("W/\"{tag:032x}\"").parse().expect("hexadecimal digits in quotes")
}

async fn call(config: &PublicHttpConfig, ask: &Ask) -> Result<Arc<Answer>, Problem> {
    let answer = config.roll_call.call(&ask.room, ask.deadline).await;
    let answer = answer.map_err(|unanswerable| Problem::unavailable(unanswerable.to_string()))?;
    if ask.strict && !answer.complete {
        config.roll_call.withheld();
        let (unanswered, unresolved) = (unanswered(&answer), unresolved(&answer));
        let who = if unanswered.is_empty() { "the directory could not be read".to_owned() } else { unanswered };
        return Err(Problem::unavailable(format!("the roll is incomplete: {who}; sockets left open: {unresolved}")));
    }
    Ok(answer)
}

fn with_completeness(answer: &Answer, mut response: Response) -> Response {
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

fn unanswered(answer: &Answer) -> String {
    let mut text = String::new();
    for (node, silence) in answer.unanswered() {
        let separator = if text.is_empty() { "" } else { ", " };
        write!(text, "{separator}{node}={silence}").expect("a String takes any text");
    }
    text
}

fn unresolved(answer: &Answer) -> String {
    answer.unresolved.map_or_else(|| "unknown".to_owned(), |count| count.to_string())
}

impl FromRequestParts<Arc<PublicHttpConfig>> for Ask {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, config: &Arc<PublicHttpConfig>) -> Result<Self, Problem> {
        let room = room(parts, config).await?;
        let Query(raw) = Query::<RawAsk>::from_request_parts(parts, config)
            .await
            .map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        let deadline = deadline(raw.deadline_ms.as_deref(), config)?;
        let strict = match raw.strict.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(Problem::bad_request("strict must be true or false")),
        };
        // One that cannot be read holds nothing.
        let held = parts.headers.typed_get();
        Ok(Self { room, deadline, strict, held })
    }
}

/// The room of a path, percent-decoded.
pub async fn room(parts: &mut Parts, config: &Arc<PublicHttpConfig>) -> Result<Room, Problem> {
    let params = RawPathParams::from_request_parts(parts, config)
        .await
        .map_err(|_| Problem::bad_request("the room's name must be valid UTF-8"))?;
    let (_, room) = params.iter().next().ok_or_else(|| Problem::not_found("there is no room in the path"))?;
    Room::parse(room).map_err(|error| Problem::bad_request(format!("the room's name {error}")))
}

fn deadline(given: Option<&str>, config: &PublicHttpConfig) -> Result<Duration, Problem> {
    let Some(given) = given else { return Ok(config.deadline) };
    let most = config.max_deadline.as_millis();
    let parsed = given.parse::<u64>().ok().filter(|&milliseconds| milliseconds > 0 && u128::from(milliseconds) <= most);
    let problem = || Problem::bad_request(format!("deadline_ms must be a whole number from 1 to {most}"));
    parsed.map(Duration::from_millis).ok_or_else(problem)
}
