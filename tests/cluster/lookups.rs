//! The mesh call `LookupSockets`: its validation, and the versions by which rows are not sent twice.

use rollcall::mesh::NODE_ID_METADATA;
use rollcall::mesh::proto::{LookupSocketsRequest, LookupSocketsResponse};
use testkit::client::Client;
use testkit::cluster::{Cluster, Index};
use testkit::mesh_client;
use tonic::Code;

async fn lookup(
    cluster: &Cluster,
    node: usize,
    request: LookupSocketsRequest,
) -> Result<LookupSocketsResponse, tonic::Status> {
    mesh_client(cluster.nodes[node].mesh).lookup_sockets(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_lookup_is_an_invalid_argument() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let id = cluster.nodes[0].roster.incarnation().to_string();
    let room = || LookupSocketsRequest { room: "a".into(), ..Default::default() };
    let wrong = [
        LookupSocketsRequest::default(),
        LookupSocketsRequest { room: "socket.io".into(), ..Default::default() },
        LookupSocketsRequest { id_sockets: vec!["x".into(); 10_001], ..Default::default() },
        LookupSocketsRequest { id_sockets: vec![String::new()], ..Default::default() },
        LookupSocketsRequest { node_id: "me".into(), ..room() },
        LookupSocketsRequest { known_version: Some(1), ..room() },
        LookupSocketsRequest { known_version: Some(1), node_id: id.clone(), ..Default::default() },
        LookupSocketsRequest { known_version: Some(1), node_id: id.clone(), id_sockets: vec!["x".into()], ..room() },
    ];
    for request in wrong {
        let status = lookup(&cluster, 0, request.clone()).await.expect_err("it makes no sense");
        assert_eq!(status.code(), Code::InvalidArgument, "{:?}", request.room);
    }
    let another = LookupSocketsRequest { node_id: "0123456789abcdef-1".into(), ..room() };
    let status = lookup(&cluster, 0, another).await.expect_err("another node is meant");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.metadata().get(NODE_ID_METADATA).unwrap().to_str().unwrap(), id);
    let most = LookupSocketsRequest { id_sockets: vec!["x".into(); 10_000], ..Default::default() };
    assert_eq!(lookup(&cluster, 0, most).await.unwrap().sockets, []);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_version_gets_no_rows_until_the_room_changes() {
    let cluster = Cluster::start(1, Index::memory()).await;
    let client = Client::connect(cluster.nodes[0].public, "foo", &["a"]).await.unwrap();
    let ask = |known: Option<u64>| LookupSocketsRequest {
        room: "a".into(),
        node_id: cluster.nodes[0].roster.incarnation().to_string(),
        known_version: known,
        ..Default::default()
    };
    let first = lookup(&cluster, 0, ask(None)).await.unwrap();
    assert_eq!(first.sockets.len(), 1);
    assert!(!first.unchanged);
    assert_eq!(first.sockets[0].id_socket, client.id);
    let again = lookup(&cluster, 0, ask(Some(first.version))).await.unwrap();
    assert_eq!(again.sockets.len(), 0);
    assert!(again.unchanged);
    assert_eq!(again.version, first.version);
    let _second = Client::connect(cluster.nodes[0].public, "bar", &["a"]).await.unwrap();
    let changed = lookup(&cluster, 0, ask(Some(first.version))).await.unwrap();
    assert_eq!(changed.sockets.len(), 2);
    assert!(!changed.unchanged);
    assert_ne!(changed.version, first.version);
    cluster.stop().await;
}
