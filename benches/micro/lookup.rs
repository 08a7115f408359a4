//! One `LookupSockets` call over a loopback connection, with client and server in this process.

use std::net::Ipv4Addr;

use criterion::Criterion;
use rollcall::auth::IdentityMode;
use rollcall::membership::Membership;
use rollcall::mesh::accept;
use rollcall::mesh::answers::PeerReply;
use rollcall::mesh::io::ByteCounter;
use rollcall::mesh::peers::Peers;
use rollcall::mesh::security::Security;
use rollcall::mesh_service;
use rollcall::names::NodeId;
use rollcall::node::config;
use rollcall::roll_call;
use rollcall::roster::{Roster, RowsUpdate};
use rollcall::status::node_report::NodeReporter;
use rollcall::telemetry::metrics::recent::RecentRollCalls;
use rollcall::telemetry::traces::TraceSampling;
use smol_str::format_smolstr;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::{ROWS, join, node_info, room};

pub(crate) fn lookup(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let roster = Roster::new(NodeId::new_process());
    let (node, room) = (roster.incarnation(), room("Maths"));
    let _registrations = join(&roster, &room, 0..ROWS);
    let membership = Membership::new(node_info(), config::DEFAULT_LEASE, roster.clone());
    let mesh = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = format_smolstr!("{}", mesh.local_addr().unwrap());
    let connections = {
        let _entered = runtime.enter();
        accept::accept_connections(mesh, Security::default(), ByteCounter::default())
    };
    runtime.spawn(mesh_service::serve(
        connections,
        NodeReporter::new(roster, membership, RecentRollCalls::default()),
        IdentityMode::Query,
        None,
        TraceSampling::default(),
        Security::default(),
        CancellationToken::new(),
    ));

    let peers = Peers::default();
    let look_up = async |known| match peers.lookup(&address, &node, &room, known, roll_call::MAX_DEADLINE).await {
        Ok(PeerReply::Snapshot(snapshot)) => snapshot,
        other => panic!("unexpected reply: {other:?}"),
    };
    let cached = runtime.block_on(look_up(None));
    assert!(matches!(cached.update, RowsUpdate::Full(rows) if rows.len() == ROWS));
    let mut group = criterion.benchmark_group("LookupSockets");
    group.bench_function("2500 rows", |bencher| bencher.to_async(&runtime).iter(|| look_up(None)));
    group.bench_function("unchanged", |bencher| bencher.to_async(&runtime).iter(|| look_up(Some(cached.version))));
    group.finish();
}
