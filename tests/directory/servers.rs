//! Every way to run Redis, and the servers that a node refuses.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rollcall::directory::redis::connect::RedisAccess;
use rollcall::directory::redis::{CALL_TIMEOUT, Incompatible, RedisDirectory};
use rollcall::directory::{Directory, DirectoryError, LeaseRenewal};
use rollcall::names::NodeId;
use rollcall::telemetry::anomalies::{Anomalies, Anomaly};
use tempfile::TempDir;
use testkit::programs::redis_program;
use testkit::redis_server::RedisServer;
use testkit::redis_topology::{Sentinels, Shards, TAGGED};
use testkit::until;

use crate::contract::contract;
use crate::{LEASE, connected, entry, room, seat, while_connected};

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
