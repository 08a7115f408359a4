//! The gRPC server of the mesh port: `MeshService`, forwarded polling requests, reflection and health.
//!
//! Owns the validation of requests and the conversion of answers. `LookupSockets` and `Revalidate` read the roster, and
//! `Announce` reads the member table: a node answers from its own memory, calls no other node and never reads Redis.
//! `edge::polling` implements the polling service. Tests: `tests/cluster/bad_input.rs` and `tests/cluster/cost.rs`.

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
use tonic::codegen::http::header::{HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::MetadataValue;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Code, Extensions, Request, Response, Status, Streaming};
use tracing::{Span, warn};

use crate::auth::IdentityMode;
use crate::membership::Membership;
use crate::mesh::proto::mesh_service_server::{MeshService, MeshServiceServer};
use crate::mesh::proto::polling_service_server::{PollingService, PollingServiceServer};
use crate::mesh::proto::{mesh_service_server, polling_service_server};
use crate::mesh::security::guard::AuthenticationLayer;
use crate::mesh::security::{PeerIdentity, Security};
use crate::mesh::{
    MAX_ANSWER_BYTES, MAX_CALLS_PER_CONNECTION, MAX_FORWARDED_BYTES, MAX_LOOKUP_IDS, MAX_REQUEST_BYTES,
    MAX_REVALIDATED_ROWS, NODE_ID_METADATA, node_status, proto,
};
use crate::mesh_service::health::HealthPublisher;
use crate::names::{NameError, NodeId, Room, SocketId};
use crate::roster::walk::{RosterSlice, WalkCursor};
use crate::roster::{CachedVersion, RoomSnapshot, Roster, Row, RowsUpdate};
use crate::status::node_report::{self, MAX_BUSIEST_ROOMS, NodeReporter};
use crate::telemetry::traces;
use crate::telemetry::traces::{TRACE_PARENT, TRACE_STATE, TraceSampling};

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

struct MeshServer {
    roster: Arc<Roster>,
    membership: Arc<Membership>,
    reporter: NodeReporter,
    sampling: TraceSampling,
    security: Security,
    stop: CancellationToken,
}

/// Polling requests forwarded by other nodes, as a trait object: the implementation is in a layer above.
pub type PollingForwarding = Arc<dyn PollingService>;

/// Serves gRPC on `connections` (from [`crate::mesh::accept`]) until `stop`, then finishes the calls in progress.
/// `polling`: serves forwarded polling requests; `None` without long-polling.
///
/// # Errors
/// When `connections` fails.
pub async fn serve<S>(
    connections: impl Stream<Item = io::Result<S>>,
    reporter: NodeReporter,
    identity: IdentityMode,
    polling: Option<PollingForwarding>,
    sampling: TraceSampling,
    security: Security,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (roster, membership) = (Arc::clone(&reporter.roster), Arc::clone(&reporter.membership));
    let published_membership = Arc::clone(&membership);
    let server = MeshServer { roster, membership, reporter, sampling, security: security.clone(), stop: stop.clone() };
    let service = MeshServiceServer::new(server)
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the build script has compiled the descriptors");
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let polling_name = polling.as_ref().map(|_| polling_service_server::SERVICE_NAME);
    let services = [mesh_service_server::SERVICE_NAME].into_iter().chain(polling_name).collect();
    let polling = polling.map(|polling| {
        PollingServiceServer::new(ForwardingServer(polling))
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(MAX_FORWARDED_BYTES)
    });
    let health = HealthPublisher::start(reporter, published_membership, identity, services).await;
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .concurrency_limit_per_connection(MAX_CALLS_PER_CONNECTION)
        // Peers cancel calls often; the default limit of h2 would close the connection for their other calls too.
        .http2_max_pending_accept_reset_streams(Some(MAX_CALLS_PER_CONNECTION))
        .layer(AuthenticationLayer(security))
        .add_service(service)
        .add_optional_service(polling)
        .add_service(reflection)
        .add_service(health_service)
        .serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
    tokio::select! {
        served = serving => served,
        never = health.run(stop) => match never {},
    }
}

/// Wraps the trait object, because the generated server needs a sized type.
struct ForwardingServer(PollingForwarding);

#[tonic::async_trait]
impl PollingService for ForwardingServer {
    async fn forward(
        &self,
        request: Request<proto::ForwardRequest>,
    ) -> Result<Response<proto::ForwardResponse>, Status> {
        self.0.forward(request).await
    }
}

