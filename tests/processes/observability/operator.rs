//! The status for operators: any node reports the state of all nodes, in JSON and on a terminal. It names peers that do
//! not answer or answer invalid values, and they do not delay the rest.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rollcall::mesh::proto::{AnnounceRequest, DescribeRequest, DescribeResponse, RoomSize, Status as NodeStatus};
use rollcall::names::NodeId;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::client::Client;
use testkit::fake_peer::{FakePeer, serve_fake_peer};
use testkit::process::{Process, rollcall, serve};
use testkit::programs::run;
use testkit::redis_server::RedisServer;
use testkit::{listen_anywhere, mesh_client, until};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::transport::Server;

const LEASE: &[&str] = &["--lease", "2s"];

/// Runs a command of `rollcall`, and returns whether it succeeded, and its output.
async fn command(admin: SocketAddr, arguments: &[&str]) -> (bool, String) {
    let mut command = rollcall();
    command.args(arguments).args(["--admin", &admin.to_string()]);
    tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap()
}

async fn status(node: &Process) -> Value {
    node.get("/_/status").await.json().await.unwrap()
}

fn row<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_reports_the_same_status_and_names_failed_nodes() {
    let redis = RedisServer::start_aged().await;
    let starting = ["node-1", "node-2", "node-3", "node-4"].map(|name| Process::start(&redis, name, LEASE));
    let mut nodes = futures::future::join_all(starting).await;
    let mut clients = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        for socket in 0..=number {
            let rooms: &[&str] = if socket == 0 { &["a/b & 'c'", "b"] } else { &["a/b & 'c'"] };
            clients.push(Client::connect(node.public, &format!("user-{socket}"), rooms).await.unwrap());
        }
    }
    for node in &nodes {
        until("the node reports all nodes as healthy", || async {
            let status = status(node).await;
            let sockets = |name: &str| row(&status, name).map(|node| node["sockets"].clone());
            let all = ["node-1", "node-2", "node-3", "node-4"].map(sockets);
            status["well"] == true
                && all == [1, 2, 3, 4].map(|sockets| Some(json!(sockets)))
                && status["sockets"] == 10
                && status["busiest_rooms"]
                    == json!([
                        {"room": "a/b & 'c'", "sockets": 10, "most": 10, "nodes": 4},
                        {"room": "b", "sockets": 4, "most": 4, "nodes": 4},
                    ])
        })
        .await;
    }
    let told = status(&nodes[2]).await;
    assert_eq!(told["asked"], row(&told, "node-3").unwrap()["id"]);
    let other = row(&told, "node-1").unwrap();
    assert!(other["round_trip_ms"].as_f64().unwrap() > 0.0 && other["lease_left_ms"].as_u64().unwrap() <= 2_000);
    assert_eq!(other["mesh"], nodes[0].mesh.to_string());

    for _ in 0..10 {
        assert_eq!(nodes[1].ask("/b/users").await.status(), 200);
    }
    until("the node reports the roll calls after their bucket ends", || async {
        let told = status(&nodes[0]).await;
        let sum = |calls: &Value| calls.as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum::<u64>();
        let (all, one) = (&told["roll_calls"], &row(&told, "node-2").unwrap()["roll_calls"]);
        sum(&all["calls"]) == 10 && sum(&one["calls"]) == 10 && one["last_minute"]["p99_ms"].as_f64() > Some(0.0)
    })
    .await;

    let (well, said) = command(nodes[3].admin, &["status"]).await;
    assert!(well && said.contains("4 of 4 nodes respond and are active; 10 sockets."), "{said}");
    assert!(said.lines().any(|line| line.starts_with("node-4 *") && line.contains(" healthy ")), "{said}");
    let (well, said) = command(nodes[3].admin, &["users", "a/b & 'c'"]).await;
    assert!(well && said.ends_with("\ncomplete: 10 sockets, 4 users\n"), "{said}");
    assert_eq!(said.lines().filter(|line| line.ends_with(" node-4")).count(), 4, "{said}");
    let (well, said) = command(nodes[0].admin, &["users", "nobody"]).await;
    assert!(well);
    assert_eq!(said.as_str(), "complete: 0 sockets, 0 users\n");
    let (_, said) = command(nodes[0].admin, &["users", "b", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["users"].as_array().unwrap().len(), 4);

    nodes[2].stop().await;
    let began = Instant::now();
    let (well, said) = command(nodes[0].admin, &["status"]).await;
    assert!(began.elapsed() < Duration::from_secs(3), "a hung node costs one second: {:?}", began.elapsed());
    assert!(!well && said.contains("3 of 4 nodes respond and are active; 7 sockets."), "{said}");
    assert!(
        said.lines().any(|line| line.starts_with("node-3 ") && line.contains("not responding (deadline)")),
        "{said}"
    );
    let (well, said) = command(nodes[0].admin, &["users", "b"]).await;
    assert!(!well, "{said}");
    assert!(
        said.ends_with("incomplete: 3 sockets, 1 user; no answer from node-3 (deadline); 1 socket unresolved\n"),
        "{said}"
    );
    nodes[2].resume();
    until("all nodes are healthy again", || async { command(nodes[0].admin, &["status", "--json"]).await.0 }).await;

    drop(nodes.pop());
    let (well, said) = command(nodes[0].admin, &["status", "--json"]).await;
    let told: Value = serde_json::from_str(&said).unwrap();
    assert!(!well && told["well"] == false);
    let dead = row(&told, "node-4").unwrap();
    assert!(["refused", "failed"].contains(&dead["error"].as_str().unwrap()), "{dead}");
    assert_eq!(dead.get("sockets"), None);
    until("the dead node is no member", || async { row(&status(&nodes[0]).await, "node-4").is_none() }).await;
    until("the remaining nodes are healthy", || async { command(nodes[0].admin, &["status"]).await.0 }).await;
}

