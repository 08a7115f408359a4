//! The spans of a roll call, from the HTTP request to the lookups that each node answers.
//!
//! Owns the names and attributes of spans (those of OpenTelemetry if they exist), and the W3C trace context of requests and
//! lookups. Spans contain rooms, but no users and no tokens. A request that is not sampled has no span and no cost.
//!
//! A roll call that several requests share belongs to the trace of the request that started it; the others link to it. Owns
//! no exporter ([`export`]).

pub mod export;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::Code;
use tracing::field::Empty;
use tracing::span::Id;
use tracing::{Metadata, Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::names::{NodeId, Room};
use crate::telemetry::metrics::lookups::LookupOutcome;
use crate::telemetry::metrics::roll_calls::RollCallSource;
use crate::telemetry::route::PublicRoute;

/// Only spans with this target are exported.
const TARGET: &str = "rollcall::traces";
/// The W3C trace context (<https://www.w3.org/TR/trace-context/>): names of HTTP headers, and of fields of a
/// `RevalidateRequest`.
pub(crate) const TRACE_PARENT: &str = "traceparent";
pub(crate) const TRACE_STATE: &str = "tracestate";
/// The length that the W3C specification requires to propagate. A longer `tracestate` is dropped.
const MAX_TRACE_STATE_BYTES: usize = 512;

/// A span of the call `LookupSockets`. Both ends of the call have one, with the attributes of OpenTelemetry for gRPC.
macro_rules! lookup_sockets_span {
    ($name:literal, $kind:literal, $($field:tt)*) => {
        info_span!(
            target: TARGET,
            $name,
            otel.name = "rollcall.v1.MeshService/LookupSockets",
            otel.kind = $kind,
            otel.status_code = Empty,
            rpc.system = "grpc",
            rpc.service = "rollcall.v1.MeshService",
            rpc.method = "LookupSockets",
            $($field)*
        )
    };
}

/// Decides which requests are traced. The default traces none, for a process without an exporter.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceSampling {
    /// The share of the requests without a trace context that start a trace.
    ratio: Option<f64>,
}

/// The span of a roll call that several requests may share.
#[derive(Debug, Clone)]
pub struct SharedSpan {
    started_by: Option<Id>,
    context: SpanContext,
}

pub(crate) fn is_exported(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target() == TARGET
}

impl TraceSampling {
    /// `ratio`: the share of the requests without a trace context that start a trace.
    pub fn with_ratio(ratio: f64) -> Self {
        Self { ratio: Some(ratio) }
    }

    /// The span of an HTTP request for a roll call, in the trace that the headers name. Other requests get no span.
    pub(crate) fn request_span<B>(self, request: &Request<B>, https: bool) -> Span {
        let Some(ratio) = self.ratio else { return Span::none() };
        let path = request.uri().path();
        let Some(route) = PublicRoute::of(path).roll_call_path() else { return Span::none() };
        let method = match request.method().as_str() {
            known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH") => known,
            _ => "_OTHER",
        };
        let Some(parent) = parent_context(request.headers(), ratio) else { return Span::none() };
        let span = info_span!(
            target: TARGET,
            "request",
            otel.name = %format_args!("{method} {route}"),
            otel.kind = "server",
            otel.status_code = Empty,
            http.request.method = method,
            http.route = route,
            http.response.status_code = Empty,
            url.path = path,
            url.scheme = if https { "https" } else { "http" },
        );
        with_parent(span, parent)
    }

    /// The span of a lookup that a peer sent, in the trace that the headers name. Without a trace context the lookup has no
    /// span: the peer has decided not to trace it.
    pub(crate) fn answer_span(self, headers: &HeaderMap, room: &str) -> Span {
        if self.ratio.is_none() {
            return Span::none();
        }
        let Some(parent) = parent_context(headers, 0.0) else { return Span::none() };
        let span = lookup_sockets_span!("answer", "server", rpc.grpc.status_code = Empty, rollcall.room = room);
        with_parent(span, parent)
    }
}

