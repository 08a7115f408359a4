//! Reading a snapshot from the roster, as an owner does for each lookup.

use criterion::Criterion;
use rollcall::names::NodeId;
use rollcall::roster::{CachedVersion, Roster};

use crate::{ROWS, join, room};

/// Sockets of another room on the same node, which must not affect the result.
const OTHER_SOCKETS: usize = 50_000;

pub(crate) fn snapshot(criterion: &mut Criterion) {
    let roster = Roster::new(NodeId::new_process());
    let (measured, other) = (room("Maths"), room("Physics"));
    let _registrations = [join(&roster, &measured, 0..ROWS), join(&roster, &other, ROWS..ROWS + OTHER_SOCKETS)];
    // Every read of an unowned room marks it for a write, and most rooms are owned.
    let node = roster.incarnation();
    let requested = roster.request_ownership(&node, roster.take_unowned());
    roster.confirm_ownership(&node, &requested);
    let known = CachedVersion { version: roster.snapshot(&measured, None).version, accepts_delta: true };

    let mut group = criterion.benchmark_group("roster snapshot");
    group.bench_function("2500 rows", |bencher| bencher.iter(|| roster.snapshot(&measured, None)));
    group.bench_function("unchanged", |bencher| bencher.iter(|| roster.snapshot(&measured, Some(known))));
    group.finish();
}
