//! Joins, leaves and disconnects: an acknowledged change is in the next answer of every node, and nothing of a client that
//! left or was refused remains.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use testkit::client::{Client, expected_rows, open};
use testkit::cluster::{Cluster, Index};
use testkit::{PATIENCE, over_both_directories, text, until};
use tokio::time::timeout;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::Message;

over_both_directories![
    a_socket_may_be_in_at_most_64_rooms,
    a_join_is_listed_everywhere_once_acknowledged,
    joins_and_leaves_during_roll_calls_show_no_wrong_row,
    events_sent_together_take_effect_in_their_order,
    a_leave_and_a_connect_in_one_write_leave_no_entry,
    a_disconnected_socket_is_missing_from_the_next_answer,
];

async fn a_socket_may_be_in_at_most_64_rooms(index: Index) {
    let cluster = Cluster::start(2, index).await;
    let rooms: Vec<String> = (0..64).map(|number| format!("room-{number}")).collect();
    let names: Vec<&str> = rooms.iter().map(String::as_str).collect();
    let client = Client::connect(cluster.nodes[0].public, "foo", &names).await.unwrap();
    for room in &names {
        assert_eq!(cluster.users(1, room).await, (true, expected_rows(&[(&client, "foo")])));
    }
    let refused = client.join("one-too-many").await;
    assert_eq!(&refused["ok"], &json!(false));
    assert_eq!(&refused["code"], &json!("rooms_too_many"));
    assert_eq!(client.leave("room-0").await, json!({"ok": true}));
    assert_eq!(client.join("one-too-many").await, json!({"ok": true}));
    let more: Vec<&str> = names.iter().copied().chain(["one-too-many"]).collect();
    let refused = Client::connect(cluster.nodes[0].public, "foo", &more).await.err().unwrap();
    assert!(refused.starts_with("rooms_too_many: "), "{refused}");
    cluster.stop().await;
}

async fn a_join_is_listed_everywhere_once_acknowledged(index: Index) {
    let cluster = Cluster::start(4, index).await;
    for turn in 0..100 {
        // Each turn has a room of its own, because only the first join of a room waits for the directory.
        let (first, second) = (format!("first-{turn}"), format!("second-{turn}"));
        let client = Client::connect(cluster.nodes[turn % 4].public, "foo", &[&first]).await.unwrap();
        let there = expected_rows(&[(&client, "foo")]);
        for node in 0..4 {
            assert_eq!(cluster.users(node, &first).await, (true, there.clone()), "turn {turn}, connect, node {node}");
        }
        assert_eq!(client.join(&second).await, json!({"ok": true}));
        let node = (turn + 1) % 4;
        assert_eq!(cluster.users(node, &second).await, (true, there.clone()), "turn {turn}, join");
        assert_eq!(client.leave(&second).await, json!({"ok": true}));
        assert_eq!(cluster.users(node, &second).await, (true, BTreeSet::new()), "turn {turn}, leave");
    }
    cluster.stop().await;
}

async fn joins_and_leaves_during_roll_calls_show_no_wrong_row(index: Index) {
    let cluster = Cluster::start(3, index).await;
    let stays = Client::connect(cluster.nodes[0].public, "stays", &["busy"]).await.unwrap();
    let comes = Client::connect(cluster.nodes[1].public, "comes", &["elsewhere"]).await.unwrap();
    let (always, sometimes) = (expected_rows(&[(&stays, "stays")]), expected_rows(&[(&comes, "comes")]));
    let either: BTreeSet<_> = always.union(&sometimes).cloned().collect();
    let moving = async {
        for _ in 0..100 {
            assert_eq!(comes.join("busy").await["ok"], true);
            assert_eq!(cluster.users(2, "busy").await, (true, either.clone()), "after the ack");
            assert_eq!(comes.leave("busy").await["ok"], true);
            assert_eq!(cluster.users(2, "busy").await, (true, always.clone()), "after the ack");
        }
    };
    let asking = async {
        loop {
            let (complete, listed) = cluster.users(0, "busy").await;
            assert!(complete && listed.is_superset(&always) && listed.is_subset(&either), "{listed:?}");
        }
    };
    tokio::select! {
        () = moving => {}
        () = asking => unreachable!("it asks for ever"),
    }
    cluster.stop().await;
}

