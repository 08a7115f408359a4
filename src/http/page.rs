//! The pages: `GET /`, `GET /{room}`, that of operators, and what they load from `/_/assets/`.
//!
//! Owns the embedded files and the headers that keep a page to its own origin. The scripts are there when `web/` was
//! bundled before the build; a binary without them says on the page how to get them.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::HeaderName;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::http::request::Parts;
use axum::response::{Html, IntoResponse};

use super::PublicHttpConfig;
use super::rest;
use crate::problem::Problem;

include!(concat!(env!("OUT_DIR"), "/built.rs"));

const FRONT: &str = include_str!("../../web/front.html");
const ROOM: &str = include_str!("../../web/room.html");
const OPERATOR: &str = include_str!("../../web/operator.html");
const UNBUILT: &str = include_str!("../../web/unbuilt.html");
const STYLE: &[u8] = include_bytes!("../../web/style.css");
const ICON: &[u8] = include_bytes!("../../web/icon.svg");

/// No inline script, nothing from elsewhere, and nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Nothing of the machine that the page is shown on.
const PERMISSIONS: &str = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()";

/// Extracted where the path names a valid room.
pub struct ValidRoom;

pub async fn front() -> impl IntoResponse {
    page(FRONT)
}

pub async fn room(_room: ValidRoom) -> impl IntoResponse {
    page(ROOM)
}

/// That of the admin port.
pub async fn operator() -> impl IntoResponse {
    page(OPERATOR)
}

pub async fn asset(
    State(_config): State<Arc<PublicHttpConfig>>,
    Path(asset): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    any_asset(Path(asset)).await
}

/// The same, wherever it is asked for.
pub async fn any_asset(Path(asset): Path<String>) -> Result<impl IntoResponse, Problem> {
    let built = BUILT.iter().flatten().copied();
    let files = [("style.css", STYLE), ("icon.svg", ICON)];
    let found = built.chain(files).find(|(name, _)| *name == asset);
    let (name, content) = found.ok_or_else(|| Problem::not_found(format!("there is no asset {asset}")))?;
    let content_type = match name.rsplit('.').next() {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        _ => "image/svg+xml",
    };
    Ok(([(CONTENT_TYPE, content_type)], content))
}

fn page(built: &'static str) -> impl IntoResponse {
    let html = if BUILT.is_some() { built } else { UNBUILT };
    let headers = [
        (CONTENT_SECURITY_POLICY, POLICY),
        // The address of a room page names its user.
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("permissions-policy"), PERMISSIONS),
        // No window that opened this one has a hold on it.
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (headers, Html(html))
}

impl FromRequestParts<Arc<PublicHttpConfig>> for ValidRoom {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, config: &Arc<PublicHttpConfig>) -> Result<Self, Problem> {
        rest::room(parts, config).await.map(|_room| Self)
    }
}