type Description = fn(&NodeId) -> Option<DescribeResponse>;

/// A peer that answers `Describe` with arbitrary values, or not at all.
struct DescribingPeer(Description, NodeId);

#[tonic::async_trait]
impl FakePeer for DescribingPeer {
    async fn describe(&self, _: DescribeRequest) -> Result<DescribeResponse, Status> {
        match (self.0)(&self.1) {
            Some(response) => Ok(response),
            None => std::future::pending().await,
        }
    }
}

/// Announces the node at `listener` to `node`, so that it becomes a member.
async fn introduce(node: &Process, listener: &TcpListener, name: &str, id: &NodeId) {
    let mesh = listener.local_addr().unwrap().to_string();
    let status =
        NodeStatus { node_id: id.to_string(), name: name.to_owned(), mesh, sequence: 1, ..NodeStatus::default() };
    mesh_client(node.mesh).announce(AnnounceRequest { status: Some(status) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_with_bad_status_answers_are_named_within_a_second() {
    let node = Process::launch(serve().args(["--identity", "query", "--node-name", "own", "--lease", "60s"]));
    node.is_ready().await;
    let descriptions: [(&str, Description, &str); 6] = [
        (
            "a-million-rooms",
            |node| {
                let rooms = (0..1_000_000).map(|number| RoomSize { room: format!("room-{number}"), sockets: u64::MAX });
                Some(DescribeResponse {
                    node_id: node.to_string(),
                    busiest_rooms: rooms.collect(),
                    ..Default::default()
                })
            },
            "failed",
        ),
        (
            "a-huge-name",
            |node| {
                let room = RoomSize { room: "x".repeat(100_000), sockets: 1 };
                Some(DescribeResponse { node_id: node.to_string(), busiest_rooms: vec![room], ..Default::default() })
            },
            "failed",
        ),
        (
            "a-terminal",
            |node| {
                let version = "\x1b[2J".to_owned();
                Some(DescribeResponse { node_id: node.to_string(), version, ..Default::default() })
            },
            "failed",
        ),
        (
            "another",
            |_| {
                let node_id = NodeId::new_process().to_string();
                Some(DescribeResponse { node_id, version: "1".into(), since: "now".into(), ..Default::default() })
            },
            "refused",
        ),
        ("hangs", |_| None, "deadline"),
        (
            "honest",
            |node| {
                let node_id = node.to_string();
                Some(DescribeResponse {
                    node_id,
                    version: "9.9.9".into(),
                    since: "now".into(),
                    sockets: u64::MAX,
                    ..Default::default()
                })
            },
            "",
        ),
    ];
    let mut tasks = Vec::new();
    for (name, answer, _) in descriptions {
        let (listener, id) = (listen_anywhere(), NodeId::new_process());
        introduce(&node, &listener, name, &id).await;
        tasks.push(tokio::spawn(serve_fake_peer(listener, DescribingPeer(answer, id))));
    }
    // A gRPC server without the service, like an older version without `Describe`.
    let (listener, id) = (listen_anywhere(), NodeId::new_process());
    introduce(&node, &listener, "older", &id).await;
    let (_, health) = tonic_health::server::health_reporter();
    tasks.push(tokio::spawn(async move {
        Server::builder().add_service(health).serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
    }));

    // On a loaded machine a valid answer may be late too. The wait ends when every peer has its own verdict.
    let told = Mutex::new(Value::Null);
    let expected = descriptions.map(|(name, _, error)| (name, error)).into_iter().chain([("older", "older")]);
    let expected: Vec<(&str, &str)> = expected.collect();
    until("every peer is named with its error, within the time limit of a status", || {
        let (node, expected, told) = (&node, &expected, &told);
        async move {
            let began = Instant::now();
            let answer = status(node).await;
            let took = began.elapsed();
            let is_named = |(name, error): &(&str, &str)| {
                row(&answer, name).is_some_and(|row| row["error"].as_str().unwrap_or_default() == *error)
            };
            let all_named = expected.iter().all(is_named);
            *told.lock().unwrap() = answer;
            took < Duration::from_secs(4) && all_named
        }
    })
    .await;
    let told = told.into_inner().unwrap();
    assert_eq!(row(&told, "honest").unwrap()["version"], "9.9.9");
    assert_eq!(&told["well"], &json!(false));
    assert_eq!(&told["sockets"], &json!(u64::MAX));
    assert_eq!(told["busiest_rooms"], json!([]), "no part of an invalid description is used");
    let (well, said) = command(node.admin, &["status"]).await;
    assert!(!well && said.lines().all(|line| line.chars().count() <= 100), "{said}");
    tasks.iter().for_each(JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_admin_port_shows_no_rooms_without_a_token() {
    let folder = TempDir::new().unwrap();
    let tokens = folder.path().join("tokens").to_str().unwrap().to_owned();
    let node = |more: &[&str]| {
        let mut command_line = serve();
        command_line.env("ROLLCALL_ADMIN_LISTEN", "0.0.0.0:0").args(["--identity", "query", "--node-name", "own"]);
        let node = Process::launch(command_line.args(more));
        let admin = SocketAddr::from(([127, 0, 0, 1], node.admin.port()));
        (node, admin)
    };
    let (_open, admin) = node(&[]);
    assert_eq!(reqwest::get(format!("http://{admin}/_/")).await.unwrap().status(), 200, "the page itself has no data");
    for path in ["/_/status", "/_/rooms/a"] {
        assert_eq!(reqwest::get(format!("http://{admin}{path}")).await.unwrap().status(), 403, "{path}");
    }
    for arguments in [&["status"][..], &["users", "a"]] {
        let (well, said) = command(admin, arguments).await;
        assert!(!well && said.contains("start the node with --admin-token-file"), "{said}");
        assert_eq!(said.matches('\n').count(), 1, "the output is one line: {said}");
    }
    std::fs::write(&tokens, "someone: 0123456789abcdef0123\n").unwrap();
    let (closed, admin) = node(&["--admin-token-file", &tokens]);
    closed.is_ready().await;
    let (well, said) = command(admin, &["status"]).await;
    assert!(!well && said.contains("requires a token: pass --token-file"), "{said}");
    for arguments in [&["status", "--token-file", &tokens][..], &["users", "a", "--token-file", &tokens]] {
        let (well, said) = command(admin, arguments).await;
        assert!(well, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admin_answers_are_uncached_same_origin_and_read_only() {
    let node = Process::launch(serve().args(["--identity", "query", "--node-name", "own"]));
    node.is_ready().await;
    for path in ["/_/status", "/_/rooms/a"] {
        let answer = node.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("cross-origin-resource-policy", "same-origin"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert_eq!(answer.headers()[name], value, "{path}");
        }
        assert!(!answer.headers().contains_key("access-control-allow-origin"));
        let url = format!("http://{}{path}", node.admin);
        assert_eq!(reqwest::Client::new().post(url).send().await.unwrap().status(), 403, "{path}");
    }
    let page = node.get("/_/").await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"), "{policy}");
    assert_eq!(node.get("/_").await.url().path(), "/_/");
    assert_eq!(node.get("/_/rooms/socket.io").await.status(), 400);
    assert_eq!(node.ask("/_/status").await.status(), 404, "the public port has no status");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watch_command_repeats_and_reports_a_lost_node() {
    let node = Process::launch(serve().args(["--identity", "query", "--node-name", "own"]));
    node.is_ready().await;
    let mut watching = rollcall();
    watching.args(["status", "--watch", "--json", "--admin", &node.admin.to_string()]);
    let mut watching = watching.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut complaints = BufReader::new(watching.stderr.take().unwrap()).lines();
    let times = tokio::task::spawn_blocking(move || {
        [(); 2].map(|()| serde_json::from_str::<Value>(&told.next().unwrap().unwrap()).unwrap()["as_of"].clone())
    });
    let [first, second] = times.await.unwrap();
    assert_ne!(first, second);
    drop(node);
    let complaint = tokio::task::spawn_blocking(move || complaints.next().unwrap().unwrap()).await.unwrap();
    assert!(complaint.contains("cannot be reached"), "{complaint}");
    assert!(watching.try_wait().unwrap().is_none(), "the command continues to watch");
    watching.kill().unwrap();
    watching.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_to_any_server_ends_in_time_with_one_line() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = listen_anywhere();
    let silent_at = silent.local_addr().unwrap();
    let began = Instant::now();
    let commands = [&["status"][..], &["users", "a"], &["status", "--json"]]
        .into_iter()
        .flat_map(|arguments| [command(closed, arguments), command(silent_at, arguments)]);
    for (well, said) in futures::future::join_all(commands).await {
        assert!(!well && said.starts_with("rollcall: 127.0.0.1:") && said.matches('\n').count() == 1, "{said}");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}
