//! The contract of the directory, the same suite against both implementations.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use common::{RedisServer, until};
use rollcall::directory::faulty::{Call, Fault, Faulty};
use rollcall::directory::memory::Memory;
use rollcall::directory::redis::{Redis, Unfit};
use rollcall::directory::{Directory, Error, Listing, NodeEntry, Renewal};
use rollcall::names::{NodeId, NodeName, Room, SocketId};
use rollcall::oddities::Oddity;
use rollcall::roster::claims::{Seat, SeatChange};

const LEASE: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(80);

fn entry(name: &str) -> NodeEntry {
    NodeEntry {
        name: NodeName::parse(name).unwrap(),
        mesh: "127.0.0.1:7001".into(),
        since: "2026-01-01T00:00:00Z".into(),
        draining: false,
    }
}

fn room(name: &str) -> Room {
    Room::parse(name).unwrap()
}

fn seat(room_name: &str, socket: &str, taken: bool) -> SeatChange {
    SeatChange { seat: Seat { room: room(room_name), socket: SocketId::parse(socket).unwrap() }, taken }
}

/// Runs the suite against a directory that starts empty.
async fn contract(directory: Arc<dyn Directory>) {
    leases_are_made_once_renewed_while_they_live_and_never_revived(&*directory).await;
    who_is_listed_has_a_lease(&*directory).await;
    owners_are_who_claimed_and_did_not_release(&*directory).await;
    accounts_tell_leases_and_counts(&*directory).await;
    only_the_dead_are_repaired(&*directory).await;
    lists_say_what_is_true_of_a_seat(&*directory).await;
}

async fn leases_are_made_once_renewed_while_they_live_and_never_revived(directory: &dyn Directory) {
    let node = NodeId::new_process();
    assert_eq!(directory.renew(&node, &entry("a"), LEASE).await, Ok(Renewal::Lapsed), "never entered");
    let epoch = directory.enter(&node, &entry("a"), SHORT).await.unwrap().expect("the first to enter");
    assert_eq!(directory.enter(&node, &entry("b"), LEASE).await, Ok(None), "it is there already");
    assert_eq!(directory.renew(&node, &entry("c"), SHORT).await, Ok(Renewal::Renewed(epoch.clone())));
    let named = |name: &'static str| {
        let node = node.clone();
        move |listing: Listing| listing.nodes.contains(&(node.clone(), entry(name)))
    };
    assert!(named("c")(directory.nodes().await.unwrap()), "renewed with the entry of now");
    until("the lease runs out", || async { !named("c")(directory.nodes().await.unwrap()) }).await;
    assert_eq!(directory.renew(&node, &entry("c"), LEASE).await, Ok(Renewal::Lapsed), "never revived");
    let next = node.next_incarnation();
    assert_eq!(directory.enter(&next, &entry("c"), LEASE).await, Ok(Some(epoch)), "in the same index");
    directory.forget(&next).await.unwrap();
    assert_eq!(directory.renew(&next, &entry("c"), LEASE).await, Ok(Renewal::Lapsed), "forgotten");
}

async fn who_is_listed_has_a_lease(directory: &dyn Directory) {
    assert_eq!(directory.nodes().await.unwrap().nodes, []);
    let (one, two) = (NodeId::new_process(), NodeId::new_process());
    directory.enter(&one, &entry("one"), LEASE).await.unwrap();
    let epoch = directory.enter(&two, &entry("two"), LEASE).await.unwrap();
    let listing = directory.nodes().await.unwrap();
    assert_eq!(listing.epoch, epoch);
    let listed: BTreeSet<NodeId> = listing.nodes.into_iter().map(|(node, _)| node).collect();
    assert_eq!(listed, BTreeSet::from([one.clone(), two.clone()]));
    directory.forget(&one).await.unwrap();
    assert_eq!(directory.nodes().await.unwrap().nodes, [(two.clone(), entry("two"))]);
    directory.forget(&two).await.unwrap();
}

