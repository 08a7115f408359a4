//! The contract suite, and the directory in memory.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rollcall::directory::faulty::{Fault, FaultyDirectory};
use rollcall::directory::memory::MemoryDirectory;
use rollcall::directory::{Directory, DirectoryCall, DirectoryError, LeaseRenewal, NodeListing};
use rollcall::names::NodeId;
use testkit::until;
use tokio::time::sleep;

use crate::{LEASE, entry, room, seat};

const SHORT: Duration = Duration::from_millis(80);

/// Runs the suite against a directory that starts empty.
pub(crate) async fn contract(directory: Arc<dyn Directory>) {
    leases_are_made_once_renewed_while_they_live_and_never_revived(&*directory).await;
    who_is_listed_has_a_lease(&*directory).await;
    owners_are_who_claimed_and_did_not_release(&*directory).await;
    accounts_tell_leases_and_counts(&*directory).await;
    only_the_dead_are_repaired(&*directory).await;
    lists_say_what_is_true_of_a_seat(&*directory).await;
    an_epoch_expires_before_the_leases_and_is_renewed_with_them(&*directory).await;
}

async fn an_epoch_expires_before_the_leases_and_is_renewed_with_them(directory: &dyn Directory) {
    let (one, two) = (NodeId::new_process(), NodeId::new_process());
    let lease = Duration::from_secs(2);
    let epoch = directory.register(&one, &entry("one"), lease).await.unwrap().expect("the first to enter");
    directory.add_owner(&one, &[room("a")]).await.unwrap();
    let began = Instant::now();
    while began.elapsed() < lease {
        sleep(lease / 10).await;
        assert_eq!(directory.renew(&one, &entry("one"), lease).await, Ok(LeaseRenewal::Renewed(epoch.clone())));
    }
    let mut listing = directory.nodes().await.unwrap();
    while listing.epoch.is_some() {
        sleep(Duration::from_millis(10)).await;
        listing = directory.nodes().await.unwrap();
    }
    assert_eq!(listing.nodes, [(one.clone(), entry("one"))], "the lease outlives the epoch");
    let owners = directory.owners(&room("a")).await.unwrap();
    assert_eq!(owners.epoch, None);
    assert_eq!(owners.nodes, std::slice::from_ref(&one), "and so does the owner set");
    assert_eq!(directory.renew(&one, &entry("one"), lease).await, Ok(LeaseRenewal::Lapsed), "in no epoch");
    assert!(directory.register(&two, &entry("two"), lease).await.unwrap().is_some_and(|next| next != epoch));
    directory.remove_owner(&one, &[room("a")]).await.unwrap();
    directory.deregister(&one).await.unwrap();
    directory.deregister(&two).await.unwrap();
}

async fn leases_are_made_once_renewed_while_they_live_and_never_revived(directory: &dyn Directory) {
    let node = NodeId::new_process();
    assert_eq!(directory.renew(&node, &entry("a"), LEASE).await, Ok(LeaseRenewal::Lapsed), "never entered");
    let epoch = directory.register(&node, &entry("a"), SHORT).await.unwrap().expect("the first to enter");
    assert_eq!(directory.register(&node, &entry("b"), LEASE).await, Ok(None), "it is there already");
    assert_eq!(directory.renew(&node, &entry("c"), SHORT).await, Ok(LeaseRenewal::Renewed(epoch.clone())));
    let named = |name: &'static str| {
        let node = node.clone();
        move |listing: NodeListing| listing.nodes.contains(&(node.clone(), entry(name)))
    };
    assert!(named("c")(directory.nodes().await.unwrap()), "renewed with the entry of now");
    until("the lease runs out", || async { !named("c")(directory.nodes().await.unwrap()) }).await;
    assert_eq!(directory.renew(&node, &entry("c"), LEASE).await, Ok(LeaseRenewal::Lapsed), "never revived");
    let next = node.next_incarnation();
    assert!(directory.register(&next, &entry("c"), LEASE).await.is_ok_and(|epoch| epoch.is_some()));
    directory.deregister(&next).await.unwrap();
    assert_eq!(directory.renew(&next, &entry("c"), LEASE).await, Ok(LeaseRenewal::Lapsed), "forgotten");
}

