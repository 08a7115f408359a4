//! The pages `GET /`, `GET /{room}` and the operators' page, and their assets in `/_/assets/`.
//!
//! Owns the embedded files, and the headers that restrict a page to its own origin. `build.rs` embeds the scripts if `web/`
//! was built before the binary; otherwise the page explains how to build them. Owns no data: the scripts ask the REST API.

use axum::extract::Path;
use axum::http::HeaderName;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::response::{Html, IntoResponse};

use super::rest::RoomPath;
use crate::problem::Problem;

include!(concat!(env!("OUT_DIR"), "/built.rs"));

const FRONT: &str = include_str!("../../web/front.html");
const ROOM: &str = include_str!("../../web/room.html");
const OPERATOR: &str = include_str!("../../web/operator.html");
const UNBUILT: &str = include_str!("../../web/unbuilt.html");
const STYLE: &[u8] = include_bytes!("../../web/style.css");
const ICON: &[u8] = include_bytes!("../../web/icon.svg");

/// No inline scripts, nothing from other origins, and no framing.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// No access to devices and sensors.
const PERMISSIONS: &str = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()";

pub(crate) async fn front() -> impl IntoResponse {
    page(FRONT)
}

pub(crate) async fn room(_valid: RoomPath) -> impl IntoResponse {
    page(ROOM)
}

/// The operators' page, on the admin port.
pub(crate) async fn operator() -> impl IntoResponse {
    page(OPERATOR)
}

pub(crate) async fn asset(Path(asset): Path<String>) -> Result<impl IntoResponse, Problem> {
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
        // The URL of a room page contains the user.
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("permissions-policy"), PERMISSIONS),
        // The page that opened this one gets no reference to its window.
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (headers, Html(html))
}
