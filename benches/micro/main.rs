//! Micro-benchmarks of the hot paths, which make a regression visible: `make micro`.
//!
//! Owns the shared data: one owner's share of a room of 10,000 on four nodes. [`roster`] reads a snapshot, and [`answer`]
//! joins snapshots into a body. [`plan`] chooses the nodes to ask, [`lookup`] is one call to a peer, and [`reconciler`]
//! writes many joins to the directory.

mod answer;
mod lookup;
mod plan;
mod reconciler;
mod roster;

use std::ops::Range;
use std::sync::Arc;

use criterion::{criterion_group, criterion_main};
use rollcall::membership::NodeInfo;
use rollcall::names::{NodeName, Room, SocketId, UserId};
use rollcall::roster::{Registration, Roster, Row};
use tikv_jemallocator::Jemalloc;

/// The same allocator as in the program.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

const ROWS: usize = 2_500;

fn room(name: &str) -> Room {
    Room::parse(name).unwrap()
}

/// A row whose socket id is as long as those of Engine.IO.
fn row(number: usize) -> Row {
    let id_socket = SocketId::parse(&format!("{number:020}")).unwrap();
    Row { id_socket, id_user: UserId::parse(&format!("user-{number}")).unwrap() }
}

/// Registers sockets with these numbers in the room. Dropping the registrations removes them.
fn join(roster: &Arc<Roster>, room: &Room, numbers: Range<usize>) -> Vec<Registration> {
    let rows = numbers.map(row);
    rows.map(|row| roster.register(row.id_socket, row.id_user, std::slice::from_ref(room))).collect()
}

fn node_info() -> NodeInfo {
    NodeInfo { name: NodeName::from_any("node"), mesh: "127.0.0.1:1".into(), since: "now".into() }
}

criterion_group!(
    hot_paths,
    roster::snapshot,
    answer::rows,
    answer::users,
    plan::plan,
    lookup::lookup,
    reconciler::flush
);
criterion_main!(hot_paths);