async fn owners_are_who_claimed_and_did_not_release(directory: &dyn Directory) {
    let (one, two) = (NodeId::new_process(), NodeId::new_process());
    let epoch = directory.enter(&one, &entry("one"), LEASE).await.unwrap();
    assert!(epoch.is_some());
    let (a, b, empty) = (room("a"), room("b:café/ü"), room("empty"));
    assert_eq!(directory.claim(&one, &[a.clone(), b.clone()]).await.unwrap(), epoch);
    assert_eq!(directory.claim(&two, std::slice::from_ref(&a)).await.unwrap(), epoch, "claiming again is fine");
    assert_eq!(directory.claim(&two, std::slice::from_ref(&a)).await.unwrap(), epoch);
    let owners = directory.owners(&a).await.unwrap();
    assert_eq!(owners.epoch, epoch);
    assert_eq!(owners.nodes.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([one.clone(), two.clone()]));
    assert_eq!(directory.owners(&b).await.unwrap().nodes, [one.clone()].as_slice());
    assert_eq!(directory.owners(&empty).await.unwrap().nodes, Vec::<NodeId>::new().as_slice());
    directory.release(&one, &[a.clone(), b.clone(), empty]).await.unwrap();
    assert_eq!(directory.owners(&a).await.unwrap().nodes, [two.clone()].as_slice());
    assert!(directory.owners(&b).await.unwrap().nodes.is_empty());
    directory.release(&two, &[a]).await.unwrap();
    directory.forget(&one).await.unwrap();
}

async fn accounts_tell_leases_and_counts(directory: &dyn Directory) {
    let (alive, dead) = (NodeId::new_process(), NodeId::new_process());
    directory.enter(&alive, &entry("alive"), LEASE).await.unwrap();
    directory.list(&alive, &[seat("a", "s1", true), seat("a", "s2", true), seat("b", "s1", true)]).await.unwrap();
    directory.list(&dead, &[seat("a", "s3", true)]).await.unwrap();
    let accounts = directory.account(&room("a"), &[dead.clone(), alive.clone()]).await.unwrap();
    assert_eq!((accounts[0].entry.clone(), accounts[0].sockets), (None, 1));
    assert_eq!((accounts[1].entry.clone(), accounts[1].sockets), (Some(entry("alive")), 2));
    assert_eq!(directory.account(&room("a"), &[]).await, Ok(vec![]));
    directory.release(&alive, &[room("a"), room("b")]).await.unwrap();
    directory.release(&dead, &[room("a")]).await.unwrap();
    directory.forget(&alive).await.unwrap();
}

async fn only_the_dead_are_repaired(directory: &dyn Directory) {
    let (alive, dead) = (NodeId::new_process(), NodeId::new_process());
    directory.enter(&alive, &entry("alive"), LEASE).await.unwrap();
    for node in [&alive, &dead] {
        directory.claim(node, &[room("a"), room("b")]).await.unwrap();
        directory.list(node, &[seat("a", "s1", true)]).await.unwrap();
    }
    directory.repair(&room("a"), &[alive.clone(), dead.clone()]).await.unwrap();
    assert_eq!(directory.owners(&room("a")).await.unwrap().nodes, [alive.clone()].as_slice());
    assert_eq!(directory.owners(&room("b")).await.unwrap().nodes.len(), 2, "only the room that was read");
    let accounts = directory.account(&room("a"), &[alive.clone(), dead.clone()]).await.unwrap();
    assert_eq!((accounts[0].sockets, accounts[1].sockets), (1, 0));
    for node in [&alive, &dead] {
        directory.release(node, &[room("a"), room("b")]).await.unwrap();
    }
    directory.forget(&alive).await.unwrap();
}

async fn lists_say_what_is_true_of_a_seat(directory: &dyn Directory) {
    let node = NodeId::new_process();
    let count = || async { directory.account(&room("a"), std::slice::from_ref(&node)).await.unwrap()[0].sockets };
    directory.list(&node, &[]).await.unwrap();
    directory.list(&node, &[seat("a", "s1", true), seat("a", "s2", true), seat("a", "s1", true)]).await.unwrap();
    assert_eq!(count().await, 2);
    directory.list(&node, &[seat("a", "s1", false), seat("a", "s3", true), seat("b", "s9", false)]).await.unwrap();
    assert_eq!(count().await, 2);
    directory.list(&node, &[seat("a", "s2", false), seat("a", "s3", false)]).await.unwrap();
    assert_eq!(count().await, 0);
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    contract(Memory::new()).await;
}

