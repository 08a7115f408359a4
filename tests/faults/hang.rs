//! A node that hangs: SIGSTOP for less than its lease or for longer, and then SIGCONT.

use std::time::{Duration, Instant};

use futures::future::join_all;
use testkit::process_cluster::{Options, ProcessCluster};
use testkit::tracked_client::{Disconnection, Refused, TrackedClient};
use testkit::watch::{SLACK, Watch, percentile, unanswered};
use testkit::{until, within};
use tokio::time::sleep;

/// After SIGCONT, a node is part of every answer again within this time.
const REJOIN_TIMEOUT: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_node_is_named_within_the_deadline_then_only_probed() {
    let cluster = ProcessCluster::start(3, Options::lease(8)).await;
    let mut clients = Vec::new();
    for (node, count) in [(0, 1), (1, 2), (2, 3)] {
        for _ in 0..count {
            clients.push(cluster.connect(node, "someone", &["a"]).await);
        }
    }
    let _elsewhere = [cluster.connect(0, "x", &["elsewhere"]).await, cluster.connect(1, "y", &["elsewhere"]).await];
    cluster.healed(&[0, 1, 2], Duration::from_secs(5)).await;
    // A client on the node that will hang was in the room, and the other nodes still cache the answer of that node.
    let gone = cluster.connect(2, "z", &["elsewhere"]).await;
    assert_eq!(cluster.call(0, "elsewhere").await.1.rows.len(), 3);
    assert_eq!(cluster.call(1, "elsewhere").await.1.rows.len(), 3);
    gone.go(Disconnection::Close).await;
    let given_back = || async { cluster.differences(&[0, 1, 2]).await.is_empty() };
    within(Duration::from_secs(5), "the node releases its claim", given_back).await;
    let watch = Watch::start(&cluster, &[0, 1], &["elsewhere"]);
    let stopped = Instant::now();
    cluster.stop(2).await;

    let (full, call) = cluster.call(0, "a").await;
    let took = call.answered - call.asked;
    assert!(took < cluster.options.deadline + SLACK, "{took:?}");
    assert_eq!(unanswered(&full)["node-3"], "deadline", "{full}");
    assert!(!call.complete, "{full}");
    assert_eq!(call.rows.len(), 3, "{full}");
    assert_eq!(full["unresolved"], 3, "{full}");
    // The circuit opens after a few timeouts. Then a caller waits at most for a probe.
    within(Duration::from_secs(3), "a roll call no longer waits for the deadline", || async {
        let (full, call) = cluster.call(0, "a").await;
        assert!(!call.complete, "{full}");
        assert_eq!(full["unresolved"], 3, "{full}");
        call.answered - call.asked < cluster.options.deadline / 2
    })
    .await;
    let mut probed = Vec::new();
    for _ in 0..10 {
        let (full, call) = cluster.call(0, "a").await;
        assert_eq!(unanswered(&full)["node-3"], "deadline", "{full}");
        assert!(!call.complete, "{full}");
        assert_eq!(full["unresolved"], 3, "{full}");
        probed.push(call.answered - call.asked);
    }
    let half = percentile(probed, 50);
    assert!(half < cluster.options.deadline / 2, "half within {half:?}");

    assert!(stopped.elapsed() < cluster.options.lease / 2, "the machine is too slow for this test");
    cluster.resume(2);
    within(REJOIN_TIMEOUT, "the node is part of every answer", || cluster.agree(&[0, 1, 2], "a")).await;
    let report = watch.end().await;
    report.all_answered();
    // This room has no client on the hung node, so its answers were always complete and fast.
    let during: Vec<_> = report.between(stopped, Instant::now()).collect();
    assert!(
        during.iter().all(|answered| answered.call.complete),
        "a room without clients on the hung node became incomplete"
    );
    let most = percentile(during.iter().map(|answered| answered.took()).collect(), 95);
    assert!(most < cluster.options.deadline / 2, "95 % within {most:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_stopped_past_its_lease_returns_as_a_new_incarnation() {
    let cluster = ProcessCluster::start(3, Options::default()).await;
    let mut clients = Vec::new();
    for number in 0..20 {
        clients.push(cluster.connect(2, "back", &["a", &format!("own-{number}")]).await);
    }
    let here = cluster.connect(0, "here", &["a"]).await;
    let (before, _) = cluster.roster(2, "a").await.expect("it answers");
    cluster.healed(&[0, 1, 2], Duration::from_secs(5)).await;
    let watch = Watch::start(&cluster, &[0, 1, 2], &["a", "own-0"]);
    cluster.stop(2).await;
    let only_here = Some([here.socket.clone()].into());
    within(cluster.options.lease * 3, "the other nodes are complete without it", || async {
        cluster.listed(0, "a").await == only_here && cluster.listed(1, "a").await == only_here
    })
    .await;
    cluster.resume(2);
    cluster.healed(&[0, 1, 2], Duration::from_secs(5)).await;
    let (after, sockets) = cluster.roster(2, "a").await.expect("it answers");
    let process = |id: &str| id.split('-').next().map(str::to_owned);
    assert_eq!(process(&before), process(&after));
    assert_ne!(before, after, "a lapsed lease is never revived");
    assert_eq!(sockets.len(), clients.len());
    assert!(clients.iter().all(|client| !client.has_ended()), "every socket stays");
    watch.end().await.all_answered();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_queued_in_the_kernel_past_the_lease_are_listed() {
    let cluster = ProcessCluster::start(3, Options::default()).await;
    let before = cluster.connect(2, "before", &["a"]).await;
    cluster.stop(2).await;
    let watch = Watch::start(&cluster, &[0, 1], &["a", "b"]);
    let (oracle, endpoint) = (cluster.oracle.clone(), cluster.nodes[2].endpoint());
    let queued: Vec<_> = (0..20)
        .map(|number| {
            let (oracle, endpoint, room) = (oracle.clone(), endpoint.clone(), if number % 2 == 0 { "a" } else { "b" });
            tokio::spawn(async move {
                loop {
                    match TrackedClient::connect(&oracle, &endpoint, "queued", &[room]).await {
                        // The node has not renewed its lease yet and refuses with an error, and clients try again.
                        Err(Refused::Status(503)) => sleep(Duration::from_millis(20)).await,
                        connected => return connected,
                    }
                }
            })
        })
        .collect();
    within(cluster.options.lease * 3, "the other nodes are complete without it", || async {
        cluster.listed(0, "a").await == Some([].into()) && cluster.listed(1, "b").await == Some([].into())
    })
    .await;
    cluster.resume(2);
    let clients =
        join_all(queued).await.into_iter().map(|queued| queued.unwrap().expect("the node accepts the client"));
    let clients: Vec<TrackedClient> = clients.collect();
    // The watch has called the other nodes all the time, and the oracle knows the time of each acknowledgement.
    cluster.healed(&[0, 1, 2], Duration::from_secs(5)).await;
    assert_eq!(cluster.oracle.present("a").len() + cluster.oracle.present("b").len(), clients.len() + 1);
    assert!(!before.has_ended());
    watch.end().await.all_answered();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_followed_by_a_hung_peer_hides_no_socket() {
    let cluster = ProcessCluster::start(3, Options::default()).await;
    let mut clients = Vec::new();
    for node in 0..3 {
        clients.push(cluster.connect(node, "someone", &["a"]).await);
    }
    cluster.healed(&[0, 1, 2], Duration::from_secs(5)).await;
    let watch = Watch::start(&cluster, &[0, 1], &["a"]);
    for _ in 0..3 {
        cluster.redis.flush().await;
        cluster.stop(2).await;
        // The duration of the hang is part of the fault.
        sleep(Duration::from_millis(500)).await;
        cluster.resume(2);
        cluster.healed(&[0, 1, 2], Duration::from_secs(5)).await;
    }
    watch.end().await.all_answered();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_stopped_during_a_lookup_sends_no_stale_answer() {
    let cluster = ProcessCluster::start(3, Options::default()).await;
    let _first = cluster.connect(0, "first", &["a"]).await;
    let watch = Watch::start(&cluster, &[2], &["a"]);
    for turn in 0..3 {
        watch.sees_another().await;
        cluster.stop(2).await;
        // The calling node hangs for longer than a lease while sockets connect to the other nodes.
        let client = cluster.connect(turn % 2, "comes", &["a"]).await;
        sleep(cluster.options.lease * 5 / 4).await;
        cluster.resume(2);
        assert_eq!(cluster.rows(2, "a").await, cluster.oracle.present("a"));
        drop(client);
    }
    until("all answers are right again", || cluster.agree(&[0, 1, 2], "a")).await;
    watch.end().await.all_answered();
}