async fn who_is_listed_has_a_lease(directory: &dyn Directory) {
    assert_eq!(directory.nodes().await.unwrap().nodes, []);
    let (one, two) = (NodeId::new_process(), NodeId::new_process());
    directory.register(&one, &entry("one"), LEASE).await.unwrap();
    let epoch = directory.register(&two, &entry("two"), LEASE).await.unwrap();
    let listing = directory.nodes().await.unwrap();
    assert_eq!(listing.epoch, epoch);
    let listed: BTreeSet<NodeId> = listing.nodes.into_iter().map(|(node, _)| node).collect();
    assert_eq!(listed, BTreeSet::from([one.clone(), two.clone()]));
    directory.deregister(&one).await.unwrap();
    assert_eq!(directory.nodes().await.unwrap().nodes, [(two.clone(), entry("two"))]);
    directory.deregister(&two).await.unwrap();
}

async fn owners_are_who_claimed_and_did_not_release(directory: &dyn Directory) {
    let (one, two) = (NodeId::new_process(), NodeId::new_process());
    let epoch = directory.register(&one, &entry("one"), LEASE).await.unwrap();
    assert!(epoch.is_some());
    let (a, b, empty) = (room("a"), room("b:café/ü"), room("empty"));
    assert_eq!(directory.add_owner(&one, &[a.clone(), b.clone()]).await.unwrap(), epoch);
    assert_eq!(directory.add_owner(&two, std::slice::from_ref(&a)).await.unwrap(), epoch, "claiming again is fine");
    assert_eq!(directory.add_owner(&two, std::slice::from_ref(&a)).await.unwrap(), epoch);
    let owners = directory.owners(&a).await.unwrap();
    assert_eq!(owners.epoch, epoch);
    assert_eq!(owners.nodes.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([one.clone(), two.clone()]));
    assert_eq!(directory.owners(&b).await.unwrap().nodes, [one.clone()].as_slice());
    assert_eq!(directory.owners(&empty).await.unwrap().nodes, Vec::<NodeId>::new().as_slice());
    directory.remove_owner(&one, &[a.clone(), b.clone(), empty]).await.unwrap();
    assert_eq!(directory.owners(&a).await.unwrap().nodes, [two.clone()].as_slice());
    assert!(directory.owners(&b).await.unwrap().nodes.is_empty());
    directory.remove_owner(&two, &[a]).await.unwrap();
    directory.deregister(&one).await.unwrap();
}

async fn accounts_tell_leases_and_counts(directory: &dyn Directory) {
    let (alive, dead) = (NodeId::new_process(), NodeId::new_process());
    directory.register(&alive, &entry("alive"), LEASE).await.unwrap();
    directory
        .write_sockets(&alive, &[seat("a", "s1", true), seat("a", "s2", true), seat("b", "s1", true)])
        .await
        .unwrap();
    directory.write_sockets(&dead, &[seat("a", "s3", true)]).await.unwrap();
    let accounts = directory.leases_and_counts(&room("a"), &[dead.clone(), alive.clone()]).await.unwrap();
    assert_eq!(accounts[0].entry.clone(), None);
    assert_eq!(accounts[0].sockets, 1);
    assert_eq!(accounts[1].entry.clone(), Some(entry("alive")));
    assert_eq!(accounts[1].sockets, 2);
    assert_eq!(directory.leases_and_counts(&room("a"), &[]).await, Ok(vec![]));
    directory.remove_owner(&alive, &[room("a"), room("b")]).await.unwrap();
    directory.remove_owner(&dead, &[room("a")]).await.unwrap();
    directory.deregister(&alive).await.unwrap();
}

async fn only_the_dead_are_repaired(directory: &dyn Directory) {
    let (alive, dead) = (NodeId::new_process(), NodeId::new_process());
    directory.register(&alive, &entry("alive"), LEASE).await.unwrap();
    for node in [&alive, &dead] {
        directory.add_owner(node, &[room("a"), room("b")]).await.unwrap();
        directory.write_sockets(node, &[seat("a", "s1", true)]).await.unwrap();
    }
    directory.remove_dead_owners(&room("a"), &[alive.clone(), dead.clone()]).await.unwrap();
    assert_eq!(directory.owners(&room("a")).await.unwrap().nodes, [alive.clone()].as_slice());
    assert_eq!(directory.owners(&room("b")).await.unwrap().nodes.len(), 2, "only the room that was read");
    let accounts = directory.leases_and_counts(&room("a"), &[alive.clone(), dead.clone()]).await.unwrap();
    assert_eq!(accounts[0].sockets, 1);
    assert_eq!(accounts[1].sockets, 0);
    for node in [&alive, &dead] {
        directory.remove_owner(node, &[room("a"), room("b")]).await.unwrap();
    }
    directory.deregister(&alive).await.unwrap();
}

