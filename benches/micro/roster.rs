//! Reading a room from the roster: what an owner does for each question.

use criterion::Criterion;
use rollcall::names::NodeId;
use rollcall::roster::{CachedVersion, Roster};

use crate::{ROWS, join, room};

/// Sockets of another room on the same node. They should cost nothing.
const OTHERS: usize = 50_000;

pub fn part(criterion: &mut Criterion) {
    let roster = Roster::new(NodeId::new_process());
    let (asked, other) = (room("Maths"), room("Physics"));
    let _present = [join(&roster, &asked, 0..ROWS), join(&roster, &other, ROWS..ROWS + OTHERS)];
    // A room without a claim is put down for one by every reader, and rooms mostly have theirs.
    let node = roster.incarnation();
    let claimed = roster.request_ownership(&node, roster.take_unowned());
    roster.confirm_ownership(&node, &claimed);
    let known = CachedVersion { version: roster.snapshot(&asked, None).version, accepts_delta: true };

    let mut group = criterion.benchmark_group("roster part");
    group.bench_function("2500 rows", |bencher| bencher.iter(|| roster.snapshot(&asked, None)));
    group.bench_function("unchanged", |bencher| bencher.iter(|| roster.snapshot(&asked, Some(known))));
    group.finish();
}
