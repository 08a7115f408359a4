//! Redis topologies of production: a master with replicas and three Sentinels, and a Redis Cluster of three masters.
//!
//! Owns their setup and the failovers between them. Timeouts are short, so that a failover takes seconds.
//! [`RedisServer`] owns the processes.

use std::net::SocketAddr;

use futures::future::join_all;
use redis::Cmd;

use crate::redis_server::RedisServer;
use crate::until;

/// The Sentinels' name of the master.
pub const NAME: &str = "roll";
/// The key prefix on a Redis Cluster. Its hash tag puts all keys into one slot.
pub const TAGGED: &str = "{rollcall}:";

/// The slots of each master.
const SLOT_RANGES: [(u16, u16); 3] = [(0, 5460), (5461, 10_922), (10_923, 16_383)];

/// Three Sentinels.
pub struct Sentinels(pub Vec<RedisServer>);

/// The nodes of a Redis Cluster.
pub struct Shards {
    /// The master of the keys' slot.
    pub owner: RedisServer,
    /// The masters of the other slots.
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
    /// Starts three Sentinels that monitor this master. Returns when they know each other and its replicas.
    pub async fn over(master: &RedisServer, replicas: usize) -> Self {
        let sentinels = Self(join_all((0..3).map(|_| RedisServer::sentinel(""))).await);
        sentinels.monitor(master).await;
        let (others, replicas) = (2.to_string(), replicas.to_string());
        for sentinel in &sentinels.0 {
            until("the Sentinels know each other and the replicas", || async {
                let fields = master_fields(sentinel).await;
                fields.contains(&("num-other-sentinels".to_owned(), others.clone()))
                    && fields.contains(&("num-slaves".to_owned(), replicas.clone()))
            })
            .await;
        }
        sentinels
    }

    /// Makes the Sentinels monitor this master, which they do not know yet.
    pub async fn monitor(&self, master: &RedisServer) {
        for sentinel in &self.0 {
            let monitor = format!("SENTINEL MONITOR {NAME} {} 2", ip_and_port(master.address));
            sentinel.run::<()>(&mut command(&monitor)).await;
            let timeouts = format!("SENTINEL SET {NAME} down-after-milliseconds 500 failover-timeout 3000");
            sentinel.run::<()>(&mut command(&timeouts)).await;
        }
    }

    /// Makes the Sentinels forget the master.
    pub async fn forget(&self) {
        for sentinel in &self.0 {
            sentinel.run::<()>(&mut command(&format!("SENTINEL REMOVE {NAME}"))).await;
        }
    }

    /// Begins a failover although the master is healthy.
    pub async fn fail_over(&self) {
        self.0[0].run::<()>(&mut command(&format!("SENTINEL FAILOVER {NAME}"))).await;
    }

    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.0.iter().map(|sentinel| sentinel.address.to_string()).collect();
        format!("redis-sentinel://{}/{NAME}", addresses.join(","))
    }
}

/// A Sentinel's fields of the master.
async fn master_fields(sentinel: &RedisServer) -> Vec<(String, String)> {
    sentinel.run(&mut command(&format!("SENTINEL MASTER {NAME}"))).await
}