async fn lists_say_what_is_true_of_a_seat(directory: &dyn Directory) {
    let node = NodeId::new_process();
    let count =
        || async { directory.leases_and_counts(&room("a"), std::slice::from_ref(&node)).await.unwrap()[0].sockets };
    directory.write_sockets(&node, &[]).await.unwrap();
    directory
        .write_sockets(&node, &[seat("a", "s1", true), seat("a", "s2", true), seat("a", "s1", true)])
        .await
        .unwrap();
    assert_eq!(count().await, 2);
    directory
        .write_sockets(&node, &[seat("a", "s1", false), seat("a", "s3", true), seat("b", "s9", false)])
        .await
        .unwrap();
    assert_eq!(count().await, 2);
    directory.write_sockets(&node, &[seat("a", "s2", false), seat("a", "s3", false)]).await.unwrap();
    assert_eq!(count().await, 0);
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    contract(MemoryDirectory::new()).await;
}

#[tokio::test]
async fn a_faulty_directory_without_faults_keeps_the_contract() {
    contract(FaultyDirectory::new(MemoryDirectory::new())).await;
}

#[tokio::test]
async fn a_faulty_directory_fails_as_configured() {
    let memory = MemoryDirectory::new();
    let (faulty, other) = (FaultyDirectory::new(memory.clone()), FaultyDirectory::new(memory.clone()));
    let node = NodeId::new_process();
    faulty.register(&node, &entry("one"), LEASE).await.unwrap();
    let owners = async |name: &str| other.owners(&room(name)).await.unwrap().nodes.len();
    let claim = async |name: &str| faulty.add_owner(&node, &[room(name)]).await;
    for fault in [Fault::LoseRequest, Fault::LoseAnswer, Fault::Refuse, Fault::RunLate] {
        faulty.inject(DirectoryCall::AddOwner, fault);
    }
    assert!(matches!(claim("before").await, Err(DirectoryError::Unanswered(_))));
    assert!(matches!(claim("after").await, Err(DirectoryError::Unanswered(_))));
    assert!(matches!(claim("refused").await, Err(DirectoryError::Refused(_))));
    assert!(matches!(claim("late").await, Err(DirectoryError::Unanswered(_))));
    assert_eq!(owners("before").await, 0);
    assert_eq!(owners("after").await, 1);
    assert_eq!(owners("refused").await, 0);
    assert_eq!(owners("late").await, 0);
    assert_eq!(faulty.run_late().await, 1);
    assert_eq!(owners("late").await, 1);

    let (go, held) = tokio::sync::oneshot::channel();
    faulty.inject(DirectoryCall::AddOwner, Fault::Hold(held));
    let going = async {
        assert_eq!(owners("held").await, 0);
        go.send(()).unwrap();
    };
    assert!(tokio::join!(claim("held"), going).0.is_ok());
    assert_eq!(owners("held").await, 1);

    faulty.disconnect(Duration::ZERO);
    assert!(matches!(claim("away").await, Err(DirectoryError::Unanswered(_))));
    assert_eq!(owners("away").await, 0, "the other path is open");
    faulty.reconnect();
    assert!(claim("back").await.is_ok());
    assert_eq!(faulty.call_sizes(DirectoryCall::AddOwner).len(), 7);
}

#[tokio::test]
async fn a_flushed_or_rolled_back_memory_gets_a_new_epoch() {
    let memory = MemoryDirectory::new();
    let (one, two) = (NodeId::new_process(), NodeId::new_process());
    assert_eq!(memory.nodes().await.unwrap().epoch, None, "readers begin none");
    let first = memory.register(&one, &entry("one"), LEASE).await.unwrap();
    memory.add_owner(&one, &[room("old")]).await.unwrap();
    let snapshot = memory.snapshot();
    memory.add_owner(&one, &[room("new")]).await.unwrap();
    memory.restore(snapshot);
    assert_eq!(memory.renew(&one, &entry("one"), LEASE).await, Ok(LeaseRenewal::Lapsed), "in no life");
    assert_eq!(memory.owners(&room("new")).await.unwrap().epoch, None);
    let second = memory.register(&two, &entry("two"), LEASE).await.unwrap();
    assert!(second.is_some() && second != first);
    assert_eq!(memory.owners(&room("old")).await.unwrap().nodes.len(), 1);
    assert!(memory.owners(&room("new")).await.unwrap().nodes.is_empty());
    memory.flush();
    assert_eq!(memory.nodes().await.unwrap().epoch, None);
    let third = memory.register(&two, &entry("two"), LEASE).await.unwrap();
    assert!(third.is_some() && third != first && third != second);
}
