//! A flush of the reconciler: from the first of 1,000 joins of an owned room until the directory lists all of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use rollcall::directory::Directory;
use rollcall::directory::memory::MemoryDirectory;
use rollcall::directory::redis::RedisDirectory;
use rollcall::mesh::advertise::FixedAddress;
use rollcall::mesh::peers::Peers;
use rollcall::names::{NodeId, Room};
use rollcall::node::core::NodeCore;
use rollcall::node::tasks::EssentialTasks;
use rollcall::reconciler::{RELEASE_DELAY, SOCKET_WRITE_INTERVAL};
use rollcall::roll_call;
use rollcall::roll_call::cache::SnapshotCache;
use rollcall::telemetry::anomalies::Anomalies;
use testkit::PATIENCE;
use testkit::redis_server::RedisServer;
use tokio::runtime::Builder;
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::{join, node_info, room};

const JOINS: usize = 1_000;
/// Longer than the benchmark, because nothing renews the lease between two measurements.
const LEASE: Duration = Duration::from_secs(3600);

pub(crate) fn flush(criterion: &mut Criterion) {
    // One thread: with two, the second would spin in `wait_until_listed`, and the result would include the scheduler's
    // time slices.
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let redis = runtime.block_on(RedisServer::start_aged());
    let mut group = criterion.benchmark_group("flush 1000 joins");
    group.sample_size(20);
    let indexes: [(&str, Arc<dyn Directory>); 2] = [
        ("in memory", MemoryDirectory::new()),
        ("Redis", Arc::new(RedisDirectory::open(&redis.url(), "rollcall:", false).unwrap())),
    ];
    for (name, directory) in indexes {
        let (peers, cache) =
            (Peers::default(), SnapshotCache::new(roll_call::cache::DEFAULT_CACHE_BYTES, Anomalies::default()));
        let core = NodeCore::new(node_info(), LEASE, RELEASE_DELAY, Arc::clone(&directory), peers, cache);
        let mut tasks = EssentialTasks::default();
        let entered = runtime.enter();
        core.start(Arc::new(FixedAddress("127.0.0.1:1".into())), &mut tasks);
        drop(entered);
        let (node, room) = (core.roster.incarnation(), room("Maths"));
        // Keeps the room owned.
        let _resident = join(&core.roster, &room, 0..1);
        runtime.block_on(core.reconciler.wait_for_ownership(std::slice::from_ref(&room), PATIENCE)).unwrap();
        group.bench_function(name, |bencher| {
            bencher.to_async(&runtime).iter_custom(async |times| {
                let mut took = Duration::ZERO;
                for _ in 0..times {
                    // Excludes the interval after the previous write from the measurement.
                    sleep(2 * SOCKET_WRITE_INTERVAL).await;
                    let began = Instant::now();
                    let joined = join(&core.roster, &room, 1..1 + JOINS);
                    wait_until_listed(&*directory, &room, &node, 1 + JOINS).await;
                    took += began.elapsed();
                    drop(joined);
                    wait_until_listed(&*directory, &room, &node, 1).await;
                }
                took
            });
        });
    }
    group.finish();
}

/// Waits until the directory lists this number of sockets of the room.
async fn wait_until_listed(directory: &dyn Directory, room: &Room, node: &NodeId, sockets: usize) {
    while directory.leases_and_counts(room, std::slice::from_ref(node)).await.unwrap()[0].sockets != sockets as u64 {
        yield_now().await;
    }
}