#[tokio::test]
async fn a_faulty_directory_without_faults_keeps_the_contract() {
    contract(Faulty::new(Memory::new())).await;
}

#[tokio::test]
async fn a_faulty_directory_fails_as_it_is_told() {
    let memory = Memory::new();
    let (faulty, other) = (Faulty::new(memory.clone()), Faulty::new(memory.clone()));
    let node = NodeId::new_process();
    faulty.enter(&node, &entry("one"), LEASE).await.unwrap();
    let owners = async |name: &str| other.owners(&room(name)).await.unwrap().nodes.len();
    let claim = async |name: &str| faulty.claim(&node, &[room(name)]).await;
    for fault in [Fault::FailBefore, Fault::FailAfter, Fault::Refuse, Fault::RunLate] {
        faulty.will(Call::Claim, fault);
    }
    assert!(matches!(claim("before").await, Err(Error::Unanswered(_))));
    assert!(matches!(claim("after").await, Err(Error::Unanswered(_))));
    assert!(matches!(claim("refused").await, Err(Error::Refused(_))));
    assert!(matches!(claim("late").await, Err(Error::Unanswered(_))));
    assert_eq!((owners("before").await, owners("after").await, owners("refused").await), (0, 1, 0));
    assert_eq!((owners("late").await, faulty.run_late().await, owners("late").await), (0, 1, 1));

    let (go, held) = tokio::sync::oneshot::channel();
    faulty.will(Call::Claim, Fault::Hold(held));
    let going = async {
        assert_eq!(owners("held").await, 0);
        go.send(()).unwrap();
    };
    assert!(tokio::join!(claim("held"), going).0.is_ok());
    assert_eq!(owners("held").await, 1);

    faulty.go_away(Duration::ZERO);
    assert!(matches!(claim("away").await, Err(Error::Unanswered(_))));
    assert_eq!(owners("away").await, 0, "the other path is open");
    faulty.come_back();
    assert!(claim("back").await.is_ok());
    assert_eq!(faulty.calls(Call::Claim).len(), 7);
}

#[tokio::test]
async fn a_memory_that_is_flushed_or_rolled_back_begins_another_life_when_a_node_enters() {
    let memory = Memory::new();
    let (one, two) = (NodeId::new_process(), NodeId::new_process());
    assert_eq!(memory.nodes().await.unwrap().epoch, None, "readers begin none");
    let first = memory.enter(&one, &entry("one"), LEASE).await.unwrap();
    memory.claim(&one, &[room("old")]).await.unwrap();
    let snapshot = memory.snapshot();
    memory.claim(&one, &[room("new")]).await.unwrap();
    memory.restore(snapshot);
    assert_eq!(memory.renew(&one, &entry("one"), LEASE).await, Ok(Renewal::Lapsed), "in no life");
    assert_eq!(memory.owners(&room("new")).await.unwrap().epoch, None);
    let second = memory.enter(&two, &entry("two"), LEASE).await.unwrap();
    assert!(second.is_some() && second != first);
    assert_eq!(memory.owners(&room("old")).await.unwrap().nodes.len(), 1);
    assert!(memory.owners(&room("new")).await.unwrap().nodes.is_empty());
    memory.flush();
    assert_eq!(memory.nodes().await.unwrap(), Listing { nodes: vec![], epoch: None, age: Duration::ZERO });
    let third = memory.enter(&two, &entry("two"), LEASE).await.unwrap();
    assert!(third.is_some() && third != first && third != second);
}

#[tokio::test]
async fn redis_keeps_the_contract_and_leaves_only_the_epoch() {
    let server = RedisServer::start().await;
    let directory = Arc::new(Redis::open(&server.url(), "rollcall:", false).unwrap());
    let upkeep = tokio::spawn({
        let directory = Arc::clone(&directory);
        async move { directory.upkeep().await }
    });
    until("connected", || async { directory.nodes().await.is_ok() }).await;
    contract(Arc::clone(&directory) as Arc<dyn Directory>).await;
    assert_eq!(server.keys().await, BTreeSet::from(["rollcall:epoch".to_owned()]));
    upkeep.abort();
}

