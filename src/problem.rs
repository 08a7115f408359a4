//! The envelope of every HTTP error: `application/problem+json` (RFC 9457).
//!
//! Owns the mapping from the meaning of an error to its HTTP status: an expected error is never a `500`. Owns no text; the
//! handlers write it.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `Retry-After`, in seconds, for conditions that pass in a moment.
pub const SOON: HeaderValue = HeaderValue::from_static("1");

/// A problem of the type `about:blank`, whose title is the phrase of the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
}

/// An error and its remedy (RFC 9457).
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument<'a> {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[schema(example = "about:blank")]
    pub r#type: Cow<'a, str>,
    /// The phrase of the status.
    pub title: Cow<'a, str>,
    /// The status of the response.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// The fault of this request, and the remedy.
    pub detail: Cow<'a, str>,
    /// The header `X-Request-Id` of the response, which is also in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Cow<'a, str>>,
}

impl Problem {
    /// `400`: the request is malformed.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, detail: detail.into() }
    }

    /// `401`: the caller is not authenticated.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, detail: detail.into() }
    }

    /// `403`: the caller is authenticated and not permitted.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::FORBIDDEN, detail: detail.into() }
    }

    /// `404`.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, detail: detail.into() }
    }

    /// `503`: the same request may succeed later.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, detail: detail.into() }
    }

    /// `429`: the caller is over one of its limits.
    pub fn too_many(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::TOO_MANY_REQUESTS, detail: detail.into() }
    }

    /// `405` of a read-only resource, with the header `Allow`.
    pub fn read_only(method: &Method) -> Response {
        let detail = format!("the method {method} is not allowed here; use GET or HEAD");
        Self { status: StatusCode::METHOD_NOT_ALLOWED, detail }
            .with(header::ALLOW, HeaderValue::from_static("GET,HEAD"))
    }

    /// `405` where the router sets the header `Allow`.
    pub fn method_not_allowed(method: &Method) -> Self {
        let detail = format!("the method {method} is not allowed here; see the header Allow");
        Self { status: StatusCode::METHOD_NOT_ALLOWED, detail }
    }

    /// The document as a response body.
    pub fn document(&self, request_id: Option<&str>) -> Body {
        let document = ProblemDocument {
            r#type: "about:blank".into(),
            title: self.status.canonical_reason().unwrap_or("Error").into(),
            status: self.status.as_u16(),
            detail: self.detail.as_str().into(),
            request_id: request_id.map(Cow::from),
        };
        serde_json::to_vec(&document).expect("a document of texts and a number").into()
    }

    /// The response with one more header, which names the remedy.
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
        // The layer of request ids writes the body again, with the id.
        response.extensions_mut().insert(self);
        response
    }
}
