//! A Redis Cluster loses the master of the slot with all keys, and the replica takes over.

use testkit::redis_server::RedisServer;
use testkit::redis_topology::{Shards, TAGGED, fail_over};

use super::scene::Scene;

async fn start() -> (Scene, RedisServer, Vec<RedisServer>) {
    let shards = Shards::start().await;
    let replica = shards.replica().await;
    let url = shards.url();
    let Shards { owner, others } = shards;
    (Scene::start(owner, url, TAGGED).await, replica, others)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: make failover"]
async fn the_master_of_the_slot_is_killed() {
    let (scene, replica, _others) = start().await;
    scene.master_is_killed(replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: make failover"]
async fn a_hung_cluster_master_resumes_after_its_replacement() {
    let (mut scene, replica, _others) = start().await;
    let old = scene.master_hangs_until_replaced(replica).await;
    scene.clients_come("last").await;
    scene.stands_back(&old).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: make failover"]
async fn a_healthy_cluster_master_is_replaced() {
    let (scene, replica, _others) = start().await;
    fail_over(&replica).await;
    scene.healthy_master_is_replaced(replica).await;
}
