//! N nodes through the production entry point, over both directories: what every client and every asker relies on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use rollcall::mesh::NODE_ID_METADATA;
use rollcall::mesh::proto::{LookupSocketsRequest, LookupSocketsResponse};
use rollcall::node::config;
use serde_json::{Value, json};
use testkit::client::{Client, open};
use testkit::cluster::{Cluster, Index};
use testkit::{PATIENCE, mesh_client, text, until};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::Message;
use tonic::Code;

/// Each test runs over the in-memory directory and over a real Redis.
macro_rules! over_both {
    ($($test:ident),* $(,)?) => {
        mod over_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::Index::memory()).await; })*
        }
        mod over_redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::Index::redis().await).await; })*
        }
    };
}

over_both![
    every_node_lists_the_users_of_all_four,
    an_empty_room_is_answered_by_the_receiving_node_alone,
    only_owners_are_asked,
    one_user_may_have_many_sockets,
    unusual_names_are_listed_unchanged,
    a_socket_may_be_in_at_most_64_rooms,
    a_join_is_listed_everywhere_once_acknowledged,
    joins_and_leaves_during_roll_calls_show_no_wrong_row,
    events_sent_together_take_effect_in_their_order,
    a_leave_and_a_connect_in_one_write_leave_no_entry,
    a_stopped_node_is_removed_and_its_clients_disconnected,
    no_answer_is_wrong_between_two_incarnations,
    a_disconnected_socket_is_missing_from_the_next_answer,
];

fn pairs(of: &[(&Client, &str)]) -> BTreeSet<(String, String)> {
    of.iter().map(|(client, user)| (client.id.clone(), (*user).to_owned())).collect()
}

async fn every_node_lists_the_users_of_all_four(index: Index) {
    let cluster = Cluster::start(4, index).await;
    let mut clients = Vec::new();
    let users = ["ann", "bob", "cho", "dee"];
    for (node, user) in cluster.nodes.iter().zip(users) {
        clients.push(Client::connect(node.public, user, &["Maths"]).await.unwrap());
    }
    let expected = pairs(&clients.iter().zip(users).collect::<Vec<_>>());
    for node in 0..4 {
        assert_eq!(cluster.users(node, "Maths").await, (true, expected.clone()));
    }
    let full: Value = cluster.get(2, "/Maths/rollcall").await.json().await.unwrap();
    assert_eq!(&full["room"], &json!("Maths"));
    assert_eq!(&full["complete"], &json!(true));
    assert_eq!(&full["unresolved"], &json!(0));
    assert_eq!(full["source"], "directory");
    let nodes = full["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 4);
    assert!(nodes.iter().all(|node| node["vouched"] == 1 && node["error"].is_null()), "{full}");
    let listed = full["users"].as_array().unwrap();
    assert_eq!(listed.len(), 4);
    for user in listed {
        let place = users.iter().position(|known| user["id_user"] == *known).unwrap();
        assert_eq!(user["node"], cluster.nodes[place].name.as_str());
        assert_eq!(user["id_socket"], clients[place].id.as_str());
    }
    for client in clients {
        client.drop_connection();
    }
    until("everyone is gone everywhere", || async {
        let mut empty = true;
        for node in 0..4 {
            empty &= cluster.users(node, "Maths").await == (true, BTreeSet::new());
        }
        empty
    })
    .await;
    cluster.stop().await;
}

async fn an_empty_room_is_answered_by_the_receiving_node_alone(index: Index) {
    let cluster = Cluster::start(2, index).await;
    until("everybody is whole", || async { asked(&cluster, "nobody-here").await == 1 }).await;
    assert_eq!(cluster.users(0, "nobody-here").await, (true, BTreeSet::new()));
    let response = cluster.get(0, "/nobody-here/users").await;
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.text().await.unwrap(), "[]");
    cluster.stop().await;
}

