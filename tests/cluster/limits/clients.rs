//! Limits on the clients of one address and of one user, and on their rate.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{SinkExt, StreamExt};
use ipnet::IpNet;
use rollcall::edge::limits::Limits;
use rollcall::edge::limits::address::TrustedProxies;
use rollcall::edge::limits::rate::Rate;
use testkit::client::{Client, Socket};
use testkit::{PATIENCE, until};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::Message;

use super::{Refused, node, websocket};

fn too_many() -> Refused {
    Refused(429, Some("1".to_owned()))
}

/// Opens a session by polling. Returns its signed session id, or the status.
async fn poll(address: SocketAddr) -> Result<String, u16> {
    let url = format!("http://{address}/socket.io/?EIO=4&transport=polling&id_user=foo&room=a");
    let response = reqwest::get(url).await.unwrap();
    if response.status() != 200 {
        return Err(response.status().as_u16());
    }
    let body = response.text().await.unwrap();
    let packet: serde_json::Value = serde_json::from_str(body.strip_prefix('0').unwrap()).unwrap();
    Ok(packet["sid"].as_str().unwrap().to_owned())
}

async fn post(address: SocketAddr, sid: &str, payload: &str) {
    let url = format!("http://{address}/socket.io/?EIO=4&transport=polling&sid={sid}");
    let response = reqwest::Client::new().post(url).body(payload.to_owned()).send().await.unwrap();
    assert_eq!(response.status(), 200);
}

