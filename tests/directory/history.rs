//! The ways in which a real Redis answers with older content, and how the directory notices each. In every test a node
//! claims a room, and the server then goes back to a time before the claim.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use redis::Cmd;
use rollcall::directory::redis::RedisDirectory;
use rollcall::directory::{Directory, LeaseRenewal, RoomOwners};
use rollcall::index::Epoch;
use rollcall::names::NodeId;
use testkit::redis_server::RedisServer;
use testkit::redis_topology::{Shards, TAGGED};
use testkit::until;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::{connected, entry, room, while_connected};

/// Long, so that no epoch expires during a test.
const LEASE: Duration = Duration::from_secs(60);
const NEW: &str = "new";

fn command(words: &str) -> Cmd {
    let mut command = Cmd::new();
    words.split(' ').for_each(|word| {
        command.arg(word);
    });
    command
}

async fn new_owners(directory: &RedisDirectory) -> RoomOwners {
    until("the directory answers", async || directory.owners(&room(NEW)).await.is_ok()).await;
    directory.owners(&room(NEW)).await.unwrap()
}

async fn register(directory: &RedisDirectory) -> (NodeId, Epoch) {
    let node = NodeId::new_process();
    let epoch = directory.register(&node, &entry("one"), LEASE).await.unwrap().expect("a new node");
    (node, epoch)
}

async fn claim(directory: &RedisDirectory, node: &NodeId, epoch: &Epoch) {
    assert_eq!(directory.add_owner(node, &[room(NEW)]).await.unwrap().as_ref(), Some(epoch));
}

/// Asserts that readers find no epoch, and that the node can begin another one.
async fn is_noticed_by_readers(directory: &RedisDirectory, node: &NodeId, epoch: &Epoch) {
    let owners = new_owners(directory).await;
    assert_eq!(owners.nodes, [], "the claim is lost");
    assert_eq!(owners.epoch, None);
    assert_eq!(directory.nodes().await.unwrap().epoch, None);
    assert_eq!(directory.renew(node, &entry("one"), LEASE).await, Ok(LeaseRenewal::Lapsed));
    begins_another(directory, node, epoch).await;
}

/// Asserts that no reader can notice it, that the next renewal of the node does, and that another epoch begins.
async fn is_noticed_by_the_node(directory: &RedisDirectory, node: &NodeId, epoch: &Epoch) {
    let owners = new_owners(directory).await;
    assert_eq!(owners.nodes, [], "the claim is lost");
    assert_eq!(owners.epoch.as_ref(), Some(epoch), "nothing shows it to a reader");
    assert_eq!(directory.renew(node, &entry("one"), LEASE).await, Ok(LeaseRenewal::Lapsed));
    begins_another(directory, node, epoch).await;
}

async fn begins_another(directory: &RedisDirectory, node: &NodeId, epoch: &Epoch) {
    let next = directory.register(&node.next_incarnation(), &entry("one"), LEASE).await.unwrap();
    assert!(next.is_some() && next.as_ref() != Some(epoch), "{next:?}");
    assert_eq!(new_owners(directory).await.epoch, next);
}

async fn renew(directory: &RedisDirectory, node: &NodeId, epoch: &Epoch) {
    assert_eq!(directory.renew(node, &entry("one"), LEASE).await, Ok(LeaseRenewal::Renewed(epoch.clone())));
}

#[tokio::test]
async fn a_master_demoted_and_promoted_again_has_another_epoch() {
    let server = RedisServer::start().await;
    let lagging = RedisServer::replica_of(&server).await;
    connected(&server, async |directory, _| {
        let (node, epoch) = register(directory).await;
        lagging.promote().await;
        claim(directory, &node, &epoch).await;
        server.follow(&lagging).await;
        let owners = directory.owners(&room(NEW)).await.unwrap();
        assert_eq!(owners, RoomOwners { nodes: vec![], epoch: None }, "a replica, on the same connection");
        server.promote().await;
        is_noticed_by_readers(directory, &node, &epoch).await;
    })
    .await;
}

#[tokio::test]
async fn a_replica_with_the_identity_of_its_master_is_not_trusted() {
    let server = RedisServer::start().await;
    connected(&server, async |directory, _| {
        let (_, epoch) = register(directory).await;
        assert_eq!(new_owners(directory).await.epoch, Some(epoch));
        // Without a master to copy, it keeps its data and its `master_replid`.
        server.demote().await;
        assert_eq!(directory.owners(&room(NEW)).await.unwrap().epoch, None);
    })
    .await;
}

