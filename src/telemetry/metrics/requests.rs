//! Metrics of the HTTP requests on the public port: number by route and status, and duration by route.
//!
//! Owns a tower layer. It is the outermost one of the public port, so that it also counts requests that another layer
//! refuses before they reach a route.
//!
//! Counts also the refused connects, joins and leaves of Socket.IO clients ([`RefusalMetrics`]).

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::{Request, Response, StatusCode};
use futures::FutureExt;
use futures::future::BoxFuture;
use prometheus::{Histogram, IntCounter, IntCounterVec};
use strum::IntoStaticStr;
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::telemetry::metrics::registry::MetricRegistry;

/// The route of a path, judged by its shape alone. A path that no handler serves is the page of a room, or `other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RouteLabel {
    Users,
    RollCall,
    Page,
    SocketIo,
    Other,
}

const ROUTES: [(RouteLabel, &str); 5] = [
    (RouteLabel::Users, "users"),
    (RouteLabel::RollCall, "rollcall"),
    (RouteLabel::Page, "page"),
    (RouteLabel::SocketIo, "socket.io"),
    (RouteLabel::Other, "other"),
];

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
    counts: [[IntCounter; STATUSES.len()]; ROUTES.len()],
    /// `None` for Socket.IO: the response to a poll waits for the next packet, so that its duration means nothing.
    durations: [Option<Histogram>; ROUTES.len()],
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
        let counts = ROUTES.map(|(_, route)| STATUSES.map(|(_, status)| counts.with_label_values(&[route, status])));
        let durations =
            ROUTES.map(|(route, name)| (route != RouteLabel::SocketIo).then(|| durations.with_label_values(&[name])));
        Self(Arc::new(RequestCounters { counts, durations }))
    }
}

impl RequestCounters {
    fn count(&self, route: RouteLabel, status: StatusCode, started: Instant) {
        self.counts[route as usize][status_index(status)].inc();
        if let Some(durations) = &self.durations[route as usize] {
            durations.observe(started.elapsed().as_secs_f64());
        }
    }
}

impl RouteLabel {
    fn of(path: &str) -> Self {
        let mut segments = path.trim_start_matches('/').split('/');
        match [segments.next(), segments.next(), segments.next()] {
            [Some("socket.io"), ..] => Self::SocketIo,
            [Some("_" | ""), ..] => Self::Other,
            [Some(_), Some("users"), None] => Self::Users,
            [Some(_), Some("rollcall"), None] => Self::RollCall,
            [Some(_), None, None] => Self::Page,
            _ => Self::Other,
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
            (Arc::clone(&self.requests.0), RouteLabel::of(request.uri().path()), Instant::now());
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
    fn every_path_and_every_status_has_a_label() {
        for (path, route) in [
            ("/Maths/users", RouteLabel::Users),
            ("/a%2Fb/users", RouteLabel::Users),
            ("/Maths/rollcall", RouteLabel::RollCall),
            ("/Maths", RouteLabel::Page),
            ("/users", RouteLabel::Page),
            ("/", RouteLabel::Other),
            ("/_/assets/room.js", RouteLabel::Other),
            ("/socket.io/", RouteLabel::SocketIo),
            ("/a/users/b", RouteLabel::Other),
            ("/a/b", RouteLabel::Other),
            ("*", RouteLabel::Page),
        ] {
            assert_eq!(RouteLabel::of(path), route, "{path}");
        }
        for (index, (route, _)) in ROUTES.into_iter().enumerate() {
            assert_eq!(route as usize, index);
        }
        for (code, name) in [(200, "200"), (204, "2xx"), (301, "3xx"), (418, "4xx"), (502, "5xx"), (101, "101")] {
            assert_eq!(STATUSES[status_index(StatusCode::from_u16(code).unwrap())].1, name);
        }
    }
}
