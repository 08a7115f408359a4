//! The admin port: is this process alive, is this node ready, and what has it counted?
//!
//! Owns the probes and the scrape. `/livez` answers as long as the process does; `/readyz` says whether new clients
//! should be sent here, and if not, why; `/metrics` is what Prometheus reads. No room and no user is named here; they are
//! in what is there for operators, under `/_/` ([`operator`]).

pub mod operator;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::task::spawn_blocking;
use tracing::error;

use super::problem::Problem;
use super::{method_not_allowed, not_found};
use crate::health::Report;
use crate::identity::By;
use crate::membership::Membership;
use crate::metrics::scrape::{CONTENT_TYPE, Scrape};

/// `identity`: without a key to check tokens with, no client is sent here.
pub fn router(membership: Arc<Membership>, identity: By, scrape: Arc<Scrape>) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(move || metrics(Arc::clone(&scrape))))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::new((membership, identity)))
}

async fn readyz(State(probed): State<Arc<(Arc<Membership>, By)>>) -> Response {
    let (membership, identity) = &*probed;
    let report = Report::of(membership.readiness(), identity.is_ready());
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

/// Reads `/proc`, so it keeps no worker from its tasks.
async fn metrics(scrape: Arc<Scrape>) -> Result<Response, Problem> {
    let text = spawn_blocking(move || scrape.text()).await;
    let failed = |error: &dyn std::fmt::Display| {
        error!(%error, "the metrics cannot be written down");
        Problem::unavailable("the metrics cannot be written down")
    };
    let text = text.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}
