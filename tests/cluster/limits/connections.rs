//! The limits of connections: their number, the size and the speed of their requests, and the speed of their readers.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use ipnet::IpNet;
use rollcall::auth::tls::Tls;
use rollcall::edge::connections::ConnectionServer;
use rollcall::edge::connections::handle::ConnectionRegistry;
use rollcall::edge::limits::Limits;
use rollcall::edge::limits::address::TrustedProxies;
use rollcall::roster::Registration;
use testkit::client::{Client, open};
use testkit::cluster::Cluster;
use testkit::{PATIENCE, listen_anywhere, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::{exchange, node, rest, websocket};

const ASK: &[u8] = b"GET /a/users HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
/// Soon, for a limit that is a time.
const SOON: Duration = Duration::from_millis(300);

async fn connect_from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    socket.connect(address).await.unwrap()
}

async fn ask_from(source: [u8; 4], address: SocketAddr) -> String {
    let mut stream = connect_from(source, address).await;
    let _ = stream.write_all(ASK).await;
    rest(&mut stream).await
}

/// The status, and whether it says when to come again.
fn told(answer: &str) -> (Option<u16>, bool) {
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    (status, answer.contains("\r\nretry-after: 1\r\n"))
}

const FULL: (Option<u16>, bool) = (Some(503), true);
const SERVED: (Option<u16>, bool) = (Some(200), false);

