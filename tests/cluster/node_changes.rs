//! Nodes that stop or take a new incarnation, and a Redis that is paused or flushed: no complete answer is wrong meanwhile.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rollcall::node::config;
use serde_json::Value;
use testkit::client::{Client, expected_rows};
use testkit::cluster::{Cluster, Index};
use testkit::{over_both_directories, until};
use tokio::time::sleep;

over_both_directories![
    a_stopped_node_is_removed_and_its_clients_disconnected,
    no_answer_is_wrong_between_two_incarnations,
];

async fn a_stopped_node_is_removed_and_its_clients_disconnected(index: Index) {
    let mut cluster = Cluster::start(3, index).await;
    let stays = Client::connect(cluster.nodes[0].public, "stays", &["a"]).await.unwrap();
    let leaves = Client::connect(cluster.nodes[2].public, "leaves", &["a", "b"]).await.unwrap();
    assert_eq!(cluster.users(1, "a").await.1.len(), 2);
    let stopping = cluster.nodes.remove(2);
    stopping.stop().await;
    leaves.closed().await;
    for node in 0..2 {
        assert_eq!(cluster.users(node, "a").await, (true, expected_rows(&[(&stays, "stays")])), "complete, at once");
        assert_eq!(cluster.users(node, "b").await, (true, BTreeSet::new()));
    }
    let index = cluster.stop().await;
    if let Index::Redis(server) = &index {
        let left = server.keys("*").await;
        assert!(left.is_subset(&BTreeSet::from(["rollcall:epoch".to_owned()])), "nothing of them is left: {left:?}");
    }
}

async fn no_answer_is_wrong_between_two_incarnations(index: Index) {
    let cluster = Cluster::start(3, index).await;
    let client = Client::connect(cluster.nodes[0].public, "foo", &["a"]).await.unwrap();
    let expected = expected_rows(&[(&client, "foo")]);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_outage_makes_answers_incomplete_until_it_ends() {
    let mut cluster = Cluster::start(2, Index::redis().await).await;
    let client = Client::connect(cluster.nodes[0].public, "foo", &["a"]).await.unwrap();
    let expected = expected_rows(&[(&client, "foo")]);
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
    let expected = expected_rows(&[(&client, "foo")]);
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