async fn events_sent_together_take_effect_in_their_order(index: Index) {
    let cluster = Cluster::start(1, index).await;
    for turn in 0..100 {
        let mut socket = open(cluster.nodes[0].public, "id_user=foo&room=home", "").await;
        // Sent together with the connect, when only the handlers of the middleware exist.
        let last = if turn % 2 == 0 { "join" } else { "leave" };
        let id = loop {
            let message = socket.next().await.unwrap().unwrap();
            if let Some(answer) = message.to_text().unwrap().strip_prefix("40") {
                break text(&serde_json::from_str(answer).unwrap(), "sid");
            }
        };
        for (number, event) in ["join", "leave", "join", "leave", last].into_iter().enumerate() {
            socket.feed(Message::text(format!("42{number}[\"{event}\",\"order\"]"))).await.unwrap();
        }
        socket.flush().await.unwrap();
        let mut acks = 0;
        while acks < 5 {
            let message = timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
            acks += usize::from(message.to_text().unwrap().starts_with("43"));
        }
        let listed = cluster.users(0, "order").await.1;
        assert_eq!(listed.iter().any(|(socket, _)| *socket == id), last == "join", "turn {turn}");
    }
    cluster.stop().await;
}

async fn a_leave_and_a_connect_in_one_write_leave_no_entry(index: Index) {
    let cluster = Cluster::start(2, index).await;
    for _ in 0..50 {
        let mut socket = open(cluster.nodes[0].public, "id_user=foo&room=again", "").await;
        for packet in ["41", "40"] {
            socket.feed(Message::text(packet)).await.unwrap();
        }
        socket.flush().await.unwrap();
        let (_, listed) = cluster.users(1, "again").await;
        let ids: BTreeSet<_> = listed.iter().map(|(id, _)| id).collect();
        assert_eq!(ids.len(), listed.len(), "a socket is listed twice: {listed:?}");
    }
    until("nothing is left", || async { cluster.users(1, "again").await == (true, BTreeSet::new()) }).await;
    until("no presence either", || async { cluster.nodes[0].roster.size().sockets == 0 }).await;
    cluster.stop().await;
}

async fn a_disconnected_socket_is_missing_from_the_next_answer(index: Index) {
    let mut cluster = Cluster::start(2, index).await;
    let mut clients = Vec::new();
    for number in 0..40 {
        clients.push(Client::connect(cluster.nodes[1].public, &format!("user-{number}"), &["a"]).await.unwrap());
    }
    let stopping = tokio::spawn(cluster.nodes.pop().unwrap().stop());
    let asking = clients.into_iter().map(|client| async {
        let id = client.id.clone();
        client.closed().await;
        let (_, listed) = cluster.users(0, "a").await;
        assert!(!listed.iter().any(|(socket, _)| *socket == id), "{id} had seen its end");
    });
    futures::future::join_all(asking).await;
    stopping.await.unwrap();
    assert_eq!(cluster.users(0, "a").await, (true, BTreeSet::new()));
    cluster.stop().await;
}

