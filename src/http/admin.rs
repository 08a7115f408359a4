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
use crate::identity::By;
use crate::membership::{DirectoryState, Membership, MeshState};

/// What `/readyz` answers: `ok`, or what is missing.
#[derive(Serialize)]
struct Ready {
    ready: bool,
    directory: &'static str,
    mesh: &'static str,
    identity: &'static str,
    draining: bool,
}

/// `identity`: without a key to check tokens with, no client is sent here.
pub fn router(membership: Arc<Membership>, identity: By) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::new((membership, identity)))
}

async fn readyz(State(probed): State<Arc<(Arc<Membership>, By)>>) -> Response {
    let (membership, identity) = &*probed;
    let readiness = membership.readiness();
    let has_keys = identity.is_ready();
    let ready = Ready {
        ready: readiness.is_ready() && has_keys,
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
        identity: if has_keys { "ok" } else { "the source of --jwks has brought no keys yet" },
        draining: readiness.leaving,
    };
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ready)).into_response()
}
