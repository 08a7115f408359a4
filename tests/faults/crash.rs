//! A node that dies from `kill -9`, and a restart at the same address.

use std::time::Instant;

use testkit::process_cluster::{Options, ProcessCluster};
use testkit::watch::{Watch, percentile, unanswered};
use testkit::{until, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_roll_call_after_a_kill_has_no_row_of_the_dead_node() {
    let mut cluster = ProcessCluster::start(3, Options::default()).await;
    let _here = cluster.connect(0, "here", &["a"]).await;
    let _gone = [cluster.connect(2, "gone-1", &["a"]).await, cluster.connect(2, "gone-2", &["a"]).await];
    until("the index matches the rosters", || async { cluster.differences(&[0, 1, 2]).await.is_empty() }).await;
    assert!(cluster.agree(&[0, 1, 2], "a").await);
    let watch = Watch::start(&cluster, &[0, 1], &["a"]);
    cluster.kill(2);
    let (full, call) = cluster.call(1, "a").await;
    assert_eq!(call.rows.len(), 1, "{full}");
    assert_eq!(full["complete"], false, "{full}");
    assert_eq!(unanswered(&full)["node-3"], "refused", "{full}");
    assert_eq!(full["unresolved"], 2, "{full}");
    let bound = cluster.options.lease * 3;
    within(bound, "answers are complete without the dead node", || cluster.agree(&[0, 1], "a")).await;
    within(bound, "the index has no entry of the dead node", || async {
        cluster.differences(&[0, 1]).await.is_empty()
    })
    .await;
    watch.end().await.all_answered();
    let left = cluster.redis.keys("rollcall:node:*").await;
    assert_eq!(left.len(), 2, "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_does_not_cost_the_deadline() {
    let mut cluster = ProcessCluster::start(3, Options::default()).await;
    let _here = cluster.connect(0, "here", &["a"]).await;
    let _gone = cluster.connect(2, "gone", &["a"]).await;
    let watch = Watch::start(&cluster, &[0, 1], &["a"]);
    let killed = Instant::now();
    cluster.kill(2);
    until("answers are complete without the dead node", || cluster.agree(&[0, 1], "a")).await;
    let report = watch.end().await;
    report.all_answered();
    let during: Vec<_> = report.between(killed, Instant::now()).collect();
    let refused = during.iter().filter(|answered| !answered.call.complete).count();
    assert!(refused > 20, "only {refused} roll calls met the dead node");
    let bound = cluster.options.deadline + std::time::Duration::from_millis(50);
    let most = percentile(during.iter().map(|answered| answered.took()).collect(), 99);
    assert!(most < bound, "99 % within {most:?}");
    let half = percentile(during.iter().map(|answered| answered.took()).collect(), 50);
    assert!(half < cluster.options.deadline / 2, "half within {half:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_restarted_on_the_same_address_is_a_new_node() {
    let mut cluster = ProcessCluster::start(3, Options::lease(3)).await;
    let _here = cluster.connect(0, "here", &["a"]).await;
    let _gone = cluster.connect(2, "gone", &["a"]).await;
    let (before, _) = cluster.roster(2, "a").await.expect("the node answers");
    let watch = Watch::start(&cluster, &[0, 1], &["a"]);
    cluster.kill(2);
    cluster.restart(2);
    until("the node is ready", || cluster.ready(2)).await;
    let back = cluster.connect(2, "back", &["a"]).await;
    let (full, _) = cluster.call(0, "a").await;
    assert!(full.to_string().contains(&back.socket), "{full}");
    let (after, _) = cluster.roster(2, "a").await.expect("the node answers");
    assert_ne!(before.split('-').next(), after.split('-').next(), "the node id is that of another process");
    within(cluster.options.lease * 3, "complete", || cluster.agree(&[0, 1, 2], "a")).await;
    watch.end().await.all_answered();
    within(cluster.options.lease * 2, "clean", || async { cluster.differences(&[0, 1, 2]).await.is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_four_nodes_continues_alone() {
    let mut cluster = ProcessCluster::start(4, Options::default()).await;
    let _here = cluster.connect(0, "here", &["a"]).await;
    let mut gone = Vec::new();
    for node in 1..4 {
        gone.push(cluster.connect(node, "gone", &["a"]).await);
    }
    let watch = Watch::start(&cluster, &[0], &["a"]);
    for node in 1..4 {
        cluster.kill(node);
    }
    let (full, call) = cluster.call(0, "a").await;
    assert_eq!(call.rows.len(), 1, "{full}");
    assert_eq!(unanswered(&full).len(), 3, "{full}");
    within(cluster.options.lease * 3, "complete", || cluster.agree(&[0], "a")).await;
    let _new = cluster.connect(0, "new", &["b"]).await;
    assert!(cluster.agree(&[0], "b").await);
    watch.end().await.all_answered();
}
