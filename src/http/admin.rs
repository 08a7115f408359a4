//! The admin port: is this process alive, and is this node ready?
//!
//! Owns the probes. `/livez` answers as long as the process does; `/readyz` says whether new clients should be sent
//! here, and if not, why.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use super::{method_not_allowed, not_found};
use crate::membership::{DirectoryState, Membership, MeshState};

/// What `/readyz` answers: `ok`, or what is missing.
#[derive(Serialize)]
struct Ready {
    ready: bool,
    directory: &'static str,
    mesh: &'static str,
    draining: bool,
}

pub fn router(membership: Arc<Membership>) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(membership)
}

async fn readyz(State(membership): State<Arc<Membership>>) -> Response {
    let readiness = membership.readiness();
    let ready = Ready {
        ready: readiness.is_ready(),
        directory: match readiness.directory {
            DirectoryState::Confirmed => "ok",
            DirectoryState::Away => "does not answer; the other nodes are asked without it",
            DirectoryState::NeverReached => "has not answered since this node started",
        },
        mesh: match readiness.mesh {
            MeshState::Known => "ok",
            MeshState::Telling => "not introduced to every member yet",
            MeshState::Isolated => "most members do not answer, and there is no lease",
        },
        draining: readiness.leaving,
    };
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ready)).into_response()
}
