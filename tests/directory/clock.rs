//! The clock of the index steps. Leases and claims expire only together with the epoch that makes them believed.

use std::time::Duration;

use rollcall::directory::memory::MemoryDirectory;
use rollcall::directory::{Directory, LeaseRenewal};
use rollcall::names::NodeId;
use testkit::redis_server::RedisServer;

use crate::{LEASE, connected, entry, room};

/// Steps the clock forward by each of these parts of a lease, and then by more than the lifetime of an owner set.
async fn an_epoch_never_outlives_what_it_vouches_for(directory: &dyn Directory, step: impl AsyncFn(f64)) {
    let lease = LEASE.as_secs_f64();
    let steps = [0.1, 0.3, 0.45, 0.55, 0.7, 0.9, 1.1, 3.0].map(|part| part * lease);
    for seconds in steps.into_iter().chain([599.0, 601.0, 86_400.0]) {
        let node = NodeId::new_process();
        directory.register(&node, &entry("one"), LEASE).await.unwrap().expect("a new node");
        directory.add_owner(&node, &[room("a")]).await.unwrap();
        step(seconds).await;
        let (listing, owners) = (directory.nodes().await.unwrap(), directory.owners(&room("a")).await.unwrap());
        let has_lease = listing.nodes.iter().any(|(listed, _)| *listed == node);
        assert!(has_lease || listing.epoch.is_none(), "{seconds} s: the lease is gone, and not the epoch");
        let is_owner = owners.nodes.contains(&node);
        assert!(is_owner || owners.epoch.is_none(), "{seconds} s: the claim is gone, and not the epoch");
        if seconds < lease * 0.4 {
            assert!(owners.epoch.is_some(), "{seconds} s: a small step ends no epoch");
        }
        assert_eq!(is_owner, seconds < 600.0, "{seconds} s: the clock has stepped");
        directory.remove_owner(&node, &[room("a")]).await.unwrap();
        directory.deregister(&node).await.unwrap();
    }
}

/// Steps the clock back. Nothing expires early, and the listing shows the step.
async fn a_step_back_loses_nothing(directory: &dyn Directory, step: impl AsyncFn(f64)) {
    let node = NodeId::new_process();
    let epoch = directory.register(&node, &entry("one"), LEASE).await.unwrap().expect("a new node");
    directory.add_owner(&node, &[room("a")]).await.unwrap();
    let before = directory.nodes().await.unwrap();
    step(-3600.0).await;
    let after = directory.nodes().await.unwrap();
    assert_eq!((after.epoch.as_ref(), &after.nodes), (Some(&epoch), &before.nodes));
    let back = before.time - after.time;
    assert!(back > Duration::from_secs(3590) && back < Duration::from_secs(3601), "{back:?}");
    assert_eq!(directory.owners(&room("a")).await.unwrap().nodes, std::slice::from_ref(&node));
    assert_eq!(directory.renew(&node, &entry("one"), LEASE).await, Ok(LeaseRenewal::Renewed(epoch)));
    // The renewed values expire by the new clock.
    step(LEASE.as_secs_f64() * 1.1).await;
    let listing = directory.nodes().await.unwrap();
    assert_eq!((listing.epoch, listing.nodes), (None, vec![]));
}

#[tokio::test]
async fn in_memory_an_epoch_goes_before_what_it_vouches_for() {
    let memory = MemoryDirectory::new();
    let step = async |seconds: f64| memory.step_clock(Duration::from_secs_f64(seconds.abs()), seconds > 0.0);
    an_epoch_never_outlives_what_it_vouches_for(&*memory, step).await;
    a_step_back_loses_nothing(&*memory, step).await;
}

#[tokio::test]
async fn in_redis_an_epoch_goes_before_what_it_vouches_for() {
    let server = RedisServer::start_with_clock().await;
    connected(&server, async |directory, _| {
        an_epoch_never_outlives_what_it_vouches_for(directory, async |seconds| server.step_clock(seconds).await).await;
        a_step_back_loses_nothing(directory, async |seconds| server.step_clock(seconds).await).await;
    })
    .await;
}
