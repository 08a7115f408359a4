//! The one envelope of every error: `application/problem+json` (RFC 9457).
//!
//! Owns the table from meaning to HTTP status. Nothing expected is a 500.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// When to try again what may work in a moment, for `Retry-After`: in seconds.
pub const SOON: HeaderValue = HeaderValue::from_static("1");

/// A problem document of the type `about:blank`: its title is the status's own phrase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
}

/// What is wrong, and what can be done about it (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Document<'a> {
    /// What kind of problem it is: none beyond its status.
    #[schema(example = "about:blank")]
    r#type: &'static str,
    /// The phrase of the status.
    title: &'a str,
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong with this very request.
    detail: &'a str,
    /// As in the header `X-Request-Id` of the answer and in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

impl Problem {
    /// The request makes no sense as it is.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, detail: detail.into() }
    }

    /// Nobody knows who asks.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, detail: detail.into() }
    }

    /// Whoever asks may not have it.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::FORBIDDEN, detail: detail.into() }
    }

    /// Nothing is there.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, detail: detail.into() }
    }

    /// It may work later.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, detail: detail.into() }
    }

    /// Whoever asks has had as much as it may have for now.
    pub fn too_many(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::TOO_MANY_REQUESTS, detail: detail.into() }
    }

    /// Something is there that cannot be done to it; the response names what can.
    pub fn method_not_allowed(method: &Method) -> Response {
        let detail = format!("{method} cannot be done here; GET and HEAD can");
        Self { status: StatusCode::METHOD_NOT_ALLOWED, detail }
            .with(header::ALLOW, HeaderValue::from_static("GET,HEAD"))
    }

    /// The same, where the router says what can be done.
    pub fn not_done_here(method: &Method) -> Self {
        let detail = format!("{method} cannot be done here; the header Allow says what can");
        Self { status: StatusCode::METHOD_NOT_ALLOWED, detail }
    }

    /// The document itself, about the request of this id.
    pub fn document(&self, request_id: Option<&str>) -> Body {
        let document = Document {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            request_id,
        };
        serde_json::to_vec(&document).expect("a document of texts and a number").into()
    }

    /// The response, with a header that says what to do about it.
    pub fn with(self, name: HeaderName, value: HeaderValue) -> Response {
        let mut response = self.into_response();
        response.headers_mut().insert(name, value);
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, content_type, self.document(None)).into_response();
        // For whoever knows the request's id.
        response.extensions_mut().insert(self);
        response
    }
}
