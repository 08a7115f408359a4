//! A member of the mesh that lies to real nodes. It is a bare gRPC client that announces itself with false statements.

use std::time::Duration;

use rollcall::mesh::node_status::MAX_STATUS_MEMBERS;
use rollcall::mesh::proto::{AnnounceRequest, KnownMember, Status};
use rollcall::names::NodeId;
use testkit::process_cluster::{Options, ProcessCluster};
use testkit::{mesh_client, until, within};
use tonic::Code;

/// A node may need this much more memory after all the lies, most of it for buffers.
const MAX_GROWTH_BYTES: u64 = 24 << 20;
const RECOVERED_WITHIN: Duration = Duration::from_secs(10);

fn about(node: &NodeId, mesh: &str) -> KnownMember {
    let (node_id, mesh) = (node.to_string(), mesh.to_owned());
    KnownMember { node_id, name: "somebody".into(), mesh, since: "now".into(), age_ms: Some(0) }
}

/// A status of the liar about itself, with statements about others.
fn lie(members: Vec<KnownMember>) -> AnnounceRequest {
    let node_id = NodeId::new_process().to_string();
    let (name, mesh, since) = ("liar".into(), "127.0.0.9:9".into(), "now".into());
    let status = Status { node_id, name, mesh, since, sequence: 1, members, ..Default::default() };
    AnnounceRequest { status: Some(status) }
}

fn invented(count: usize) -> Vec<KnownMember> {
    (0..count).map(|number| about(&NodeId::new_process(), &format!("127.0.0.9:{}", 1 + number % 60_000))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lie_about_another_node_hides_no_socket() {
    let cluster = ProcessCluster::start(2, Options::lease(2)).await;
    let client = cluster.connect(1, "someone", &["all"]).await;
    cluster.healed(&[0, 1], RECOVERED_WITHIN).await;
    let victim = cluster.call(0, "all").await.0["users"][0]["node"].clone();
    let id = cluster.roster(1, "all").await.map(|(node, _)| NodeId::parse(&node).unwrap()).unwrap();
    let elsewhere = "127.0.0.9:9";
    let later = id.next_incarnation();
    for lies in
        [vec![about(&id, elsewhere)], vec![about(&later, elsewhere)], vec![about(&later.next_incarnation(), elsewhere)]]
    {
        mesh_client(cluster.nodes[0].mesh).announce(lie(lies)).await.unwrap();
        let (full, call) = cluster.call(0, "all").await;
        assert!(full.to_string().contains(&client.socket), "{full}");
        assert_eq!(full["users"][0]["node"], victim, "{call:?}");
    }
    within(RECOVERED_WITHIN, "the liar does not answer, and is forgotten", || cluster.agree(&[0, 1], "all")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invented_members_cost_a_node_little_memory() {
    let cluster = ProcessCluster::start(2, Options::lease(2)).await;
    let client = cluster.connect(1, "someone", &["all"]).await;
    cluster.healed(&[0, 1], RECOVERED_WITHIN).await;
    let node = &cluster.nodes[0];
    let before = node.resident();
    let mut mesh = mesh_client(node.mesh);
    let refused = mesh.announce(lie(invented(1_250))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let refused = mesh.announce(lie(invented(100_000))).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    for _ in 0..100 {
        // From the 64th on, the node has no room for a further liar either.
        let answer = mesh.announce(lie(invented(MAX_STATUS_MEMBERS))).await;
        let members = answer.map_or(0, |answer| answer.into_inner().status.unwrap().members.len());
        assert!(members <= 1 + 64, "the answer names {members} members");
        let (full, _) = cluster.call(0, "all").await;
        assert!(full.to_string().contains(&client.socket), "{full}");
    }
    for _ in 0..20 {
        let grown = node.resident().saturating_sub(before);
        assert!(grown < MAX_GROWTH_BYTES, "the node has grown by {} MiB", grown >> 20);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("grown by {} KiB", node.resident().saturating_sub(before) >> 10);
    until("the invented members do not answer, and are forgotten", || cluster.agree(&[0, 1], "all")).await;
}
