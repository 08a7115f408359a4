//! Limits on the events of a client, and the end of a client that floods the node.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use rollcall::edge::limits::Limits;
use rollcall::edge::limits::rate::Rate;
use serde_json::{Value, json};
use testkit::client::{Client, open};
use testkit::cluster::Cluster;
use testkit::{PATIENCE, text, until};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::node;

async fn slow_node() -> Cluster {
    node(Limits { event_rate: Some(Rate::new(1, 20)), ..Limits::default() }).await
}

/// Others are let in and may change their rooms.
async fn others_go_on(cluster: &Cluster) {
    let client = Client::connect(cluster.nodes[0].public, "other", &["next"]).await.unwrap();
    assert_eq!(client.join("another").await, json!({"ok": true}));
    let expected = BTreeSet::from([(client.id.clone(), "other".to_owned())]);
    assert_eq!(cluster.users(0, "another").await, (true, expected));
    client.drop_connection();
}

/// Sends these packets repeatedly until the node ends the transport.
async fn flood(address: SocketAddr, packets: &[&str]) {
    let mut socket = open(address, "id_user=foo&room=a", "").await;
    let flooding = async {
        'ended: loop {
            for packet in packets {
                if socket.send(Message::text(*packet)).await.is_err() {
                    break 'ended;
                }
            }
            // The client reads the answers, so the node does not end it as a slow reader.
            while let Ok(message) = timeout(Duration::from_millis(1), socket.next()).await {
                if !matches!(message, Some(Ok(_))) {
                    break 'ended;
                }
            }
        }
    };
    timeout(PATIENCE, flooding).await.unwrap_or_else(|_| panic!("never ended: {packets:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_over_the_rate_are_refused_then_the_client_is_cut() {
    let cluster = slow_node().await;
    let address = cluster.nodes[0].public;
    let client = Client::connect(address, "foo", &["a"]).await.unwrap();
    let id = client.id.clone();
    let mut refused = 0;
    for turn in 0..30 {
        let answer = client.join(&format!("room-{turn}")).await;
        if answer["ok"] == json!(true) {
            assert!(turn < 25, "far more than one a second");
            continue;
        }
        assert!(turn >= 19, "its connecting and so many events may come at once: {turn}");
        assert_eq!(answer["code"], json!("events_too_many"), "{answer}");
        refused += 1;
        assert_eq!(cluster.users(0, &format!("room-{turn}")).await.1.len(), 0, "it was not done");
        if refused == 3 {
            break;
        }
    }
    assert_eq!(refused, 3);
    assert_eq!(cluster.users(0, "a").await.1, BTreeSet::from([(id, "foo".to_owned())]), "it is still there");
    others_go_on(&cluster).await;
    // A fixed delay and not a poll, because each poll would count against the limit.
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(client.leave("room-1").await, json!({"ok": true}));
    client.drop_connection();
    flood(address, &[r#"421["join","b"]"#, r#"422["leave","b"]"#]).await;
    until("it is gone", || async { cluster.nodes[0].roster.size().sockets == 0 }).await;
    others_go_on(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_any_kind_ends_only_its_transport() {
    let cluster = slow_node().await;
    let address = cluster.nodes[0].public;
    for packets in [
        &[r#"42["no such event"]"#][..],
        &[r#"421["no such event",{"a":1}]"#],
        &[r#"42["join","b"]"#],
        &["41", "40"],
        &[r#"42["leave",1]"#, r#"42[""]"#],
    ] {
        flood(address, packets).await;
        until("it is gone", || async { cluster.nodes[0].roster.size().sockets == 0 }).await;
        others_go_on(&cluster).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_in_one_request_of_a_polling_client_ends_its_session() {
    let cluster = slow_node().await;
    let address = cluster.nodes[0].public;
    let url = format!("http://{address}/socket.io/?EIO=4&transport=polling");
    let opened = cluster.http.get(format!("{url}&id_user=foo&room=a")).send().await.unwrap().text().await.unwrap();
    let session: Value = serde_json::from_str(opened.strip_prefix('0').unwrap()).unwrap();
    let url = format!("{url}&sid={}", text(&session, "sid"));
    let post = |payload: String| cluster.http.post(&url).body(payload).send();
    assert_eq!(post("40".to_owned()).await.unwrap().status(), 200);
    let connected = || async { cluster.http.get(&url).send().await.unwrap().text().await.unwrap().contains("40{") };
    until("it is let in", connected).await;
    let few = [r#"42["join","b"]"#; 10].join("\u{1e}");
    assert_eq!(post(few).await.unwrap().status(), 200);
    until("it was done", || async { cluster.users(0, "b").await.1.len() == 1 }).await;
    let many = [r#"42["no such event"]"#; 100].join("\u{1e}");
    let _ = post(many).await.unwrap();
    until("it is gone", || async { cluster.nodes[0].roster.size().sockets == 0 }).await;
    assert_eq!(post("3".to_owned()).await.unwrap().status(), 400);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_other_packets_is_throttled_for_its_sender_only() {
    const RATE: u32 = 4 << 10;
    let bytes = NonZeroU32::new(RATE);
    let cluster = node(Limits { websocket_read_rate: bytes, ..Limits::default() }).await;
    // A namespace that does not exist, in a frame of 11 bytes; each is answered.
    let packet = "40/x,";
    let socket = open(cluster.nodes[0].public, "id_user=foo&room=a", "").await;
    let (mut sending, mut receiving) = socket.split();
    let flooding = tokio::spawn(async move { while sending.send(Message::text(packet)).await.is_ok() {} });
    let (began, mut answers) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(3) {
        let heard = timeout(Duration::from_millis(100), receiving.next()).await;
        if let Ok(Some(Ok(message))) = heard
            && message.to_text().unwrap().starts_with("44/x,")
        {
            answers += 1;
        }
    }
    // Eight seconds' worth come at once, and another each second.
    let worth = RATE as usize / 11;
    assert!((8 * worth..13 * worth).contains(&answers), "{answers}");
    others_go_on(&cluster).await;
    flooding.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_traffic_of_a_client_is_within_the_limits() {
    let cluster = node(Limits::default()).await;
    let client = Client::connect(cluster.nodes[0].public, "foo", &["a"]).await.unwrap();
    for room in 0..63 {
        assert_eq!(client.join(&room.to_string()).await, json!({"ok": true}));
    }
    for room in 0..63 {
        assert_eq!(client.leave(&room.to_string()).await, json!({"ok": true}));
    }
    client.drop_connection();
    cluster.stop().await;
}
