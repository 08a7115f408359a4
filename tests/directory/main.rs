//! The contract of the directory, the same suite against every implementation, and every way to run Redis.

mod clock;
mod history;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rollcall::directory::DirectoryCall;
use rollcall::directory::faulty::{Fault, FaultyDirectory};
use rollcall::directory::memory::MemoryDirectory;
use rollcall::directory::redis::connect::RedisAccess;
use rollcall::directory::redis::{CALL_TIMEOUT, Incompatible, RedisDirectory};
use rollcall::directory::{Directory, DirectoryError, LeaseRenewal, NodeEntry, NodeListing};
use rollcall::index::{SocketEntry, SocketWrite};
use rollcall::names::{NodeId, NodeName, Room, SocketId};
use rollcall::telemetry::anomalies::{Anomalies, Anomaly};
use tempfile::TempDir;
use testkit::programs::redis_program;
use testkit::redis_server::RedisServer;
use testkit::redis_topology::{Sentinels, Shards, TAGGED};
use testkit::until;
use tokio::time::sleep;

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

fn seat(room_name: &str, socket: &str, taken: bool) -> SocketWrite {
    SocketWrite {
        entry: SocketEntry { room: room(room_name), socket: SocketId::parse(socket).unwrap() },
        present: taken,
    }
}

