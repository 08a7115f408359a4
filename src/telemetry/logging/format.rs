//! The two formats of a log line: text for people, and JSON.
//!
//! Owns the layout of a line. Both formats add the id of the request ([`request`]). A JSON line is one object: `timestamp`,
//! `level`, `target`, `message` and the fields of the event, which cannot replace those four names.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::request;

/// The text format of `tracing_subscriber`, with the request id at the end of the line.
pub(super) struct TextFormat;

/// One JSON object per line.
pub(super) struct JsonFormat;

#[derive(Serialize)]
struct JsonLine<'a> {
    timestamp: String,
    level: &'a str,
    target: &'a str,
    message: Value,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

#[derive(Default)]
struct JsonFields(Map<String, Value>);

impl<S, N> FormatEvent<S, N> for TextFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let format = Format::default().with_ansi(writer.has_ansi_escapes());
        let Some(id) = request::current_id() else { return format.format_event(context, writer, event) };
        let mut line = String::new();
        format.format_event(context, Writer::new(&mut line), event)?;
        writeln!(writer, "{} request_id={id:?}", line.trim_end_matches('\n'))
    }
}

impl<S, N> FormatEvent<S, N> for JsonFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = JsonFields::default();
        if let Some(id) = request::current_id() {
            fields.0.insert("request_id".to_owned(), id.to_str().unwrap_or_default().into());
        }
        event.record(&mut fields);
        let mut fields = fields.0;
        let message = fields.remove("message").unwrap_or_else(|| Value::from(""));
        for name in ["timestamp", "level", "target"] {
            fields.remove(name);
        }
        let metadata = event.metadata();
        let timestamp = format!("{:.6}", Timestamp::now());
        let line = JsonLine { timestamp, level: metadata.level().as_str(), target: metadata.target(), message, fields };
        writeln!(writer, "{}", serde_json::to_string(&line).map_err(|_| fmt::Error)?)
    }
}

impl JsonFields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().trim_start_matches("r#").to_owned(), value.into());
    }
}

impl Visit for JsonFields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use axum::http::HeaderValue;
    use futures::FutureExt;
    use parking_lot::Mutex;
    use tracing::subscriber::with_default;
    use tracing::{info, warn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_json_line_has_the_fields_beside_the_four_names() {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer().event_format(JsonFormat);
        let subscriber = tracing_subscriber::registry().with(lines.with_writer(move || writer.clone()));
        let logging = request::with_id(Some(HeaderValue::from_static("a\"b")), async {
            info!(rows = 3_u64, complete = true, took = ?std::time::Duration::from_millis(2), "called\nit");
            warn!(level = "mine", target = "mine", timestamp = 0, request_id = "mine", r#type = "x");
        });
        with_default(subscriber, || {
            logging.now_or_never().expect("the future does not wait");
            info!("no request");
        });
        let text = String::from_utf8(written.0.lock().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3, "{text}");
        let own = serde_json::json!({
            "timestamp": lines[0]["timestamp"], "level": "INFO", "target": module_path!(), "message": "called\nit",
            "request_id": "a\"b", "rows": 3, "complete": true, "took": "2ms"
        });
        assert_eq!(lines[0], own);
        assert!(text.starts_with("{\"timestamp\":\"20"), "{text}");
        assert_eq!(
            (&lines[1]["level"], &lines[1]["message"], &lines[1]["type"]),
            (&"WARN".into(), &"".into(), &"x".into())
        );
        assert_eq!(text.matches("\"level\"").count(), 3, "each name once: {text}");
        assert_eq!(text.matches("\"request_id\"").count(), 2, "{text}");
    }
}
