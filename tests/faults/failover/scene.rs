//! What is the same in every failover: three nodes with clients on each, a watch over all of their rooms, and what must
//! hold before, meanwhile and afterwards.

use std::time::{Duration, Instant};

use testkit::process_cluster::{Options, ProcessCluster};
use testkit::redis_server::RedisServer;
use testkit::tracked_client::TrackedClient;
use testkit::watch::Watch;
use testkit::within;

/// The index is whole so long after the new master took over: it is a new index, and has to be as old as a lease (2 s)
/// before those who had lost the old one for longer believe that they know everybody.
const HEALED_WITHIN: Duration = Duration::from_secs(8);
/// Sentinels notice, agree, choose and promote within this time; and wait for ten seconds before they demote an old
/// master that comes back.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(30);
const ALL: [usize; 3] = [0, 1, 2];

pub(crate) struct Scene {
    pub cluster: ProcessCluster,
    clients: Vec<TrackedClient>,
    watch: Watch,
    /// When the index was whole again.
    whole: Option<Instant>,
}

impl Scene {
    /// Nodes with this `--redis` over this master, with sockets in a common room and in one of each node's own.
    pub(crate) async fn start(master: RedisServer, url: String, prefix: &'static str) -> Self {
        let options = Options { redis: Some(url), prefix, ..Options::default() };
        let cluster = ProcessCluster::start_over(master, 3, options).await;
        let mut clients = Vec::new();
        for node in ALL {
            clients.push(cluster.connect(node, "early", &["all", &format!("on-{node}")]).await);
        }
        cluster.healed(&ALL, HEALED_WITHIN).await;
        let rooms =
            ["all", "on-0", "on-1", "on-2", "late-0", "late-1", "late-2", "last-0", "last-1", "last-2", "nobody"];
        let watch = Watch::start(&cluster, &ALL, &rooms);
        watch.sees_another().await;
        Self { cluster, clients, watch, whole: None }
    }

    /// New sockets come on every node and are listed by all.
    pub(crate) async fn clients_come(&mut self, when: &str) {
        for node in ALL {
            let room = format!("{when}-{node}");
            self.clients.push(self.cluster.connect(node, when, &["all", &room]).await);
            for room in ["all", &room] {
                assert!(self.cluster.all_listed(&ALL, room).await, "{room}");
            }
        }
    }

    /// Ends when the successor is the master and holds the whole index. Returns the old one.
    pub(crate) async fn taken_over_by(&mut self, successor: RedisServer) -> RedisServer {
        let took = within(TAKEN_OVER_WITHIN, "it is promoted", || successor.says("role:master")).await;
        let old = std::mem::replace(&mut self.cluster.redis, successor);
        let healed = self.cluster.healed(&ALL, HEALED_WITHIN).await;
        self.whole = Some(Instant::now());
        println!("promoted {took:?} after it was looked at, whole {healed:?} later");
        old
    }

    /// Ends when the old master has become a replica of the new one.
    pub(crate) async fn stands_back(&self, old: &RedisServer) {
        within(TAKEN_OVER_WITHIN, "the old master follows", || old.says("role:slave")).await;
    }

    /// No answer in all the time was wrong, late or missing; nobody has lost a socket; and answers come from the index.
    pub(crate) async fn end(self) {
        self.cluster.healed(&ALL, HEALED_WITHIN).await;
        assert!(self.clients.iter().all(|client| !client.has_ended()), "sockets stay");
        assert_eq!(self.cluster.oracle.disconnects(), 0);
        for node in ALL {
            let (full, call) = self.cluster.call(node, "nobody").await;
            assert!(call.complete && full["source"] == "directory", "{full}");
        }
        self.watch.sees_another().await;
        let (whole, now) = (self.whole.expect("somebody took over"), Instant::now());
        let report = self.watch.end().await;
        report.all_answered();
        let complete = report.answered.iter().filter(|answered| answered.call.complete).count();
        println!("{} answers, {complete} of them complete", report.answered.len());
        assert!(report.between(whole, now).any(|answered| answered.call.complete), "it is as before");
    }
}