/// Runs the suite against a directory that starts empty.
async fn contract(directory: Arc<dyn Directory>) {
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

#[tokio::test]
async fn redis_keeps_the_contract_and_leaves_only_the_epoch() {
    let server = RedisServer::start_aged().await;
    let directory = Arc::new(RedisDirectory::open(&server.url(), "rollcall:", false).unwrap());
    let upkeep = tokio::spawn({
        let directory = Arc::clone(&directory);
        async move { directory.maintain().await }
    });
    until("connected", || async { directory.nodes().await.is_ok() }).await;
    contract(Arc::clone(&directory) as Arc<dyn Directory>).await;
    assert!(server.keys("*").await.is_subset(&BTreeSet::from(["rollcall:epoch".to_owned()])));
    upkeep.abort();
}

#[tokio::test]
async fn redis_entries_have_the_documented_names_and_types() {
    let server = RedisServer::start_aged().await;
    let directory = RedisDirectory::open(&server.url(), "rollcall:", false).unwrap();
    let looking = async {
        until("connected", || async { directory.nodes().await.is_ok() }).await;
        let node = NodeId::new_process();
        directory.register(&node, &entry("one"), LEASE).await.unwrap();
        directory.add_owner(&node, &[room("Maths")]).await.unwrap();
        directory.write_sockets(&node, &[seat("Maths", "s1", true)]).await.unwrap();
        let mut redis = server.connection().await;
        let mut ask = redis::pipe();
        ask.cmd("SMEMBERS").arg("rollcall:nodes");
        ask.cmd("SMEMBERS").arg("rollcall:owners:Maths");
        ask.cmd("SMEMBERS").arg(format!("rollcall:room:{node}:Maths"));
        ask.cmd("GET").arg(format!("rollcall:node:{node}"));
        ask.cmd("PTTL").arg(format!("rollcall:node:{node}"));
        ask.cmd("TTL").arg("rollcall:owners:Maths");
        ask.cmd("TTL").arg(format!("rollcall:room:{node}:Maths"));
        ask.cmd("PTTL").arg("rollcall:epoch");
        type Answer = (Vec<String>, Vec<String>, Vec<String>, String, i64, i64, i64, i64);
        let (nodes, owners, sockets, lease, lease_ms, owners_s, sockets_s, epoch_ms): Answer =
            ask.query_async(&mut redis).await.unwrap();
        assert_eq!(nodes, vec![node.to_string()]);
        assert_eq!(owners, vec![node.to_string()]);
        assert_eq!(sockets, ["s1"]);
        let content =
            r#"{"name":"one","mesh":"127.0.0.1:7001","since":"2026-01-01T00:00:00Z","draining":false,"renewal":0}"#;
        assert_eq!(lease, content);
        assert!((1..=2_500).contains(&epoch_ms), "{epoch_ms}");
        assert!((1..=5_000).contains(&lease_ms), "{lease_ms}");
        assert!((500..=600).contains(&owners_s) && (500..=600).contains(&sockets_s), "{owners_s} {sockets_s}");
    };
    tokio::select! {
        () = directory.maintain() => unreachable!("it keeps up for ever"),
        () = looking => {}
    }
}

#[tokio::test]
async fn without_redis_calls_fail_at_once_and_other_urls_are_refused() {
    let nobody = RedisDirectory::open("redis://127.0.0.1:1", "rollcall:", false).unwrap();
    assert!(matches!(nobody.owners(&room("a")).await, Err(DirectoryError::Unanswered(_))));
    assert!(RedisDirectory::open("http://127.0.0.1", "rollcall:", false).is_err());
}

/// Runs the suite against the Redis at this URL.
async fn redis_contract(url: &str, access: &RedisAccess) {
    let directory = Arc::new(RedisDirectory::with(url, access, "rollcall:", false).unwrap());
    let upkeep = tokio::spawn({
        let directory = Arc::clone(&directory);
        async move { directory.maintain().await }
    });
    until("connected", || async { directory.nodes().await.is_ok() }).await;
    contract(directory).await;
    upkeep.abort();
}

#[tokio::test]
async fn the_server_is_the_requested_program() {
    let server = RedisServer::start_aged().await;
    let about: String = redis::cmd("INFO").query_async(&mut server.connection().await).await.unwrap();
    assert_eq!(about.contains("valkey_version:"), redis_program().contains("valkey"), "{about}");
}

#[tokio::test]
async fn a_master_found_by_sentinels_keeps_the_contract() {
    let master = RedisServer::start().await;
    let sentinels = Sentinels::over(&master, 0).await;
    redis_contract(&sentinels.url(), &RedisAccess::default()).await;
    assert!(master.keys("*").await.is_subset(&BTreeSet::from(["rollcall:epoch".to_owned()])));
}

#[tokio::test]
async fn a_redis_cluster_keeps_the_contract_with_the_documented_acl() {
    let mut shards = Shards::start().await;
    let folder = TempDir::new().unwrap();
    let password = folder.path().join("password");
    fs::write(&password, "correct-horse\n").unwrap();
    let document = include_str!("../../docs/REDIS.md").split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, rules) = document.split_once("ACL SETUSER rollcall on ><password> ").expect("docs/REDIS.md has it");
    let (rules, _) = rules.split_once("+script|load").unwrap();
    let rules = format!("{rules}+script|load").replace("~rollcall:*", "~{rollcall}:*");
    let allow = async |shards: &Shards, more: &str| {
        for node in shards.others.iter().chain([&shards.owner]) {
            let user = format!("ACL SETUSER rollcall reset on >correct-horse {rules}{more}");
            let mut command = redis::Cmd::new();
            for word in user.split(' ') {
                command.arg(word);
            }
            node.run::<()>(&mut command).await;
        }
    };
    let access = RedisAccess { user: Some("rollcall".to_owned()), password: Some(password), ..RedisAccess::default() };
    let open = |shards: &Shards| RedisDirectory::with(&shards.url(), &access, "rollcall:", false).unwrap();
    allow(&shards, "").await;
    assert!(matches!(open(&shards).check().await, Err(Incompatible::Permission(_))), "it may not ask for the slots");
    assert!(document.contains("`+cluster|slots`"), "docs/REDIS.md says so, too");
    allow(&shards, " +cluster|slots").await;
    shards.owner.run::<()>(redis::cmd("ACL").arg("LOG").arg("RESET")).await;
    redis_contract(&shards.url(), &access).await;
    let denied: Vec<redis::Value> = shards.owner.run(redis::cmd("ACL").arg("LOG")).await;
    assert_eq!(denied, [], "nothing is asked of it beyond that");
    assert!(shards.owner.keys("*").await.is_subset(&BTreeSet::from([format!("{TAGGED}epoch")])));
    for other in &shards.others {
        assert_eq!(other.keys("*").await, BTreeSet::new());
    }

    // A slot that is given to another node is followed there, and is another index.
    let directory = open(&shards);
    let moving = async {
        until("connected", || async { directory.nodes().await.is_ok() }).await;
        let node = NodeId::new_process();
        let epoch = directory.register(&node, &entry("one"), LEASE).await.unwrap();
        shards.owner.flush().await;
        shards.move_slot().await;
        let moved = directory.owners(&room("a")).await;
        assert!(
            matches!(moved, Err(DirectoryError::Refused(_))),
            "nothing is done elsewhere behind the caller's back: {moved:?}"
        );
        until("it is found again", || async { directory.nodes().await.is_ok() }).await;
        let next = directory.register(&node, &entry("one"), LEASE).await.unwrap();
        assert!(next.is_some() && next != epoch);
        assert_eq!(shards.owner.members(&format!("{TAGGED}nodes")).await, [node.to_string()]);
    };
    tokio::select! {
        () = directory.maintain() => unreachable!("it keeps up for ever"),
        () = moving => {}
    }
}

