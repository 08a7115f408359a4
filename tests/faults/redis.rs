//! Redis that hangs, dies, loses data, restarts from an old snapshot, or answers with errors. Sockets stay, new clients
//! connect, and roll calls continue. No answer is called complete unless it is, until the index is complete again.

use std::time::Duration;

use serde_json::Value;
use testkit::process_cluster::{Options, ProcessCluster};
use testkit::proxy::Mode;
use testkit::redis_server::RedisServer;
use testkit::tracked_client::{Refused, TrackedClient};
use testkit::watch::{SLACK, Watch};
use testkit::{until, within};
use tokio::time::sleep;

/// The index is complete within this time after the recovery of Redis.
const HEALING_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum of warnings of a node during one outage of Redis.
const MAX_WARNINGS: usize = 6;

/// Three nodes with sockets in a common room and in one room per node.
async fn three(options: Options) -> (ProcessCluster, Vec<TrackedClient>) {
    let cluster = ProcessCluster::start(3, options).await;
    let mut clients = Vec::new();
    for node in 0..3 {
        clients.push(cluster.connect(node, "early", &["all", &format!("on-{node}")]).await);
    }
    cluster.healed(&[0, 1, 2], HEALING_TIMEOUT).await;
    (cluster, clients)
}

fn watch(cluster: &ProcessCluster) -> Watch {
    Watch::start(cluster, &[0, 1, 2], &["all", "on-0", "on-1", "on-2", "late-0", "late-1", "late-2"])
}

/// Asserts the behaviour during an outage of Redis: every socket stays, every node accepts new clients, and every node
/// lists all sockets by lookups at all peers.
async fn life_goes_on_without_redis(cluster: &ProcessCluster, clients: &mut Vec<TrackedClient>) {
    until("the answers come from the peers", || async {
        let mut from_peers = true;
        for node in 0..3 {
            let (full, call) = cluster.call(node, "all").await;
            let took = call.answered - call.asked;
            assert!(took < cluster.options.deadline + SLACK, "{took:?}");
            from_peers &= full["source"] == "peers";
        }
        from_peers
    })
    .await;
    for node in 0..3 {
        clients.push(cluster.connect(node, "late", &["all", &format!("late-{node}")]).await);
        assert!(cluster.all_listed(&[0, 1, 2], "all").await);
        assert!(cluster.all_listed(&[0, 1, 2], &format!("late-{node}")).await);
    }
    for client in clients.iter() {
        assert!(client.join("joined").await, "the node acknowledges the join");
    }
    assert!(cluster.all_listed(&[0, 1, 2], "joined").await);
    assert!(clients.iter().all(|client| !client.has_ended()), "sockets stay");
}

/// Asserts the behaviour after the recovery of Redis.
async fn healed(cluster: &ProcessCluster, clients: &[TrackedClient], watch: Watch) {
    cluster.healed(&[0, 1, 2], HEALING_TIMEOUT).await;
    assert!(clients.iter().all(|client| !client.has_ended()), "sockets stay");
    watch.end().await.all_answered();
    let (full, _) = cluster.call(0, "nobody").await;
    assert_eq!(full["source"], "directory", "{full}");
    warned_once(cluster);
}

