//! A member that lies: it has a lease, announces itself with false statements about the others, and answers their questions
//! falsely.
//!
//! It speaks as itself only: a mesh with certificates refuses a status of another host. Owns no sockets, so that every
//! socket that an answer lacks belongs to an honest node.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, Empty};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rollcall::directory::memory::MemoryDirectory;
use rollcall::directory::{Directory, LeaseRenewal, NodeEntry};
use rollcall::index::Epoch;
use rollcall::mesh::node_status::{self, MemberInfo, NodeStatus};
use rollcall::mesh::peers::Peers;
use rollcall::mesh::proto::mesh_service_server::{MeshService, MeshServiceServer};
use rollcall::mesh::proto::{
    AnnounceRequest, AnnounceResponse, DescribeRequest, DescribeResponse, ListRoomsRequest, ListRoomsResponse,
    LookupSocketsRequest, LookupSocketsResponse, RevalidateRequest, RevalidateResponse,
};
use rollcall::mesh::{MAX_LOOKUP_IDS, NODE_ID_METADATA};
use rollcall::names::{NodeId, NodeName};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::host::LEASE;
use crate::network::{self, PORT};

pub(crate) const NAME: &str = "liar";
const ANNOUNCE_TIMEOUT: Duration = Duration::from_millis(300);
const MAX_PAUSE_MS: u64 = 100;
/// One in this number of statuses names a crowd of invented members.
const STATUSES_PER_CROWD: u32 = 40;
const CROWD_SIZE: usize = 300;

/// The liar, on a host of its own.
pub(crate) struct Liar {
    pub memory: Arc<MemoryDirectory>,
    pub node: NodeId,
    pub seed: u64,
}

/// The knowledge from which the liar makes its lies. Both its ends use it.
struct Lies {
    node: NodeId,
    random: StdRng,
    epoch: Option<Epoch>,
    others: Vec<(NodeId, NodeEntry)>,
}

#[derive(Clone)]
struct LyingServer(Arc<Mutex<Lies>>);

impl Liar {
    pub(crate) fn entry() -> NodeEntry {
        let mesh = format!("{NAME}:{PORT}").into();
        NodeEntry { name: NodeName::from_any(NAME), mesh, since: "".into(), draining: false }
    }

    pub(crate) async fn run(self: Rc<Self>) -> turmoil::Result {
        let random = StdRng::seed_from_u64(self.seed);
        let lies = Lies { node: self.node.clone(), random, epoch: None, others: Vec::new() };
        let lies = Arc::new(Mutex::new(lies));
        let service = MeshServiceServer::new(LyingServer(Arc::clone(&lies)));
        let serving =
            Server::builder().add_service(service).serve_with_incoming(network::listen(turmoil::lookup(NAME)).await?);
        spawn_local(async {
            serving.await.expect("the server of the liar ends without an error");
        });
        let peers = Peers::new(network::connect);
        loop {
            // Without a lease at times: then the liar speaks as a node that the index does not list.
            if lies.lock().random.random_ratio(4, 5) {
                let renewal = self.memory.renew(&self.node, &Self::entry(), LEASE).await?;
                if matches!(renewal, LeaseRenewal::Lapsed) {
                    self.memory.register(&self.node, &Self::entry(), LEASE).await?;
                }
            }
            let listing = self.memory.nodes().await?;
            let others: Vec<_> = listing.nodes.into_iter().filter(|(node, _)| *node != self.node).collect();
            (lies.lock().epoch, lies.lock().others) = (listing.epoch, others.clone());
            for (_, entry) in others {
                let status = lies.lock().about_itself();
                // A node may refuse the status, and may be down.
                let _ = timeout(ANNOUNCE_TIMEOUT, peers.announce(&entry.mesh, &status, ANNOUNCE_TIMEOUT)).await;
            }
            let pause = lies.lock().random.random_range(0..=MAX_PAUSE_MS);
            sleep(Duration::from_millis(pause)).await;
        }
    }
}

impl Lies {
    /// A status of the liar about itself, with lies about the others.
    fn about_itself(&mut self) -> NodeStatus {
        let node = self.node.clone();
        let goodbye = self.random.random_ratio(1, 200);
        NodeStatus { goodbye, ..self.status(node, &Liar::entry()) }
    }

