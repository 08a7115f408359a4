//! Redis goes back in time within one process, or its clock steps. A roll call may then be incomplete, and is never wrong.

use std::time::Duration;

use testkit::process_cluster::{Options, ProcessCluster};
use testkit::redis_server::RedisServer;
use testkit::tracked_client::TrackedClient;
use testkit::watch::Watch;
use testkit::within;
use tokio::time::sleep;

/// The index is complete within this time after the fault.
const HEALING_TIMEOUT: Duration = Duration::from_secs(8);
const ALL: [usize; 3] = [0, 1, 2];

/// Three nodes over this Redis, with sockets in a common room and in one room per node.
async fn three(redis: RedisServer, options: Options) -> (ProcessCluster, Vec<TrackedClient>) {
    let cluster = ProcessCluster::start_over(redis, 3, options).await;
    let mut clients = Vec::new();
    for node in ALL {
        clients.push(cluster.connect(node, "early", &["all", &format!("on-{node}")]).await);
    }
    cluster.healed(&ALL, HEALING_TIMEOUT).await;
    (cluster, clients)
}

fn watch(cluster: &ProcessCluster) -> Watch {
    Watch::start(cluster, &ALL, &["all", "on-0", "on-1", "on-2", "late-0", "late-1", "late-2"])
}

async fn clients_come(cluster: &ProcessCluster, clients: &mut Vec<TrackedClient>) {
    for node in ALL {
        clients.push(cluster.connect(node, "late", &["all", &format!("late-{node}")]).await);
    }
}

async fn ends_well(cluster: &ProcessCluster, clients: &[TrackedClient], watch: Watch) {
    cluster.healed(&ALL, HEALING_TIMEOUT).await;
    assert!(clients.iter().all(|client| !client.has_ended()), "sockets stay");
    let report = watch.end().await;
    report.all_answered();
    assert!(report.answered.iter().any(|answered| answered.call.complete), "some answers are complete");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_is_demoted_and_promoted_with_older_data() {
    let (cluster, mut clients) = three(RedisServer::start().await, Options::default()).await;
    let lagging = RedisServer::replica_of(&cluster.redis).await;
    cluster.healed(&ALL, HEALING_TIMEOUT).await;
    let watch = watch(&cluster);
    lagging.promote().await;
    clients_come(&cluster, &mut clients).await;
    cluster.redis.follow(&lagging).await;
    cluster.redis.promote().await;
    for room in ["all", "on-0", "late-0", "late-1", "late-2"] {
        assert!(cluster.all_listed(&ALL, room).await, "{room}");
    }
    ends_well(&cluster, &clients, watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapped_databases_are_noticed_at_the_next_renewal() {
    let (cluster, mut clients) = three(RedisServer::start().await, Options::default()).await;
    let copy = cluster.redis.keys("*").await;
    let mut copying = redis::pipe();
    for key in &copy {
        copying.cmd("COPY").arg(key).arg(key).arg("DB").arg(1).ignore();
        // Otherwise the copy of the epoch expires during the test, which readers notice at once.
        copying.cmd("SELECT").arg(1).ignore();
        copying.cmd("PERSIST").arg(key).ignore();
        copying.cmd("SELECT").arg(0).ignore();
    }
    copying.query_async::<()>(&mut cluster.redis.connection().await).await.unwrap();
    sleep(cluster.options.lease / 2).await;
    clients_come(&cluster, &mut clients).await;
    cluster.redis.run::<()>(redis::cmd("SWAPDB").arg(0).arg(1)).await;
    // A node renews five times per lease.
    within(cluster.options.lease, "every node takes a new incarnation", async || {
        ALL.iter().all(|node| cluster.nodes[*node].log.count("starting a new incarnation") > 0)
    })
    .await;
    let watch = watch(&cluster);
    ends_well(&cluster, &clients, watch).await;
    let noticed = ALL.iter().filter(|node| cluster.nodes[**node].log.count("its data went back") > 0);
    assert!(noticed.count() > 0, "a node logs the reason");
}

/// Steps the clock of Redis by these parts of a lease, one after another, with clients that come before each step.
async fn the_clock_steps(parts: &[f64]) {
    let (cluster, mut clients) = three(RedisServer::start_with_clock().await, Options::default()).await;
    let watch = watch(&cluster);
    for (step, part) in parts.iter().enumerate() {
        clients_come(&cluster, &mut clients).await;
        cluster.redis.step_clock(part * cluster.options.lease.as_secs_f64()).await;
        for room in ["all", "on-0", "late-0", "late-1", "late-2"] {
            assert!(cluster.all_listed(&ALL, room).await, "{room} after a step of {part} leases");
        }
        within(cluster.options.lease, "every node logs the step", async || {
            let logged = |node: &usize| cluster.nodes[*node].log.count("the clock of redis has stepped") > step;
            ALL.iter().all(logged)
        })
        .await;
        cluster.healed(&ALL, HEALING_TIMEOUT).await;
    }
    ends_well(&cluster, &clients, watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_of_redis_steps_forward_by_about_a_lease() {
    the_clock_steps(&[0.4, 0.6, 0.9, 1.1, 2.0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_of_redis_steps_past_every_expiry() {
    the_clock_steps(&[350.0, 350.0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_of_redis_steps_back_by_an_hour_and_forth() {
    the_clock_steps(&[-1800.0, 1800.0]).await;
}
