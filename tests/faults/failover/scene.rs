//! The common part of every failover test: three nodes with clients, a watch over all rooms, and the assertions before,
//! during and after the failover.

use std::time::{Duration, Instant};

use testkit::process_cluster::{Options, ProcessCluster};
use testkit::redis_server::RedisServer;
use testkit::tracked_client::TrackedClient;
use testkit::watch::Watch;
use testkit::within;

/// The index is complete within this time after the promotion. The new index must be older than a lease (2 s) before
/// nodes that had lost the old index for longer trust their list of members.
const HEALING_TIMEOUT: Duration = Duration::from_secs(8);
/// Sentinels detect the failure, elect a leader and promote the replica within this time. They wait for ten seconds
/// before they demote an old master that returns.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(30);
const ALL: [usize; 3] = [0, 1, 2];

pub(crate) struct Scene {
    pub cluster: ProcessCluster,
    clients: Vec<TrackedClient>,
    watch: Watch,
    /// The time at which the index was complete again.
    whole: Option<Instant>,
}

impl Scene {
    /// Starts nodes with this `--redis` over this master, with sockets in a common room and in one room per node.
    pub(crate) async fn start(master: RedisServer, url: String, prefix: &'static str) -> Self {
        let options = Options { redis: Some(url), prefix, ..Options::default() };
        let cluster = ProcessCluster::start_over(master, 3, options).await;
        let mut clients = Vec::new();
        for node in ALL {
            clients.push(cluster.connect(node, "early", &["all", &format!("on-{node}")]).await);
        }
        cluster.healed(&ALL, HEALING_TIMEOUT).await;
        let rooms =
            ["all", "on-0", "on-1", "on-2", "late-0", "late-1", "late-2", "last-0", "last-1", "last-2", "nobody"];
        let watch = Watch::start(&cluster, &ALL, &rooms);
        watch.sees_another().await;
        Self { cluster, clients, watch, whole: None }
    }

    /// The whole scenario of a master that dies.
    pub(crate) async fn master_is_killed(mut self, replica: RedisServer) {
        self.cluster.redis.kill();
        self.clients_come("late").await;
        self.taken_over_by(replica).await;
        self.clients_come("last").await;
        self.end().await;
    }

    /// The master hangs, and resumes when the replica has taken over. Returns it.
    pub(crate) async fn master_hangs_until_replaced(&mut self, replica: RedisServer) -> RedisServer {
        self.cluster.redis.stop().await;
        self.clients_come("late").await;
        let old = self.taken_over_by(replica).await;
        old.resume();
        old
    }

    /// The scenario of a failover that was requested from a healthy master, after the request.
    pub(crate) async fn healthy_master_is_replaced(mut self, replica: RedisServer) {
        self.clients_come("late").await;
        let old = self.taken_over_by(replica).await;
        self.stands_back(&old).await;
        self.clients_come("last").await;
        self.end().await;
    }

    /// Connects a new client to every node, and asserts that all nodes list it.
    pub(crate) async fn clients_come(&mut self, when: &str) {
        for node in ALL {
            let room = format!("{when}-{node}");
            self.clients.push(self.cluster.connect(node, when, &["all", &room]).await);
            for room in ["all", &room] {
                assert!(self.cluster.all_listed(&ALL, room).await, "{room}");
            }
        }
    }

    /// Waits until the successor is the master and has the complete index. Returns the old master.
    async fn taken_over_by(&mut self, successor: RedisServer) -> RedisServer {
        let took = within(TAKEOVER_TIMEOUT, "the replica is promoted", || successor.says("role:master")).await;
        let old = std::mem::replace(&mut self.cluster.redis, successor);
        let healed = self.cluster.healed(&ALL, HEALING_TIMEOUT).await;
        self.whole = Some(Instant::now());
        println!("promoted after {took:?}, index complete {healed:?} later");
        old
    }

    /// Waits until the old master is a replica of the new one.
    pub(crate) async fn stands_back(&self, old: &RedisServer) {
        within(TAKEOVER_TIMEOUT, "the old master is a replica", || old.says("role:slave")).await;
    }

    /// Asserts that no answer was wrong, late or missing, that every socket stayed, and that answers come from the index.
    pub(crate) async fn end(self) {
        self.cluster.healed(&ALL, HEALING_TIMEOUT).await;
        assert!(self.clients.iter().all(|client| !client.has_ended()), "sockets stay");
        assert_eq!(self.cluster.oracle.disconnects(), 0);
        for node in ALL {
            let (full, call) = self.cluster.call(node, "nobody").await;
            assert!(call.complete && full["source"] == "directory", "{full}");
        }
        self.watch.sees_another().await;
        let (whole, now) = (self.whole.expect("a replica took over"), Instant::now());
        let report = self.watch.end().await;
        report.all_answered();
        let complete = report.answered.iter().filter(|answered| answered.call.complete).count();
        println!("{} answers, {complete} of them complete", report.answered.len());
        assert!(
            report.between(whole, now).any(|answered| answered.call.complete),
            "answers are complete after the failover"
        );
    }
}