#[tokio::test]
async fn redis_entries_have_the_names_and_the_types_that_people_look_for() {
    let server = RedisServer::start().await;
    let directory = Redis::open(&server.url(), "rollcall:", false).unwrap();
    let looking = async {
        until("connected", || async { directory.nodes().await.is_ok() }).await;
        let node = NodeId::new_process();
        directory.enter(&node, &entry("one"), LEASE).await.unwrap();
        directory.claim(&node, &[room("Maths")]).await.unwrap();
        directory.list(&node, &[seat("Maths", "s1", true)]).await.unwrap();
        let mut redis = server.connection().await;
        let mut ask = redis::pipe();
        ask.cmd("SMEMBERS").arg("rollcall:nodes");
        ask.cmd("SMEMBERS").arg("rollcall:owners:Maths");
        ask.cmd("SMEMBERS").arg(format!("rollcall:room:{node}:Maths"));
        ask.cmd("GET").arg(format!("rollcall:node:{node}"));
        ask.cmd("PTTL").arg(format!("rollcall:node:{node}"));
        ask.cmd("TTL").arg("rollcall:owners:Maths");
        ask.cmd("TTL").arg(format!("rollcall:room:{node}:Maths"));
        type Answer = (Vec<String>, Vec<String>, Vec<String>, String, i64, i64, i64);
        let (nodes, owners, sockets, lease, lease_ms, owners_s, sockets_s): Answer =
            ask.query_async(&mut redis).await.unwrap();
        assert_eq!((nodes, owners), (vec![node.to_string()], vec![node.to_string()]));
        assert_eq!(sockets, ["s1"]);
        assert_eq!(lease, r#"{"name":"one","mesh":"127.0.0.1:7001","since":"2026-01-01T00:00:00Z","draining":false}"#);
        assert!((1..=5_000).contains(&lease_ms), "{lease_ms}");
        assert!((500..=600).contains(&owners_s) && (500..=600).contains(&sockets_s), "{owners_s} {sockets_s}");
    };
    tokio::select! {
        () = directory.upkeep() => unreachable!("it keeps up for ever"),
        () = looking => {}
    }
}

#[tokio::test]
async fn without_redis_every_call_ends_at_once_and_a_url_of_another_kind_is_refused() {
    let nobody = Redis::open("redis://127.0.0.1:1", "rollcall:", false).unwrap();
    assert!(matches!(nobody.owners(&room("a")).await, Err(Error::Unanswered(_))));
    assert!(Redis::open("http://127.0.0.1", "rollcall:", false).is_err());
}

/// A directory that is connected, while `work` runs.
async fn connected<T>(
    server: &RedisServer,
    work: impl AsyncFnOnce(&Redis, redis::aio::MultiplexedConnection) -> T,
) -> T {
    let directory = Redis::open(&server.url(), "rollcall:", false).unwrap();
    let working = async {
        until("connected", || async { directory.nodes().await.is_ok() }).await;
        work(&directory, server.connection().await).await
    };
    tokio::select! {
        () = directory.upkeep() => unreachable!("it keeps up for ever"),
        done = working => done,
    }
}

#[tokio::test]
async fn an_epoch_that_was_made_under_another_process_is_never_believed() {
    let server = RedisServer::start().await;
    connected(&server, async |directory, mut redis| {
        let made_elsewhere = format!("0123456789abcdef@{}", "a".repeat(40));
        redis::cmd("SET").arg("rollcall:epoch").arg(made_elsewhere).query_async::<()>(&mut redis).await.unwrap();
        assert_eq!(directory.owners(&room("a")).await.unwrap().epoch, None, "readers do not make one either");
        assert_eq!(directory.nodes().await.unwrap().epoch, None);
        let (one, two) = (NodeId::new_process(), NodeId::new_process());
        let epoch = directory.enter(&one, &entry("one"), LEASE).await.unwrap();
        assert!(epoch.is_some(), "whoever enters begins another");
        assert_eq!(directory.enter(&two, &entry("two"), LEASE).await.unwrap(), epoch, "and the next finds it");
        assert_eq!(directory.claim(&two, &[room("a")]).await.unwrap(), epoch);
        assert_eq!(directory.owners(&room("a")).await.unwrap().epoch, epoch);
        let age = async || directory.nodes().await.unwrap().age;
        assert!(age().await <= Duration::from_secs(1), "it began just now");
        until("it grows older", async || age().await >= Duration::from_secs(1)).await;
        redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await.unwrap();
        assert_eq!(directory.renew(&one, &entry("one"), LEASE).await, Ok(Renewal::Lapsed));
        let next = directory.enter(&one.next_incarnation(), &entry("one"), LEASE).await.unwrap();
        assert!(next.is_some() && next != epoch, "a flush begins another, too");
    })
    .await;
}

#[tokio::test]
async fn what_other_programs_have_written_is_skipped_and_counted() {
    let server = RedisServer::start().await;
    connected(&server, async |directory, mut redis| {
        let node = NodeId::new_process();
        directory.enter(&node, &entry("one"), LEASE).await.unwrap();
        directory.claim(&node, &[room("mixed")]).await.unwrap();
        let mut foreign = redis::pipe();
        foreign.cmd("SADD").arg("rollcall:owners:mixed").arg("somebody").arg(b"\xff\xfe".as_slice()).ignore();
        foreign.cmd("SADD").arg("rollcall:nodes").arg("somebody").ignore();
        foreign.cmd("SET").arg("rollcall:owners:taken").arg("text").ignore();
        foreign.cmd("SET").arg(format!("rollcall:room:{node}:taken")).arg("text").ignore();
        let registered = NodeId::new_process();
        foreign.cmd("SADD").arg("rollcall:nodes").arg(registered.as_str()).ignore();
        foreign.cmd("SET").arg(format!("rollcall:node:{registered}")).arg("{}").ignore();
        foreign.query_async::<()>(&mut redis).await.unwrap();

        let before = [Oddity::ForeignMember, Oddity::ForeignEntry, Oddity::ForeignKey].map(Oddity::count);
        assert_eq!(directory.owners(&room("mixed")).await.unwrap().nodes, [node.clone()].as_slice());
        let nodes = directory.nodes().await.unwrap().nodes;
        assert_eq!(nodes, [(node.clone(), entry("one"))], "neither a foreign id nor a foreign entry is a node");
        assert!(matches!(directory.owners(&room("taken")).await, Err(Error::Foreign(_))));
        let both = [room("taken"), room("free")];
        assert!(matches!(directory.claim(&node, &both).await, Err(Error::Foreign(_))));
        assert_eq!(
            directory.owners(&both[1]).await.unwrap().nodes,
            [node.clone()].as_slice(),
            "the rest of the call was done"
        );
        let seats = [seat("taken", "s1", true), seat("free", "s1", true)];
        assert_eq!(directory.list(&node, &seats).await, Ok(()));
        assert_eq!(directory.account(&both[1], std::slice::from_ref(&node)).await.unwrap()[0].sockets, 1);
        assert_eq!(directory.release(&node, &both).await, Ok(()));
        let owners: String = redis::cmd("GET").arg("rollcall:owners:taken").query_async(&mut redis).await.unwrap();
        assert_eq!(owners, "text", "it is left as it was");
        let after = [Oddity::ForeignMember, Oddity::ForeignEntry, Oddity::ForeignKey].map(Oddity::count);
        assert!(before.iter().zip(after).all(|(before, after)| after > *before), "{before:?} {after:?}");
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_may_evict_or_is_a_replica_is_not_used() {
    let server = RedisServer::start().await;
    let mut redis = server.connection().await;
    let check = async |allow| Redis::open(&server.url(), "rollcall:", allow).unwrap().check().await;
    assert_eq!(check(false).await, Ok(()));
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("maxmemory-policy").arg(policy);
        set.query_async::<()>(&mut redis).await.unwrap();
        let unfit = check(false).await.unwrap_err();
        assert_eq!(unfit, Unfit::Evicts(policy.to_owned()));
        assert!(unfit.to_string().contains("CONFIG SET maxmemory-policy noeviction"), "{unfit}");
        assert_eq!(check(true).await, Ok(()), "whoever typed it has it");
    }
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg(1).query_async::<()>(&mut redis).await.unwrap();
    assert_eq!(check(true).await, Err(Unfit::Replica));
    assert_eq!(Redis::open("redis://127.0.0.1:1", "rollcall:", false).unwrap().check().await, Ok(()), "it may come");
}
