//! A line of the log as one JSON object, its fields flat beside `timestamp`, `level`, `target` and `message`.
//!
//! Owns that form. The fields of the spans around a line come first, and those of the line itself replace them; nothing
//! replaces the four names. Whatever is in a field, it stays one line.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Formats events, and the fields of spans.
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
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(formatted) = span.extensions().get::<FormattedFields<N>>() {
                let objects = serde_json::Deserializer::from_str(&formatted.fields).into_iter::<Map<String, Value>>();
                fields.0.extend(objects.map_while(Result::ok).flatten());
            }
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

impl<'writer> FormatFields<'writer> for Json {
    /// What is recorded later stands behind it, as an object of its own.
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, record: R) -> fmt::Result {
        let mut fields = Fields::default();
        record.record(&mut fields);
        write!(writer, "{}", Value::Object(fields.0))
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

    use tracing::subscriber::with_default;
    use tracing::{info, info_span, warn};
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
    fn each_line_is_one_object_with_its_own_fields_before_those_of_its_spans_and_the_four_names_first() {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer().fmt_fields(Json).event_format(Json);
        let subscriber = tracing_subscriber::registry().with(lines.with_writer(move || writer.clone()));
        with_default(subscriber, || {
            let outer = info_span!("request", request_id = "a\"b\n", node = "outer", late = tracing::field::Empty);
            let _outer = outer.enter();
            outer.record("late", 7);
            info!(node = "inner", rows = 3_u64, complete = true, took = ?std::time::Duration::from_millis(2), "called\nit");
            warn!(level = "mine", target = "mine", timestamp = 0, r#type = "x");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        let own = serde_json::json!({
            "timestamp": lines[0]["timestamp"], "level": "INFO", "target": module_path!(), "message": "called\nit",
            "request_id": "a\"b\n", "node": "inner", "late": 7, "rows": 3, "complete": true, "took": "2ms"
        });
        assert_eq!(lines[0], own);
        assert!(text.starts_with("{\"timestamp\":\"20"), "{text}");
        assert_eq!(
            (&lines[1]["level"], &lines[1]["message"], &lines[1]["type"]),
            (&"WARN".into(), &"".into(), &"x".into())
        );
        assert_eq!(text.matches("\"level\"").count(), 2, "no name is there twice: {text}");
    }
}
