//! Health probes: HTTP, gRPC and `rollcall health` agree, and a probe ends in time whatever the peer sends.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use futures::StreamExt;
use rollcall::edge::socketio::{SocketIoConfig, Transports};
use rollcall::mesh::channel::{PeerChannel, connect_tcp};
use serde_json::Value;
use testkit::client::Client;
use testkit::cluster::{Cluster, Index};
use testkit::process::{ServeCommand, rollcall};
use testkit::programs::run;
use testkit::redis_server::RedisServer;
use testkit::{PATIENCE, listen_anywhere, until};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

const NODE: &str = "";
const MESH: &str = "rollcall.v1.MeshService";
const POLLING: &str = "rollcall.v1.PollingService";

/// Runs `rollcall health`, and returns whether it succeeded, and its one line.
async fn probe(admin: SocketAddr, more: &'static [&'static str]) -> (bool, String) {
    let probing = tokio::task::spawn_blocking(move || {
        let mut command = rollcall();
        run(command.args(["health", "--admin", &admin.to_string()]).args(more))
    });
    let (well, said) = probing.await.unwrap();
    assert_eq!(said.matches('\n').count(), 1, "the output is one line: {said}");
    (well, said)
}

fn health(mesh: SocketAddr) -> HealthClient<PeerChannel> {
    HealthClient::new(PeerChannel::new(&mesh.to_string().into(), connect_tcp).unwrap())
}

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

async fn status(mesh: SocketAddr, service: &str) -> ServingStatus {
    health(mesh).check(about(service)).await.unwrap().into_inner().status()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_probe_says_whether_a_node_is_ready_and_why_not() {
    let mut redis = RedisServer::start_aged().await;
    redis.kill();
    let node = ServeCommand::named("node-1").redis(&redis).with(&["--drain", "20s"]).launch();
    until("the node answers probes", || async { probe(node.admin, &["--live"]).await.0 }).await;
    let why: Value = node.get("/readyz").await.json().await.unwrap();
    assert_eq!(why["ready"], false);
    let reasons: Vec<&str> = why["reasons"].as_array().unwrap().iter().map(|reason| reason.as_str().unwrap()).collect();
    assert_eq!(reasons[0], "directory: has not answered since this node started", "{why}");
    let (well, said) = probe(node.admin, &[]).await;
    assert!(!well && said.contains("not ready: directory: has not answered"), "{said}");
    assert_eq!(status(node.mesh, NODE).await, ServingStatus::NotServing);
    assert_eq!(status(node.mesh, MESH).await, ServingStatus::NotServing);
    let unknown = health(node.mesh).check(about(POLLING)).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound, "the health service does not know the polling service");

    redis.restart_empty().await;
    redis.age().await;
    until("ready", || async { probe(node.admin, &[]).await == (true, "ready\n".to_owned()) }).await;
    until("serving", || async { status(node.mesh, NODE).await == ServingStatus::Serving }).await;
    assert_eq!(status(node.mesh, MESH).await, ServingStatus::Serving);

    redis.kill();
    let (well, said) = async {
        loop {
            let (well, said) = probe(node.admin, &[]).await;
            if said.contains("directory") {
                return (well, said);
            }
        }
    }
    .await;
    assert!(well, "a single node is ready without Redis: {said}");

    let mut clients = Vec::new();
    for number in 0..8 {
        clients.push(Client::connect(node.public, &format!("user-{number}"), &["a"]).await.unwrap());
    }
    node.terminate();
    until("draining", || async { probe(node.admin, &[]).await.1.contains("not ready: draining") }).await;
    assert_eq!(node.get("/readyz").await.status(), 503);
    until("not serving", || async { status(node.mesh, NODE).await == ServingStatus::NotServing }).await;
    assert_eq!(status(node.mesh, MESH).await, ServingStatus::NotServing);
    assert!(probe(node.admin, &["--live"]).await.0, "a draining node is live");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_health_watcher_sees_a_shutdown_and_does_not_delay_it() {
    let both = SocketIoConfig { transports: Transports::WebsocketAndPolling, ..SocketIoConfig::default() };
    let mut cluster = Cluster::holding(2, Index::memory(), both).await;
    let leaving = cluster.nodes.remove(0);
    let mut watched = health(leaving.mesh).watch(about(NODE)).await.unwrap().into_inner();
    let next = async |watched: &mut tonic::Streaming<HealthCheckResponse>| {
        timeout(PATIENCE, watched.next()).await.expect("the watcher receives the status in time")
    };
    assert_eq!(next(&mut watched).await.unwrap().unwrap().status(), ServingStatus::Serving);
    for service in [MESH, POLLING] {
        assert_eq!(status(leaving.mesh, service).await, ServingStatus::Serving);
    }
    let client = Client::connect(leaving.public, "foo", &["a"]).await.unwrap();
    let stopping = tokio::spawn(leaving.stop());
    assert_eq!(next(&mut watched).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(next(&mut watched).await.is_none(), "the stream ends without an error");
    timeout(PATIENCE, stopping).await.expect("the node stops").unwrap();
    client.closed().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_of_any_server_ends_in_time_with_one_line() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = listen_anywhere();
    let answers: [&'static [u8]; 4] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 40\r\n\r\n{\"reasons\":[\"two\\nlines\"],\"ready\":false}\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ];
    let mut asked = vec![closed, silent.local_addr().unwrap()];
    for answer in answers {
        let listener = listen_anywhere();
        asked.push(listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            }
        });
    }
    let endless = listen_anywhere();
    asked.push(endless.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = endless.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while stream.write_all(&[b'x'; 65_536]).await.is_ok() {}
        }
    });
    let began = Instant::now();
    let probing = asked.iter().map(|admin| probe(*admin, &[]));
    for (well, said) in futures::future::join_all(probing).await {
        assert!(!well, "{said}");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(silent);
}
