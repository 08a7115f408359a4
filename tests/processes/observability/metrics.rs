//! Metrics: every family is documented and follows the naming rules, and the values change with the cluster.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Stdio;

use testkit::client::Client;
use testkit::process::Process;
use testkit::programs::{prometheus, repository};
use testkit::redis_server::RedisServer;
use testkit::samples::Samples;
use testkit::until;

/// A short lease, so that dead nodes disappear soon.
const LEASE: &[&str] = &["--lease", "3s"];

/// The families of a scrape, and their types.
fn families(text: &str) -> BTreeSet<(String, String)> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| line.split_once(' ').expect("a name and a type"))
        .map(|(name, of)| (name.into(), of.into()))
        .collect()
}

/// The families of the table in the documentation, and their types.
fn documented() -> BTreeSet<(String, String)> {
    let path = repository().join("docs/METRICS.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let (name, rest) = row.split_once("` | ").expect("a name in backticks");
        (name.to_owned(), rest.split(' ').next().unwrap().to_owned())
    })
    .collect()
}

fn lint(text: &str) {
    let mut promtool = prometheus("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is needed for the tests; `make tools` installs it");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_documented_well_named_and_updated() {
    let redis = RedisServer::start_aged().await;
    let (owner, asked) = (Process::start(&redis, "owner", LEASE).await, Process::start(&redis, "asked", LEASE).await);
    let mut clients = Vec::new();
    for number in 0..3 {
        clients.push(Client::connect(owner.public, &format!("user-{number}"), &["a", "b"]).await.unwrap());
    }
    assert!(Client::with(owner.public, "room=a", "").await.is_err());
    assert_eq!(clients[0].join("c").await["ok"], true);
    assert_eq!(clients[0].leave("b").await["ok"], true);
    assert_eq!(clients[0].join("socket.io").await["code"], "room_invalid");

    let samples = owner.samples().await;
    for (name, value) in [
        ("rollcall_sockets", 3.0),
        ("rollcall_rooms", 3.0),
        ("rollcall_socket_connects_total", 3.0),
        ("rollcall_room_joins_total", 7.0),
        ("rollcall_room_leaves_total", 1.0),
        ("rollcall_socket_refusals_total{code=\"id_user_missing\",event=\"connect\"}", 1.0),
        ("rollcall_socket_refusals_total{code=\"room_invalid\",event=\"join\"}", 1.0),
        ("rollcall_http_requests_total{route=\"socket.io\",status=\"101\"}", 4.0),
        ("rollcall_ready", 1.0),
        ("rollcall_counts", 1.0),
        ("rollcall_members", 2.0),
        ("rollcall_incarnations_total", 1.0),
        ("rollcall_directory_up", 1.0),
        ("rollcall_lease_seconds", 3.0),
    ] {
        assert_eq!(samples.get(name), Some(value), "{name}");
    }
    assert!(samples.get("rollcall_connections").is_some_and(|open| open >= 3.0));
    assert!(samples.get("process_resident_memory_bytes").is_some_and(|bytes| bytes > 1e6));
    assert!(samples.get("process_open_fds").is_some_and(|files| files > 3.0));
    let age = samples.get("rollcall_lease_age_seconds").unwrap();
    assert!(age < 3.0, "{age}");
    until("the index matches the rosters", || async {
        let samples = owner.samples().await;
        samples.sum("rollcall_registrar_due", &["seats"]) == 0.0
            && samples.sum("rollcall_registrar_flush_duration_seconds_count", &[]) > 0.0
            && samples.get("rollcall_whole") == Some(1.0)
    })
    .await;

    let users = asked.ask("/a/users").await;
    let tag = users.headers()["etag"].clone();
    let again = reqwest::Client::new().get(format!("http://{}/a/users", asked.public)).header("if-none-match", tag);
    assert_eq!(again.send().await.unwrap().status(), 304);
    let samples = asked.samples().await;
    let of_owner = format!("address=\"{}\"", owner.mesh);
    for (name, labels, value) in [
        ("rollcall_http_requests_total", vec!["users", "\"200\""], 1.0),
        ("rollcall_http_requests_total", vec!["users", "\"304\""], 1.0),
        ("rollcall_http_request_duration_seconds_count", vec!["users"], 2.0),
        ("rollcall_roll_calls_total", vec!["\"complete\"", "directory"], 2.0),
        ("rollcall_roll_call_duration_seconds_count", vec![], 2.0),
        ("rollcall_roll_call_users_sum", vec![], 6.0),
        ("rollcall_peer_lookups_total", vec!["answered", "peer=\"owner\"", &of_owner], 2.0),
        ("rollcall_peer_lookup_duration_seconds_count", vec!["peer=\"owner\""], 2.0),
        ("rollcall_directory_call_duration_seconds_count", vec!["owners"], 2.0),
    ] {
        assert_eq!(samples.sum(name, &labels), value, "{name} {labels:?}");
    }
    assert!(samples.get("rollcall_cache_bytes").is_some_and(|bytes| bytes > 0.0));
    for end in ["asking", "answering"] {
        for way in ["sent", "received"] {
            assert!(samples.sum(&format!("rollcall_mesh_{way}_bytes_total"), &[end]) > 100.0, "{end} {way}");
        }
    }

    let scrape = asked.get("/metrics").await;
    assert_eq!(scrape.headers()["content-type"], "text/plain; version=0.0.4");
    let text = scrape.text().await.unwrap();
    lint(&text);
    let others = owner.get("/metrics").await.text().await.unwrap();
    let exported: BTreeSet<_> = families(&text).union(&families(&others)).cloned().collect();
    let documented = documented();
    let missing: Vec<_> = exported.symmetric_difference(&documented).collect();
    assert!(missing.is_empty(), "families that are only exported, or only in docs/METRICS.md: {missing:?}");
    assert!(!text.contains("user-"), "no metric names a user");

    clients.into_iter().for_each(Client::drop_connection);
    until("the node has no sockets", || async { owner.samples().await.get("rollcall_sockets") == Some(0.0) }).await;
    assert_eq!(owner.samples().await.get("rollcall_socket_disconnects_total"), Some(3.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_show_a_hung_peer_a_dead_peer_and_a_lost_redis() {
    let redis = RedisServer::start_aged().await;
    let (owner, asked) = (Process::start(&redis, "owner", LEASE).await, Process::start(&redis, "asked", LEASE).await);
    let client = Client::connect(owner.public, "foo", &["a"]).await.unwrap();
    assert_eq!(asked.ask("/a/users").await.headers()["rollcall-complete"], "true");

    owner.stop().await;
    let lookups = |samples: &Samples, outcome: &str| samples.sum("rollcall_peer_lookups_total", &[outcome]);
    until("the circuit opens", || async {
        let call = || asked.ask("/a/users?deadline_ms=200");
        // After the circuit opens, the last request finds a probe in progress.
        futures::future::join_all([call(), call()]).await;
        assert_eq!(asked.ask("/a/users?deadline_ms=150&strict=true").await.status(), 503);
        let samples = asked.samples().await;
        samples.sum("rollcall_peer_circuit_open", &["owner"]) == 1.0
    })
    .await;
    let samples = asked.samples().await;
    assert!(lookups(&samples, "deadline") >= 3.0);
    assert!(samples.sum("rollcall_roll_calls_total", &["incomplete"]) >= 3.0);
    assert!(samples.sum("rollcall_roll_calls_strict_refused_total", &[]) >= 1.0);
    assert!(samples.sum("rollcall_http_requests_total", &["users", "503"]) >= 1.0);
    owner.resume();
    until("the circuit closes", || async {
        asked.samples().await.sum("rollcall_peer_circuit_open", &["owner"]) == 0.0
    })
    .await;

    client.drop_connection();
    drop(owner);
    until("dead nodes have no series", || async {
        let samples = asked.samples().await;
        !samples.any("peer=\"owner\"") && samples.get("rollcall_members") == Some(1.0)
    })
    .await;

    drop(redis);
    until("the metrics report the loss of Redis", || async {
        let samples = asked.samples().await;
        samples.get("rollcall_directory_up") == Some(0.0)
            && samples.sum("rollcall_directory_errors_total", &["renew", "unanswered"]) > 0.0
            && samples.get("rollcall_lease_age_seconds").is_some_and(|age| age > 1.0)
    })
    .await;
    assert_eq!(asked.ask("/a/users").await.headers()["rollcall-complete"], "false");
    assert!(asked.samples().await.sum("rollcall_roll_calls_total", &["incomplete", "peers"]) >= 1.0);
}
