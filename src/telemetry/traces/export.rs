//! Exporting spans by OTLP: where to, how many, and what becomes of them when nobody takes them.
//!
//! Owns the pipeline: a bounded queue and a thread of its own, so that no roll call ever waits for a collector. Spans that
//! find the queue full are dropped, and so are those that a collector did not take in time; the log says so once, and
//! again once it does take them.

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
use crate::names::NodeName;
use crate::telemetry::logging::throttle::LogThrottle;
use crate::telemetry::traces;

/// How many spans may wait to be exported. A roll call of four nodes has some six on the node that is asked.
const QUEUE_MOST: usize = 4096;
/// How many are exported at once.
const BATCH_MOST: usize = 512;
/// How long a span waits for others to be exported with.
const EXPORT_EVERY: Duration = Duration::from_secs(1);
/// How long a collector may take for a batch.
const EXPORT_WITHIN: Duration = Duration::from_secs(5);
/// The most headers that are sent.
const HEADERS_MOST: usize = 32;

/// What exporting needs to know.
pub struct Settings {
    /// An http or https URL.
    pub endpoint: String,
    /// What the collector wants to be told with each batch.
    pub headers: Option<Reloadable<Headers>>,
    /// How many of the requests that come without a trace begin one.
    pub ratio: f64,
}

/// What exports the spans of this process.
pub struct Traces {
    provider: SdkTracerProvider,
    headers: Option<Reloadable<Headers>>,
}

/// Headers for the collector. They may be secrets, so nothing shows them.
#[derive(Default)]
pub struct Headers(MetadataMap);

/// Why a file is none of headers. Names lines, and never says what is in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    #[error("line {0} is not `<name>: <value>`")]
    Line(usize),
    #[error("the name in line {0} cannot be one of a header")]
    Name(usize),
    #[error("the value in line {0} cannot be one of a header")]
    Value(usize),
    #[error("there are more than {HEADERS_MOST} headers in it")]
    TooMany,
    #[error("it is not a text")]
    NotUtf8,
}

impl Headers {
    /// Reads lines `<name>: <value>`. Empty lines and those that begin with `#` say nothing.
    ///
    /// # Errors
    /// When any line makes no sense.
    pub fn parse(contents: &[u8]) -> Result<Self, Error> {
        let text = str::from_utf8(contents).map_err(|_| Error::NotUtf8)?;
        let mut headers = HeaderMap::new();
        let lines = (1..).zip(text.lines().map(str::trim));
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.split_once(':').ok_or(Error::Line(number))?;
            let name = HeaderName::try_from(name.trim()).ok().filter(|name| !name.as_str().ends_with("-bin"));
            let mut value = HeaderValue::try_from(value.trim()).map_err(|_| Error::Value(number))?;
            value.set_sensitive(true);
            headers.append(name.ok_or(Error::Name(number))?, value);
        }
        if headers.len() > HEADERS_MOST { Err(Error::TooMany) } else { Ok(Self(MetadataMap::from_headers(headers))) }
    }

    fn add_to(&self, request: &mut tonic::Request<()>) {
        for header in self.0.iter() {
            if let KeyAndValueRef::Ascii(name, value) = header {
                request.metadata_mut().append(name.clone(), value.clone());
            }
        }
    }
}

impl Traces {
    /// Connects when there is something to export. Belongs to the runtime that it is called in.
    ///
    /// # Errors
    /// When the endpoint cannot be one.
    pub fn open(settings: Settings, node: &NodeName) -> anyhow::Result<Self> {
        let Settings { endpoint, headers, ratio } = settings;
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint.trim_end_matches('/'))
            .with_timeout(EXPORT_WITHIN);
        let watched = headers.clone();
        let exporter = exporter.with_interceptor(move |mut request: tonic::Request<()>| -> Result<_, Status> {
            if let Some(headers) = &watched {
                headers.current().add_to(&mut request);
            }
            Ok(request)
        });
        let exporter = exporter.build().context("it cannot be exported to")?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_MOST)
            .with_max_export_batch_size(BATCH_MOST)
            .with_scheduled_delay(EXPORT_EVERY)
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
        traces::begin(ratio);
        Ok(Self { provider, headers })
    }

    pub fn tracer(&self) -> SdkTracer {
        self.provider.tracer("rollcall")
    }

    /// Looks at the file of headers, for as long as there is one.
    pub fn keep(&self) -> impl Future<Output = ()> + use<> {
        reload::keep(self.headers.clone())
    }

    /// Exports what is still waiting, and nothing after that.
    pub async fn close(self, within: Duration) {
        // It waits for the thread that exports, which needs this runtime to.
        let closed = spawn_blocking(move || self.provider.shutdown_with_timeout(within)).await;
        if !matches!(closed, Ok(Ok(()))) {
            warn!("the last spans were not exported");
        }
    }
}

/// An exporter that logs its first failure, and the recovery.
struct LoggedExporter<E> {
    exporter: E,
    endpoint: String,
    /// Of the one state "export fails".
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
    fn a_file_of_headers_is_taken_as_a_whole_and_refused_by_its_line_without_what_is_in_it() {
        let headers = Headers::parse(b"# for the collector\n\nauthorization: Bearer hush\nX-Scope: a:b\n").unwrap();
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
            let refused = Headers::parse(file).err().expect("it is refused");
            assert_eq!(refused, error);
            assert!(!refused.to_string().contains("hush"));
        }
        let many: String = (0..40).map(|number| format!("h{number}: a\n")).collect();
        assert_eq!(Headers::parse(many.as_bytes()).err(), Some(Error::TooMany));
    }
}
