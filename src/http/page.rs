//! The page: `GET /`, `GET /{room}` and what they load from `/_/assets/`.
//!
//! Owns the embedded files and the headers that keep a page to its own origin. The scripts are there when `web/` was
//! bundled before the build; a binary without them says on the page how to get them.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::HeaderName;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::http::request::Parts;
use axum::response::{Html, IntoResponse};

use super::Config;
use super::problem::Problem;
use super::rest;

include!(concat!(env!("OUT_DIR"), "/scripts.rs"));

const FRONT: &str = include_str!("../../web/front.html");
const ROOM: &str = include_str!("../../web/room.html");
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

pub async fn asset(
    State(_config): State<Arc<Config>>,
    Path(asset): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    let scripts = SCRIPTS.iter().flatten().map(|(name, content)| (*name, *content, "text/javascript; charset=utf-8"));
    let files = [("style.css", STYLE, "text/css; charset=utf-8"), ("icon.svg", ICON, "image/svg+xml")];
    let found = scripts.chain(files).find(|(name, _, _)| *name == asset);
    let (_, content, content_type) = found.ok_or_else(|| Problem::not_found(format!("there is no asset {asset}")))?;
    Ok(([(CONTENT_TYPE, content_type)], content))
}

fn page(built: &'static str) -> impl IntoResponse {
    let html = if SCRIPTS.is_some() { built } else { UNBUILT };
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

impl FromRequestParts<Arc<Config>> for ValidRoom {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, config: &Arc<Config>) -> Result<Self, Problem> {
        rest::room(parts, config).await.map(|_room| Self)
    }
}