#[tonic::async_trait]
impl MeshService for MeshServer {
    async fn lookup_sockets(
        &self,
        request: Request<proto::LookupSocketsRequest>,
    ) -> Result<Response<proto::LookupSocketsResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let span = self.sampling.answer_span(metadata.as_ref(), &request.room);
        let answer = span.in_scope(|| self.look_up(&request, &extensions));
        traces::record_answer(&span, answer.as_ref().map_or_else(Status::code, |_| Code::Ok));
        answer.map(Response::new)
    }

    type RevalidateStream = BoxStream<'static, Result<proto::RevalidateResponse, Status>>;

    async fn revalidate(
        &self,
        request: Request<Streaming<proto::RevalidateRequest>>,
    ) -> Result<Response<Self::RevalidateStream>, Status> {
        let (metadata, extensions, requests) = request.into_parts();
        let (roster, security, sampling) = (Arc::clone(&self.roster), self.security.clone(), self.sampling);
        let answer = move |request: Result<proto::RevalidateRequest, Status>| {
            let request = request?;
            // The credentials were valid when the stream started. They may have been revoked since.
            security.authenticate(extensions.get::<PeerIdentity>(), metadata.as_ref())?;
            Ok(revalidate_traced(&roster, sampling, &request))
        };
        // Shutdown waits for calls in progress, and this one would never end.
        let requests = requests.take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(requests.map(answer).boxed()))
    }

    async fn announce(
        &self,
        request: Request<proto::AnnounceRequest>,
    ) -> Result<Response<proto::AnnounceResponse>, Status> {
        let missing = || Status::invalid_argument("status is missing");
        let (_, extensions, request) = request.into_parts();
        let peer = extensions.get::<PeerIdentity>();
        let announced = node_status::decode(request.status.ok_or_else(missing)?)
            .map_err(|error| Status::invalid_argument(format!("the status {error}")))?;
        // The certificate must name the announced host and the known host. Otherwise a node could take over the id of
        // another one.
        let known_mesh = self.membership.mesh_of(announced.about.node.process());
        let hosts = [Some(&announced.about.mesh), known_mesh.as_ref()].into_iter().flatten();
        if peer.is_some_and(|peer| hosts.clone().any(|mesh| !peer.may_announce(mesh))) {
            if let Some(client) = self.client_to_log("status", peer) {
                let (name, mesh) = (&announced.about.name, &announced.about.mesh);
                warn!(%client, %name, %mesh, "rejected a status: the certificate of the peer does not name the host");
            }
            self.membership.contest(announced.about.node.process());
            return Err(Status::permission_denied("the certificate does not name the host of the node in the status"));
        }
        if !self.membership.receive_announcement(&announced) {
            return Err(Status::resource_exhausted("too many nodes that the directory does not list; try again"));
        }
        let status = Some(node_status::encode(&self.membership.own_status()));
        Ok(Response::new(proto::AnnounceResponse { status }))
    }

    async fn describe(
        &self,
        request: Request<proto::DescribeRequest>,
    ) -> Result<Response<proto::DescribeResponse>, Status> {
        let rooms = usize::try_from(request.get_ref().busiest_rooms).ok().filter(|rooms| *rooms <= MAX_BUSIEST_ROOMS);
        let too_many = || Status::invalid_argument(format!("busiest_rooms must be at most {MAX_BUSIEST_ROOMS}"));
        let report = self.reporter.report(rooms.ok_or_else(too_many)?).await;
        Ok(Response::new(node_report::encode(&self.reporter.node_info(), &report)))
    }

    type ListRoomsStream = BoxStream<'static, Result<proto::ListRoomsResponse, Status>>;

    async fn list_rooms(&self, _: Request<proto::ListRoomsRequest>) -> Result<Response<Self::ListRoomsStream>, Status> {
        let roster = Arc::clone(&self.roster);
        let status = Some(node_status::encode(&self.membership.own_status()));
        // The next slice is read only after the previous one is sent, so a slow caller costs no memory.
        let slices = stream::unfold((Some(WalkCursor::BEGIN), status), move |(cursor, status)| {
            let slice = cursor.map(|cursor| roster.slice(cursor));
            async move {
                let slice = slice?;
                let next = slice.next;
                Some((Ok(encode_slice(slice, status)), (next, None)))
            }
        });
        Ok(Response::new(slices.boxed()))
    }
}

impl MeshServer {
    fn look_up(
        &self,
        request: &proto::LookupSocketsRequest,
        extensions: &Extensions,
    ) -> Result<proto::LookupSocketsResponse, Status> {
        let lookup = Lookup::check(request)?;
        let snapshot = lookup.answer(&self.roster);
        if let Some(meant) = lookup.node.filter(|meant| *meant != snapshot.node) {
            // A request for an earlier id of this process is normal; one for another process proves a wrong address.
            if meant.process() != snapshot.node.process()
                && let Some(client) = self.client_to_log("node id", extensions.get())
            {
                warn!(%client, node = %snapshot.node, %meant, "rejected a request meant for another node");
            }
            return Err(wrong_node(&meant, &snapshot.node));
        }
        Ok(encode(snapshot))
    }