/// The number of nodes that a roll call on the first node asks.
async fn asked(cluster: &Cluster, room: &str) -> usize {
    let full: Value = cluster.get(0, &format!("/{room}/rollcall")).await.json().await.unwrap();
    full["nodes"].as_array().unwrap().len()
}

async fn only_owners_are_asked(index: Index) {
    let cluster = Cluster::start(4, index).await;
    let _far = Client::connect(cluster.nodes[3].public, "foo", &["far"]).await.unwrap();
    until("the owner and the node asked", || async { asked(&cluster, "far").await == 2 }).await;
    cluster.stop().await;
}

async fn one_user_may_have_many_sockets(index: Index) {
    let cluster = Cluster::start(2, index).await;
    let mut clients = Vec::new();
    for turn in 0..4 {
        clients.push(Client::connect(cluster.nodes[turn % 2].public, "twice", &["a"]).await.unwrap());
    }
    let expected = pairs(&clients.iter().map(|client| (client, "twice")).collect::<Vec<_>>());
    assert_eq!(expected.len(), 4);
    assert_eq!(cluster.users(0, "a").await, (true, expected));
    cluster.stop().await;
}

async fn unusual_names_are_listed_unchanged(index: Index) {
    let cluster = Cluster::start(2, index).await;
    let longest = "é".repeat(128);
    for name in ["café au lait", "a/b", "100%", "a?b#c", "数学", "\"quoted\"", "users", "socket.io-fans", &longest] {
        let client = Client::connect(cluster.nodes[0].public, name, &[name]).await.unwrap();
        assert_eq!(cluster.users(1, name).await, (true, pairs(&[(&client, name)])), "{name}");
    }
    let query = "id_user=foo&room=a";
    let auth = json!({"id_user": "bär", "room": ["x y", "z"]}).to_string();
    let client = Client::with(cluster.nodes[0].public, query, &auth).await.unwrap();
    for (room, expected) in [("x y", true), ("z", true), ("a", false)] {
        let (_, listed) = cluster.users(1, room).await;
        assert_eq!(listed.contains(&(client.id.clone(), "bär".to_owned())), expected, "the payload wins");
    }
    cluster.stop().await;
}

