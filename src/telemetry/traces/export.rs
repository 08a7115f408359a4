//! Exports spans to an OpenTelemetry collector by OTLP over gRPC.
//!
//! Owns a bounded queue and a thread, so that no roll call waits for a collector. Drops spans when the queue is full, or the
//! collector does not accept a batch in time. Logs the first failure and the recovery. Owns no span ([`super`]).

use std::fmt;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter,
};
use thiserror::Error;
use tokio::task::spawn_blocking;
use tonic::Status;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tracing::{info, warn};

use crate::auth::reload;
use crate::auth::reload::Reloadable;
use crate::auth::secret_lines::secret_lines;
use crate::names::NodeName;
use crate::telemetry::logging::throttle::LogThrottle;
use crate::telemetry::traces::TraceSampling;

/// A roll call over four nodes makes some six spans on the node that runs it.
const MAX_QUEUED_SPANS: usize = 4096;
const MAX_BATCH_SPANS: usize = 512;
const EXPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The time for the collector to accept a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HEADERS: usize = 32;

pub struct TraceSettings {
    /// An http or https URL.
    pub endpoint: String,
    pub headers: Option<Reloadable<CollectorHeaders>>,
    /// The share of the requests without a trace context that start a trace.
    pub ratio: f64,
}

/// Exports the spans of this process.
pub struct TraceExporter {
    provider: SdkTracerProvider,
    headers: Option<Reloadable<CollectorHeaders>>,
    sampling: TraceSampling,
}

/// The headers of each batch, for example an API key. They may be secrets, so this has no `Debug`.
#[derive(Default)]
pub struct CollectorHeaders(MetadataMap);

/// The fault of a file of headers. Names the line, and never contains its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    #[error("line {0} is not `<name>: <value>`")]
    Line(usize),
    #[error("the name in line {0} is not a valid header name")]
    Name(usize),
    #[error("the value in line {0} is not a valid header value")]
    Value(usize),
    #[error("the file has more than {MAX_HEADERS} headers")]
    TooMany,
    #[error("the file is not UTF-8")]
    NotUtf8,
}

impl CollectorHeaders {
    /// Parses lines `<name>: <value>`; see [`secret_lines`] for the format.
    ///
    /// # Errors
    /// When a line is not valid: the file is accepted as a whole or not at all.
    pub fn parse(contents: &[u8]) -> Result<Self, Error> {
        let mut headers = HeaderMap::new();
        for (number, line) in secret_lines(contents).map_err(|_| Error::NotUtf8)? {
            let (name, value) = line.split_once(':').ok_or(Error::Line(number))?;
            let name = HeaderName::try_from(name.trim()).ok().filter(|name| !name.as_str().ends_with("-bin"));
            let mut value = HeaderValue::try_from(value.trim()).map_err(|_| Error::Value(number))?;
            value.set_sensitive(true);
            headers.append(name.ok_or(Error::Name(number))?, value);
        }
        if headers.len() > MAX_HEADERS { Err(Error::TooMany) } else { Ok(Self(MetadataMap::from_headers(headers))) }
    }

    fn add_to(&self, request: &mut tonic::Request<()>) {
        for header in self.0.iter() {
            if let KeyAndValueRef::Ascii(name, value) = header {
                request.metadata_mut().append(name.clone(), value.clone());
            }
        }
    }
}

impl TraceExporter {
    /// Connects when the first spans are ready. Call it in the runtime that will run the export.
    ///
    /// # Errors
    /// When the endpoint is not valid.
    pub fn open(settings: TraceSettings, node: &NodeName) -> anyhow::Result<Self> {
        let TraceSettings { endpoint, headers, ratio } = settings;
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint.trim_end_matches('/'))
            .with_timeout(EXPORT_TIMEOUT);
        let metadata = headers.clone();
        let exporter = exporter.with_interceptor(move |mut request: tonic::Request<()>| -> Result<_, Status> {
            if let Some(headers) = &metadata {
                headers.current().add_to(&mut request);
            }
            Ok(request)
        });
        let exporter = exporter.build().context("cannot export spans to this OTLP endpoint")?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(MAX_QUEUED_SPANS)
            .with_max_export_batch_size(MAX_BATCH_SPANS)
            .with_scheduled_delay(EXPORT_INTERVAL)
            .build();
        let exporter = LoggedExporter { exporter, endpoint, log: LogThrottle::until_reset() };
        let resource = Resource::builder()
            .with_service_name("rollcall")
            .with_attribute(KeyValue::new("service.instance.id", node.to_string()))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
            .with_resource(resource)
            .build();
        Ok(Self { provider, headers, sampling: TraceSampling::with_ratio(ratio) })
    }

    pub fn tracer(&self) -> SdkTracer {
        self.provider.tracer("rollcall")
    }

    /// Decides which requests of a node are traced.
    pub fn sampling(&self) -> TraceSampling {
        self.sampling
    }

    /// Reloads the file of headers when it changes. Returns at once without a file.
    pub fn reload_headers(&self) -> impl Future<Output = ()> + use<> {
        reload::reload_on_change(self.headers.clone())
    }

    /// Exports the queued spans and stops.
    pub async fn close(self, within: Duration) {
        // Shutdown blocks on the exporting thread, which needs this runtime for its connection.
        let closed = spawn_blocking(move || self.provider.shutdown_with_timeout(within)).await;
        if !matches!(closed, Ok(Ok(()))) {
            warn!("cannot export the last spans to the OTLP collector");
        }
    }
}

/// An exporter that logs its first failure, and the recovery.
struct LoggedExporter<E> {
    exporter: E,
    endpoint: String,
    /// Throttles the one state "export fails".
    log: LogThrottle<()>,
}

impl<E> fmt::Debug for LoggedExporter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoggedExporter").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl<E: SpanExporter> SpanExporter for LoggedExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.exporter.export(batch).await;
        match &exported {
            Err(error) if self.log.permits(()) => {
                warn!(endpoint = self.endpoint, %error, "cannot export spans to the OTLP collector; dropping them until it recovers");
            }
            Ok(()) if self.log.reset() => {
                info!(endpoint = self.endpoint, "exporting spans to the OTLP collector again");
            }
            Ok(()) | Err(_) => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_in_a_headers_file_name_the_line_and_not_the_contents() {
        let headers =
            CollectorHeaders::parse(b"# for the collector\n\nauthorization: Bearer hush\nX-Scope: a:b\n").unwrap();
        let mut request = tonic::Request::new(());
        headers.add_to(&mut request);
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer hush");
        assert_eq!(request.metadata().get("x-scope").unwrap(), "a:b");
        assert!(!format!("{:?}", headers.0).contains("hush"));
        for (file, error) in [
            (&b"hush"[..], Error::Line(1)),
            (b"a: b\nhush hush: b", Error::Name(2)),
            (b"hush-bin: b", Error::Name(1)),
            (b"a: hush\x07", Error::Value(1)),
            (b"a: \xff", Error::NotUtf8),
        ] {
            let error_shown = CollectorHeaders::parse(file).err().expect("it is not valid");
            assert_eq!(error_shown, error);
            assert!(!error_shown.to_string().contains("hush"));
        }
        let many: String = (0..40).map(|number| format!("h{number}: a\n")).collect();
        assert_eq!(CollectorHeaders::parse(many.as_bytes()).err(), Some(Error::TooMany));
    }
}
