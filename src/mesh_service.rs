//! The answering end of the mesh: LookupSockets and Revalidate from the roster, Announce from the table, forwarded
//! requests of polling clients where there are any, reflection and health.
//!
//! Owns the checks of requests. A node that answers reads its own memory and nothing else.

pub mod description;
pub mod forward;
pub mod health;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Code, Extensions, Request, Response, Status, Streaming};
use tracing::warn;

use crate::auth::By;
use crate::edge::polling::sessions::Sessions;
use crate::membership::Membership;
use crate::mesh::proto::mesh_service_server::{MeshService, MeshServiceServer};
use crate::mesh::proto::{mesh_service_server, polling_service_server};
use crate::mesh::security::guard::Guard;
use crate::mesh::security::{Peer, Security};
use crate::mesh::{
    CALLS_PER_CONNECTION, MAX_ANSWER_BYTES, MAX_LOOKUP_IDS, MAX_REQUEST_BYTES, MAX_REVALIDATED_ROWS, NODE_ID_METADATA,
    node_status, proto,
};
use crate::mesh_service::forward::Forwarded;
use crate::mesh_service::health::Statuses;
use crate::names::{NameError, NodeId, Room, SocketId};
use crate::roster::walk::{Place, Slice};
use crate::roster::{CachedVersion, RoomSnapshot, Roster, Row, RowsUpdate};
use crate::status::description::{Describer, ROOMS_MOST};
use crate::telemetry::traces;

const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(5);

struct Answering {
    roster: Arc<Roster>,
    membership: Arc<Membership>,
    describer: Describer,
    security: Security,
    stop: CancellationToken,
}

/// Serves the mesh until `stop`, and then what is under way. `describer`: says how this node is. `sessions`: those of
/// polling clients, where they are let in.
/// `security`: who else is, and [`crate::mesh::accept`] makes the connections that go with it.
///
/// # Errors
/// When no connection will be accepted any more.
pub async fn serve<S>(
    connections: impl Stream<Item = io::Result<S>>,
    describer: Describer,
    identity: By,
    sessions: Option<Arc<Sessions>>,
    security: Security,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (roster, membership) = (Arc::clone(&describer.roster), Arc::clone(&describer.membership));
    let watched = Arc::clone(&membership);
    let answering = Answering { roster, membership, describer, security: security.clone(), stop: stop.clone() };
    let service = MeshServiceServer::new(answering)
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were compiled with this binary");
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let polling = sessions.as_ref().map(|_| polling_service_server::SERVICE_NAME);
    let services = [mesh_service_server::SERVICE_NAME].into_iter().chain(polling).collect();
    let statuses = Statuses::begin(reporter, watched, identity, services).await;
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_WITHIN))
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION)
        // Callers that do not wait any more are ordinary: they must not cost the others the connection.
        .http2_max_pending_accept_reset_streams(Some(CALLS_PER_CONNECTION))
        .layer(Guard(security))
        .add_service(service)
        .add_optional_service(sessions.map(Forwarded::service))
        .add_service(reflection)
        .add_service(health_service)
        .serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
    tokio::select! {
        served = serving => served,
        never = statuses.keep(stop) => match never {},
    }
}

#[tonic::async_trait]
impl MeshService for Answering {
    async fn lookup_sockets(
        &self,
        request: Request<proto::LookupSocketsRequest>,
    ) -> Result<Response<proto::LookupSocketsResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let span = traces::answering(metadata.as_ref(), &request.room);
        let answer = span.in_scope(|| self.look_up(&request, &extensions));
        traces::replied(&span, answer.as_ref().map_or_else(Status::code, |_| Code::Ok));
        answer.map(Response::new)
    }

    type RevalidateStream = BoxStream<'static, Result<proto::RevalidateResponse, Status>>;

    async fn revalidate(
        &self,
        request: Request<Streaming<proto::RevalidateRequest>>,
    ) -> Result<Response<Self::RevalidateStream>, Status> {
        let (metadata, extensions, questions) = request.into_parts();
        let (roster, security) = (Arc::clone(&self.roster), self.security.clone());
        let answer = move |question: Result<proto::RevalidateRequest, Status>| {
            let proto::RevalidateRequest { number, question } = question?;
            // What was let in when it began may not be any more.
            security.admit(extensions.get::<Peer>(), metadata.as_ref())?;
            let answer = question.and_then(|question| revalidate(&roster, &question));
            Ok(proto::RevalidateResponse { number, answer })
        };
        // It would go on for ever, and what is under way is waited for.
        let questions = questions.take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(questions.map(answer).boxed()))
    }

    async fn announce(
        &self,
        request: Request<proto::AnnounceRequest>,
    ) -> Result<Response<proto::AnnounceResponse>, Status> {
        let missing = || Status::invalid_argument("status is missing");
        let (_, extensions, request) = request.into_parts();
        let peer = extensions.get::<Peer>();
        let said = node_status::decode(request.status.ok_or_else(missing)?)
            .map_err(|error| Status::invalid_argument(format!("the status {error}")))?;
        // Neither for another host nor for a node that is known to be at another.
        let known = self.membership.mesh_of(said.about.node.process());
        let hosts = [Some(&said.about.mesh), known.as_ref()].into_iter().flatten();
        if peer.is_some_and(|peer| hosts.clone().any(|mesh| !peer.speaks_for(mesh))) {
            if let Some(peer) = self.untold("status", peer) {
                let (name, mesh) = (&said.about.name, &said.about.mesh);
                warn!(%peer, %name, %mesh, "a peer speaks for a host that its certificate does not name");
            }
            return Err(Status::permission_denied("the certificate does not name the host that the status is about"));
        }
        self.membership.told(&said);
        let status = Some(node_status::encode(&self.membership.say()));
        Ok(Response::new(proto::AnnounceResponse { status }))
    }

    async fn describe(
        &self,
        request: Request<proto::DescribeRequest>,
    ) -> Result<Response<proto::DescribeResponse>, Status> {
        let rooms = usize::try_from(request.get_ref().busiest_rooms).ok().filter(|rooms| *rooms <= ROOMS_MOST);
        let too_many = || Status::invalid_argument(format!("busiest_rooms must be at most {ROOMS_MOST}"));
        let description = self.describer.describe(rooms.ok_or_else(too_many)?).await;
        Ok(Response::new(description::encode(self.describer.node_info(), &description)))
    }

    type ListRoomsStream = BoxStream<'static, Result<proto::ListRoomsResponse, Status>>;

    async fn list_rooms(&self, _: Request<proto::ListRoomsRequest>) -> Result<Response<Self::ListRoomsStream>, Status> {
        let roster = Arc::clone(&self.roster);
        let word = Some(node_status::encode(&self.membership.say()));
        // A slice is read when the one before it was sent.
        let slices = stream::unfold((Some(Place::BEGIN), word), move |(place, word)| {
            let slice = place.map(|place| roster.slice(place));
            async move {
                let slice = slice?;
                let next = slice.next;
                Some((Ok(encode_slice(slice, word)), (next, None)))
            }
        });
        Ok(Response::new(slices.boxed()))
    }
}