    /// The address of the calling peer, unless a rejection of this kind was logged for it recently.
    fn client_to_log(&self, kind: &'static str, peer: Option<&PeerIdentity>) -> Option<SocketAddr> {
        let address = peer?.address();
        self.security.permits_log(kind, &address.ip().to_string()).then_some(address)
    }
}

/// Answers a request of the revalidation stream, in the trace that the request names.
fn revalidate_traced(
    roster: &Roster,
    sampling: TraceSampling,
    request: &proto::RevalidateRequest,
) -> proto::RevalidateResponse {
    let question = request.question.as_ref();
    let span = match &request.traceparent {
        None => Span::none(),
        Some(_) => sampling.answer_span(&trace_headers(request), question.map_or("", |question| &question.room)),
    };
    let answer = span.in_scope(|| question.and_then(|question| revalidate(roster, question)));
    // Without an answer the caller makes a unary call, which has a span of its own.
    traces::record_answer(&span, if answer.is_some() { Code::Ok } else { Code::Aborted });
    proto::RevalidateResponse { number: request.number, answer }
}

/// The trace context of a request as headers, without invalid values.
fn trace_headers(request: &proto::RevalidateRequest) -> HeaderMap {
    let fields = [(TRACE_PARENT, &request.traceparent), (TRACE_STATE, &request.tracestate)];
    let header = |(name, value): (&'static str, &Option<String>)| {
        Some((HeaderName::from_static(name), HeaderValue::try_from(value.as_ref()?).ok()?))
    };
    fields.into_iter().filter_map(header).collect()
}

/// The answer to a conditional lookup. `None`: the request is invalid or the answer is large. The caller should then make a
/// unary call, which can return an error and delays no other request.
fn revalidate(roster: &Roster, question: &proto::LookupSocketsRequest) -> Option<proto::LookupSocketsResponse> {
    let lookup = Lookup::check(question).ok()?;
    let snapshot = roster.snapshot_up_to(lookup.room.as_ref()?, Some(lookup.known?), MAX_REVALIDATED_ROWS)?;
    (lookup.node.as_ref() == Some(&snapshot.node)).then(|| encode(snapshot))
}

/// A valid request to `LookupSockets`.
pub struct Lookup {
    room: Option<Room>,
    ids: Vec<SocketId>,
    node: Option<NodeId>,
    known: Option<CachedVersion>,
}

impl Lookup {
    /// # Errors
    /// `INVALID_ARGUMENT`, with the invalid field.
    pub fn check(request: &proto::LookupSocketsRequest) -> Result<Self, Status> {
        let invalid = |field: &str, error: NameError| Status::invalid_argument(format!("{field} {error}"));
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
            return Err(Status::invalid_argument(
                "known_version needs node_id and room, and does not permit id_sockets",
            ));
        }
        let known =
            request.known_version.map(|version| CachedVersion { version, accepts_delta: request.takes_changes });
        Ok(Self { room, ids, node, known })
    }

    /// The rows of this node.
    pub fn answer(&self, roster: &Roster) -> RoomSnapshot {
        match &self.room {
            Some(room) if self.ids.is_empty() => roster.snapshot(room, self.known),
            room => roster.find(&self.ids, room.as_ref()),
        }
    }
}

fn encode(snapshot: RoomSnapshot) -> proto::LookupSocketsResponse {
    let socket = |row: Row| proto::Socket { id_socket: row.id_socket.to_string(), id_user: row.id_user.to_string() };
    let mut response = proto::LookupSocketsResponse {
        node_id: snapshot.node.to_string(),
        version: snapshot.version,
        ..Default::default()
    };
    match snapshot.update {
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

fn encode_slice(slice: RosterSlice, status: Option<proto::Status>) -> proto::ListRoomsResponse {
    let room = |(room, sockets): (Room, Vec<SocketId>)| proto::RoomSockets {
        room: room.to_string(),
        id_sockets: sockets.iter().map(ToString::to_string).collect(),
    };
    let rooms = slice.rooms.into_iter().map(room).collect();
    proto::ListRoomsResponse { node_id: slice.node.to_string(), status, rooms }
}

fn wrong_node(meant: &NodeId, is: &NodeId) -> Status {
    let mut status = Status::failed_precondition(format!("this node is {is}, not {meant}"));
    if let Ok(value) = MetadataValue::try_from(is.as_str()) {
        status.metadata_mut().insert(NODE_ID_METADATA, value);
    }
    status
}