#[tokio::test]
async fn a_first_replica_may_cost_one_registration() {
    let server = RedisServer::start().await;
    connected(&server, async |directory, _| {
        let (node, epoch) = register(directory).await;
        claim(directory, &node, &epoch).await;
        // The server begins a replication log, under a new `master_replid`.
        let _replica = RedisServer::replica_of(&server).await;
        let owners = new_owners(directory).await;
        assert_eq!(owners.nodes, std::slice::from_ref(&node), "nothing is lost");
        assert_eq!(owners.epoch, None);
        let (next, epoch) = register(directory).await;
        let _second = RedisServer::replica_of(&server).await;
        renew(directory, &next, &epoch).await;
    })
    .await;
}

#[tokio::test]
async fn a_restart_from_a_snapshot_or_a_log_has_another_epoch() {
    for log in [false, true] {
        let options: &[&str] = if log { &["--appendonly", "yes"] } else { &[] };
        let mut server = RedisServer::start_with(options).await;
        let directory = RedisDirectory::open(&server.url(), "rollcall:", false).unwrap();
        let working = async {
            until("connected", async || directory.nodes().await.is_ok()).await;
            let (node, epoch) = register(&directory).await;
            let snapshot = server.snapshot().await;
            if !log {
                claim(&directory, &node, &epoch).await;
            }
            server.restart_from(&snapshot, options);
            server.answering().await;
            assert_eq!(server.keys("rollcall:epoch").await.len(), 1, "the key is back, log: {log}");
            is_noticed_by_readers(&directory, &node, &epoch).await;
        };
        tokio::select! {
            () = directory.maintain() => unreachable!("it runs forever"),
            () = working => {}
        }
    }
}

#[tokio::test]
async fn a_reload_of_an_old_snapshot_is_noticed_by_the_node() {
    let server = RedisServer::start_with(&["--enable-debug-command", "yes"]).await;
    connected(&server, async |directory, _| {
        let (node, epoch) = register(directory).await;
        server.snapshot().await;
        renew(directory, &node, &epoch).await;
        server.run::<()>(&mut command("DEBUG RELOAD")).await;
        renew(directory, &node, &epoch).await;
        renew(directory, &node, &epoch).await;
        claim(directory, &node, &epoch).await;
        server.run::<()>(&mut command("DEBUG RELOAD NOSAVE")).await;
        is_noticed_by_the_node(directory, &node, &epoch).await;
    })
    .await;
}

#[tokio::test]
async fn swapped_databases_are_noticed_by_the_node() {
    let server = RedisServer::start().await;
    connected(&server, async |directory, _| {
        let (node, epoch) = register(directory).await;
        for key in server.keys("*").await {
            server.run::<()>(&mut command(&format!("COPY {key} {key} DB 1"))).await;
        }
        renew(directory, &node, &epoch).await;
        renew(directory, &node, &epoch).await;
        claim(directory, &node, &epoch).await;
        server.run::<()>(&mut command("SWAPDB 0 1")).await;
        is_noticed_by_the_node(directory, &node, &epoch).await;
    })
    .await;
}

#[tokio::test]
async fn an_import_after_a_flush_is_noticed_by_the_node() {
    let server = RedisServer::start().await;
    connected(&server, async |directory, _| {
        let (node, epoch) = register(directory).await;
        let mut dump: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for key in server.keys("*").await {
            let content = server.run(redis::cmd("DUMP").arg(&key)).await;
            dump.insert(key, content);
        }
        renew(directory, &node, &epoch).await;
        renew(directory, &node, &epoch).await;
        claim(directory, &node, &epoch).await;
        server.run::<()>(&mut redis::cmd("FLUSHDB")).await;
        assert_eq!(new_owners(directory).await.epoch, None, "a flush alone");
        for (key, content) in &dump {
            // Such tools may drop the expiry.
            server.run::<()>(redis::cmd("RESTORE").arg(key).arg(0).arg(content)).await;
        }
        is_noticed_by_the_node(directory, &node, &epoch).await;
    })
    .await;
}

#[tokio::test]
async fn an_overwritten_lease_is_noticed_by_its_node() {
    let server = RedisServer::start().await;
    connected(&server, async |directory, _| {
        let (node, epoch) = register(directory).await;
        for content in [r#"{"name":"one","mesh":"127.0.0.1:7001","since":"now","draining":false}"#, "text"] {
            renew(directory, &node, &epoch).await;
            let lease = format!("rollcall:node:{node}");
            server.run::<()>(redis::cmd("SET").arg(&lease).arg(content).arg("KEEPTTL")).await;
            assert_eq!(directory.renew(&node, &entry("one"), LEASE).await, Ok(LeaseRenewal::Lapsed), "{content}");
        }
        begins_another(directory, &node, &epoch).await;
    })
    .await;
}

