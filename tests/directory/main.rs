//! The contract of the directory, the same suite against every implementation, and every way to run Redis.
//!
//! [`contract`] has the suite and runs it in memory, [`servers`] runs it against every kind of Redis. [`history`] has the ways
//! in which a Redis answers with older content, and [`clock`] steps the clock of the index.

mod clock;
mod contract;
mod history;
mod servers;

use std::time::Duration;

use rollcall::directory::redis::RedisDirectory;
use rollcall::directory::{Directory, NodeEntry};
use rollcall::index::{SocketEntry, SocketWrite};
use rollcall::names::{NodeName, Room, SocketId};
use testkit::redis_server::RedisServer;
use testkit::until;

const LEASE: Duration = Duration::from_secs(5);

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
