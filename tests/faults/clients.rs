//! Misbehaving clients: silent clients, clients that stop reading, clients that flood, and a storm of new connections.

use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use testkit::process_cluster::{Options, ProcessCluster};
use testkit::tracked_client::{Disconnection, TrackedClient};
use testkit::watch::{Watch, percentile};
use testkit::within;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

const PINGS: [&str; 4] = ["--ping-interval", "500ms", "--ping-timeout", "2s"];
/// Twice the ping interval and the ping timeout, with a margin for a busy machine.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(8);

/// A client with the smallest receive buffer, in room `a`, unknown to the oracle.
async fn rude(cluster: &ProcessCluster, node: usize) -> WebSocketStream<TcpStream> {
    let address = cluster.nodes[node].public;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_recv_buffer_size(1024).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let stream = TcpStream::from_std(socket.into()).unwrap();
    let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket&id_user=rude&room=a");
    let (mut transport, _) = client_async(url, stream).await.unwrap();
    transport.send(Message::text("40")).await.unwrap();
    loop {
        let message = transport.next().await.expect("an answer").unwrap();
        if message.to_text().is_ok_and(|text| text.starts_with("40")) {
            return transport;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_client_is_removed_after_its_ping_timeout() {
    let cluster = ProcessCluster::start(2, Options::default().with(&PINGS)).await;
    let _polite = cluster.connect(0, "polite", &["a"]).await;
    let _silent = rude(&cluster, 0).await;
    assert_eq!(cluster.rows(1, "a").await.len(), 2);
    within(REMOVAL_TIMEOUT, "the node removes the socket while its connection is open", || cluster.agree(&[0, 1], "a"))
        .await;
}

/// The time for one join and one leave.
async fn there_and_back(client: &TrackedClient) -> Duration {
    let asked = Instant::now();
    assert!(client.join("b").await && client.leave("b").await);
    asked.elapsed()
}

/// Sends events and reads no answer, until the connection accepts no more bytes. Returns the number of sent bytes.
async fn flood(transport: &mut WebSocketStream<TcpStream>, most: usize) -> usize {
    let room = "x".repeat(200);
    let mut sent = 0;
    let mut number = 0_u64;
    while sent < most {
        // The flood shares the machine with the clients that it must not delay.
        if number % 32 == 31 {
            sleep(Duration::from_millis(10)).await;
        }
        let packet = format!("42{number}{}", json!(["leave", room]));
        (number, sent) = (number + 1, sent + packet.len());
        match timeout(Duration::from_millis(500), transport.send(Message::text(packet))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_flood_without_reading_are_disconnected() {
    const RUDE: usize = 2;
    const BYTES: usize = 24 << 20;
    /// Far fewer bytes than the clients send and than the node answers.
    const GROWTH: u64 = 64 << 20;
    let cluster = ProcessCluster::start(2, Options::default().with(&PINGS)).await;
    let polite = cluster.connect(0, "polite", &["a"]).await;
    let mut usual = Vec::new();
    for _ in 0..20 {
        usual.push(there_and_back(&polite).await);
    }
    let before = cluster.nodes[0].resident();
    let watch = Watch::start(&cluster, &[0, 1], &["quiet"]);
    let mut floods = JoinSet::new();
    for _ in 0..RUDE {
        let mut transport = rude(&cluster, 0).await;
        floods.spawn(async move {
            let sent = flood(&mut transport, BYTES).await;
            (sent, transport)
        });
    }
    let mut most = before;
    let mut joins = Vec::new();
    let began = Instant::now();
    let mut stuck = Vec::new();
    while stuck.len() < RUDE {
        // A client that joins and leaves faster than this for long exceeds its rate limit.
        if let Ok(Some(flooded)) = timeout(Duration::from_millis(100), floods.join_next()).await {
            stuck.push(flooded.unwrap());
        }
        most = most.max(cluster.nodes[0].resident());
        joins.push(there_and_back(&polite).await);
        assert!(began.elapsed() < Duration::from_secs(30), "the floods never end");
    }
    // The flooding clients keep their connections open without reading.
    within(REMOVAL_TIMEOUT, "the node removes the flooding sockets", || cluster.agree(&[0, 1], "a")).await;
    most = most.max(cluster.nodes[0].resident());
    assert!(most - before < GROWTH, "{} MiB more than before", (most - before) >> 20);
    // The floods run on the same few processors, so the times are far above those of a client on another machine.
    // The measurement before the flood contains the other load of the machine.
    let bound = |percent, least| percentile(usual.clone(), percent).mul_f64(10.0).max(Duration::from_millis(least));
    let (half, most) = (percentile(joins.clone(), 50), percentile(joins, 90));
    assert!(half < bound(50, 250), "half of joins and leaves within {half:?}, usually {usual:?}");
    assert!(most < bound(90, 1000), "90 % of joins and leaves within {most:?}, usually {usual:?}");
    watch.end_within(Duration::from_secs(3)).await.all_answered();
    drop(stuck);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_full_buffers_is_removed_after_its_timeout() {
    let cluster = ProcessCluster::start(2, Options::default().with(&PINGS)).await;
    let _polite = cluster.connect(1, "polite", &["a"]).await;
    let mut transport = rude(&cluster, 0).await;
    // Answers accumulate until the buffers of the client and of the node are full.
    let sent = flood(&mut transport, 64 << 20).await;
    assert!(sent < 64 << 20, "the node never stops reading");
    within(REMOVAL_TIMEOUT, "the node removes the socket", || cluster.agree(&[0, 1], "a")).await;
    drop(transport);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_new_sockets_does_not_fail_the_roster_check() {
    let cluster = ProcessCluster::start(2, Options::default()).await;
    let mut stays = Vec::new();
    for node in 0..2 {
        stays.push(cluster.connect(node, "stays", &["a"]).await);
    }
    let watch = Watch::start(&cluster, &[0, 1], &["a"]);
    let began = Instant::now();
    let mut storm = JoinSet::new();
    for number in 0..24_usize {
        let (oracle, endpoint) = (cluster.oracle.clone(), cluster.nodes[number % 2].endpoint());
        storm.spawn(async move {
            let ways = [Disconnection::Close, Disconnection::Leave, Disconnection::Drop, Disconnection::Reset];
            let mut turn = number;
            // The roster is compared every five seconds.
            while began.elapsed() < Duration::from_secs(11) {
                let client = TrackedClient::connect(&oracle, &endpoint, "newborn", &["a"])
                    .await
                    .expect("the node accepts the client");
                client.go(ways[turn % ways.len()]).await;
                turn += 1;
                // A pause bounds the load of the storm on the machine.
                sleep(Duration::from_millis(20)).await;
            }
        });
    }
    while let Some(ended) = storm.join_next().await {
        ended.unwrap();
    }
    within(REMOVAL_TIMEOUT, "only the clients that stay are listed", || cluster.agree(&[0, 1], "a")).await;
    watch.end().await.all_answered();
    for node in &cluster.nodes {
        assert_eq!(node.log.count("gone without their presence"), 0);
    }
}