#[tokio::test]
async fn a_writable_master_is_left_when_sentinels_name_another() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let sentinels = Sentinels::over(&old, 0).await;
    let directory = RedisDirectory::open(&sentinels.url(), "rollcall:", false).unwrap();
    let working = async {
        until("connected", || async { directory.nodes().await.is_ok() }).await;
        let (one, two) = (NodeId::new_process(), NodeId::new_process());
        let before = directory.register(&one, &entry("one"), LEASE).await.unwrap();
        sentinels.forget().await;
        assert!(directory.renew(&one, &entry("one"), LEASE).await.is_ok(), "while nobody knows, it is where it was");
        sentinels.monitor(&new).await;
        until("it goes there", || async { directory.nodes().await.is_ok_and(|listing| listing.epoch != before) }).await;
        assert_eq!(directory.renew(&one, &entry("one"), LEASE).await, Ok(LeaseRenewal::Lapsed), "another index");
        let after = directory.register(&two, &entry("two"), LEASE).await.unwrap();
        assert!(before.is_some() && after.is_some() && before != after);
        assert_eq!(old.members("rollcall:nodes").await, [one.to_string()]);
        assert!(new.members("rollcall:nodes").await.contains(&two.to_string()));
    };
    tokio::select! {
        () = directory.maintain() => unreachable!("it keeps up for ever"),
        () = working => {}
    }
}

#[tokio::test]
async fn hung_or_dead_sentinels_do_not_delay_a_call() {
    let master = RedisServer::start().await;
    let mut sentinels = Sentinels::over(&master, 0).await;
    sentinels.0[0].stop().await;
    sentinels.0[1].kill();
    let directory = RedisDirectory::open(&sentinels.url(), "rollcall:", false).unwrap();
    let began = Instant::now();
    let connected = async { until("connected", || async { directory.nodes().await.is_ok() }).await };
    tokio::select! {
        () = directory.maintain() => unreachable!("it keeps up for ever"),
        () = connected => {}
    }
    assert!(began.elapsed() < CALL_TIMEOUT, "{:?}", began.elapsed());
}

#[tokio::test]
async fn sentinels_have_their_own_users() {
    let master = RedisServer::start().await;
    let document = include_str!("../../docs/REDIS.md").split_whitespace().collect::<Vec<_>>().join(" ");
    let rules = "-@all +sentinel|master";
    assert!(document.contains(&format!("ACL SETUSER rollcall on ><password> {rules}")), "docs/REDIS.md says so, too");
    let monitor = format!("sentinel monitor main {} {} 1", master.address.ip(), master.address.port());
    let users = format!("user default off\nuser rollcall on >correct-horse {rules}");
    let sentinel = RedisServer::sentinel(&format!("{monitor}\n{users}")).await;
    let folder = TempDir::new().unwrap();
    let check = async |user: Option<&str>, password: &str| {
        let file = folder.path().join("password");
        fs::write(&file, password).unwrap();
        let access = RedisAccess {
            sentinel_user: user.map(str::to_owned),
            sentinel_password: user.map(|_| file),
            ..RedisAccess::default()
        };
        let url = format!("redis-sentinel://{}/main", sentinel.address);
        RedisDirectory::with(&url, &access, "rollcall:", false).unwrap().check().await
    };
    assert_eq!(check(Some("rollcall"), "correct-horse\n").await, Ok(()));
    for (user, password) in [(None, "x"), (Some("rollcall"), "hunter2"), (Some("nobody"), "correct-horse")] {
        let incompatible = check(user, password).await.unwrap_err();
        assert!(matches!(incompatible, Incompatible::SentinelLogin(_)), "{incompatible}");
        assert!(
            incompatible.to_string().contains("--redis-sentinel-password-file")
                && !incompatible.to_string().contains("hunter2")
        );
    }
}