async fn a_socket_may_be_in_at_most_64_rooms(index: Index) {
    let cluster = Cluster::start(2, index).await;
    let rooms: Vec<String> = (0..64).map(|number| format!("room-{number}")).collect();
    let names: Vec<&str> = rooms.iter().map(String::as_str).collect();
    let client = Client::connect(cluster.nodes[0].public, "foo", &names).await.unwrap();
    for room in &names {
        assert_eq!(cluster.users(1, room).await, (true, pairs(&[(&client, "foo")])));
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
        let there = pairs(&[(&client, "foo")]);
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
    let (always, sometimes) = (pairs(&[(&stays, "stays")]), pairs(&[(&comes, "comes")]));
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

async fn a_stopped_node_is_removed_and_its_clients_disconnected(index: Index) {
    let mut cluster = Cluster::start(3, index).await;
    let stays = Client::connect(cluster.nodes[0].public, "stays", &["a"]).await.unwrap();
    let leaves = Client::connect(cluster.nodes[2].public, "leaves", &["a", "b"]).await.unwrap();
    assert_eq!(cluster.users(1, "a").await.1.len(), 2);
    let stopping = cluster.nodes.remove(2);
    stopping.stop().await;
    leaves.closed().await;
    for node in 0..2 {
        assert_eq!(cluster.users(node, "a").await, (true, pairs(&[(&stays, "stays")])), "complete, at once");
        assert_eq!(cluster.users(node, "b").await, (true, BTreeSet::new()));
    }
    let index = cluster.stop().await;
    if let Index::Redis(server) = &index {
        assert_eq!(server.keys("*").await, BTreeSet::from(["rollcall:epoch".to_owned()]), "nothing of them is left");
    }
}

async fn no_answer_is_wrong_between_two_incarnations(index: Index) {
    let cluster = Cluster::start(3, index).await;
    let client = Client::connect(cluster.nodes[0].public, "foo", &["a"]).await.unwrap();
    let expected = pairs(&[(&client, "foo")]);
    for _ in 0..10 {
        let before = cluster.nodes[0].roster.incarnation();
        cluster.nodes[0].roster.retire(&before);
        for node in [1, 2, 0] {
            let (complete, listed) = cluster.users(node, "a").await;
            assert!(!complete || listed == expected, "a complete answer of node {node} lacks the socket: {listed:?}");
        }
        until("the next incarnation has its room", || async {
            cluster.users(1, "a").await == (true, expected.clone())
        })
        .await;
        assert_ne!(cluster.nodes[0].roster.incarnation(), before);
    }
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

async fn lookup(
    cluster: &Cluster,
    node: usize,
    request: LookupSocketsRequest,
) -> Result<LookupSocketsResponse, tonic::Status> {
    mesh_client(cluster.nodes[node].mesh).lookup_sockets(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_lookup_is_an_invalid_argument() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let id = cluster.nodes[0].roster.incarnation().to_string();
    let room = || LookupSocketsRequest { room: "a".into(), ..Default::default() };
    let wrong = [
        LookupSocketsRequest::default(),
        LookupSocketsRequest { room: "socket.io".into(), ..Default::default() },
        LookupSocketsRequest { id_sockets: vec!["x".into(); 10_001], ..Default::default() },
        LookupSocketsRequest { id_sockets: vec![String::new()], ..Default::default() },
        LookupSocketsRequest { node_id: "me".into(), ..room() },
        LookupSocketsRequest { known_version: Some(1), ..room() },
        LookupSocketsRequest { known_version: Some(1), node_id: id.clone(), ..Default::default() },
        LookupSocketsRequest { known_version: Some(1), node_id: id.clone(), id_sockets: vec!["x".into()], ..room() },
    ];
    for request in wrong {
        let status = lookup(&cluster, 0, request.clone()).await.expect_err("it makes no sense");
        assert_eq!(status.code(), Code::InvalidArgument, "{:?}", request.room);
    }
    let another = LookupSocketsRequest { node_id: "0123456789abcdef-1".into(), ..room() };
    let status = lookup(&cluster, 0, another).await.expect_err("another node is meant");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.metadata().get(NODE_ID_METADATA).unwrap().to_str().unwrap(), id);
    let most = LookupSocketsRequest { id_sockets: vec!["x".into(); 10_000], ..Default::default() };
    assert_eq!(lookup(&cluster, 0, most).await.unwrap().sockets, []);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_version_gets_no_rows_until_the_room_changes() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let client = Client::connect(cluster.nodes[0].public, "foo", &["a"]).await.unwrap();
    let ask = |known: Option<u64>| LookupSocketsRequest {
        room: "a".into(),
        node_id: cluster.nodes[0].roster.incarnation().to_string(),
        known_version: known,
        ..Default::default()
    };
    let first = lookup(&cluster, 0, ask(None)).await.unwrap();
    assert_eq!(first.sockets.len(), 1);
    assert!(!first.unchanged);
    assert_eq!(first.sockets[0].id_socket, client.id);
    let again = lookup(&cluster, 0, ask(Some(first.version))).await.unwrap();
    assert_eq!(again.sockets.len(), 0);
    assert!(again.unchanged);
    assert_eq!(again.version, first.version);
    let _second = Client::connect(cluster.nodes[0].public, "bar", &["a"]).await.unwrap();
    let changed = lookup(&cluster, 0, ask(Some(first.version))).await.unwrap();
    assert_eq!(changed.sockets.len(), 2);
    assert!(!changed.unchanged);
    assert_ne!(changed.version, first.version);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_rows_of_a_node_are_one_rpc() {
    const ROWS: usize = 100_000;
    let cluster = Cluster::start(2, Index::redis().await).await;
    let seat = |number| cluster.nodes[0].seat(&format!("socket-{number:09}"), &format!("user-{number}"), "crowd");
    let presences: Vec<_> = (0..ROWS).map(seat).collect();
    let ask = LookupSocketsRequest { room: "crowd".into(), ..Default::default() };
    assert_eq!(lookup(&cluster, 0, ask).await.unwrap().sockets.len(), ROWS);
    let full: Value = cluster.get(1, "/crowd/rollcall?deadline_ms=5000").await.json().await.unwrap();
    assert_eq!(&full["complete"], &json!(true));
    assert_eq!(full["users"].as_array().unwrap().len(), ROWS);
    let asked: Vec<_> = full["nodes"].as_array().unwrap().iter().map(|node| node["vouched"].clone()).collect();
    assert_eq!(asked, [json!(0), json!(ROWS)], "the node asked, and the owner once");
    // The body is sent in chunks, and has a known length.
    let list = cluster.get(0, "/crowd/users").await;
    let length: usize = list.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let list = list.bytes().await.unwrap();
    assert_eq!(list.len(), length);
    let rows: Vec<Value> = serde_json::from_slice(&list).unwrap();
    let ids: BTreeSet<String> = rows.iter().map(|row| text(row, "id_socket")).collect();
    assert_eq!(ids, (0..ROWS).map(|number| format!("socket-{number:09}")).collect());
    assert_eq!(rows.len(), ROWS);
    let id = cluster.nodes[0].roster.incarnation();
    let mut redis = cluster.index.server().connection().await;
    let key = format!("rollcall:room:{id}:crowd");
    until("written behind", || {
        let (mut redis, key) = (redis.clone(), key.clone());
        async move { redis::cmd("SCARD").arg(key).query_async::<usize>(&mut redis).await.unwrap() == ROWS }
    })
    .await;
    drop(presences);
    until("given back", || {
        let mut redis = redis.clone();
        async move { !redis::cmd("EXISTS").arg("rollcall:owners:crowd").query_async::<bool>(&mut redis).await.unwrap() }
    })
    .await;
    assert!(!redis::cmd("EXISTS").arg(key).query_async::<bool>(&mut redis).await.unwrap());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_sockets_of_one_room_are_all_listed() {
    let cluster = Cluster::start(4, Index::redis().await).await;
    let mut clients = Vec::new();
    for batch in 0..20 {
        let connecting = (0..100).map(|number| {
            let number = batch * 100 + number;
            let address = cluster.nodes[number % 4].public;
            async move { Client::connect(address, &format!("user-{number}"), &["hall"]).await.unwrap() }
        });
        clients.extend(futures::future::join_all(connecting).await);
    }
    let expected: BTreeSet<_> =
        clients.iter().enumerate().map(|(number, client)| (client.id.clone(), format!("user-{number}"))).collect();
    for node in 0..4 {
        assert_eq!(cluster.users(node, "hall").await, (true, expected.clone()));
    }
    cluster.stop().await;
}

/// Connects and goes at one of four moments, in one of four ways; returns when the transport is gone.
async fn come_and_go(address: std::net::SocketAddr, turn: usize) {
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
async fn a_redis_outage_makes_answers_incomplete_until_it_ends() {
    let mut cluster = Cluster::start(2, Index::redis().await).await;
    let client = Client::connect(cluster.nodes[0].public, "foo", &["a"]).await.unwrap();
    let expected = pairs(&[(&client, "foo")]);
    let mut redis = cluster.index.server().connection().await;
    let pause = redis::cmd("CLIENT").arg("PAUSE").arg(1_500).arg("ALL").query_async::<()>(&mut redis).await;
    pause.unwrap();
    let response = cluster.get(1, "/a/users?deadline_ms=300").await;
    assert_eq!(response.headers()["rollcall-complete"], "false");
    assert_eq!(response.headers()["rollcall-unresolved"], "unknown");
    let rows: Vec<Value> = response.json().await.unwrap();
    assert_eq!(rows.len(), 1, "the peers were asked all the same");
    let strict = cluster.get(1, "/a/users?deadline_ms=300&strict=true").await;
    assert_eq!(strict.status(), 503);
    assert_eq!(strict.headers()["content-type"], "application/problem+json");
    until("complete again", || async { cluster.users(1, "a").await == (true, expected.clone()) }).await;

    redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await.unwrap();
    for _ in 0..50 {
        let (complete, listed) = cluster.users(1, "a").await;
        assert!(!complete || listed == expected, "a flushed index was believed");
    }
    until("rebuilt", || async {
        let owners: Vec<String> =
            redis::cmd("SMEMBERS").arg("rollcall:owners:a").query_async(&mut redis.clone()).await.unwrap();
        owners == [cluster.nodes[0].roster.incarnation().to_string()]
    })
    .await;
    assert_eq!(cluster.users(1, "a").await, (true, expected));
    cluster.nodes.pop().unwrap().stop().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_without_recent_contact_do_not_trust_a_flushed_index() {
    let cluster = Cluster::start(4, Index::redis().await).await;
    let client = Client::connect(cluster.nodes[3].public, "foo", &["a"]).await.unwrap();
    let expected = pairs(&[(&client, "foo")]);
    // The test needs this silence: no node has contact with another for more than a lease.
    sleep(config::DEFAULT_LEASE + Duration::from_secs(1)).await;
    let mut redis = cluster.index.server().connection().await;
    redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await.unwrap();
    let began = Instant::now();
    let mut complete_again = false;
    while began.elapsed() < Duration::from_secs(4) {
        for node in 0..3 {
            let (complete, listed) = cluster.users(node, "a").await;
            assert!(!complete || listed == expected, "node {node} left people out after {:?}", began.elapsed());
            complete_again |= complete;
        }
    }
    assert!(complete_again);
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
async fn every_error_is_a_problem_document() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let reserved = "/socket.io%2e/users";
    assert_eq!(cluster.get(0, reserved).await.status(), 200, "a name like any other");
    for (path, status) in [
        ("/%2e%2e%2f/users", 200),
        ("/_/users", 400),
        ("/%00/users", 400),
        ("/%FF/users", 400),
        ("/a/users?deadline_ms=0", 400),
        ("/a/users?deadline_ms=5001", 400),
        ("/a/users?deadline_ms=soon", 400),
        ("/a/users?strict=perhaps", 400),
        ("/a/users/b", 404),
        ("/_/assets/nothing", 404),
    ] {
        let response = cluster.get(0, path).await;
        assert_eq!(response.status(), status, "{path}");
        if status != 200 {
            assert_eq!(response.headers()["content-type"], "application/problem+json", "{path}");
            let problem: Value = response.json().await.unwrap();
            assert_eq!(problem["status"], status);
            assert!(!problem["detail"].as_str().unwrap().is_empty() && problem["title"].is_string());
        }
    }
    let long = format!("/{}/users", "x".repeat(257));
    assert_eq!(cluster.get(0, &long).await.status(), 400);
    let client = reqwest::Client::new();
    let url = format!("http://{}/a/users", cluster.nodes[0].public);
    let posted = client.post(&url).send().await.unwrap();
    assert_eq!(posted.status(), 405);
    assert_eq!(posted.headers()["content-type"], "application/problem+json");
    assert_eq!(posted.headers()["allow"], "GET,HEAD");
    let from = |origin: &'static str| client.get(&url).header("origin", origin).send();
    let allowed = from("https://allowed.example").await.unwrap();
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://allowed.example");
    let other = from("https://other.example").await.unwrap();
    assert!(other.headers().get("access-control-allow-origin").is_none());
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
