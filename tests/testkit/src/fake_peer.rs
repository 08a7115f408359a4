//! A mesh peer whose answers a test determines.
//!
//! Owns the gRPC server of the peer. A test implements [`FakePeer`] for the calls that it needs; every other call fails.

use futures::stream::BoxStream;
use rollcall::mesh::proto::mesh_service_server::{MeshService, MeshServiceServer};
use rollcall::mesh::proto::{
    AnnounceRequest, AnnounceResponse, DescribeRequest, DescribeResponse, ListRoomsRequest, ListRoomsResponse,
    LookupSocketsRequest, LookupSocketsResponse, RevalidateRequest, RevalidateResponse,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// The answers of a revalidation stream.
pub type Revalidations = BoxStream<'static, Result<RevalidateResponse, Status>>;
/// The slices of a roster.
pub type RosterSlices = BoxStream<'static, Result<ListRoomsResponse, Status>>;

/// The answers of a peer. A call without an implementation is answered `UNAVAILABLE`.
#[tonic::async_trait]
pub trait FakePeer: Send + Sync + 'static {
    async fn lookup_sockets(&self, _: LookupSocketsRequest) -> Result<LookupSocketsResponse, Status> {
        Err(not_implemented())
    }

    async fn revalidate(&self, _: Streaming<RevalidateRequest>) -> Result<Revalidations, Status> {
        Err(not_implemented())
    }

    async fn announce(&self, _: AnnounceRequest) -> Result<AnnounceResponse, Status> {
        Err(not_implemented())
    }

    async fn describe(&self, _: DescribeRequest) -> Result<DescribeResponse, Status> {
        Err(not_implemented())
    }

    async fn list_rooms(&self, _: ListRoomsRequest) -> Result<RosterSlices, Status> {
        Err(not_implemented())
    }
}

/// Serves the peer on this listener, also answers of more than the maximum size, until the future is dropped.
pub async fn serve_fake_peer(listener: TcpListener, peer: impl FakePeer) {
    let service = MeshServiceServer::new(FakeMeshService(peer)).max_encoding_message_size(usize::MAX);
    Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
}

fn not_implemented() -> Status {
    Status::unavailable("this peer does not answer the call")
}

struct FakeMeshService<P>(P);

#[tonic::async_trait]
impl<P: FakePeer> MeshService for FakeMeshService<P> {
    async fn lookup_sockets(
        &self,
        request: Request<LookupSocketsRequest>,
    ) -> Result<Response<LookupSocketsResponse>, Status> {
        self.0.lookup_sockets(request.into_inner()).await.map(Response::new)
    }

    type RevalidateStream = Revalidations;

    async fn revalidate(
        &self,
        request: Request<Streaming<RevalidateRequest>>,
    ) -> Result<Response<Revalidations>, Status> {
        self.0.revalidate(request.into_inner()).await.map(Response::new)
    }

    async fn announce(&self, request: Request<AnnounceRequest>) -> Result<Response<AnnounceResponse>, Status> {
        self.0.announce(request.into_inner()).await.map(Response::new)
    }

    async fn describe(&self, request: Request<DescribeRequest>) -> Result<Response<DescribeResponse>, Status> {
        self.0.describe(request.into_inner()).await.map(Response::new)
    }

    type ListRoomsStream = RosterSlices;

    async fn list_rooms(&self, request: Request<ListRoomsRequest>) -> Result<Response<RosterSlices>, Status> {
        self.0.list_rooms(request.into_inner()).await.map(Response::new)
    }
}
