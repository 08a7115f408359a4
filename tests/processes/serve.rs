//! `rollcall serve`: two processes over a real Redis, ten thousand sockets, and misbehaving connections.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::StreamExt;
use reqwest::StatusCode;
use rollcall::edge::connections::listener::raise_file_limit;
use rollcall::mesh::security::Security;
use serde_json::{Value, json};
use testkit::caching_peer::CachingPeer;
use testkit::client::{Client, open};
use testkit::pki::Folder;
use testkit::process::{Process, Roll, ServeCommand, complete};
use testkit::redis_server::RedisServer;
use testkit::{PATIENCE, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

async fn start(redis: &RedisServer) -> Process {
    ServeCommand::unnamed().redis(redis).ready().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_sockets_of_one_process_are_listed_by_another() {
    const SOCKETS: usize = 10_000;
    assert!(raise_file_limit().is_none_or(|limit| limit > SOCKETS as u64 + 500), "the limit of open files is too low");
    let redis = RedisServer::start_aged().await;
    let (owner, asked) = (start(&redis).await, start(&redis).await);
    let connecting = futures::stream::iter(0..SOCKETS)
        .map(|number| async move { Client::connect(owner.public, &format!("user-{number}"), &["hall"]).await.unwrap() })
        .buffer_unordered(64);
    let clients: Vec<Client> = connecting.collect().await;
    let expected: BTreeSet<String> = clients.iter().map(|client| client.id.clone()).collect();
    assert_eq!(expected.len(), SOCKETS);
    assert_eq!(asked.roll("hall").await, Roll { unanswered: None, sockets: expected });
    for client in clients {
        client.drop_connection();
    }
    until("the room is empty", || async { asked.roll("hall").await == complete(&[]) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_waits_for_redis_to_have_an_address() {
    let folder = Folder::new();
    let node = ServeCommand::named("one")
        .env("ROLLCALL_MESH_LISTEN", "0.0.0.0:0")
        .with(&["--mesh-advertise", "auto", "--mesh-token-file", &folder.write("token", &"0".repeat(64))])
        .with(&["--redis", "redis://redis.invalid:6379"])
        .launch();
    let not_ready = || async { node.get("/readyz").await.status() == StatusCode::SERVICE_UNAVAILABLE };
    until("the node is not ready", not_ready).await;
    let names_redis = || async { !node.logged("redis.invalid:6379").is_empty() };
    until("the log names the redis that does not resolve", names_redis).await;
    assert_eq!(node.logged("starting")[0].matches("advertise=\"auto\"").count(), 1, "{}", node.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_wrong_address_is_not_ready() {
    let redis = RedisServer::start_aged().await;
    let _others = (start(&redis).await, start(&redis).await);
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let wrong = ServeCommand::named("wrong").redis(&redis).with(&["--mesh-advertise", &nobody.to_string()]).launch();
    let reason = "mesh: most members cannot connect to this node; check --mesh-advertise";
    let is_named = || async { wrong.get("/readyz").await.text().await.unwrap().contains(reason) };
    until("the node names the reason", is_named).await;
    assert_eq!(wrong.get("/readyz").await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_node_does_not_wait_for_open_mesh_streams() {
    let redis = RedisServer::start_aged().await;
    let mut process = start(&redis).await;
    let _client = Client::connect(process.public, "foo", &["a"]).await.unwrap();
    // The peer is no member, so the node does not notify it before it stops.
    let holder = CachingPeer::of(process.mesh, "a", Security::default()).await;
    holder.revalidate_repeatedly().await;
    process.terminate();
    until("the node has stopped", || async { process.log().contains(" stopped") }).await;
    assert!(process.child.wait().unwrap().success());
    assert!(!process.log().contains("took too long"), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_head_that_never_ends_times_out() {
    let redis = RedisServer::start_aged().await;
    let process = start(&redis).await;
    for half in ["", "GET /Maths/users HTTP/1.1\r\nHost: a\r\nX-Slow: "] {
        let began = Instant::now();
        let mut stream = TcpStream::connect(process.public).await.unwrap();
        stream.write_all(half.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "still open after {:?}: {half:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_is_named_until_its_lease_ends_then_removed() {
    let redis = RedisServer::start_aged().await;
    let (mut dies, stays) = (start(&redis).await, start(&redis).await);
    let _gone = Client::connect(dies.public, "gone", &["a"]).await.unwrap();
    let here = Client::connect(stays.public, "here", &["a"]).await.unwrap();
    assert_eq!(stays.roll("a").await.sockets.len(), 2);
    until("the index lists both nodes", || async {
        redis.keys("*").await.iter().filter(|key| key.contains(":room:")).count() == 2
    })
    .await;
    dies.child.kill().unwrap();
    dies.child.wait().unwrap();

    let answer: Value =
        reqwest::get(format!("http://{}/a/rollcall", stays.public)).await.unwrap().json().await.unwrap();
    assert_eq!(&answer["complete"], &json!(false));
    assert_eq!(&answer["unresolved"], &json!(1));
    assert_eq!(answer["users"].as_array().unwrap().len(), 1, "the answer has no row of the dead node");
    let errors: Vec<&Value> = answer["nodes"].as_array().unwrap().iter().map(|node| &node["error"]).collect();
    assert_eq!(errors, [&Value::Null, &json!("refused")]);
    let short = reqwest::get(format!("http://{}/a/users", stays.public)).await.unwrap();
    assert!(short.headers()["rollcall-unanswered"].to_str().unwrap().ends_with("=refused"));
    assert_eq!(short.headers()["rollcall-unresolved"], "1");

    let without_it = || async { stays.roll("a").await == complete(&[&here.id]) };
    until("the answer is complete without the dead node", without_it).await;
    until("the index has no entry of the dead node", || async {
        redis.keys("*").await.iter().filter(|key| key.contains(":room:")).count() == 1
    })
    .await;
    assert!(without_it().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_client_is_removed_after_its_ping_timeout() {
    // Engine.IO sends a ping every 25 s, the first one at once, and waits 20 s for the answer.
    const SILENT_FOR: Duration = Duration::from_secs(60);
    let redis = RedisServer::start_aged().await;
    let process = start(&redis).await;
    let socket = open(process.public, "id_user=foo&room=a", "").await;
    until("the roster lists the socket", || async { process.roll("a").await.sockets.len() == 1 }).await;
    let gone = async {
        while process.roll("a").await != complete(&[]) {
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(SILENT_FOR, gone).await.expect("the node removes the socket while its connection is open");
    drop(socket);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_refused_and_the_node_continues() {
    let redis = RedisServer::start_aged().await;
    let process = start(&redis).await;
    let garbage: Vec<u8> = (0..200_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let oversized = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100_000)).into_bytes();
    for bytes in [garbage, oversized] {
        let mut stream = TcpStream::connect(process.public).await.unwrap();
        // The node may close the connection before the write ends.
        let _ = stream.write_all(&bytes).await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the node closes the connection");
    }
    let client = Client::connect(process.public, "foo", &["a"]).await.unwrap();
    assert_eq!(process.roll("a").await, complete(&[&client.id]));
}
