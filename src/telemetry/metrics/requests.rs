//! Metrics of the HTTP requests on the public port: number by route and status, and duration by route.
//!
//! Owns a tower layer. It is the outermost one of the public port, so that it also counts requests that another layer
//! refuses before they reach a route.
//!
//! Counts also the refused connects, joins and leaves of Socket.IO clients ([`RefusalMetrics`]).

use std::array;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::{Request, Response, StatusCode};
use futures::FutureExt;
use futures::future::BoxFuture;
use prometheus::{Histogram, IntCounter, IntCounterVec};
use strum::{EnumCount, IntoStaticStr, VariantArray};
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::telemetry::metrics::registry::MetricRegistry;
use crate::telemetry::route::PublicRoute;

/// Common statuses have a label value of their own; rare ones share that of their class.
const STATUSES: [(u16, &str); 16] = [
    (101, "101"),
    (200, "200"),
    (304, "304"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (413, "413"),
    (429, "429"),
    (500, "500"),
    (503, "503"),
    (2, "2xx"),
    (3, "3xx"),
    (4, "4xx"),
    (5, "5xx"),
];

/// Cheap to clone, and a layer.
#[derive(Clone)]
pub struct RequestMetrics(Arc<RequestCounters>);

struct RequestCounters {
    counts: [[IntCounter; STATUSES.len()]; PublicRoute::COUNT],
    /// `None` for Socket.IO: the response to a poll waits for the next packet, so that its duration means nothing.
    durations: [Option<Histogram>; PublicRoute::COUNT],
}

/// A service whose responses are counted.
#[derive(Clone)]
pub struct CountedService<S> {
    requests: RequestMetrics,
    inner: S,
}

impl RequestMetrics {
    pub(super) fn define(registry: &MetricRegistry) -> Self {
        let counts = registry.counters(
            "rollcall_http_requests_total",
            "Answered requests on the public port, by route and status; rare statuses by class, as in 4xx.",
            &["route", "status"],
        );
        let durations = registry.histograms(
            "rollcall_http_request_duration_seconds",
            "Time until the response to a request on the public port starts, in seconds, by route; not for Socket.IO.",
            &["route"],
        );
        let counts = array::from_fn(|index| {
            let route = PublicRoute::VARIANTS[index].name();
            STATUSES.map(|(_, status)| counts.with_label_values(&[route, status]))
        });
        let durations = array::from_fn(|index| {
            let route = PublicRoute::VARIANTS[index];
            (route != PublicRoute::SocketIo).then(|| durations.with_label_values(&[route.name()]))
        });
        Self(Arc::new(RequestCounters { counts, durations }))
    }
}

impl RequestCounters {
    fn count(&self, route: PublicRoute, status: StatusCode, started: Instant) {
        self.counts[route as usize][status_index(status)].inc();
        if let Some(durations) = &self.durations[route as usize] {
            durations.observe(started.elapsed().as_secs_f64());
        }
    }
}

fn status_index(status: StatusCode) -> usize {
    let index_of = |code: u16| STATUSES.iter().position(|(known, _)| *known == code);
    index_of(status.as_u16()).or_else(|| index_of(status.as_u16() / 100)).unwrap_or(STATUSES.len() - 1)
}

impl<S> Layer<S> for RequestMetrics {
    type Service = CountedService<S>;

    fn layer(&self, inner: S) -> CountedService<S> {
        CountedService { requests: self.clone(), inner }
    }
}

impl<S, B, C> Service<Request<B>> for CountedService<S>
where
    S: Service<Request<B>, Response = Response<C>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<C>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<C>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (requests, route, started) =
            (Arc::clone(&self.requests.0), PublicRoute::of(request.uri().path()), Instant::now());
        let response = self.inner.call(request).map(move |result| {
            if let Ok(response) = &result {
                requests.count(route, response.status(), started);
            }
            result
        });
        response.boxed()
    }
}

/// The event that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum RefusedEvent {
    Connect,
    Join,
    Leave,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct RefusalMetrics(IntCounterVec);

impl RefusalMetrics {
    pub(super) fn define(registry: &MetricRegistry) -> Self {
        Self(registry.counters(
            "rollcall_socket_refusals_total",
            "Refused connects, joins and leaves, by the error code that the client receives; gone: the socket disconnected \
             meanwhile, or waited too long and was disconnected.",
            &["event", "code"],
        ))
    }

    /// `code`: the error code that the client receives.
    pub fn count(&self, event: RefusedEvent, code: &'static str) {
        // Refusals are rare, so that this metric can afford to look up the label each time.
        self.0.with_label_values(&[event.into(), code]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_label() {
        for (code, name) in [(200, "200"), (204, "2xx"), (301, "3xx"), (418, "4xx"), (502, "5xx"), (101, "101")] {
            assert_eq!(STATUSES[status_index(StatusCode::from_u16(code).unwrap())].1, name);
        }
    }
}
