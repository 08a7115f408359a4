//! A line of the log as one JSON object, its fields flat beside `timestamp`, `level`, `target` and `message`.
//!
//! Owns that form. The id of the request that a line is about stands beside its fields; nothing replaces the four names.
//! Whatever is in a field, it stays one line.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::request;

/// Formats events.
pub struct Json;

#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'a str,
    target: &'a str,
    message: Value,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

#[derive(Default)]
struct Fields(Map<String, Value>);

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        if let Some(id) = request::current() {
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
        let line = Line { timestamp, level: metadata.level().as_str(), target: metadata.target(), message, fields };
        writeln!(writer, "{}", serde_json::to_string(&line).map_err(|_| fmt::Error)?)
    }
}

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().trim_start_matches("r#").to_owned(), value.into());
    }
}

impl Visit for Fields {
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
    use std::sync::{Arc, Mutex};

    use axum::http::HeaderValue;
    use futures::FutureExt;
    use tracing::subscriber::with_default;
    use tracing::{info, warn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_line_is_one_object_with_the_request_beside_its_own_fields_and_the_four_names_first() {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer().event_format(Json);
        let subscriber = tracing_subscriber::registry().with(lines.with_writer(move || writer.clone()));
        let saying = request::about(Some(HeaderValue::from_static("a\"b")), async {
            info!(rows = 3_u64, complete = true, took = ?std::time::Duration::from_millis(2), "called\nit");
            warn!(level = "mine", target = "mine", timestamp = 0, request_id = "mine", r#type = "x");
        });
        with_default(subscriber, || {
            saying.now_or_never().expect("it waits for nothing");
            info!("of no request");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
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
        assert_eq!(text.matches("\"level\"").count(), 3, "no name is there twice: {text}");
        assert_eq!(text.matches("\"request_id\"").count(), 2, "{text}");
    }
}
