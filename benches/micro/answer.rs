//! The body of an answer: the JSON of a snapshot, made once for each version, and the joined body, made once per roll call.

use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion};
use jiff::Timestamp;
use rollcall::names::{NodeId, NodeName, Room};
use rollcall::roll_call::answer::{NodeResult, RollCallAnswer, VouchedRows};
use rollcall::roll_call::rows::SerializedRows;
use rollcall::roster::Row;
use rollcall::roster::RowsDelta;
use rollcall::telemetry::metrics::roll_calls::RollCallSource;

use crate::{ROWS, room, row};

const OWNERS: usize = 4;

pub(crate) fn rows(criterion: &mut Criterion) {
    let rows: Vec<Row> = (0..ROWS).map(row).collect();
    criterion.bench_function("serialize a snapshot of 2500 rows", |bencher| {
        bencher.iter_batched(|| rows.clone(), |rows| SerializedRows::new(1, rows), BatchSize::SmallInput);
    });
    let (removed, added) = (vec![rows[0].id_socket.clone()], vec![row(ROWS)]);
    let (cached, changes) = (SerializedRows::new(1, rows), RowsDelta { since: 1, removed, added });
    criterion.bench_function("apply a delta of 2 rows to a snapshot of 2500", |bencher| {
        bencher.iter_batched(|| changes.clone(), |changes| cached.with(2, changes), BatchSize::SmallInput);
    });
}

pub(crate) fn users(criterion: &mut Criterion) {
    let room = room("Maths");
    let snapshot =
        |owner: usize| Arc::new(SerializedRows::new(1, (owner * ROWS..(owner + 1) * ROWS).map(row).collect()));
    let snapshots: Vec<(NodeId, Arc<SerializedRows>)> =
        (0..OWNERS).map(|owner| (NodeId::new_process(), snapshot(owner))).collect();
    // An answer makes its body only once, so each iteration needs a new answer.
    criterion.bench_function("join 4 snapshots of 2500 rows into a body", |bencher| {
        bencher.iter_batched(|| answer(&room, &snapshots), |answer| answer.users(), BatchSize::SmallInput);
    });
}

fn answer(room: &Room, snapshots: &[(NodeId, Arc<SerializedRows>)]) -> RollCallAnswer {
    let result = |(node, rows): &(NodeId, Arc<SerializedRows>)| NodeResult {
        node: node.clone(),
        name: NodeName::from_any("node"),
        took: Duration::ZERO,
        reply: Ok(VouchedRows { rows: Arc::clone(rows), unchanged: true }),
    };
    let results = snapshots.iter().map(result).collect();
    RollCallAnswer::join(room.clone(), Timestamp::UNIX_EPOCH, RollCallSource::Directory, true, results)
}
