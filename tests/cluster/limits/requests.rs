//! The limit on concurrent roll calls: one more is refused at once, and the others continue.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::future::join_all;
use rollcall::edge::limits::Limits;
use rollcall::edge::socketio::SocketIoConfig;
use testkit::client::Client;
use testkit::cluster::{Cluster, Index};
use testkit::{PATIENCE, listen_anywhere, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::node;

/// Forwards to a mesh port, or accepts and never answers.
fn valve(to: SocketAddr, open: watch::Receiver<bool>) -> SocketAddr {
    let listener = listen_anywhere();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut caller, _)) = listener.accept().await {
            let mut open = open.clone();
            tokio::spawn(async move {
                let mut callee = TcpStream::connect(to).await.unwrap();
                loop {
                    let shut = async { open.wait_for(|open| !open).await.is_ok() };
                    tokio::select! {
                        _ = copy_bidirectional(&mut caller, &mut callee) => return,
                        shut = shut => if !shut { return },
                    }
                    if open.wait_for(|open| *open).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_call_over_the_limit_is_refused_while_others_hang() {
    const AT_ONCE: usize = 4;
    const HANG: Duration = Duration::from_secs(4);
    let limits = Limits { concurrent_roll_calls: AT_ONCE as u32, ..Limits::default() };
    let mut cluster = Cluster::bounded(1, Index::memory(), SocketIoConfig::default(), limits).await;
    let mesh = listen_anywhere();
    let (shut, open) = watch::channel(true);
    let advertised = valve(mesh.local_addr().unwrap(), open);
    cluster.add_behind(mesh, advertised).await;
    let client = Client::connect(cluster.nodes[1].public, "foo", &["a"]).await.unwrap();
    for _ in 0..3 {
        assert_eq!(cluster.users(0, "a").await.1.len(), 1);
    }
    shut.send(false).unwrap();
    let path = format!("/a/users?deadline_ms={}", HANG.as_millis());
    // A request that checks whether the node is full can itself take the last permit for a moment.
    let full = Cell::new(false);
    let hang = async || loop {
        let response = cluster.get(0, &path).await;
        if response.status() != 503 || full.get() {
            return response;
        }
    };
    let refusals = async {
        let began = Instant::now();
        until("it is full", || async { cluster.get(0, "/b/users?deadline_ms=100").await.status() == 503 }).await;
        full.set(true);
        for _ in 0..10 {
            let response = cluster.get(0, "/a/rollcall").await;
            assert_eq!(response.status().as_u16(), 503);
            assert_eq!(response.headers()["retry-after"], "1");
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            // The limit does not apply to other requests, nor to clients that connect.
            assert_eq!(cluster.get(0, "/a").await.status(), 200);
            assert_eq!(cluster.get(0, "/a/nothing").await.status(), 404);
        }
        Client::connect(cluster.nodes[0].public, "bar", &["c"]).await.unwrap().drop_connection();
        assert!(began.elapsed() < HANG, "all of that waited for those that hang");
    };
    let (hung, ()) = tokio::join!(join_all((0..AT_ONCE).map(|_| hang())), refusals);
    for response in hung {
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["rollcall-complete"], "false");
    }
    shut.send(true).unwrap();
    until("it is as before", || async { cluster.users(0, "a").await.0 }).await;
    let answered = join_all((0..AT_ONCE).map(|_| cluster.users(0, "a"))).await;
    assert!(answered.iter().all(|(complete, users)| *complete && users.len() == 1));
    client.drop_connection();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_answer_does_not_hold_a_request_permit() {
    let cluster = node(Limits { concurrent_roll_calls: 1, ..Limits::default() }).await;
    let mut unread = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(cluster.nodes[0].public).await.unwrap();
        stream.write_all(b"GET /a/users HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        // The answer has arrived, and the connection stays.
        let mut status = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut status)).await.unwrap().unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        unread.push(stream);
    }
    cluster.stop().await;
}
