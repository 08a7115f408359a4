//! The content of an answer: every node lists the sockets of all nodes, under their own names, in rooms of any size.

use std::collections::BTreeSet;

use rollcall::mesh::proto::LookupSocketsRequest;
use serde_json::{Value, json};
use testkit::client::{Client, expected_rows};
use testkit::cluster::{Cluster, Index};
use testkit::{mesh_client, over_both_directories, text, until};

over_both_directories![
    every_node_lists_the_users_of_all_four,
    an_empty_room_is_answered_by_the_receiving_node_alone,
    only_owners_are_asked,
    one_user_may_have_many_sockets,
    unusual_names_are_listed_unchanged,
];

async fn every_node_lists_the_users_of_all_four(index: Index) {
    let cluster = Cluster::start(4, index).await;
    let mut clients = Vec::new();
    let users = ["ann", "bob", "cho", "dee"];
    for (node, user) in cluster.nodes.iter().zip(users) {
        clients.push(Client::connect(node.public, user, &["Maths"]).await.unwrap());
    }
    let expected = expected_rows(&clients.iter().zip(users).collect::<Vec<_>>());
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
    let expected = expected_rows(&clients.iter().map(|client| (client, "twice")).collect::<Vec<_>>());
    assert_eq!(expected.len(), 4);
    assert_eq!(cluster.users(0, "a").await, (true, expected));
    cluster.stop().await;
}

async fn unusual_names_are_listed_unchanged(index: Index) {
    let cluster = Cluster::start(2, index).await;
    let longest = "é".repeat(128);
    for name in ["café au lait", "a/b", "100%", "a?b#c", "数学", "\"quoted\"", "users", "socket.io-fans", &longest] {
        let client = Client::connect(cluster.nodes[0].public, name, &[name]).await.unwrap();
        assert_eq!(cluster.users(1, name).await, (true, expected_rows(&[(&client, name)])), "{name}");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_rows_of_a_node_are_one_rpc() {
    const ROWS: usize = 100_000;
    let cluster = Cluster::start(2, Index::redis().await).await;
    let seat = |number| cluster.nodes[0].seat(&format!("socket-{number:09}"), &format!("user-{number}"), "crowd");
    let presences: Vec<_> = (0..ROWS).map(seat).collect();
    let ask = LookupSocketsRequest { room: "crowd".into(), ..Default::default() };
    assert_eq!(mesh_client(cluster.nodes[0].mesh).lookup_sockets(ask).await.unwrap().into_inner().sockets.len(), ROWS);
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