/// Sends `40` and waits for its answer.
async fn connect(socket: &mut Socket) {
    socket.send(Message::text("40")).await.unwrap();
    let connected = async {
        while let Some(Ok(message)) = socket.next().await {
            if message.to_text().unwrap().starts_with("40") {
                return;
            }
        }
        panic!("closed");
    };
    timeout(PATIENCE, connected).await.expect("it is let in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_per_address_are_limited_on_both_transports() {
    let cluster = node(Limits { sockets_per_address: Some(3), ..Limits::default() }).await;
    let address = cluster.nodes[0].public;
    let first = Client::connect(address, "foo", &["a"]).await.unwrap();
    let _second = Client::connect(address, "bar", &["a"]).await.unwrap();
    let polling = poll(address).await.expect("the third");
    // A polling client makes many connections, and is one client.
    post(address, &polling, "40").await;
    for _ in 0..3 {
        assert_eq!(websocket(address, "foo", &[]).await.err(), Some(too_many()));
        assert_eq!(poll(address).await, Err(429));
    }
    assert_eq!(cluster.get(0, "/a/users").await.status(), 200, "whoever asks is no client");
    post(address, &polling, "1").await;
    until("the place of the polling client is free", || async { websocket(address, "foo", &[]).await.is_ok() }).await;
    first.drop_connection();
    until("the place of the other is free", || async { poll(address).await.is_ok() }).await;
    cluster.stop().await;
}

/// A WebSocket, as soon as there is a place for it.
async fn let_in(address: SocketAddr, user: &str) -> Socket {
    let began = Instant::now();
    loop {
        match websocket(address, user, &[]).await {
            Ok(socket) => return socket,
            Err(refused) => assert_eq!(refused, too_many()),
        }
        assert!(began.elapsed() < PATIENCE, "the place is never free again");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_is_free_again_after_any_kind_of_disconnect() {
    let cluster = node(Limits { sockets_per_address: Some(1), ..Limits::default() }).await;
    let address = cluster.nodes[0].public;
    for way in ["close", "fin", "reset", "leaves first", "says nothing", "is refused"] {
        let mut socket = let_in(address, if way == "is refused" { "" } else { "foo" }).await;
        assert_eq!(websocket(address, "foo", &[]).await.err(), Some(too_many()), "{way}");
        match way {
            "says nothing" => {}
            "is refused" => socket.send(Message::text("40")).await.unwrap(),
            _ => connect(&mut socket).await,
        }
        match way {
            "close" => socket.close(None).await.unwrap(),
            "leaves first" => socket.send(Message::text("41")).await.unwrap(),
            "reset" => {
                let MaybeTlsStream::Plain(stream) = socket.get_ref() else { panic!("the tests speak plain TCP") };
                stream.set_zero_linger().unwrap();
            }
            _ => {}
        }
    }
    // Requests without a handshake, on a connection that stays open.
    drop(let_in(address, "foo").await);
    until("no handshake", || async {
        let url = format!("http://{address}/socket.io/?EIO=4&transport=websocket&id_user=foo&room=a");
        cluster.http.get(url).send().await.unwrap().status() == 400
    })
    .await;
    drop(let_in(address, "foo").await);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_trusted_proxy_no_client_can_forge_its_address() {
    let cluster = node(Limits { sockets_per_address: Some(1), ..Limits::default() }).await;
    let address = cluster.nodes[0].public;
    let _first = websocket(address, "foo", &[("x-forwarded-for", "203.0.113.1")]).await.unwrap();
    for forged in ["203.0.113.2", "127.0.0.1", "", "203.0.113.3, 127.0.0.1"] {
        for name in ["x-forwarded-for", "forwarded", "x-real-ip", "cf-connecting-ip"] {
            let refused = websocket(address, "foo", &[(name, forged)]).await.err();
            assert_eq!(refused, Some(too_many()), "{name}: {forged}");
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_names_the_address_that_is_limited() {
    let proxies = TrustedProxies::new(["127.0.0.0/8".parse::<IpNet>().unwrap()]);
    let cluster = node(Limits { trusted_proxies: proxies, sockets_per_address: Some(1), ..Limits::default() }).await;
    let address = cluster.nodes[0].public;
    let _one = websocket(address, "foo", &[("x-forwarded-for", "203.0.113.1")]).await.unwrap();
    let _two = websocket(address, "foo", &[("x-forwarded-for", "203.0.113.2")]).await.unwrap();
    let _six = websocket(address, "foo", &[("x-forwarded-for", "2001:db8::1")]).await.unwrap();
    for same in ["203.0.113.1", "198.51.100.1, 203.0.113.1", "203.0.113.1, 127.0.0.9", "2001:db8::ffff"] {
        // The header that the client itself sent to the proxy.
        let headers = [("forwarded", "for=198.51.100.9"), ("x-forwarded-for", same)];
        assert_eq!(websocket(address, "foo", &headers).await.err(), Some(too_many()), "{same}");
    }
    let lines = [("x-forwarded-for", "198.51.100.7"), ("x-forwarded-for", "203.0.113.2")];
    assert_eq!(websocket(address, "foo", &lines).await.err(), Some(too_many()), "the last line is the proxy's");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_session_rate_of_an_address_does_not_delay_others() {
    let proxies = TrustedProxies::new(["127.0.0.1".parse::<IpAddr>().unwrap().into()]);
    let cluster =
        node(Limits { trusted_proxies: proxies, handshake_rate: Some(Rate::new(1, 5)), ..Limits::default() }).await;
    let address = cluster.nodes[0].public;
    let one = [("x-forwarded-for", "203.0.113.1")];
    let mut refused = None;
    for turn in 0..100 {
        match websocket(address, "foo", &one).await {
            Ok(_) => assert!(turn < 10, "far more than one a second"),
            Err(Refused(status, wait)) => {
                assert!(turn >= 5, "they may come at once: {turn}");
                refused = Some((status, wait));
                break;
            }
        }
    }
    let (status, wait) = refused.expect("it was too fast");
    assert_eq!(status, 429);
    assert_eq!(wait.as_deref(), Some("1"));
    assert!(websocket(address, "foo", &[("x-forwarded-for", "203.0.113.2")]).await.is_ok());
    until("a second has passed", || async { websocket(address, "foo", &one).await.is_ok() }).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_per_user_are_limited_also_when_they_race() {
    let cluster = node(Limits { sockets_per_user: Some(3), ..Limits::default() }).await;
    let address = cluster.nodes[0].public;
    let coming = join_all((0..30).map(|_| Client::connect(address, "foo", &["a"]))).await;
    let (mut there, refused): (Vec<_>, Vec<_>) = coming.into_iter().partition(Result::is_ok);
    assert_eq!(there.len(), 3);
    assert_eq!(refused.len(), 27);
    for message in refused.into_iter().filter_map(Result::err) {
        assert!(message.starts_with("sockets_too_many: "), "{message}");
    }
    assert_eq!(cluster.users(0, "a").await.1.len(), 3);
    let other = Client::connect(address, "bar", &["a"]).await.unwrap();
    assert_eq!(cluster.users(0, "a").await.1.len(), 4);
    there.pop().unwrap().unwrap().drop_connection();
    there.push(Client::connect(address, "foo", &["a"]).await);
    assert!(there[2].is_ok());
    other.drop_connection();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reconnects_at_once_gets_a_slot() {
    let cluster = node(Limits { sockets_per_user: Some(1), ..Limits::default() }).await;
    let address = cluster.nodes[0].public;
    for turn in 0..50 {
        let client = Client::connect(address, "foo", &["a"]).await;
        client.unwrap_or_else(|refused| panic!("{turn}: {refused}")).drop_connection();
    }
    cluster.stop().await;
}