/// A room with enough sockets that its roll has some megabytes.
fn crowd(cluster: &Cluster) -> Vec<Registration> {
    let user = "u".repeat(250);
    (0..40_000).map(|number| cluster.nodes[0].seat(&format!("socket-{number}"), &user, "crowd")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_over_the_limit_gets_503_with_retry_after() {
    let cluster = node(Limits { connections: Some(3), ..Limits::default() }).await;
    let address = cluster.nodes[0].public;
    let client = Client::connect(address, "foo", &["a"]).await.unwrap();
    let idle = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    until("it is full", || async { told(&exchange(address, ASK).await) == FULL }).await;
    for _ in 0..20 {
        let answer = exchange(address, ASK).await;
        assert_eq!(told(&answer), FULL);
        assert!(
            answer.contains("application/problem+json") && answer.contains("\r\nconnection: close\r\n"),
            "{answer}"
        );
    }
    drop(idle);
    until("there is room", || async { told(&exchange(address, ASK).await) == SERVED }).await;
    // A WebSocket takes a slot as long as it is open.
    let idle = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    until("it is full again", || async { told(&exchange(address, ASK).await) == FULL }).await;
    client.drop_connection();
    until("there is room again", || async { told(&exchange(address, ASK).await) == SERVED }).await;
    drop(idle);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_rejected_connections_do_not_disturb_connected_clients() {
    let cluster = node(Limits { connections: Some(2), ..Limits::default() }).await;
    let address = cluster.nodes[0].public;
    let client = Client::connect(address, "foo", &["a"]).await.unwrap();
    let inside = TcpStream::connect(address).await.unwrap();
    until("it is full", || async { told(&exchange(address, ASK).await) == FULL }).await;
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(TcpStream::connect(address).await.unwrap());
    }
    let began = Instant::now();
    for stream in &mut crowd {
        rest(stream).await;
    }
    assert!(began.elapsed() < PATIENCE / 2, "they are closed soon: {:?}", began.elapsed());
    assert_eq!(client.join("b").await["ok"], true);
    drop(inside);
    until("there is room", || async { told(&exchange(address, ASK).await) == SERVED }).await;
    client.drop_connection();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_per_address_are_limited_per_address() {
    let cluster = node(Limits { connections_per_address: Some(2), ..Limits::default() }).await;
    let address = cluster.nodes[0].public;
    let (one, other) = ([127, 0, 0, 2], [127, 0, 0, 3]);
    let idle = [connect_from(one, address).await, connect_from(one, address).await];
    for _ in 0..5 {
        assert_eq!(told(&ask_from(one, address).await), (Some(429), true));
        assert_eq!(told(&ask_from(other, address).await), SERVED);
    }
    drop(idle);
    until("there is room", || async { told(&ask_from(one, address).await) == SERVED }).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_a_trusted_proxy_have_no_address_limit() {
    let proxies = TrustedProxies::new(["127.0.0.2/32".parse::<IpNet>().unwrap()]);
    let cluster =
        node(Limits { trusted_proxies: proxies, connections_per_address: Some(2), ..Limits::default() }).await;
    let address = cluster.nodes[0].public;
    let mut idle = Vec::new();
    for _ in 0..5 {
        idle.push(connect_from([127, 0, 0, 2], address).await);
        assert_eq!(told(&ask_from([127, 0, 0, 2], address).await), SERVED);
    }
    idle.push(connect_from([127, 0, 0, 3], address).await);
    idle.push(connect_from([127, 0, 0, 3], address).await);
    assert_eq!(told(&ask_from([127, 0, 0, 3], address).await), (Some(429), true));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_request_head_is_answered_431() {
    let cluster = node(Limits { head_size: 8 << 10, ..Limits::default() }).await;
    let address = cluster.nodes[0].public;
    let ask = |more: &str| format!("GET /a/users HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n");
    let lines = |count: usize| {
        (0..count).fold(String::new(), |mut lines, number| {
            write!(lines, "X-{number}: 1\r\n").unwrap();
            lines
        })
    };
    let padded = |bytes: usize| format!("Cookie: {}\r\n", "x".repeat(bytes));
    for (more, status) in [(padded(7 << 10), 200), (padded(32 << 10), 431), (lines(90), 200), (lines(1000), 431)] {
        let answer = exchange(address, ask(&more).as_bytes()).await;
        assert_eq!(told(&answer).0, Some(status), "{} bytes", more.len());
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_message_ends_its_connection_or_gets_413() {
    let cluster = node(Limits { message_size: 1 << 10, ..Limits::default() }).await;
    let address = cluster.nodes[0].public;
    let auth = |bytes: usize| serde_json::json!({"padding": "x".repeat(bytes)}).to_string();
    let client = Client::with(address, "id_user=foo&room=a", &auth(900)).await.unwrap();
    assert_eq!(client.join("b").await["ok"], true);
    client.drop_connection();
    let mut socket = open(address, "id_user=foo&room=a", &auth(1100)).await;
    let ended = async {
        while let Some(Ok(message)) = socket.next().await {
            assert!(!message.to_text().unwrap().starts_with("40"), "it was let in");
        }
    };
    timeout(PATIENCE, ended).await.expect("the node ends the transport");

    let url = format!("http://{address}/socket.io/?EIO=4&transport=polling");
    let opened = cluster.http.get(format!("{url}&id_user=foo&room=a")).send().await.unwrap().text().await.unwrap();
    let sid = opened.split('"').nth(3).unwrap();
    let post = |bytes: usize| cluster.http.post(format!("{url}&sid={sid}")).body(format!("40{}", auth(bytes))).send();
    assert_eq!(post(1100).await.unwrap().status(), 413);
    assert_eq!(post(900).await.unwrap().status(), 200);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_sent_byte_by_byte_times_out() {
    let cluster = node(Limits { head_timeout: SOON, ..Limits::default() }).await;
    let address = cluster.nodes[0].public;
    let opened =
        cluster.http.get(format!("http://{address}/socket.io/?EIO=4&transport=polling&id_user=foo&room=a")).send();
    let opened = opened.await.unwrap().text().await.unwrap();
    let sid = opened.split('"').nth(3).unwrap();
    let post = format!(
        "POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n40"
    );
    for (begins, answered) in [
        ("", None),
        ("GET /a/users HTTP/1.1\r\nHost: a\r\nX-Slow: ", None),
        // After an answer it is the same as at the beginning.
        ("GET /a/users HTTP/1.1\r\nHost: a\r\n\r\nGET", Some(200)),
        (post.as_str(), Some(413)),
    ] {
        let (mut reading, mut writing) = TcpStream::connect(address).await.unwrap().into_split();
        writing.write_all(begins.as_bytes()).await.unwrap();
        let drip = async {
            while writing.write_all(b"x").await.is_ok() {
                sleep(SOON / 10).await;
            }
        };
        let mut answer = Vec::new();
        let began = Instant::now();
        tokio::select! {
            read = timeout(PATIENCE, reading.read_to_end(&mut answer)) => drop(read.expect("the node ends it")),
            () = drip => {}
        }
        let answer = String::from_utf8_lossy(&answer);
        assert!(began.elapsed() < PATIENCE / 2, "{begins:?}");
        if answered.is_some() {
            assert_eq!(told(&answer).0, answered, "{begins:?}");
        }
    }
    assert_eq!(cluster.get(0, "/a/users").await.status(), 200);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_without_a_connect_packet_is_closed() {
    let cluster = node(Limits { connect_timeout: Duration::from_millis(500), ..Limits::default() }).await;
    let address = cluster.nodes[0].public;
    let mut socket = websocket(address, "foo", &[]).await.unwrap();
    let began = Instant::now();
    let ended = async {
        while let Some(Ok(message)) = socket.next().await {
            if message.to_text().is_ok_and(|text| text == "2") {
                socket.send(Message::text("3")).await.unwrap();
            }
        }
    };
    timeout(PATIENCE, ended).await.expect("the node ends it");
    assert!(began.elapsed() < Duration::from_secs(4), "not because of a heartbeat");
    let client = Client::connect(address, "foo", &["a"]).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(client.join("b").await["ok"], true, "who has connected may stay");
    client.drop_connection();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_disconnected_and_a_fast_one_gets_all() {
    let cluster = node(Limits { answer_timeout: SOON, ..Limits::default() }).await;
    let address = cluster.nodes[0].public;
    let crowd = crowd(&cluster);
    assert_eq!(cluster.users(0, "crowd").await.1.len(), crowd.len());
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(b"GET /crowd/users HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (began, mut byte) = (Instant::now(), [0]);
    while began.elapsed() < 4 * SOON && stream.read(&mut byte).await.is_ok_and(|read| read > 0) {
        sleep(SOON / 10).await;
    }
    // The client can still read the bytes of its buffers, and no more.
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the node has ended it");
    assert!(read.is_err(), "all of it came: {} bytes", rest.len());
    assert_eq!(cluster.users(0, "crowd").await.1.len(), crowd.len());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unfinished_tls_handshake_times_out_and_takes_a_slot() {
    let limits = Limits { head_timeout: SOON, connections: Some(1), ..Limits::default() };
    let server = ConnectionServer::new(ConnectionRegistry::default(), PATIENCE, PATIENCE, &limits);
    let listener = listen_anywhere();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let tls = Tls::self_signed(vec!["localhost".to_owned()]).unwrap().acceptor;
    let serving = tokio::spawn(server.serve(listener, Some(tls), axum::Router::new(), stop.clone()));
    // The beginning of a TLS handshake, and nothing at all.
    for begins in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b""] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(begins).await.unwrap();
        let began = Instant::now();
        rest(&mut stream).await;
        assert!(began.elapsed() < PATIENCE / 2);
    }
    stop.cancel();
    timeout(PATIENCE, serving).await.unwrap().unwrap();
}