    fn status(&mut self, node: NodeId, entry: &NodeEntry) -> NodeStatus {
        let mut members: Vec<_> =
            self.others.clone().into_iter().filter_map(|(node, entry)| self.about(node, &entry)).collect();
        let invented = match self.random.random_ratio(1, STATUSES_PER_CROWD) {
            true => CROWD_SIZE,
            false => usize::from(self.random.random_ratio(1, 20)),
        };
        members.extend((0..invented).map(|_| info(NodeId::new_process(), &Liar::entry(), Some(Duration::ZERO))));
        NodeStatus {
            about: info(node, entry, Some(Duration::ZERO)),
            sequence: *[1, 1 << 40, u64::MAX].choose(&mut self.random).expect("not empty"),
            fully_indexed_in: self.epoch.clone().filter(|_| self.random.random()),
            draining: self.random.random(),
            goodbye: self.random.random(),
            members,
        }
    }

    /// A statement about another node, or none.
    fn about(&mut self, node: NodeId, entry: &NodeEntry) -> Option<MemberInfo> {
        let elsewhere = NodeEntry { mesh: Liar::entry().mesh, ..entry.clone() };
        let later = node.next_incarnation();
        Some(match self.random.random_range(0..6) {
            0 => info(node, entry, Some(Duration::ZERO)),
            1 => info(node, &elsewhere, Some(Duration::ZERO)),
            2 => info(later, entry, Some(Duration::ZERO)),
            3 => info(later.next_incarnation(), &elsewhere, Some(Duration::ZERO)),
            4 => info(node, &elsewhere, Some(Duration::from_secs(3600))),
            _ => return None,
        })
    }

    /// Another node, or an incarnation of it that does not exist.
    fn victim(&mut self) -> Option<(NodeId, NodeEntry)> {
        let (node, entry) = self.others.choose(&mut self.random).cloned()?;
        Some((if self.random.random() { node } else { node.next_incarnation() }, entry))
    }
}

fn info(node: NodeId, entry: &NodeEntry, age: Option<Duration>) -> MemberInfo {
    let NodeEntry { name, mesh, since, .. } = entry.clone();
    MemberInfo { node, name, mesh, since, age }
}

#[tonic::async_trait]
impl MeshService for LyingServer {
    async fn lookup_sockets(
        &self,
        request: Request<LookupSocketsRequest>,
    ) -> Result<Response<LookupSocketsResponse>, Status> {
        let mut lies = self.0.lock();
        assert!(request.get_ref().id_sockets.len() <= MAX_LOOKUP_IDS);
        let victim = lies.victim();
        match (lies.random.random_range(0..3), victim) {
            (0, Some((node, _))) => {
                let mut status = Status::failed_precondition("this node is another one");
                status.metadata_mut().insert(NODE_ID_METADATA, node.as_str().parse().expect("an id is ASCII"));
                Err(status)
            }
            (1, _) => Err(Status::unavailable("not now")),
            // Without rows, whichever node is asked for.
            _ => {
                let node_id = request.into_inner().node_id;
                Ok(Response::new(LookupSocketsResponse { node_id, ..LookupSocketsResponse::default() }))
            }
        }
    }

    type RevalidateStream = BoxStream<'static, Result<RevalidateResponse, Status>>;

    async fn revalidate(
        &self,
        _: Request<Streaming<RevalidateRequest>>,
    ) -> Result<Response<Self::RevalidateStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn announce(&self, _: Request<AnnounceRequest>) -> Result<Response<AnnounceResponse>, Status> {
        let mut lies = self.0.lock();
        let status = match lies.victim().filter(|_| lies.random.random()) {
            // The status of another node, which may say goodbye.
            Some((node, entry)) => lies.status(node, &entry),
            None => lies.about_itself(),
        };
        Ok(Response::new(AnnounceResponse { status: Some(node_status::encode(&status)) }))
    }

    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<DescribeResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    type ListRoomsStream = Empty<Result<ListRoomsResponse, Status>>;

    async fn list_rooms(&self, _: Request<ListRoomsRequest>) -> Result<Response<Self::ListRoomsStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
}
