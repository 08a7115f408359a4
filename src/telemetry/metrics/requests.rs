//! What is counted of HTTP requests on the public port: by route and status, and how long they took.
//!
//! Stands around everything else there, so that what is refused before it gets to a route is counted as well.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::{Request, Response, StatusCode};
use futures::FutureExt;
use futures::future::BoxFuture;
use prometheus::{Histogram, IntCounter};
use tokio::time::Instant;
use tower::{Layer, Service};

use super::registry::MetricRegistry;

/// What the paths of the public port are grouped by. Decided by their shape alone: a path that leads nowhere counts as
/// the page of a room, or as `other`.
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

/// Statuses that are counted each by itself; the rest is counted with its class.
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
    /// None for Socket.IO: a WebSocket is answered when it begins, and a poll when there is something to say.
    durations: [Option<Histogram>; ROUTES.len()],
}

/// A service whose answers are counted.
#[derive(Clone)]
pub struct CountedService<S> {
    requests: RequestMetrics,
    inner: S,
}

impl RequestMetrics {
    pub(super) fn define(registry: &MetricRegistry) -> Self {
        let counts = registry.counters(
            "rollcall_http_requests_total",
            "RequestMetrics on the public port that were answered, by route and status.",
            &["route", "status"],
        );
        let durations = registry.histograms(
            "rollcall_http_request_duration_seconds",
            "How long requests on the public port took until their answer began, Socket.IO apart.",
            &["route"],
        );
        let counts = ROUTES.map(|(_, route)| STATUSES.map(|(_, status)| counts.with_label_values(&[route, status])));
        let durations =
            ROUTES.map(|(route, name)| (route != RouteLabel::SocketIo).then(|| durations.with_label_values(&[name])));
        Self(Arc::new(RequestCounters { counts, durations }))
    }
}

impl RequestCounters {
    fn count(&self, route: RouteLabel, status: StatusCode, began: Instant) {
        self.counts[route as usize][place(status)].inc();
        if let Some(durations) = &self.durations[route as usize] {
            durations.observe(began.elapsed().as_secs_f64());
        }
    }
}

impl RouteLabel {
    fn of(path: &str) -> Self {
        let mut parts = path.trim_start_matches('/').split('/');
        match [parts.next(), parts.next(), parts.next()] {
            [Some("socket.io"), ..] => Self::SocketIo,
            [Some("_" | ""), ..] => Self::Other,
            [Some(_), Some("users"), None] => Self::Users,
            [Some(_), Some("rollcall"), None] => Self::RollCall,
            [Some(_), None, None] => Self::Page,
            _ => Self::Other,
        }
    }
}

fn place(status: StatusCode) -> usize {
    let of = |code: u16| STATUSES.iter().position(|(known, _)| *known == code);
    of(status.as_u16()).or_else(|| of(status.as_u16() / 100)).unwrap_or(STATUSES.len() - 1)
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
        let (requests, route, began) =
            (Arc::clone(&self.requests.0), RouteLabel::of(request.uri().path()), Instant::now());
        let answered = self.inner.call(request).map(move |answer| {
            if let Ok(response) = &answer {
                requests.count(route, response.status(), began);
            }
            answer
        });
        answered.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_a_route_and_every_status_a_place() {
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
        for (place, (route, _)) in ROUTES.into_iter().enumerate() {
            assert_eq!(route as usize, place);
        }
        for (code, name) in [(200, "200"), (204, "2xx"), (301, "3xx"), (418, "4xx"), (502, "5xx"), (101, "101")] {
            assert_eq!(STATUSES[place(StatusCode::from_u16(code).unwrap())].1, name);
        }
    }
}
