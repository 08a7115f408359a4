//! Traces: the spans that show a roll call, from the request to what each node did for it.
//!
//! Owns their names and attributes (those of OpenTelemetry where it has some), and the W3C context that comes in with
//! requests and goes out with lookups. No user and no token is in a span; rooms are. Where nothing is exported
//! ([`export`]), and for a request that is not traced, no span is made, and none of this does anything.
//!
//! A roll call that several requests share is part of the trace of the one that began it; the others link to it.

pub mod export;

use std::sync::OnceLock;

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

/// The target of every span that is exported.
const TARGET: &str = "rollcall::traces";
const SERVICE: &str = "rollcall.v1.MeshService";
const TRACE_PARENT: &str = "traceparent";
const TRACE_STATE: &str = "tracestate";
/// As much as W3C asks everybody to pass on, in bytes. More is left out.
const TRACE_STATE_MOST: usize = 512;

/// How many of the requests that come without a trace begin one; unset where nothing is exported.
static RATIO: OnceLock<f64> = OnceLock::new();

/// A roll call as those see it who wait for it.
#[derive(Debug, Clone)]
pub struct Shared {
    began_by: Option<Id>,
    context: SpanContext,
}

/// The result of a lookup, for its span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupResult {
    Rows { unchanged: bool },
    NodeIdChanged,
    Failed(LookupOutcome),
}

/// From now on there are spans, and so many of the requests begin a trace.
pub fn begin(ratio: f64) {
    // It is decided once, at the start.
    let _ = RATIO.set(ratio);
}

pub fn is_exported(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target() == TARGET
}

/// The span of a request that calls a roll, in the trace that it comes with; no span for any other. `https`: clients come
/// by it.
pub fn request<B>(request: &Request<B>, https: bool) -> Span {
    let Some(&ratio) = RATIO.get() else { return Span::none() };
    let path = request.uri().path();
    let room = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    let route = match room {
        Some(("" | "_" | "socket.io", _)) | None => return Span::none(),
        Some((_, "users")) => "/{room}/users",
        Some((_, "rollcall")) => "/{room}/rollcall",
        Some(_) => return Span::none(),
    };
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH") => known,
        _ => "_OTHER",
    };
    let Some(parent) = parent(request.headers(), ratio) else { return Span::none() };
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
    begin_within(span, parent)
}

/// How a request was answered.
pub fn answered(span: &Span, status: StatusCode) {
    if span.is_disabled() {
        return;
    }
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

/// The span of a roll call that `asked_by` begins.
pub fn roll_call(asked_by: &Span, room: &Room) -> Span {
    if !is_exported_span(asked_by) {
        return Span::none();
    }
    info_span!(
        target: TARGET,
        parent: asked_by,
        "roll call",
        rollcall.room = room.as_str(),
        rollcall.complete = Empty,
        rollcall.source = Empty,
        rollcall.nodes = Empty,
        rollcall.rows = Empty,
    )
}

/// Records the result of a roll call in the current span.
pub fn record_roll_call(complete: bool, source: RollCallSource, nodes: usize, rows: usize) {
    let span = Span::current();
    if !is_exported_span(&span) {
        return;
    }
    span.record("rollcall.complete", complete);
    span.record("rollcall.source", <&str>::from(source));
    span.record("rollcall.nodes", signed(nodes));
    span.record("rollcall.rows", signed(rows));
}

/// What those need to know who share the roll call of `span`.
pub fn share(span: &Span, asked_by: &Span) -> Option<Shared> {
    is_exported_span(span)
        .then(|| Shared { began_by: asked_by.id(), context: span.context().span().span_context().clone() })
}

/// The current request waited for a roll call: one that another began is linked to.
pub fn waited_for(shared: Option<&Shared>) {
    let Some(shared) = shared else { return };
    let span = Span::current();
    if span.id() != shared.began_by && is_exported_span(&span) {
        span.add_link(shared.context.clone());
    }
}

/// The span of reading the directory.
pub fn directory_read(room: &Room) -> Span {
    if !is_exported_span(&Span::current()) {
        return Span::none();
    }
    info_span!(target: TARGET, "read owners", otel.status_code = Empty, rollcall.room = room.as_str(), rollcall.owners = Empty)
}

/// Records the number of owners, or that the directory could not be read.
pub fn record_directory_read(span: &Span, owners: Option<usize>) {
    if span.is_disabled() {
        return;
    }
    match owners {
        Some(owners) => span.record("rollcall.owners", signed(owners)),
        None => span.record("otel.status_code", "ERROR"),
    };
}

/// The span of asking a peer at `mesh`.
pub fn lookup(mesh: &str, node: &NodeId, room: &Room) -> Span {
    if !is_exported_span(&Span::current()) {
        return Span::none();
    }
    info_span!(
        target: TARGET,
        "lookup",
        otel.name = "rollcall.v1.MeshService/LookupSockets",
        otel.kind = "client",
        otel.status_code = Empty,
        rpc.system = "grpc",
        rpc.service = SERVICE,
        rpc.method = "LookupSockets",
        server.address = mesh.rsplit_once(':').map_or(mesh, |(host, _)| host),
        server.port = mesh.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).map(i64::from),
        error.type = Empty,
        rollcall.room = room.as_str(),
        rollcall.peer = node.as_str(),
        rollcall.unchanged = Empty,
    )
}

