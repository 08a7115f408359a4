//! The plan of a roll call: a copy of the member table, compared with the owner set.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use rollcall::clock::BootInstant;
use rollcall::directory::memory::MemoryDirectory;
use rollcall::directory::{Directory, NodeEntry, RoomOwners};
use rollcall::membership::Membership;
use rollcall::mesh::advertise::FixedAddress;
use rollcall::mesh::node_status::{MemberInfo, NodeStatus};
use rollcall::names::NodeId;
use rollcall::roll_call::plan;
use rollcall::roster::Roster;
use tokio::runtime::Runtime;

use crate::node_info;

/// Longer than the benchmark, so that no renewal changes the table.
const LEASE: Duration = Duration::from_secs(3600);
/// Other nodes with sockets in the room.
const OWNERS: usize = 3;

pub(crate) fn plan(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("view and plan");
    for nodes in [4, 64] {
        let roster = Roster::new(NodeId::new_process());
        let own = roster.incarnation();
        let membership = Membership::new(node_info(), LEASE, roster);
        let owners = runtime.block_on(add_members(&membership, nodes - 1));
        let make_plan = || {
            let view = membership.view();
            plan::plan(&view, Some(&owners), own.process(), LEASE, BootInstant::now())
        };
        assert_eq!(make_plan().ask.len(), OWNERS, "the plan asks the owners only");
        group.bench_function(BenchmarkId::from_parameter(format_args!("{nodes} nodes")), |bencher| {
            bencher.iter(make_plan);
        });
    }
    group.finish();
}

/// Adds members that have a lease and are fully indexed. The first [`OWNERS`] of them own sockets in the room.
async fn add_members(membership: &Membership, others: usize) -> RoomOwners {
    let directory = MemoryDirectory::new();
    let mut owners = RoomOwners { nodes: Vec::new(), epoch: None };
    let node_info = node_info();
    let (name, mesh, since) = (node_info.name, node_info.mesh, node_info.since);
    let nodes: Vec<NodeId> = (0..others).map(|_| NodeId::new_process()).collect();
    for node in &nodes {
        let entry = NodeEntry { name: name.clone(), mesh: mesh.clone(), since: since.clone(), draining: false };
        owners.epoch = directory.register(node, &entry, LEASE).await.unwrap();
    }
    // A node takes in the statuses of many others only if the directory lists them.
    let address = FixedAddress("127.0.0.1:1".into());
    tokio::select! {
        () = membership.keep_lease(&*directory, &address) => {}
        () = membership.joined() => {}
    }
    for node in nodes {
        let about =
            MemberInfo { node: node.clone(), name: name.clone(), mesh: mesh.clone(), since: since.clone(), age: None };
        membership.receive_status(&NodeStatus {
            about,
            sequence: 1,
            fully_indexed_in: owners.epoch.clone(),
            draining: false,
            goodbye: false,
            members: vec![],
        });
        if owners.nodes.len() < OWNERS {
            owners.nodes.push(node);
        }
    }
    owners
}
