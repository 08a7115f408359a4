//! Traces: the spans of one roll call on four nodes form one tree, and a lost collector does not delay a node.

use std::fs;
use std::future::ready;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::client::Client;
use testkit::process::{Process, serve};
use testkit::redis_server::RedisServer;
use testkit::until;

use super::collector::{CLIENT, Collector, INTERNAL, SERVER, Span};

const CALLER: &str = "00f067aa0ba902b7";
const LOOKUP: &str = "rollcall.v1.MeshService/LookupSockets";
const SECRET: &str = "hunter2-of-the-collector";

fn trace(number: u32) -> String {
    format!("4bf92f3577b34da6a3ce929d{number:08x}")
}

fn sampled(number: u32) -> String {
    format!("00-{}-{CALLER}-01", trace(number))
}

/// The answer to a call of the roll of `a` with this `traceparent`.
async fn called(node: &Process, traceparent: &str) -> reqwest::Response {
    let request = reqwest::Client::new().get(format!("http://{}/a/users?deadline_ms=5000", node.public));
    request.header("traceparent", traceparent).header("tracestate", "vendor=x").send().await.unwrap()
}

async fn cluster(redis: &RedisServer, more: &[&str]) -> (Vec<Process>, Vec<Client>) {
    let (mut nodes, mut clients) = (Vec::new(), Vec::new());
    for name in ["node-1", "node-2", "node-3", "node-4"] {
        nodes.push(Process::start(redis, name, more).await);
    }
    for node in &nodes {
        clients.push(Client::connect(node.public, "someone-private", &["a"]).await.unwrap());
    }
    (nodes, clients)
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_shows_a_roll_call_across_four_nodes() {
    let (redis, collector, folder) = (RedisServer::start_aged().await, Collector::start(), TempDir::new().unwrap());
    let headers = folder.path().join("headers");
    fs::write(&headers, format!("authorization: Bearer {SECRET}\n")).unwrap();
    // A sample ratio of zero starts no trace, but a node still continues a sampled trace of its caller.
    let more = ["--otlp-endpoint", &collector.endpoint, "--otlp-headers-file", headers.to_str().unwrap()];
    let (nodes, clients) = cluster(&redis, &[&more[..], &["--trace-ratio", "0", "--log", "debug"]].concat()).await;
    for ignored in ["", "00-nonsense", &sampled(1).replace("-01", "-00"), &format!("00-{}-{CALLER}-01", "0".repeat(32))]
    {
        assert_eq!(called(&nodes[0], ignored).await.status(), 200, "{ignored}");
    }
    // Until the index has listed the other nodes, a roll call asks all of them.
    until("the roll call asks the owners only", || async {
        let document: serde_json::Value = nodes[0].ask("/a/rollcall").await.json().await.unwrap();
        document["source"] == "directory"
    })
    .await;
    let answer = called(&nodes[0], &sampled(2)).await;
    assert_eq!(answer.json::<Vec<serde_json::Value>>().await.unwrap().len(), 4);
    until("the collector has all spans", || async { collector.of_trace(&trace(2)).len() >= 9 }).await;

    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace == trace(2)), "the trace has no other spans: {spans:#?}");
    assert_eq!(spans.len(), 9, "{spans:#?}");
    for span in &spans {
        assert_eq!(span.resource["service.name"], "rollcall");
        assert_eq!(span.state.as_str(), "vendor=x");
        assert_eq!(span.resource["service.version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(span.headers["authorization"], format!("Bearer {SECRET}"));
        assert!(span.status != 2 && span.links.is_empty() && span.events.is_empty(), "{span:?}");
        assert!(span.took < 5_000_000_000, "{span:?}");
    }
    let [request] = named(&spans, "GET /{room}/users")[..] else { panic!("{spans:#?}") };
    assert_eq!(request.node(), "node-1");
    assert_eq!(request.parent.as_str(), CALLER);
    assert_eq!(request.kind, SERVER);
    assert!(request.has("http.response.status_code", 200) && request.has("http.route", "/{room}/users"), "{request:?}");
    assert!(request.has("http.request.method", "GET") && request.has("url.path", "/a/users"), "{request:?}");
    let [call] = named(&spans, "roll call")[..] else { panic!("{spans:#?}") };
    assert_eq!(call.node(), "node-1");
    assert_eq!(call.parent.as_str(), request.span.as_str());
    assert_eq!(call.kind, INTERNAL);
    assert!(
        call.has("rollcall.room", "a") && call.has("rollcall.rows", 4) && call.has("rollcall.nodes", 4),
        "{call:?}"
    );
    assert!(call.has("rollcall.complete", true) && call.has("rollcall.source", "directory"), "{call:?}");
    let [read] = named(&spans, "read owners")[..] else { panic!("{spans:#?}") };
    assert_eq!(read.node(), "node-1");
    assert_eq!(read.parent.as_str(), call.span.as_str());
    assert!(read.has("rollcall.owners", 4), "{read:?}");
    let lookups = named(&spans, LOOKUP);
    let (asked, answered): (Vec<&Span>, Vec<&Span>) = lookups.iter().partition(|span| span.kind == CLIENT);
    assert_eq!(asked.len(), 3);
    assert_eq!(answered.len(), 3);
    assert!(asked.iter().all(|span| span.node() == "node-1" && span.parent == call.span), "{asked:#?}");
    assert!(asked.iter().all(|span| span.has("server.address", "127.0.0.1") && span.has("rpc.system", "grpc")));
    let mut names: Vec<&str> = answered.iter().map(|span| span.node()).collect();
    names.sort_unstable();
    assert_eq!(names, ["node-2", "node-3", "node-4"]);
    for span in &answered {
        assert!(span.kind == SERVER && span.has("rpc.grpc.status_code", 0), "{span:?}");
        let number: usize = span.node().trim_start_matches("node-").parse().unwrap();
        let [asking] = asked.iter().filter(|asking| asking.span == span.parent).collect::<Vec<_>>()[..] else {
            panic!("each has a question of its own: {lookups:#?}")
        };
        assert!(asking.has("server.port", nodes[number - 1].mesh.port()), "{asking:?}");
    }
    let raw = collector.raw();
    assert!(!raw.contains("someone-private") && clients.iter().all(|client| !raw.contains(&client.id)), "{raw}");

    // A node that stops exports its pending spans.
    assert_eq!(called(&nodes[0], &sampled(3)).await.status(), 200);
    nodes[0].terminate();
    until("the collector has the last spans", || async {
        !named(&collector.of_trace(&trace(3)), "GET /{room}/users").is_empty()
    })
    .await;
    for node in &nodes {
        assert!(!node.log().contains(SECRET), "a node with the highest log level logs no secret");
    }
}

/// The second roll call of a room is conditional, and by the fifth its lookups certainly take the revalidation streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traced_conditional_lookups_belong_to_the_trace_of_the_caller() {
    let (redis, collector) = (RedisServer::start_aged().await, Collector::start());
    let (nodes, _clients) = cluster(&redis, &["--otlp-endpoint", &collector.endpoint, "--trace-ratio", "0"]).await;
    for number in 100..105 {
        assert_eq!(called(&nodes[0], &sampled(number)).await.status(), 200);
        let lookups_of = |kind| {
            let spans = collector.of_trace(&trace(number));
            named(&spans, LOOKUP).into_iter().filter(|span| span.kind == kind).cloned().collect::<Vec<_>>()
        };
        until("the collector has all lookups", || async { lookups_of(CLIENT).len() + lookups_of(SERVER).len() >= 6 })
            .await;
        let (asked, answered) = (lookups_of(CLIENT), lookups_of(SERVER));
        assert_eq!(asked.len(), 3, "call {number}: {answered:#?}");
        assert_eq!(answered.len(), 3, "call {number}: {answered:#?}");
        let unchanged = asked.iter().filter(|span| span.has("rollcall.unchanged", true)).count();
        assert_eq!(unchanged, if number == 100 { 0 } else { 3 }, "call {number}: {asked:#?}");
        for span in &answered {
            assert!(asked.iter().any(|asking| asking.span == span.parent), "call {number}: {span:?}");
            assert!(span.has("rpc.grpc.status_code", 0), "call {number}: {span:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_share_a_roll_call_link_to_it() {
    let (redis, collector) = (RedisServer::start_aged().await, Collector::start());
    let (nodes, _clients) = cluster(&redis, &["--otlp-endpoint", &collector.endpoint, "--trace-ratio", "0"]).await;
    let mut number = 10;
    loop {
        let callers = (number..number + 20).map(|number| {
            let node = &nodes[0];
            async move { assert_eq!(called(node, &sampled(number)).await.status(), 200) }
        });
        futures::future::join_all(callers).await;
        number += 20;
        let ended = || async { named(&collector.spans(), "GET /{room}/users").len() == number as usize - 10 };
        until("the collector has all requests", ended).await;
        let spans = collector.spans();
        let (requests, calls) = (named(&spans, "GET /{room}/users"), named(&spans, "roll call"));
        for request in &requests {
            let own = calls.iter().filter(|call| call.parent == request.span).count();
            let shared = request.links.iter().filter(|link| calls.iter().any(|call| call.span == **link)).count();
            assert_eq!(own + shared, 1, "{request:?}");
            assert_eq!(request.links.len(), shared, "{request:?}");
        }
        if calls.len() < requests.len() {
            break;
        }
        assert!(number < 2000, "no request shares a roll call");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_collector_delays_nothing_and_is_logged_once() {
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    for (endpoint, complains) in [(gone, true), (hanging.local_addr().unwrap(), false)] {
        let endpoint = format!("http://{endpoint}");
        let mut command = serve();
        command.args(["--identity", "query", "--otlp-endpoint", &endpoint, "--drain", "5s"]);
        let mut node = Process::launch(&mut command);
        node.is_ready().await;
        // More spans than the export queue holds.
        let slowest = {
            let mut slowest = Duration::ZERO;
            for _ in 0..50 {
                let began = Instant::now();
                let calls = (0..50).map(|number| node.ask(if number % 2 == 0 { "/a/users" } else { "/b/users" }));
                assert!(futures::future::join_all(calls).await.iter().all(|answer| answer.status() == 200));
                slowest = slowest.max(began.elapsed());
            }
            slowest
        };
        assert!(slowest < Duration::from_secs(4), "fifty at once took {slowest:?}");
        let complaint = "cannot export spans";
        if complains {
            until("the node logs the complaint", || async { node.log().contains(complaint) }).await;
        }
        let began = Instant::now();
        node.terminate();
        until("it stops", || ready(node.child.try_wait().unwrap().is_some())).await;
        assert!(began.elapsed() < Duration::from_secs(5), "within the drain: {:?}", began.elapsed());
        assert!(node.log().matches(complaint).count() <= 1, "{}", node.log());
        assert!(!node.log().contains("panicked"), "{}", node.log());
    }
}

#[tokio::test]
async fn no_span_is_exported_without_the_flag() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut command = serve();
    command.args(["--identity", "query"]).env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
    command.env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &endpoint);
    let mut node = Process::launch(&mut command);
    node.is_ready().await;
    assert_eq!(called(&node, &sampled(1)).await.status(), 200);
    node.terminate();
    until("it stops", || ready(node.child.try_wait().unwrap().is_some())).await;
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "no node connects to the collector");
}