/// Asserts that a node warns at the start and the end of an outage, not once per call.
fn warned_once(cluster: &ProcessCluster) {
    for node in &cluster.nodes {
        let log = node.log.text();
        let warnings: Vec<&str> = log.lines().filter(|line| line.contains(" WARN ")).collect();
        assert!(!warnings.is_empty(), "{} logged no warning", node.name);
        assert!(warnings.len() <= MAX_WARNINGS, "{} warned too often:\n{}", node.name, warnings.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_hangs_and_resumes() {
    let (cluster, mut clients) = three(Options::default()).await;
    let watch = watch(&cluster);
    cluster.redis.stop().await;
    life_goes_on_without_redis(&cluster, &mut clients).await;
    // All leases expire meanwhile. No node declares another dead, since no node can read a lease.
    sleep(cluster.options.lease).await;
    assert!(cluster.all_listed(&[0, 1, 2], "all").await);
    cluster.redis.resume();
    healed(&cluster, &clients, watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_hangs_for_a_moment() {
    let (cluster, clients) = three(Options::default()).await;
    let watch = watch(&cluster);
    cluster.redis.stop().await;
    sleep(Duration::from_millis(700)).await;
    assert!(cluster.all_listed(&[0, 1, 2], "all").await);
    cluster.redis.resume();
    cluster.healed(&[0, 1, 2], HEALING_TIMEOUT).await;
    assert!(clients.iter().all(|client| !client.has_ended()), "sockets stay");
    watch.end().await.all_answered();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_dies_and_comes_back_empty() {
    let (mut cluster, mut clients) = three(Options::default()).await;
    let watch = watch(&cluster);
    cluster.redis.kill();
    life_goes_on_without_redis(&cluster, &mut clients).await;
    sleep(cluster.options.lease).await;
    assert!(cluster.all_listed(&[0, 1, 2], "all").await);
    cluster.redis.restart_empty().await;
    healed(&cluster, &clients, watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_flushed() {
    let (cluster, mut clients) = three(Options::default()).await;
    let watch = watch(&cluster);
    for turn in 0..3 {
        cluster.redis.flush().await;
        // The first read of the empty index detects the loss.
        for node in 0..3 {
            assert!(cluster.all_listed(&[node], "all").await);
        }
        clients.push(cluster.connect(turn, "late", &["all", &format!("late-{turn}")]).await);
        assert!(cluster.all_listed(&[0, 1, 2], &format!("late-{turn}")).await);
        cluster.healed(&[0, 1, 2], HEALING_TIMEOUT).await;
    }
    assert!(clients.iter().all(|client| !client.has_ended()), "sockets stay");
    watch.end().await.all_answered();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_at_any_moment_of_a_roll_call_hides_no_socket() {
    let (cluster, _clients) = three(Options::lease(1)).await;
    let watch = watch(&cluster);
    // Some flushes happen between a claim and its answer, and between the reads of a roll call.
    for turn in 0..40 {
        let room = format!("late-{}", turn % 3);
        let client = cluster.connect(turn % 3, "comes", &[&room, "all"]).await;
        tokio::join!(watch.asks_now(&room), cluster.redis.flush());
        drop(client);
        sleep(Duration::from_millis(30 + 7 * (turn as u64 % 11))).await;
    }
    cluster.healed(&[0, 1, 2], HEALING_TIMEOUT).await;
    let report = watch.end().await;
    report.all_answered();
    let complete = report.answered.iter().filter(|answered| answered.call.complete).count();
    assert!(complete * 2 > report.answered.len(), "only {complete} of {} answers are complete", report.answered.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_restarted_from_an_old_snapshot() {
    let (mut cluster, mut clients) = three(Options::default()).await;
    let old = cluster.redis.snapshot().await;
    let watch = watch(&cluster);
    // The snapshot lacks the new claims, and has one claim that a node releases after the snapshot.
    for node in 0..3 {
        clients.push(cluster.connect(node, "late", &["all", &format!("late-{node}")]).await);
    }
    assert!(clients[0].leave("on-0").await);
    within(HEALING_TIMEOUT, "the node releases the claim", || async {
        cluster.differences(&[0, 1, 2]).await.is_empty()
    })
    .await;
    cluster.redis.restart_from(&old, &[]);
    cluster.redis.answering().await;
    for room in ["all", "late-0", "late-1", "late-2"] {
        assert!(cluster.all_listed(&[0, 1, 2], room).await, "{room}");
    }
    healed(&cluster, &clients, watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_replica_lacks_the_last_ownerships() {
    let (mut cluster, mut clients) = three(Options::proxied()).await;
    let replica = RedisServer::replica_of(&cluster.redis).await;
    let watch = watch(&cluster);
    replica.stop().await;
    for node in 0..3 {
        clients.push(cluster.connect(node, "late", &["all", &format!("late-{node}")]).await);
    }
    cluster.redis.kill();
    replica.resume();
    replica.promote().await;
    cluster.point_to(&replica);
    for room in ["all", "late-0", "late-1", "late-2"] {
        assert!(cluster.all_listed(&[0, 1, 2], room).await, "{room}");
    }
    cluster.redis = replica;
    healed(&cluster, &clients, watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_became_a_replica_counts_as_unavailable() {
    let (cluster, mut clients) = three(Options::default()).await;
    let watch = watch(&cluster);
    cluster.redis.demote().await;
    life_goes_on_without_redis(&cluster, &mut clients).await;
    sleep(cluster.options.lease).await;
    cluster.redis.promote().await;
    healed(&cluster, &clients, watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_out_of_memory_counts_as_unavailable() {
    let (cluster, mut clients) = three(Options::default()).await;
    let watch = watch(&cluster);
    cluster.redis.config("maxmemory", "1").await;
    writes_are_refused(&cluster, &mut clients).await;
    cluster.redis.config("maxmemory", "0").await;
    healed(&cluster, &clients, watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_cannot_save_counts_as_unavailable() {
    let (cluster, mut clients) = three(Options::default()).await;
    let watch = watch(&cluster);
    cluster.redis.break_saving().await;
    writes_are_refused(&cluster, &mut clients).await;
    cluster.redis.mend_saving().await;
    healed(&cluster, &clients, watch).await;
}

/// Asserts the behaviour while Redis refuses writes: reads still work, but nodes renew no lease and claim no room.
async fn writes_are_refused(cluster: &ProcessCluster, clients: &mut Vec<TrackedClient>) {
    // After every lease has expired, the announcements among the nodes keep them members.
    sleep(cluster.options.lease * 3 / 2).await;
    for node in 0..3 {
        clients.push(cluster.connect(node, "late", &["all", &format!("late-{node}")]).await);
        assert!(cluster.all_listed(&[0, 1, 2], "all").await);
        assert!(cluster.all_listed(&[0, 1, 2], &format!("late-{node}")).await);
        let (full, _) = cluster.call(node, "all").await;
        assert_eq!(full["source"], "peers", "{full}");
    }
    sleep(cluster.options.lease).await;
    for room in ["all", "on-0", "on-1", "on-2", "late-0"] {
        assert!(cluster.all_listed(&[0, 1, 2], room).await, "{room}");
    }
    assert!(clients.iter().all(|client| !client.has_ended()), "sockets stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_still_loading_counts_as_unavailable() {
    let (mut cluster, mut clients) = three(Options::default()).await;
    // The snapshot has enough keys for a slow load, at one key per millisecond.
    let mut filling = redis::pipe();
    for number in 0..4000 {
        filling.cmd("SET").arg(format!("other:{number}")).arg("x".repeat(100)).ignore();
    }
    filling.query_async::<()>(&mut cluster.redis.connection().await).await.unwrap();
    let full = cluster.redis.snapshot().await;
    let watch = watch(&cluster);
    let slowly = ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"];
    cluster.redis.restart_from(&full, &slowly);
    life_goes_on_without_redis(&cluster, &mut clients).await;
    assert!(cluster.redis.is_loading().await, "Redis loaded too fast for this test");
    cluster.redis.answering().await;
    cluster.redis.run::<()>(redis::cmd("CONFIG").arg("SET").arg("key-load-delay").arg("0")).await;
    healed(&cluster, &clients, watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_may_evict_is_refused_with_the_remedy() {
    let mut cluster = ProcessCluster::prepare(Options::default()).await;
    cluster.redis.config("maxmemory-policy", "allkeys-lru").await;
    let node = cluster.launch().await;
    assert_eq!(cluster.exited(node).await.code(), Some(1));
    let said = cluster.nodes[node].log.text();
    assert!(said.contains("CONFIG SET maxmemory-policy noeviction"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_may_evict_is_used_when_that_is_allowed() {
    let mut cluster = ProcessCluster::prepare(Options::default().with(&["--redis-allow-eviction"])).await;
    cluster.redis.config("maxmemory-policy", "allkeys-lru").await;
    let node = cluster.launch().await;
    cluster.settled(&[node]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_returns_evicting_is_not_used_until_fixed() {
    let (mut cluster, mut clients) = three(Options::default()).await;
    let watch = watch(&cluster);
    cluster.redis.restart_from(&[], &["--maxmemory-policy", "volatile-ttl"]);
    cluster.redis.answering().await;
    life_goes_on_without_redis(&cluster, &mut clients).await;
    assert!(cluster.redis.keys("rollcall:*").await.is_empty(), "no node writes to an evicting Redis");
    for node in &cluster.nodes {
        until("the node logs the remedy", || async { node.log.count("CONFIG SET maxmemory-policy noeviction") > 0 })
            .await;
    }
    cluster.redis.config("maxmemory-policy", "noeviction").await;
    healed(&cluster, &clients, watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_started_without_redis_serves_once_redis_is_up() {
    let mut cluster = ProcessCluster::prepare(Options::default()).await;
    cluster.redis.kill();
    let node = cluster.launch().await;
    let admin = format!("http://{}/readyz", cluster.nodes[node].admin);
    until("the node answers probes", || async { reqwest::get(&admin).await.is_ok() }).await;
    let answer = reqwest::get(&admin).await.unwrap();
    assert_eq!(answer.status(), 503);
    let why: Value = answer.json().await.unwrap();
    assert_eq!(why["ready"], false, "{why}");
    assert!(why["directory"].as_str().is_some_and(|directory| directory != "ok"), "{why}");
    let refused = cluster.try_connect(node, "early", &["a"]).await.err();
    assert_eq!(refused, Some(Refused::Status(503)));
    for path in ["users", "rollcall"] {
        let answer = reqwest::get(format!("http://{}/a/{path}", cluster.nodes[node].public)).await.unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
    cluster.redis.restart_empty().await;
    within(HEALING_TIMEOUT, "the node is ready", || cluster.ready(node)).await;
    let _client = cluster.connect(node, "late", &["a"]).await;
    cluster.healed(&[node], HEALING_TIMEOUT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joined_just_before_redis_died_is_known_to_all() {
    for after in [0, 100] {
        let (mut cluster, mut clients) = three(Options::default()).await;
        let new = cluster.launch().await;
        within(Duration::from_secs(10), "the node is registered", || async {
            cluster.nodes[new].log.count("registered in the directory") > 0
        })
        .await;
        sleep(Duration::from_millis(after)).await;
        let watch = watch(&cluster);
        cluster.redis.kill();
        // From its first accepted client on, the other nodes send lookups to the new node.
        let client = cluster.persist(new, "new", &["all", "new"]).await;
        for node in 0..4 {
            let (full, call) = cluster.call(node, "new").await;
            let listed = call.rows.iter().any(|row| row.socket == client.socket);
            assert!(listed, "{after} ms, node {node}: {full}");
        }
        clients.push(client);
        cluster.redis.restart_empty().await;
        cluster.healed(&[0, 1, 2, 3], HEALING_TIMEOUT).await;
        watch.end().await.all_answered();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_refilled_while_redis_hangs_is_never_lost() {
    let (cluster, clients) = three(Options::default()).await;
    let watch = watch(&cluster);
    let client = &clients[0];
    for turn in 0..12_u64 {
        let room = "late-0";
        assert!(client.join(room).await);
        assert!(client.leave(room).await);
        // A node releases a claim one and a half seconds after the last socket leaves. The hang of Redis begins before
        // the removal, after it, or before its answer.
        sleep(Duration::from_millis(1440 + 10 * turn)).await;
        cluster.redis.stop().await;
        let (joined, ()) = tokio::join!(client.join(room), async {
            sleep(Duration::from_millis(100 * (turn % 3) + 50)).await;
            cluster.redis.resume();
        });
        assert!(joined);
        for node in 0..3 {
            let (full, call) = cluster.call(node, room).await;
            assert!(!call.complete || call.rows.len() == 1, "turn {turn}, node {node}: {full}");
        }
        assert!(client.leave(room).await);
    }
    cluster.healed(&[0, 1, 2], HEALING_TIMEOUT).await;
    watch.end().await.all_answered();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_removal_does_not_delete_a_newer_ownership() {
    let (cluster, clients) = three(Options::proxied()).await;
    let watch = watch(&cluster);
    let client = &clients[0];
    for turn in 0..4_u64 {
        assert!(client.join("late-0").await);
        assert!(client.leave("late-0").await);
        // The proxy delays requests of the node by one and a half seconds, which exceeds the timeout of the node.
        sleep(Duration::from_millis(1300)).await;
        cluster.link_to_redis(0, Mode::Delayed(Duration::from_millis(1500)));
        sleep(Duration::from_millis(300 + 100 * turn)).await;
        assert!(client.join("late-0").await);
        assert!(cluster.all_listed(&[0, 1, 2], "late-0").await);
        cluster.link_to_redis(0, Mode::Open);
        cluster.healed(&[0, 1, 2], HEALING_TIMEOUT).await;
        assert!(client.leave("late-0").await);
    }
    watch.end().await.all_answered();
}
