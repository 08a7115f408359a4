//! Network partitions between running nodes: between two nodes, between a node and Redis, and between a node and all
//! others. The links lead through proxies.

use std::time::Duration;

use testkit::process_cluster::{Options, ProcessCluster};
use testkit::proxy::Mode;
use testkit::tracked_client::{Refused, TrackedClient};
use testkit::watch::{SLACK, Watch, unanswered};
use testkit::{until, within};

const HEALING_TIMEOUT: Duration = Duration::from_secs(5);

/// Three nodes, each with one socket in `all` and in the room of the node.
async fn three() -> (ProcessCluster, Vec<TrackedClient>) {
    let cluster = ProcessCluster::start(3, Options::proxied()).await;
    let mut clients = Vec::new();
    for node in 0..3 {
        clients.push(cluster.connect(node, "someone", &["all", &format!("on-{node}")]).await);
    }
    cluster.healed(&[0, 1, 2], HEALING_TIMEOUT).await;
    (cluster, clients)
}

async fn two_nodes_cut_from_each_other(mode: Mode) {
    let (cluster, clients) = three().await;
    let watch = Watch::start(&cluster, &[0, 1, 2], &["all", "on-0", "on-1", "on-2"]);
    cluster.between(0, 1, mode);
    for (asked, other) in [(0, 1), (1, 0)] {
        let room = format!("on-{other}");
        until("the answer is incomplete and names the other node", || async {
            let (full, call) = cluster.call(asked, &room).await;
            let took = call.answered - call.asked;
            assert!(took < cluster.options.deadline + SLACK, "{took:?}");
            !call.complete && unanswered(&full).contains_key(&format!("node-{}", other + 1))
        })
        .await;
        let (full, call) = cluster.call(asked, "all").await;
        assert_eq!(call.rows.len(), 2, "{full}");
        assert!(!call.complete, "{full}");
        assert_eq!(full["unresolved"], 1, "{full}");
        assert!(
            cluster.agree(&[asked], &format!("on-{asked}")).await,
            "a room without clients on the other node is complete"
        );
    }
    assert!(cluster.agree(&[2], "all").await, "the node with both links is complete");
    // Both nodes renew their leases, so neither declares the other dead.
    let still = cluster.options.lease * 3 / 2;
    tokio::time::sleep(still).await;
    assert!(!cluster.call(0, "on-1").await.1.complete);
    cluster.between(0, 1, Mode::Open);
    cluster.healed(&[0, 1, 2], HEALING_TIMEOUT).await;
    assert!(clients.iter().all(|client| !client.has_ended()), "every socket stays");
    watch.end().await.all_answered();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_with_cut_connections_are_incomplete_and_recover() {
    two_nodes_cut_from_each_other(Mode::Cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_with_lost_packets_are_incomplete_and_recover() {
    two_nodes_cut_from_each_other(Mode::Held).await;
}

async fn a_node_cut_off_from_redis_alone(mode: Mode) {
    let (cluster, clients) = three().await;
    let watch = Watch::start(&cluster, &[0, 1, 2], &["all", "on-2", "new"]);
    cluster.link_to_redis(2, mode);
    // After its lease has expired, the announcements to the other nodes keep it a member.
    tokio::time::sleep(cluster.options.lease * 2).await;
    assert!(clients.iter().all(|client| !client.has_ended()), "the sockets of the node stay");
    let _new = cluster.connect(2, "new", &["new", "all"]).await;
    for room in ["all", "on-2", "new"] {
        assert!(cluster.all_listed(&[0, 1, 2], room).await, "{room}: {}", cluster.call(0, room).await.0);
        assert!(cluster.agree(&[0, 1], room).await, "{room}: {}", cluster.call(0, room).await.0);
    }
    cluster.link_to_redis(2, Mode::Open);
    cluster.healed(&[0, 1, 2], HEALING_TIMEOUT).await;
    watch.end().await.all_answered();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_cut_off_from_redis_keeps_its_sockets_listed() {
    a_node_cut_off_from_redis_alone(Mode::Cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_hung_redis_link_keeps_its_sockets_listed() {
    a_node_cut_off_from_redis_alone(Mode::Held).await;
}

/// In a quiet cluster no message passes between the nodes before the lease of one expires, so the other one has not heard it
/// for long. With the shortest lease, the node has not noticed by then that Redis hangs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_lease_expired_is_asked_before_it_is_dead() {
    let cluster = ProcessCluster::start(2, Options { proxied: true, ..Options::lease(1) }).await;
    let _clients = [cluster.persist(0, "one", &["all"]).await, cluster.persist(1, "other", &["all"]).await];
    let mut complete = 0;
    for percent in (80..140).step_by(5) {
        cluster.healed(&[0, 1], HEALING_TIMEOUT).await;
        tokio::time::sleep(cluster.options.lease * 2).await;
        cluster.link_to_redis(1, Mode::Held);
        // One question only: a reply to it would prove that the node is alive.
        tokio::time::sleep(cluster.options.lease * percent / 100).await;
        let (full, call) = cluster.call(0, "all").await;
        // A node that stays cut off disconnects its clients. Then it answers, without rows.
        let answered = full["nodes"].as_array().unwrap().iter().filter(|node| node["error"].is_null()).count();
        assert!(!call.complete || answered == 2, "{percent} % of a lease after the loss of redis: {full}");
        complete += u32::from(call.complete);
        cluster.link_to_redis(1, Mode::Open);
    }
    assert!(complete > 0, "a reachable node is no reason for an incomplete answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_lacks_an_unreachable_node_is_incomplete() {
    let (cluster, clients) = three().await;
    let watch = Watch::start(&cluster, &[0, 1, 2], &["all", "on-2", "nobody"]);
    cluster.link_to_redis(2, Mode::Cut);
    cluster.between(1, 2, Mode::Cut);
    let lapsed = cluster.options.lease * 3;
    tokio::time::sleep(lapsed).await;
    // Node 1 receives the announcements of node 3 and forwards them. For node 2, node 3 is alive and does not answer.
    for _ in 0..20 {
        for room in ["all", "on-2"] {
            let (full, call) = cluster.call(1, room).await;
            assert!(!call.complete, "{full}");
            assert!(unanswered(&full).contains_key("node-3"), "{full}");
        }
        assert!(cluster.agree(&[0], "all").await);
    }
    assert!(
        clients.iter().all(|client| !client.has_ended()),
        "two of three nodes list it as a member, so its sockets stay"
    );
    let new = cluster.try_connect(2, "new", &["all"]).await;
    if let Ok(new) = &new {
        assert!(cluster.rows(0, "all").await.contains(&new.socket), "an acknowledged socket is listed");
    }
    cluster.link_to_redis(2, Mode::Open);
    cluster.between(1, 2, Mode::Open);
    cluster.healed(&[0, 1, 2], HEALING_TIMEOUT).await;
    watch.end().await.all_answered();
}

async fn a_node_cut_off_from_everybody(mode: Mode) {
    let (cluster, clients) = three().await;
    let watch = Watch::start(&cluster, &[0, 1], &["all", "on-2", "on-0"]);
    let process = cluster.nodes[2].process.get();
    cluster.oracle.inactive(process);
    cluster.link_to_redis(2, mode);
    cluster.between(0, 2, mode);
    cluster.between(1, 2, mode);
    let bound = cluster.options.lease * 4;
    within(bound, "the other nodes are complete without it", || async {
        let without = [clients[0].socket.clone(), clients[1].socket.clone()].into();
        let both = cluster.listed(0, "all").await.zip(cluster.listed(1, "all").await);
        both.is_some_and(|(one, other)| one == without && other == without)
    })
    .await;
    within(bound, "the node closes its sockets", || async { clients[2].has_ended() }).await;
    assert_eq!(cluster.oracle.disconnects(), 0, "official clients do not reconnect after a Socket.IO disconnect");
    assert!(clients[..2].iter().all(|client| !client.has_ended()), "the sockets of the other nodes stay");
    let refused = cluster.try_connect(2, "new", &["all"]).await.err();
    assert_eq!(refused, Some(Refused::Status(503)));
    let (full, call) = cluster.call(2, "all").await;
    assert!(!call.complete, "the answer of the isolated node is incomplete: {full}");
    // The clients of the isolated node connect to another node.
    let _elsewhere = cluster.connect(0, "someone", &["all", "on-2"]).await;
    assert!(cluster.agree(&[0, 1], "all").await && cluster.agree(&[0, 1], "on-2").await);

    cluster.link_to_redis(2, Mode::Open);
    cluster.between(0, 2, Mode::Open);
    cluster.between(1, 2, Mode::Open);
    within(HEALING_TIMEOUT, "the node accepts clients again", || cluster.ready(2)).await;
    cluster.oracle.active_again(process);
    let _again = cluster.connect(2, "again", &["all", "on-2"]).await;
    cluster.healed(&[0, 1, 2], HEALING_TIMEOUT).await;
    watch.end().await.all_answered();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_node_disconnects_its_sockets_and_recovers() {
    a_node_cut_off_from_everybody(Mode::Cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_any_packets_disconnects_and_recovers() {
    a_node_cut_off_from_everybody(Mode::Held).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_link_is_awaited_within_the_deadline() {
    let (cluster, clients) = three().await;
    let watch = Watch::start(&cluster, &[0, 1, 2], &["all"]);
    cluster.link(0, 1, Mode::Delayed(Duration::from_millis(60)));
    for _ in 0..5 {
        assert!(cluster.agree(&[0], "all").await, "{}", cluster.call(0, "all").await.0);
    }
    cluster.link(0, 1, Mode::Delayed(Duration::from_millis(1500)));
    until("a node behind a slow link is unanswered", || async {
        let (full, call) = cluster.call(0, "all").await;
        !call.complete && unanswered(&full).get("node-2").is_some_and(|reason| reason == "deadline")
    })
    .await;
    assert!(cluster.agree(&[1, 2], "all").await);
    cluster.link(0, 1, Mode::Open);
    cluster.healed(&[0, 1, 2], HEALING_TIMEOUT).await;
    assert!(clients.iter().all(|client| !client.has_ended()));
    watch.end().await.all_answered();
}