/// Records the outcome of a lookup.
pub fn record_lookup(span: &Span, result: LookupResult) {
    if span.is_disabled() {
        return;
    }
    match result {
        LookupResult::Rows { unchanged } => span.record("rollcall.unchanged", unchanged),
        LookupResult::NodeIdChanged => span.record("error.type", "moved"),
        LookupResult::Failed(outcome) => {
            span.record("error.type", <&str>::from(outcome));
            span.record("otel.status_code", "ERROR")
        }
    };
}

/// The span of a peer's question, in the trace that it comes with; none where it comes with none, since whoever asked has
/// decided that it is not traced.
pub fn answering(headers: &HeaderMap, room: &str) -> Span {
    if RATIO.get().is_none() {
        return Span::none();
    }
    let Some(parent) = parent(headers, 0.0) else { return Span::none() };
    let span = info_span!(
        target: TARGET,
        "answer",
        otel.name = "rollcall.v1.MeshService/LookupSockets",
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system = "grpc",
        rpc.service = SERVICE,
        rpc.method = "LookupSockets",
        rpc.grpc.status_code = Empty,
        rollcall.room = room,
    );
    begin_within(span, parent)
}

/// How a peer's question was answered.
pub fn replied(span: &Span, code: Code) {
    if span.is_disabled() {
        return;
    }
    span.record("rpc.grpc.status_code", i64::from(code as i32));
    if matches!(code, Code::Unknown | Code::Internal | Code::Unavailable | Code::DataLoss | Code::Unimplemented) {
        span.record("otel.status_code", "ERROR");
    }
}

/// Tells whoever gets these headers which span they come from.
pub fn inject(span: &Span, headers: &mut HeaderMap) {
    if !span.is_disabled() {
        TraceContextPropagator::new().inject_context(&span.context(), &mut Outgoing(headers));
    }
}

/// What a span is part of that these headers ask for: a trace that they name, one that begins here (so many of them as
/// `ratio` says), or `None`: it is not traced. Decided once, before anything is made of it. Headers that make no sense
/// name no trace.
fn parent(headers: &HeaderMap, ratio: f64) -> Option<Context> {
    if headers.contains_key(TRACE_PARENT) {
        let named = TraceContextPropagator::new().extract_with_context(&Context::new(), &Incoming(headers));
        let context = named.span().span_context().clone();
        if context.is_valid() {
            return context.is_sampled().then_some(named);
        }
    }
    (rand::random::<f64>() < ratio).then(Context::new)
}

fn begin_within(span: Span, parent: Context) -> Span {
    // It has not begun, so it can still be given a parent.
    let _ = span.set_parent(parent);
    span
}

/// The exporter writes unsigned numbers as strings.
fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn is_exported_span(span: &Span) -> bool {
    span.metadata().is_some_and(is_exported)
}

struct Incoming<'a>(&'a HeaderMap);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let value = self.0.get(key)?.to_str().ok()?;
        (key != TRACE_STATE || value.len() <= TRACE_STATE_MOST).then_some(value)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct Outgoing<'a>(&'a mut HeaderMap);

impl Injector for Outgoing<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value))
            && !value.is_empty()
        {
            self.0.insert(name, value);
        }
    }
}
