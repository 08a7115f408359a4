//! The hot pieces by themselves, so that a regression is seen: `make micro`.
//!
//! Owns what they are measured on: one owner's share of a room of 10,000 on four nodes. [`roster`] and [`answer`] are
//! what each node does for a question, [`plan`] is whom the asked one asks, [`lookup`] is one question over the wire, and
//! [`reconciler`] is what a crowd costs that comes in.

#[path = "../../tests/common/mod.rs"]
mod common;

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

/// That of the program.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

const ROWS: usize = 2_500;

fn room(name: &str) -> Room {
    Room::parse(name).unwrap()
}

/// With an id as long as those of Engine.IO.
fn row(number: usize) -> Row {
    let id_socket = SocketId::parse(&format!("{number:020}")).unwrap();
    Row { id_socket, id_user: UserId::parse(&format!("user-{number}")).unwrap() }
}

/// Sockets with these numbers join the room. They leave it when what is returned is dropped.
fn join(roster: &Arc<Roster>, room: &Room, numbers: Range<usize>) -> Vec<Registration> {
    let rows = numbers.map(row);
    rows.map(|row| roster.register(row.id_socket, row.id_user, std::slice::from_ref(room))).collect()
}

fn node_info() -> NodeInfo {
    NodeInfo { name: NodeName::from_any("node"), mesh: "127.0.0.1:1".into(), since: "now".into() }
}

criterion_group!(pieces, roster::part, answer::rows, answer::users, plan::plan, lookup::lookup, reconciler::flush);
criterion_main!(pieces);