#[tokio::test]
async fn a_server_of_another_kind_is_refused_with_the_remedy() {
    let plain = RedisServer::start().await;
    let node = RedisServer::cluster_node().await;
    let monitor = format!("sentinel monitor main {} {} 1", plain.address.ip(), plain.address.port());
    let sentinel = RedisServer::sentinel(&monitor).await;
    let lacking = RedisServer::start_with(&["--rename-command", "UNLINK", ""]).await;
    let silent = RedisServer::start_with(&["--rename-command", "INFO", ""]).await;
    let check = async |url: String| RedisDirectory::open(&url, "rollcall:", false).unwrap().check().await.unwrap_err();
    assert_eq!(check(format!("redis://{}", node.address)).await, Incompatible::Cluster);
    assert_eq!(check(format!("redis-cluster://{}", plain.address)).await, Incompatible::NoCluster);
    assert_eq!(check(format!("redis-cluster://{}", sentinel.address)).await, Incompatible::NoCluster);
    assert_eq!(check(format!("redis://{}", sentinel.address)).await, Incompatible::Sentinel);
    assert_eq!(check(format!("redis-sentinel://{}/main", plain.address)).await, Incompatible::NoSentinel);
    let unknown = check(format!("redis-sentinel://{}/other", sentinel.address)).await;
    assert_eq!(unknown, Incompatible::UnknownMaster("other".to_owned()));
    assert_eq!(check(lacking.url()).await, Incompatible::MissingCommand("UNLINK"));
    assert_eq!(check(silent.url()).await, Incompatible::MissingCommand("INFO"));
    let nobody = RedisDirectory::open("redis-cluster://127.0.0.1:1,127.0.0.1:2", "rollcall:", false).unwrap();
    assert_eq!(nobody.check().await, Ok(()), "it may come");
    let without_slots = RedisDirectory::open(&format!("redis-cluster://{}", node.address), "rollcall:", false).unwrap();
    assert_eq!(without_slots.check().await, Ok(()), "it may get them");
}

/// A directory that is connected, while `work` runs.
async fn connected<T>(
    server: &RedisServer,
    work: impl AsyncFnOnce(&RedisDirectory, redis::aio::MultiplexedConnection) -> T,
) -> T {
    let directory = RedisDirectory::open(&server.url(), "rollcall:", false).unwrap();
    while_connected(&directory, server, work).await
}

/// Runs `work` while this directory is connected.
async fn while_connected<T>(
    directory: &RedisDirectory,
    server: &RedisServer,
    work: impl AsyncFnOnce(&RedisDirectory, redis::aio::MultiplexedConnection) -> T,
) -> T {
    let working = async {
        until("connected", || async { directory.nodes().await.is_ok() }).await;
        work(directory, server.connection().await).await
    };
    tokio::select! {
        () = directory.maintain() => unreachable!("it keeps up for ever"),
        done = working => done,
    }
}

#[tokio::test]
async fn an_epoch_made_under_another_redis_process_is_not_trusted() {
    let server = RedisServer::start_aged().await;
    connected(&server, async |directory, mut redis| {
        let made_elsewhere = format!("0123456789abcdef.{}.1700000000@{}", "a".repeat(40), "b".repeat(40));
        redis::cmd("SET").arg("rollcall:epoch").arg(made_elsewhere).query_async::<()>(&mut redis).await.unwrap();
        assert_eq!(directory.owners(&room("a")).await.unwrap().epoch, None, "readers do not make one either");
        assert_eq!(directory.nodes().await.unwrap().epoch, None);
        let (one, two) = (NodeId::new_process(), NodeId::new_process());
        let epoch = directory.register(&one, &entry("one"), LEASE).await.unwrap();
        assert!(epoch.is_some(), "whoever enters begins another");
        assert_eq!(directory.register(&two, &entry("two"), LEASE).await.unwrap(), epoch, "and the next finds it");
        assert_eq!(directory.add_owner(&two, &[room("a")]).await.unwrap(), epoch);
        assert_eq!(directory.owners(&room("a")).await.unwrap().epoch, epoch);
        let age = async || directory.nodes().await.unwrap().age.expect("an epoch of redis has an age");
        assert!(age().await <= Duration::from_secs(1), "it began just now");
        until("it grows older", async || {
            directory.renew(&one, &entry("one"), LEASE).await.unwrap();
            age().await >= Duration::from_secs(1)
        })
        .await;
        redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await.unwrap();
        assert_eq!(directory.renew(&one, &entry("one"), LEASE).await, Ok(LeaseRenewal::Lapsed));
        let next = directory.register(&one.next_incarnation(), &entry("one"), LEASE).await.unwrap();
        assert!(next.is_some() && next != epoch, "a flush begins another, too");
    })
    .await;
}

