//! Three Sentinels watch a master. The master fails, and its replica takes over.

use testkit::redis_server::RedisServer;
use testkit::redis_topology::Sentinels;

use super::scene::Scene;

async fn start() -> (Scene, RedisServer, Sentinels) {
    let master = RedisServer::start().await;
    let replica = RedisServer::replica_of(&master).await;
    let sentinels = Sentinels::over(&master, 1).await;
    let scene = Scene::start(master, sentinels.url(), "rollcall:").await;
    (scene, replica, sentinels)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: make failover"]
async fn the_sentinel_master_is_killed() {
    let (scene, replica, _sentinels) = start().await;
    scene.master_is_killed(replica).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: make failover"]
async fn a_hung_sentinel_master_resumes_after_its_replacement() {
    let (mut scene, replica, _sentinels) = start().await;
    let old = scene.master_hangs_until_replaced(replica).await;
    // The old master keeps its role until the Sentinels demote it.
    assert!(old.says("role:master").await);
    scene.clients_come("last").await;
    scene.stands_back(&old).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: make failover"]
async fn sentinels_replace_a_healthy_master() {
    let (scene, replica, sentinels) = start().await;
    sentinels.fail_over().await;
    scene.healthy_master_is_replaced(replica).await;
}
