//! Rolling restarts: SIGTERM under load, one node after another, with clients that reconnect.

use std::time::{Duration, Instant};

use redis::cmd;
use testkit::oracle::Oracle;
use testkit::process_cluster::{Options, ProcessCluster};
use testkit::tracked_client::{Endpoint, TrackedClient};
use testkit::watch::Watch;
use testkit::{until, within};
use tokio::time::sleep;

const DRAIN: Duration = Duration::from_secs(4);
/// The tolerance for the exit of a process on a busy machine.
const LATE: Duration = Duration::from_millis(500);
const CLIENTS: usize = 80;

fn options() -> Options {
    Options::default().with(&["--drain", "4s"])
}

/// A client that reconnects to another node whenever a node closes its connection.
async fn come_back(oracle: Oracle, endpoints: Vec<Endpoint>, number: usize) {
    let mut turn = number;
    loop {
        let endpoint = &endpoints[turn % endpoints.len()];
        turn += 1;
        if let Ok(client) = TrackedClient::connect(&oracle, endpoint, &format!("user-{number}"), &["all"]).await {
            client.ended().await;
        }
        sleep(Duration::from_millis(50 + 13 * (turn as u64 % 7))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_gives_no_wrong_answer_and_no_error() {
    let mut cluster = ProcessCluster::start(4, options()).await;
    let mut crowd = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        crowd.spawn(come_back(cluster.oracle.clone(), cluster.endpoints(), number));
    }
    until("all clients are connected", || async { cluster.oracle.present("all").len() == CLIENTS }).await;
    for node in 0..4 {
        let others: Vec<usize> = (0..4).filter(|other| *other != node).collect();
        let watch = Watch::start(&cluster, &others, &["all"]);
        let began = Instant::now();
        cluster.terminate(node);
        let status = cluster.exited(node).await;
        assert!(status.success(), "{status}");
        assert!(began.elapsed() < DRAIN + LATE, "it took {:?}", began.elapsed());
        let report = watch.end().await;
        report.all_answered();
        let incomplete = report.answered.iter().filter(|answered| !answered.call.complete).count();
        assert!(incomplete * 20 <= report.answered.len(), "{incomplete} of {} incomplete", report.answered.len());
        let left = cluster.redis.keys("rollcall:node:*").await;
        assert_eq!(left.len(), 3, "the node removes its lease: {left:?}");
        cluster.restart(node);
        until("the node is ready", || cluster.ready(node)).await;
    }
    until("all clients are connected again", || async { cluster.oracle.present("all").len() == CLIENTS }).await;
    cluster.healed(&[0, 1, 2, 3], Duration::from_secs(5)).await;
    assert_eq!(cluster.oracle.disconnects(), 0, "clients do not come back after a Socket.IO disconnect");
    crowd.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_node_disconnects_its_clients_one_by_one() {
    let mut cluster = ProcessCluster::start(2, options()).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(cluster.connect(1, "someone", &["a"]).await);
    }
    cluster.healed(&[0, 1], Duration::from_secs(5)).await;
    let (id, _) = cluster.roster(1, "a").await.expect("the node answers");
    let watch = Watch::start(&cluster, &[0], &["a"]);
    cluster.terminate(1);
    let terminated = Instant::now();
    within(Duration::from_millis(1000), "the lease of the node has the draining flag", || async {
        let entry: Option<String> = cluster.redis.run(cmd("GET").arg(format!("rollcall:node:{id}"))).await;
        entry.is_some_and(|entry| entry.contains("\"draining\":true"))
    })
    .await;
    within(Duration::from_millis(1000), "the node is not ready", || async { !cluster.ready(1).await }).await;
    assert!(cluster.try_connect(1, "new", &["a"]).await.is_err(), "a draining node refuses clients");
    let mut went = Vec::new();
    while went.len() < clients.len() {
        let gone = clients.iter().filter(|client| client.has_ended()).count();
        went.resize(gone, terminated.elapsed());
        assert!(terminated.elapsed() < DRAIN + LATE, "the node has closed only {gone} sockets");
        sleep(Duration::from_millis(5)).await;
    }
    // The node closes its sockets evenly over a part of the drain, neither all at once nor all at the end.
    let (first, half, last) = (went[0], went[went.len() / 2], went[went.len() - 1]);
    assert!(last - first > DRAIN / 4, "from {first:?} to {last:?}");
    assert!(half - first > (last - first) / 4 && last - half > (last - first) / 4, "{first:?}, {half:?}, {last:?}");
    let status = cluster.exited(1).await;
    assert!(status.success() && terminated.elapsed() < DRAIN + LATE, "{status} after {:?}", terminated.elapsed());
    assert_eq!(cluster.oracle.disconnects(), 0);
    until("answers are complete without the node at once", || cluster.agree(&[0], "a")).await;
    let report = watch.end().await;
    report.all_answered();
    let left = cluster.redis.keys("rollcall:*").await;
    assert!(!left.iter().any(|key| key.contains(&id)), "{left:?}");
    let owners = cluster.redis.members("rollcall:owners:a").await;
    assert_eq!(owners, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_exits_at_once() {
    let mut cluster = ProcessCluster::start(2, Options::default().with(&["--drain", "30s"])).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(cluster.connect(1, "someone", &["a"]).await);
    }
    cluster.terminate(1);
    until("the node drains", || async { clients.iter().any(TrackedClient::has_ended) }).await;
    let again = Instant::now();
    cluster.terminate(1);
    let status = cluster.exited(1).await;
    assert!(again.elapsed() < Duration::from_secs(2), "it took {:?}", again.elapsed());
    assert!(!status.success(), "{status}");
    within(cluster.options.lease * 3, "answers are complete without the node", || cluster.agree(&[0], "a")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_drains_without_redis_exits_in_time() {
    let mut cluster = ProcessCluster::start(2, options()).await;
    let _clients = [cluster.connect(0, "stays", &["a"]).await, cluster.connect(1, "goes", &["a"]).await];
    let watch = Watch::start(&cluster, &[0], &["a"]);
    cluster.redis.stop().await;
    cluster.terminate(1);
    let terminated = Instant::now();
    let status = cluster.exited(1).await;
    assert!(status.success() && terminated.elapsed() < DRAIN + LATE, "{status} after {:?}", terminated.elapsed());
    cluster.redis.resume();
    cluster.healed(&[0], cluster.options.lease * 4).await;
    watch.end().await.all_answered();
}