#[tokio::test]
async fn keys_of_other_programs_are_skipped_and_counted() {
    let server = RedisServer::start_aged().await;
    let anomalies = Anomalies::default();
    let directory = RedisDirectory::open(&server.url(), "rollcall:", false).unwrap();
    let directory = directory.with_anomalies(anomalies.clone());
    while_connected(&directory, &server, async |directory, mut redis| {
        let node = NodeId::new_process();
        directory.register(&node, &entry("one"), LEASE).await.unwrap();
        directory.add_owner(&node, &[room("mixed")]).await.unwrap();
        let mut foreign = redis::pipe();
        foreign.cmd("SADD").arg("rollcall:owners:mixed").arg("somebody").arg(b"\xff\xfe".as_slice()).ignore();
        foreign.cmd("SADD").arg("rollcall:nodes").arg("somebody").ignore();
        foreign.cmd("SET").arg("rollcall:owners:taken").arg("text").ignore();
        foreign.cmd("SET").arg(format!("rollcall:room:{node}:taken")).arg("text").ignore();
        let registered = NodeId::new_process();
        foreign.cmd("SADD").arg("rollcall:nodes").arg(registered.as_str()).ignore();
        foreign.cmd("SET").arg(format!("rollcall:node:{registered}")).arg("{}").ignore();
        foreign.query_async::<()>(&mut redis).await.unwrap();

        assert_eq!(directory.owners(&room("mixed")).await.unwrap().nodes, [node.clone()].as_slice());
        let nodes = directory.nodes().await.unwrap().nodes;
        assert_eq!(nodes, [(node.clone(), entry("one"))], "neither a foreign id nor a foreign entry is a node");
        assert!(matches!(directory.owners(&room("taken")).await, Err(DirectoryError::Foreign(_))));
        let both = [room("taken"), room("free")];
        assert!(matches!(directory.add_owner(&node, &both).await, Err(DirectoryError::Foreign(_))));
        assert_eq!(
            directory.owners(&both[1]).await.unwrap().nodes,
            [node.clone()].as_slice(),
            "the rest of the call was done"
        );
        let seats = [seat("taken", "s1", true), seat("free", "s1", true)];
        assert_eq!(directory.write_sockets(&node, &seats).await, Ok(()));
        assert_eq!(directory.leases_and_counts(&both[1], std::slice::from_ref(&node)).await.unwrap()[0].sockets, 1);
        assert_eq!(directory.remove_owner(&node, &both).await, Ok(()));
        let owners: String = redis::cmd("GET").arg("rollcall:owners:taken").query_async(&mut redis).await.unwrap();
        assert_eq!(owners, "text", "it is left as it was");
        for kind in [Anomaly::ForeignMember, Anomaly::ForeignEntry, Anomaly::ForeignKey] {
            assert!(anomalies.count(kind) > 0, "{kind:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_may_evict_or_is_a_replica_is_not_used() {
    let server = RedisServer::start_aged().await;
    let mut redis = server.connection().await;
    let check = async |allow| RedisDirectory::open(&server.url(), "rollcall:", allow).unwrap().check().await;
    assert_eq!(check(false).await, Ok(()));
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("maxmemory-policy").arg(policy);
        set.query_async::<()>(&mut redis).await.unwrap();
        let incompatible = check(false).await.unwrap_err();
        assert_eq!(incompatible, Incompatible::Evicts(policy.to_owned()));
        assert!(incompatible.to_string().contains("CONFIG SET maxmemory-policy noeviction"), "{incompatible}");
        assert_eq!(check(true).await, Ok(()), "whoever typed it has it");
    }
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg(1).query_async::<()>(&mut redis).await.unwrap();
    assert_eq!(check(true).await, Err(Incompatible::Replica));
    assert_eq!(
        RedisDirectory::open("redis://127.0.0.1:1", "rollcall:", false).unwrap().check().await,
        Ok(()),
        "it may come"
    );
}
