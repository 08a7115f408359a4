//! The OTLP collector of a test: a Python process, independent of the exporter under test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use serde_json::{Map, Value};
use testkit::programs::{repository, tools};

/// The process ends when the value is dropped.
pub(crate) struct Collector {
    process: Child,
    pub endpoint: String,
    lines: Arc<Mutex<Vec<String>>>,
}

/// A received span.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Span {
    pub resource: Map<String, Value>,
    pub headers: Map<String, Value>,
    pub trace: String,
    pub span: String,
    pub parent: String,
    pub state: String,
    pub name: String,
    pub kind: u8,
    pub status: u8,
    pub took: u64,
    pub links: Vec<String>,
    pub attributes: Map<String, Value>,
    pub events: Vec<String>,
}

/// The span kind, with the number of OpenTelemetry.
pub(crate) const INTERNAL: u8 = 1;
pub(crate) const SERVER: u8 = 2;
pub(crate) const CLIENT: u8 = 3;

impl Collector {
    pub(crate) fn start() -> Self {
        let mut process = Command::new(tools().join("python/bin/python"))
            .arg(repository().join("tests/processes/observability/collector.py"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python is needed for the tests; `make tools` installs it");
        let mut said = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = said.next().expect("opentelemetry-proto is needed for the tests; `make tools` installs it").unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        std::thread::spawn({
            let lines = Arc::clone(&lines);
            move || said.map_while(Result::ok).for_each(|line| lines.lock().unwrap().push(line))
        });
        Self { process, endpoint: format!("http://127.0.0.1:{port}"), lines }
    }

    /// All received lines.
    pub(crate) fn raw(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.lines.lock().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn of_trace(&self, trace: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.trace == trace).collect()
    }
}

impl Span {
    pub(crate) fn node(&self) -> &str {
        self.resource["service.instance.id"].as_str().unwrap()
    }

    pub(crate) fn has(&self, attribute: &str, value: impl Into<Value>) -> bool {
        self.attributes.get(attribute) == Some(&value.into())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