/// Nodes of the previous version look for the `run_id` at the end, and for the time before it. They accept what they find, and do
/// not extend it.
#[tokio::test]
async fn nodes_of_the_previous_version_accept_the_epoch() {
    let server = RedisServer::start().await;
    let about: String = server.run(&mut redis::cmd("INFO")).await;
    let run_id = about.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap().trim().to_owned();
    connected(&server, async |directory, _| {
        let previous = format!("0123456789abcdef.1700000000@{run_id}");
        server.run::<()>(redis::cmd("SET").arg("rollcall:epoch").arg(&previous)).await;
        assert_eq!(directory.nodes().await.unwrap().epoch, None, "it does not name the history");
        let (node, epoch) = register(directory).await;
        let value: String = server.run(redis::cmd("GET").arg("rollcall:epoch")).await;
        assert_eq!(value, epoch.0);
        let (created, process) = value.rsplit_once('@').unwrap();
        assert_eq!(process, run_id);
        let (_, time) = created.rsplit_once('.').unwrap();
        assert!(time.parse::<u64>().is_ok(), "{value}");
        renew(directory, &node, &epoch).await;
    })
    .await;
}

#[tokio::test]
async fn a_slot_that_moves_there_and_back_keeps_its_claims() {
    let mut shards = Shards::start().await;
    let directory = RedisDirectory::open(&shards.url(), "rollcall:", false).unwrap();
    let working = async {
        until("connected", async || directory.nodes().await.is_ok()).await;
        let (node, epoch) = register(&directory).await;
        claim(&directory, &node, &epoch).await;
        shards.migrate_slot().await;
        let owners = new_owners(&directory).await;
        assert_eq!(owners.nodes, std::slice::from_ref(&node));
        assert_eq!(owners.epoch, None, "the epoch names the other server");
        shards.migrate_slot_back().await;
        until("the directory follows", async || {
            directory.owners(&room(NEW)).await.is_ok_and(|owners| owners.epoch.as_ref() == Some(&epoch))
        })
        .await;
        assert_eq!(new_owners(&directory).await.nodes, std::slice::from_ref(&node), "nothing was lost");

        // If a node registers on the way, the epoch is another one afterwards.
        shards.migrate_slot().await;
        until("the directory follows", async || {
            directory.owners(&room(NEW)).await.is_ok_and(|owners| owners.epoch.is_none())
        })
        .await;
        let (_, elsewhere) = register(&directory).await;
        shards.migrate_slot_back().await;
        until("the directory follows", async || {
            directory.owners(&room(NEW)).await.is_ok_and(|owners| owners.epoch.is_none())
        })
        .await;
        let (_, next) = register(&directory).await;
        assert!(next != epoch && next != elsewhere);
        assert!(shards.owner.keys("*").await.contains(&format!("{TAGGED}epoch")));
    };
    tokio::select! {
        () = directory.maintain() => unreachable!("it runs forever"),
        () = working => {}
    }
}

#[tokio::test]
async fn another_server_behind_one_connection_has_another_epoch() {
    let (server, other) = (RedisServer::start().await, RedisServer::start().await);
    let (target, _) = watch::channel(server.address);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let proxy = tokio::spawn(switch_backends(listener, target.subscribe()));
    let directory = RedisDirectory::open(&url, "rollcall:", false).unwrap();
    while_connected(&directory, &server, async |directory, _| {
        let (node, epoch) = register(directory).await;
        for key in server.keys("*").await {
            let content: Vec<u8> = server.run(redis::cmd("DUMP").arg(&key)).await;
            other.run::<()>(redis::cmd("RESTORE").arg(&key).arg(60_000).arg(content)).await;
        }
        claim(directory, &node, &epoch).await;
        target.send_replace(other.address);
        until("the proxy has switched", async || new_owners(directory).await.nodes.is_empty()).await;
        is_noticed_by_readers(directory, &node, &epoch).await;
    })
    .await;
    proxy.abort();
}

/// Forwards connections to the present target. When that changes, the caller's connection stays.
async fn switch_backends(listener: TcpListener, target: watch::Receiver<SocketAddr>) {
    loop {
        let (mut caller, _) = listener.accept().await.unwrap();
        let mut target = target.clone();
        tokio::spawn(async move {
            loop {
                let address = *target.borrow_and_update();
                let mut callee = TcpStream::connect(address).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut caller, &mut callee) => return,
                    _ = target.changed() => {}
                }
            }
        });
    }
}