/// Connects and goes at one of four moments, in one of four ways; returns when the transport is gone.
async fn come_and_go(address: SocketAddr, turn: usize) {
    let query = format!("id_user=user-{turn}&room=churn-{}&room=all", turn % 50);
    let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket&{query}");
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let moment = turn % 4;
    if moment > 0 {
        socket.send(Message::text("40")).await.unwrap();
    }
    if moment > 1 {
        let connected = async {
            while let Some(Ok(message)) = socket.next().await {
                if message.to_text().is_ok_and(|text| text.starts_with("40")) {
                    return true;
                }
            }
            false
        };
        assert!(timeout(PATIENCE, connected).await.unwrap(), "turn {turn} was not let in");
    }
    if moment > 2 {
        socket.feed(Message::text("42[\"join\",\"late\"]")).await.unwrap();
        socket.flush().await.unwrap();
    }
    match turn % 7 {
        0 | 1 => drop(socket.close(None).await),
        2 | 3 => drop(socket.send(Message::text("41")).await),
        4 | 5 => {}
        _ => {
            let MaybeTlsStream::Plain(stream) = socket.get_ref() else { panic!("the tests speak plain TCP") };
            // A reset instead of a FIN.
            stream.set_zero_linger().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_short_lived_sockets_leave_nothing_behind() {
    let cluster = Cluster::start(4, Index::redis().await).await;
    let addresses: Vec<_> = cluster.nodes.iter().map(|node| node.public).collect();
    futures::stream::iter(0..20_000_usize)
        .for_each_concurrent(200, |turn| come_and_go(addresses[turn % 4], turn))
        .await;
    for node in &cluster.nodes {
        until("the roster is empty", || async { node.roster.size().sockets == 0 && node.roster.size().rooms == 0 })
            .await;
        until("its claims are given back", || async { node.roster.is_clear() }).await;
    }
    until("redis lists nodes alone", || async {
        let keys = cluster.index.server().keys("*").await;
        !keys.iter().any(|key| key.starts_with("rollcall:owners:") || key.starts_with("rollcall:room:"))
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_disconnects_before_its_ownership_is_removed() {
    let cluster = Cluster::start(1, Index::redis().await).await;
    let joins = Client::connect(cluster.nodes[0].public, "joins", &["home"]).await.unwrap();
    let mut redis = cluster.index.server().connection().await;
    redis::cmd("CLIENT").arg("PAUSE").arg(3_000).arg("WRITE").query_async::<()>(&mut redis).await.unwrap();
    let connects = open(cluster.nodes[0].public, "id_user=connects&room=new", "").await;
    let roster = &cluster.nodes[0].roster;
    until("both are there", || async { roster.size().sockets == 2 }).await;
    let paused = Instant::now();
    tokio::select! {
        _ = joins.join("another") => panic!("it is acknowledged without a claim"),
        () = until("the join is under way", || async { roster.size().rooms == 3 }) => {}
    }
    joins.drop_connection();
    drop(connects);
    until("both are gone", || async { roster.size().sockets == 0 }).await;
    assert!(paused.elapsed() < Duration::from_secs(2), "only when the directory answered: {:?}", paused.elapsed());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_clients_get_a_reason_and_leave_nothing_behind() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let address = cluster.nodes[0].public;
    for (query, auth, code) in [
        ("room=a", "", "id_user_missing"),
        ("id_user=%01&room=a", "", "id_user_invalid"),
        ("id_user=foo", "", "room_missing"),
        ("id_user=foo&room=_", "", "room_invalid"),
        ("id_user=foo&room=a", r#"{"room":17}"#, "room_invalid"),
    ] {
        let message = Client::with(address, query, auth).await.err().expect("refused");
        assert!(message.starts_with(&format!("{code}: ")), "{message}");
    }
    assert_eq!(cluster.nodes[0].roster.size().sockets, 0);
    let client = Client::connect(address, "foo", &["a"]).await.unwrap();
    for argument in [json!(17), json!(["a", "b"]), json!(""), json!("."), Value::Null] {
        let answer = client.emit("join", &argument).await;
        assert_eq!(&answer["ok"], &json!(false), "{argument}");
        assert_eq!(&answer["code"], &json!("room_invalid"), "{argument}");
    }
    assert_eq!(cluster.nodes[0].roster.size().rooms, 1);
    cluster.stop().await;
}
