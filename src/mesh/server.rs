//! The answering end of the mesh: LookupSockets from the roster, Announce from the table, forwarded requests of polling
//! clients where there are any, reflection and health.
//!
//! Owns the checks of requests. A node that answers reads its own memory and nothing else.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

use super::forward::Forwarded;
use super::preface::Prompt;
use super::proto::mesh_service_server::{MeshService, MeshServiceServer};
use super::{
    CALLS_PER_CONNECTION, MAX_ANSWER_BYTES, MAX_LOOKUP_IDS, MAX_REQUEST_BYTES, NODE_ID_METADATA, proto, status,
};
use crate::membership::Membership;
use crate::names::{NameError, NodeId, Room, SocketId};
use crate::roster::{Known, Part, Roster, Row, Told};
use crate::socket_edge::sessions::Sessions;

/// How long the other end of a connection may take to begin.
const PREFACE_WITHIN: Duration = Duration::from_secs(10);
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(5);

struct Answering {
    roster: Arc<Roster>,
    membership: Arc<Membership>,
}

/// The connections that a listener accepts, without delay on small writes. Who does not begin to speak is cut off.
pub fn accepted(listener: TcpListener) -> impl Stream<Item = io::Result<Prompt<TcpStream>>> {
    TcpListenerStream::new(listener).map(|accepted| {
        let stream = accepted?;
        stream.set_nodelay(true)?;
        Ok(Prompt::new(stream, PREFACE_WITHIN))
    })
}

/// Serves the mesh until `stop`, and then what is under way. `sessions`: those of polling clients, where they are let in.
///
/// # Errors
/// When no connection will be accepted any more.
pub async fn serve<S>(
    connections: impl Stream<Item = io::Result<S>>,
    roster: Arc<Roster>,
    membership: Arc<Membership>,
    sessions: Option<Arc<Sessions>>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let service = MeshServiceServer::new(Answering { roster, membership })
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were compiled with this binary");
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<MeshServiceServer<Answering>>().await;
    Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_WITHIN))
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION)
        // Callers that do not wait any more are ordinary: they must not cost the others the connection.
        .http2_max_pending_accept_reset_streams(Some(CALLS_PER_CONNECTION))
        .add_service(service)
        .add_optional_service(sessions.map(Forwarded::service))
        .add_service(reflection)
        .add_service(health_service)
        .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
        .await
}

#[tonic::async_trait]
impl MeshService for Answering {
    async fn lookup_sockets(
        &self,
        request: Request<proto::LookupSocketsRequest>,
    ) -> Result<Response<proto::LookupSocketsResponse>, Status> {
        let lookup = Lookup::check(&request.into_inner())?;
        let part = lookup.answer(&self.roster);
        if let Some(meant) = lookup.node.filter(|meant| *meant != part.node) {
            return Err(another(&meant, &part.node));
        }
        Ok(Response::new(encode(part)))
    }

    async fn announce(
        &self,
        request: Request<proto::AnnounceRequest>,
    ) -> Result<Response<proto::AnnounceResponse>, Status> {
        let missing = || Status::invalid_argument("status is missing");
        let said = status::decode(request.into_inner().status.ok_or_else(missing)?)
            .map_err(|error| Status::invalid_argument(format!("the status {error}")))?;
        self.membership.told(&said);
        let status = Some(status::encode(&self.membership.say()));
        Ok(Response::new(proto::AnnounceResponse { status }))
    }
}

/// A lookup that makes sense.
pub struct Lookup {
    room: Option<Room>,
    ids: Vec<SocketId>,
    node: Option<NodeId>,
    known: Option<Known>,
}

impl Lookup {
    /// # Errors
    /// `INVALID_ARGUMENT`, with what is wrong.
    pub fn check(request: &proto::LookupSocketsRequest) -> Result<Self, Status> {
        let invalid = |what: &str, error: NameError| Status::invalid_argument(format!("{what} {error}"));
        if request.id_sockets.len() > MAX_LOOKUP_IDS {
            return Err(Status::invalid_argument(format!("id_sockets must name at most {MAX_LOOKUP_IDS} sockets")));
        }
        if request.room.is_empty() && request.id_sockets.is_empty() {
            return Err(Status::invalid_argument("pass room, id_sockets, or both"));
        }
        let room = Some(&request.room).filter(|room| !room.is_empty()).map(|room| Room::parse(room));
        let room = room.transpose().map_err(|error| invalid("room", error))?;
        let node = Some(&request.node_id).filter(|node| !node.is_empty()).map(|node| NodeId::parse(node));
        let node = node.transpose().map_err(|_| Status::invalid_argument("node_id is not a node's id"))?;
        let ids = request.id_sockets.iter().map(|id| SocketId::parse(id));
        let ids = ids.collect::<Result<Vec<_>, _>>().map_err(|error| invalid("a socket id", error))?;
        if request.known_version.is_some() && (node.is_none() || room.is_none() || !ids.is_empty()) {
            return Err(Status::invalid_argument("known_version goes with node_id and room, and without id_sockets"));
        }
        let known = request.known_version.map(|version| Known { version, takes_changes: request.takes_changes });
        Ok(Self { room, ids, node, known })
    }

    /// What this node has.
    pub fn answer(&self, roster: &Roster) -> Part {
        match &self.room {
            Some(room) if self.ids.is_empty() => roster.part(room, self.known),
            room => roster.find(&self.ids, room.as_ref()),
        }
    }
}

fn encode(part: Part) -> proto::LookupSocketsResponse {
    let socket = |row: Row| proto::Socket { id_socket: row.id_socket.to_string(), id_user: row.id_user.to_string() };
    let mut response =
        proto::LookupSocketsResponse { node_id: part.node.to_string(), version: part.version, ..Default::default() };
    match part.told {
        Told::Unchanged => response.unchanged = true,
        Told::Changes(changes) => {
            response.changes_since = changes.since;
            response.gone = changes.gone.iter().map(ToString::to_string).collect();
            response.sockets = changes.came.into_iter().map(socket).collect();
        }
        Told::All(rows) => response.sockets = rows.into_iter().map(socket).collect(),
    }
    response
}

fn another(meant: &NodeId, is: &NodeId) -> Status {
    let mut status = Status::failed_precondition(format!("this node is {is}, not {meant}"));
    if let Ok(value) = MetadataValue::try_from(is.as_str()) {
        status.metadata_mut().insert(NODE_ID_METADATA, value);
    }
    status
}
