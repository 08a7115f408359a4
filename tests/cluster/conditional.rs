//! Conditional requests: nodes send rows again, and callers get a body again, only after a change, and after every change.

use std::collections::BTreeMap;

use prost::Message;
use reqwest::header::{ETAG, IF_NONE_MATCH};
use reqwest::{Response, StatusCode};
use rollcall::mesh::proto::{LookupSocketsRequest, LookupSocketsResponse};
use rollcall::roster::Registration;
use rollcall::telemetry::anomalies::Anomaly;
use serde_json::Value;
use testkit::client::Client;
use testkit::cluster::{Cluster, Index};
use testkit::{mesh_client, text, until};

/// By node name: whether the node answered that its rows are unchanged.
async fn unchanged(cluster: &Cluster, node: usize, room: &str) -> BTreeMap<String, bool> {
    let full: Value = cluster.get(node, &format!("/{room}/rollcall")).await.json().await.unwrap();
    assert_eq!(full["complete"], true);
    let nodes = full["nodes"].as_array().unwrap().iter();
    nodes.map(|node| (text(node, "name"), node["unchanged"].as_bool().unwrap())).collect()
}

async fn ask(cluster: &Cluster, node: usize, held: &str) -> Response {
    let url = format!("http://{}/Maths/users", cluster.nodes[node].public);
    cluster.http.get(url).header(IF_NONE_MATCH, held).send().await.unwrap()
}

fn etag(response: &Response) -> Option<String> {
    response.headers().get(ETAG).map(|tag| tag.to_str().unwrap().to_owned())
}

