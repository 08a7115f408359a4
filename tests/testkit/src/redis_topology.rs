//! Redis as people run it: a master with a replica that three Sentinels watch, and a Cluster of three masters.
//!
//! Owns how they are put together and what they say of each other. Times are short, so that a failover takes seconds.
//! [`RedisServer`] has the processes.

use std::net::SocketAddr;

use futures::future::join_all;
use redis::Cmd;

use crate::redis_server::RedisServer;
use crate::until;

/// What the Sentinels know the master as.
pub const NAME: &str = "roll";
/// What the keys begin with on a Cluster.
pub const TAGGED: &str = "{rollcall}:";

const RANGES: [(u16, u16); 3] = [(0, 5460), (5461, 10_922), (10_923, 16_383)];

/// The Sentinels.
pub struct Sentinels(pub Vec<RedisServer>);

/// The nodes of a Cluster.
pub struct Shards {
    /// The master that has the slot of the keys.
    pub owner: RedisServer,
    /// The masters that have the other slots.
    pub others: Vec<RedisServer>,
}

fn command(words: &str) -> Cmd {
    let mut command = Cmd::new();
    for word in words.split(' ') {
        command.arg(word);
    }
    command
}

fn ip_and_port(address: SocketAddr) -> String {
    format!("{} {}", address.ip(), address.port())
}

impl Sentinels {
    /// Three that know each other, this master, and each replica that it has.
    pub async fn over(master: &RedisServer, replicas: usize) -> Self {
        let sentinels = Self(join_all((0..3).map(|_| RedisServer::sentinel(""))).await);
        sentinels.monitor(master).await;
        let (others, replicas) = (2.to_string(), replicas.to_string());
        for sentinel in &sentinels.0 {
            until("they know each other and the replicas", || async {
                let fields = about(sentinel).await;
                fields.contains(&("num-other-sentinels".to_owned(), others.clone()))
                    && fields.contains(&("num-slaves".to_owned(), replicas.clone()))
            })
            .await;
        }
        sentinels
    }

    /// Watch this master, which they do not know yet.
    pub async fn monitor(&self, master: &RedisServer) {
        for sentinel in &self.0 {
            let monitor = format!("SENTINEL MONITOR {NAME} {} 2", ip_and_port(master.address));
            sentinel.run::<()>(&mut command(&monitor)).await;
            let times = format!("SENTINEL SET {NAME} down-after-milliseconds 500 failover-timeout 3000");
            sentinel.run::<()>(&mut command(&times)).await;
        }
    }

    /// Forget the master.
    pub async fn forget(&self) {
        for sentinel in &self.0 {
            sentinel.run::<()>(&mut command(&format!("SENTINEL REMOVE {NAME}"))).await;
        }
    }

    /// Begin a failover although the master is well.
    pub async fn fail_over(&self) {
        self.0[0].run::<()>(&mut command(&format!("SENTINEL FAILOVER {NAME}"))).await;
    }

    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.0.iter().map(|sentinel| sentinel.address.to_string()).collect();
        format!("redis-sentinel://{}/{NAME}", addresses.join(","))
    }
}

/// What a Sentinel says of the master.
async fn about(sentinel: &RedisServer) -> Vec<(String, String)> {
    sentinel.run(&mut command(&format!("SENTINEL MASTER {NAME}"))).await
}

impl Shards {
    pub async fn start() -> Self {
        let mut masters = join_all(RANGES.map(|_| RedisServer::cluster_node())).await;
        let mut epoch = 0;
        for (master, (first, last)) in masters.iter().zip(RANGES) {
            epoch += 1;
            master.run::<()>(&mut command(&format!("CLUSTER SET-CONFIG-EPOCH {epoch}"))).await;
            master.run::<()>(&mut command(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"))).await;
            meet(&masters[0], master).await;
        }
        join_all(masters.iter().map(|master| knows(master, 3))).await;
        let slot: u16 = masters[0].run(&mut command(&format!("CLUSTER KEYSLOT {TAGGED}epoch"))).await;
        let owner = RANGES.iter().position(|(first, last)| (*first..=*last).contains(&slot)).unwrap();
        Self { owner: masters.remove(owner), others: masters }
    }

    /// One more node, which has what the owner has.
    pub async fn replica(&self) -> RedisServer {
        let replica = RedisServer::cluster_node().await;
        meet(&self.owner, &replica).await;
        let nodes = self.others.iter().chain([&self.owner, &replica]);
        join_all(nodes.map(|node| knows(node, 4))).await;
        let owner = id(&self.owner).await;
        replica.run::<()>(&mut command(&format!("CLUSTER REPLICATE {owner}"))).await;
        until("the replica has caught up", || replica.says("master_link_status:up")).await;
        // Who votes must know whose replica it is.
        until("the others know", || async {
            let list = async |node: &RedisServer| node.run::<String>(&mut command("CLUSTER NODES")).await;
            let lists = join_all(self.others.iter().map(list)).await;
            lists.iter().all(|list| list.lines().any(|line| line.contains("slave") && line.contains(&owner)))
        })
        .await;
        replica
    }

    /// Gives the slot of the keys, which must be empty, from its owner to another master.
    pub async fn move_slot(&mut self) {
        let slot: u16 = self.owner.run(&mut command(&format!("CLUSTER KEYSLOT {TAGGED}epoch"))).await;
        let heir = self.others.remove(0);
        let give = format!("CLUSTER SETSLOT {slot} NODE {}", id(&heir).await);
        for node in [&heir, &self.owner].into_iter().chain(&self.others) {
            node.run::<()>(&mut command(&give)).await;
        }
        self.others.push(std::mem::replace(&mut self.owner, heir));
    }

    pub fn url(&self) -> String {
        let nodes = self.others.iter().chain([&self.owner]);
        let addresses: Vec<String> = nodes.map(|node| node.address.to_string()).collect();
        format!("redis-cluster://{}", addresses.join(","))
    }
}

/// Begins a failover to this replica of a Cluster although its master is well.
pub async fn fail_over(replica: &RedisServer) {
    replica.run::<()>(&mut command("CLUSTER FAILOVER")).await;
}

async fn meet(node: &RedisServer, other: &RedisServer) {
    let meet = format!("CLUSTER MEET {} {}", ip_and_port(other.address), other.bus);
    node.run::<()>(&mut command(&meet)).await;
}

async fn id(node: &RedisServer) -> String {
    node.run(&mut command("CLUSTER MYID")).await
}

/// Ends when a node knows so many and that every slot is somebody's.
async fn knows(node: &RedisServer, count: usize) {
    let known = format!("cluster_known_nodes:{count}\r");
    until("the Cluster is whole", || async {
        let about: String = node.run(&mut command("CLUSTER INFO")).await;
        about.contains("cluster_state:ok") && about.contains(&known)
    })
    .await;
}