impl Answering {
    fn look_up(
        &self,
        request: &proto::LookupSocketsRequest,
        extensions: &Extensions,
    ) -> Result<proto::LookupSocketsResponse, Status> {
        let lookup = Lookup::check(request)?;
        let part = lookup.answer(&self.roster);
        if let Some(meant) = lookup.node.filter(|meant| *meant != part.node) {
            // An earlier id of this process is ordinary; another process is what is at the wrong address.
            if meant.process() != part.node.process()
                && let Some(peer) = self.untold("node id", extensions.get())
            {
                warn!(%peer, %meant, is = %part.node, "a peer takes this node for another, and is not answered");
            }
            return Err(another(&meant, &part.node));
        }
        Ok(encode(part))
    }

    /// The peer's address, if it has not been told for a while that it is refused for this.
    fn untold(&self, what: &'static str, peer: Option<&Peer>) -> Option<SocketAddr> {
        let address = peer?.address();
        self.security.refusals().is_first(what, &address.ip().to_string()).then_some(address)
    }
}

/// The answer to a question of which the caller holds a version, unless it is large or a refusal.
fn revalidate(roster: &Roster, question: &proto::LookupSocketsRequest) -> Option<proto::LookupSocketsResponse> {
    let lookup = Lookup::check(question).ok()?;
    let part = roster.snapshot_up_to(lookup.room.as_ref()?, Some(lookup.known?), MAX_REVALIDATED_ROWS)?;
    (lookup.node.as_ref() == Some(&part.node)).then(|| encode(part))
}

/// A lookup that makes sense.
pub struct Lookup {
    room: Option<Room>,
    ids: Vec<SocketId>,
    node: Option<NodeId>,
    known: Option<CachedVersion>,
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
        let known =
            request.known_version.map(|version| CachedVersion { version, accepts_delta: request.takes_changes });
        Ok(Self { room, ids, node, known })
    }

    /// What this node has.
    pub fn answer(&self, roster: &Roster) -> RoomSnapshot {
        match &self.room {
            Some(room) if self.ids.is_empty() => roster.snapshot(room, self.known),
            room => roster.find(&self.ids, room.as_ref()),
        }
    }
}

fn encode(part: RoomSnapshot) -> proto::LookupSocketsResponse {
    let socket = |row: Row| proto::Socket { id_socket: row.id_socket.to_string(), id_user: row.id_user.to_string() };
    let mut response =
        proto::LookupSocketsResponse { node_id: part.node.to_string(), version: part.version, ..Default::default() };
    match part.update {
        RowsUpdate::Unchanged => response.unchanged = true,
        RowsUpdate::Delta(changes) => {
            response.changes_since = changes.since;
            response.gone = changes.removed.iter().map(ToString::to_string).collect();
            response.sockets = changes.added.into_iter().map(socket).collect();
        }
        RowsUpdate::Full(rows) => response.sockets = rows.into_iter().map(socket).collect(),
    }
    response
}

fn encode_slice(slice: Slice, status: Option<proto::Status>) -> proto::ListRoomsResponse {
    let room = |(room, sockets): (Room, Vec<SocketId>)| proto::RoomSockets {
        room: room.to_string(),
        id_sockets: sockets.iter().map(ToString::to_string).collect(),
    };
    let rooms = slice.rooms.into_iter().map(room).collect();
    proto::ListRoomsResponse { node_id: slice.node.to_string(), status, rooms }
}

fn another(meant: &NodeId, is: &NodeId) -> Status {
    let mut status = Status::failed_precondition(format!("this node is {is}, not {meant}"));
    if let Ok(value) = MetadataValue::try_from(is.as_str()) {
        status.metadata_mut().insert(NODE_ID_METADATA, value);
    }
    status
}