impl Shards {
    pub async fn start() -> Self {
        let mut masters = join_all(SLOT_RANGES.map(|_| RedisServer::cluster_node())).await;
        let mut epoch = 0;
        for (master, (first, last)) in masters.iter().zip(SLOT_RANGES) {
            epoch += 1;
            master.run::<()>(&mut command(&format!("CLUSTER SET-CONFIG-EPOCH {epoch}"))).await;
            master.run::<()>(&mut command(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"))).await;
            meet(&masters[0], master).await;
        }
        join_all(masters.iter().map(|master| knows(master, 3))).await;
        let slot: u16 = masters[0].run(&mut command(&format!("CLUSTER KEYSLOT {TAGGED}epoch"))).await;
        let owner = SLOT_RANGES.iter().position(|(first, last)| (*first..=*last).contains(&slot)).unwrap();
        Self { owner: masters.remove(owner), others: masters }
    }

    /// Adds a replica of the owner that has caught up.
    pub async fn replica(&self) -> RedisServer {
        let replica = RedisServer::cluster_node().await;
        meet(&self.owner, &replica).await;
        let nodes = self.others.iter().chain([&self.owner, &replica]);
        join_all(nodes.map(|node| knows(node, 4))).await;
        let owner = id(&self.owner).await;
        replica.run::<()>(&mut command(&format!("CLUSTER REPLICATE {owner}"))).await;
        until("the replica has caught up", || replica.says("master_link_status:up")).await;
        // The other masters vote in a failover. Each must know first that this node is a replica of the owner.
        until("the other masters know the replica", || async {
            let list = async |node: &RedisServer| node.run::<String>(&mut command("CLUSTER NODES")).await;
            let lists = join_all(self.others.iter().map(list)).await;
            lists.iter().all(|list| list.lines().any(|line| line.contains("slave") && line.contains(&owner)))
        })
        .await;
        replica
    }

    /// Moves the keys' slot, which must be empty, from its owner to another master.
    pub async fn move_slot(&mut self) {
        let new_owner = self.others.remove(0);
        self.assign_slot(new_owner).await;
    }

    /// Moves the keys' slot with its keys to another master.
    pub async fn migrate_slot(&mut self) {
        let new_owner = self.others.remove(0);
        self.migrate_slot_to(new_owner).await;
    }

    /// Moves the keys' slot with its keys to its previous owner.
    pub async fn migrate_slot_back(&mut self) {
        let new_owner = self.others.pop().expect("there are three masters");
        self.migrate_slot_to(new_owner).await;
    }

    async fn migrate_slot_to(&mut self, new_owner: RedisServer) {
        let slot = self.slot().await;
        let (from, to) = (id(&self.owner).await, id(&new_owner).await);
        new_owner.run::<()>(&mut command(&format!("CLUSTER SETSLOT {slot} IMPORTING {from}"))).await;
        self.owner.run::<()>(&mut command(&format!("CLUSTER SETSLOT {slot} MIGRATING {to}"))).await;
        let keys: Vec<String> = self.owner.run(&mut command(&format!("CLUSTER GETKEYSINSLOT {slot} 1000"))).await;
        let mut migrate = command("MIGRATE");
        migrate.arg(new_owner.address.ip().to_string()).arg(new_owner.address.port());
        migrate.arg("").arg(0).arg(5000).arg("KEYS").arg(keys);
        self.owner.run::<()>(&mut migrate).await;
        self.assign_slot(new_owner).await;
    }

    async fn slot(&self) -> u16 {
        self.owner.run(&mut command(&format!("CLUSTER KEYSLOT {TAGGED}epoch"))).await
    }

    /// Makes `new_owner` the owner of the keys' slot.
    async fn assign_slot(&mut self, new_owner: RedisServer) {
        let assign = format!("CLUSTER SETSLOT {} NODE {}", self.slot().await, id(&new_owner).await);
        for node in [&new_owner, &self.owner].into_iter().chain(&self.others) {
            node.run::<()>(&mut command(&assign)).await;
        }
        self.others.push(std::mem::replace(&mut self.owner, new_owner));
    }

    pub fn url(&self) -> String {
        let nodes = self.others.iter().chain([&self.owner]);
        let addresses: Vec<String> = nodes.map(|node| node.address.to_string()).collect();
        format!("redis-cluster://{}", addresses.join(","))
    }
}

/// Begins a failover to this replica of a Redis Cluster although its master is healthy.
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

/// Ends when a node knows `count` nodes and every slot has a master.
async fn knows(node: &RedisServer, count: usize) {
    let known = format!("cluster_known_nodes:{count}\r");
    until("the Redis Cluster is complete", || async {
        let about: String = node.run(&mut command("CLUSTER INFO")).await;
        about.contains("cluster_state:ok") && about.contains(&known)
    })
    .await;
}