/// Records the status of the response in the span of its request.
pub(crate) fn record_response(span: &Span, status: StatusCode) {
    if span.is_disabled() {
        return;
    }
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

/// The span of a roll call that the request of `parent` starts.
pub(crate) fn roll_call_span(parent: &Span, room: &Room) -> Span {
    if !is_exported_span(parent) {
        return Span::none();
    }
    info_span!(
        target: TARGET,
        parent: parent,
        "roll call",
        rollcall.room = room.as_str(),
        rollcall.complete = Empty,
        rollcall.source = Empty,
        rollcall.nodes = Empty,
        rollcall.rows = Empty,
    )
}

/// Records the result of a roll call in the current span.
pub(crate) fn record_roll_call(complete: bool, source: RollCallSource, nodes: usize, rows: usize) {
    let span = Span::current();
    if !is_exported_span(&span) {
        return;
    }
    span.record("rollcall.complete", complete);
    span.record("rollcall.source", <&str>::from(source));
    span.record("rollcall.nodes", signed(nodes));
    span.record("rollcall.rows", signed(rows));
}

/// The span of a roll call, for links from the other requests that share it. `parent`: the request that started it.
pub(crate) fn shared_span(span: &Span, parent: &Span) -> Option<SharedSpan> {
    is_exported_span(span)
        .then(|| SharedSpan { started_by: parent.id(), context: span.context().span().span_context().clone() })
}

/// Links the span of the current request to the roll call whose answer it shares, unless this request started that call.
pub(crate) fn link_shared_span(shared: Option<&SharedSpan>) {
    let Some(shared) = shared else { return };
    let span = Span::current();
    if span.id() != shared.started_by && is_exported_span(&span) {
        span.add_link(shared.context.clone());
    }
}

/// The span of a read of the owners of a room from the directory.
pub(crate) fn directory_span(room: &Room) -> Span {
    if !is_exported_span(&Span::current()) {
        return Span::none();
    }
    info_span!(target: TARGET, "read owners", otel.status_code = Empty, rollcall.room = room.as_str(), rollcall.owners = Empty)
}

/// Records the number of owners, or that the directory could not be read.
pub(crate) fn record_directory_read(span: &Span, owners: Option<usize>) {
    if span.is_disabled() {
        return;
    }
    match owners {
        Some(owners) => span.record("rollcall.owners", signed(owners)),
        None => span.record("otel.status_code", "ERROR"),
    };
}

/// The span of a lookup at the peer with the address `mesh`.
pub(crate) fn lookup_span(mesh: &str, node: &NodeId, room: &Room) -> Span {
    if !is_exported_span(&Span::current()) {
        return Span::none();
    }
    lookup_sockets_span!(
        "lookup",
        "client",
        server.address = mesh.rsplit_once(':').map_or(mesh, |(host, _)| host),
        server.port = mesh.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).map(i64::from),
        error.type = Empty,
        rollcall.room = room.as_str(),
        rollcall.peer = node.as_str(),
        rollcall.unchanged = Empty,
    )
}

/// Records the outcome of a lookup.
pub(crate) fn record_lookup(span: &Span, outcome: LookupOutcome, unchanged: bool) {
    if span.is_disabled() {
        return;
    }
    match outcome {
        LookupOutcome::Answered => span.record("rollcall.unchanged", unchanged),
        LookupOutcome::Moved => span.record("error.type", <&str>::from(outcome)),
        _ => {
            span.record("error.type", <&str>::from(outcome));
            span.record("otel.status_code", "ERROR")
        }
    };
}

/// Records the gRPC status of the answer in the span of a peer's lookup.
pub(crate) fn record_answer(span: &Span, code: Code) {
    if span.is_disabled() {
        return;
    }
    span.record("rpc.grpc.status_code", i64::from(code as i32));
    if matches!(code, Code::Unknown | Code::Internal | Code::Unavailable | Code::DataLoss | Code::Unimplemented) {
        span.record("otel.status_code", "ERROR");
    }
}

/// Writes the trace context of `span` to the headers of an outgoing call.
pub(crate) fn inject(span: &Span, headers: &mut HeaderMap) {
    if !span.is_disabled() {
        TraceContextPropagator::new().inject_context(&span.context(), &mut OutgoingHeaders(headers));
    }
}

/// The parent of a span for these headers: the trace that they name, or a new trace for the share `ratio` of the requests.
/// `None`: the request is not traced. Invalid headers name no trace.
fn parent_context(headers: &HeaderMap, ratio: f64) -> Option<Context> {
    if headers.contains_key(TRACE_PARENT) {
        let named = TraceContextPropagator::new().extract_with_context(&Context::new(), &IncomingHeaders(headers));
        let context = named.span().span_context().clone();
        if context.is_valid() {
            return context.is_sampled().then_some(named);
        }
    }
    (rand::random::<f64>() < ratio).then(Context::new)
}

fn with_parent(span: Span, parent: Context) -> Span {
    // Fails only for a span that was entered already.
    let _ = span.set_parent(parent);
    span
}

/// Converts a count for a span, because the exporter writes unsigned numbers as strings.
fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn is_exported_span(span: &Span) -> bool {
    span.metadata().is_some_and(is_exported)
}

struct IncomingHeaders<'a>(&'a HeaderMap);

impl Extractor for IncomingHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let value = self.0.get(key)?.to_str().ok()?;
        (key != TRACE_STATE || value.len() <= MAX_TRACE_STATE_BYTES).then_some(value)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct OutgoingHeaders<'a>(&'a mut HeaderMap);

impl Injector for OutgoingHeaders<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value))
            && !value.is_empty()
        {
            self.0.insert(name, value);
        }
    }
}