fn said(all: [bool; 3]) -> BTreeMap<String, bool> {
    (1..).zip(all).map(|(number, unchanged)| (format!("node-{number}"), unchanged)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_sends_its_rows_again_only_after_a_change() {
    let cluster = Cluster::start(3, Index::redis().await).await;
    let mut clients = Vec::new();
    for node in &cluster.nodes {
        clients.push(Client::connect(node.public, "ann", &["Maths"]).await.unwrap());
    }
    assert_eq!(unchanged(&cluster, 0, "Maths").await, said([false; 3]), "all of it is new");
    assert_eq!(unchanged(&cluster, 0, "Maths").await, said([true; 3]));
    assert_eq!(unchanged(&cluster, 1, "Maths").await, said([false; 3]), "another node holds nothing yet");
    let another = Client::connect(cluster.nodes[1].public, "bob", &["Maths"]).await.unwrap();
    assert_eq!(unchanged(&cluster, 0, "Maths").await, said([true, false, true]));
    let (complete, users) = cluster.users(0, "Maths").await;
    assert!(complete && users.contains(&(another.id.clone(), "bob".to_owned())) && users.len() == 4, "{users:?}");
    // The room of one node empties and fills again: the cached rows must not return.
    let gone = clients.remove(2);
    let id = gone.id.clone();
    gone.drop_connection();
    until("it is gone", || async { cluster.users(0, "Maths").await.1.iter().all(|(socket, _)| *socket != id) }).await;
    let back = Client::connect(cluster.nodes[2].public, "cho", &["Maths"]).await.unwrap();
    let (complete, users) = cluster.users(0, "Maths").await;
    assert!(complete && users.contains(&(back.id.clone(), "cho".to_owned())) && users.len() == 4, "{users:?}");
    cluster.stop().await;
}

async fn lookup(cluster: &Cluster, known_version: Option<u64>, takes_changes: bool) -> LookupSocketsResponse {
    let request = LookupSocketsRequest {
        room: "Maths".into(),
        node_id: cluster.nodes[0].roster.incarnation().to_string(),
        known_version,
        takes_changes,
        ..Default::default()
    };
    mesh_client(cluster.nodes[0].mesh).lookup_sockets(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_change_in_a_room_of_a_thousand_is_one_row_on_the_wire() {
    let cluster = Cluster::start(2, Index::memory()).await;
    let sit = |id: &str, user| cluster.nodes[0].seat(id, user, "Maths");
    let mut seats: BTreeMap<String, Registration> =
        (0..1_000).map(|number| format!("socket-{number}")).map(|id| (id.clone(), sit(&id, "ann"))).collect();
    let listed = async || {
        let (complete, users) = cluster.users(1, "Maths").await;
        assert!(complete);
        users
    };
    // `seat` does not wait until the node owns the room, as a join would.
    until("node 1 lists the room of node 0", async || listed().await.len() == 1_000).await;
    let held = lookup(&cluster, None, true).await;
    assert_eq!(held.sockets.len(), 1_000, "nothing is known yet");
    assert_eq!(held.changes_since, 0, "nothing is known yet");

    seats.insert("new".to_owned(), sit("new", "bob"));
    let changed = lookup(&cluster, Some(held.version), true).await;
    assert_eq!(changed.changes_since, held.version);
    assert_eq!(changed.gone.len(), 0);
    assert_eq!(changed.sockets.len(), 1);
    assert_eq!(&*changed.sockets[0].id_socket, "new");
    assert_eq!(&*changed.sockets[0].id_user, "bob");
    assert!(changed.encoded_len() < 100, "{} bytes", changed.encoded_len());
    let all = lookup(&cluster, Some(held.version), false).await;
    assert_eq!(all.changes_since, 0, "an asker that does not know of changes gets all");
    assert_eq!(all.sockets.len(), 1_001, "an asker that does not know of changes gets all");
    assert!(listed().await.contains(&("new".to_owned(), "bob".to_owned())));

    seats.remove("socket-17");
    let gone = lookup(&cluster, Some(changed.version), true).await;
    assert_eq!(gone.changes_since, changed.version);
    assert_eq!(gone.gone, ["socket-17"]);
    assert_eq!(gone.sockets.len(), 0);
    let users = listed().await;
    assert_eq!(users.iter().map(|(id, _)| id).collect::<Vec<_>>(), seats.keys().collect::<Vec<_>>());

    // More than is remembered of a room of this size.
    seats.retain(|id, _| id.as_str() < "socket-7");
    let all = lookup(&cluster, Some(gone.version), true).await;
    assert_eq!(all.changes_since, 0);
    assert_eq!(all.gone.len(), 0);
    assert_eq!(all.sockets.len(), seats.len());
    let users = listed().await;
    assert_eq!(users.iter().map(|(id, _)| id).collect::<Vec<_>>(), seats.keys().collect::<Vec<_>>());
    for node in &cluster.nodes {
        assert_eq!(node.anomalies.count(Anomaly::MisfitChanges), 0, "{}", node.name);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_with_the_current_answer_gets_304() {
    let cluster = Cluster::start(2, Index::redis().await).await;
    let client = Client::connect(cluster.nodes[0].public, "ann", &["Maths"]).await.unwrap();
    let tag = etag(&cluster.get(0, "/Maths/users").await).expect("a complete answer has one");
    assert!(tag.starts_with("W/\""), "{tag}");
    for (node, held) in [(0, tag.clone()), (1, tag.clone()), (0, format!("\"other\", {tag}")), (1, "*".to_owned())] {
        let response = ask(&cluster, node, &held).await;
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{held}");
        assert_eq!(etag(&response), Some(tag.clone()), "{held}");
        assert_eq!(response.headers()["rollcall-complete"], "true");
        assert_eq!(response.bytes().await.unwrap().len(), 0);
    }
    for held in ["W/\"other\"", "nonsense", ""] {
        let response = ask(&cluster, 0, held).await;
        assert_eq!(response.status(), StatusCode::OK, "{held:?}");
        assert_eq!(etag(&response), Some(tag.clone()), "{held:?}");
    }
    let another = Client::connect(cluster.nodes[1].public, "bob", &["Maths"]).await.unwrap();
    let response = ask(&cluster, 0, &tag).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_ne!(etag(&response), Some(tag.clone()));
    assert_eq!(response.json::<Vec<Value>>().await.unwrap().len(), 2);
    another.leave("Maths").await;
    let response = ask(&cluster, 0, &tag).await;
    assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "the rows of before");
    assert_eq!(etag(&response), Some(tag), "the rows of before");
    drop(client);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incomplete_answer_has_no_etag_and_is_never_a_304() {
    let cluster = Cluster::start(1, Index::redis().await).await;
    let client = Client::connect(cluster.nodes[0].public, "ann", &["Maths"]).await.unwrap();
    let tag = etag(&cluster.get(0, "/Maths/users").await).unwrap();
    let mut redis = cluster.index.server().connection().await;
    redis::cmd("CLIENT").arg("PAUSE").arg(1_500).arg("ALL").query_async::<()>(&mut redis).await.unwrap();
    let response = ask(&cluster, 0, &tag).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(etag(&response), None);
    assert_eq!(response.headers()["rollcall-complete"], "false");
    assert_eq!(response.json::<Vec<Value>>().await.unwrap().len(), 1);
    drop(client);
    cluster.stop().await;
}
