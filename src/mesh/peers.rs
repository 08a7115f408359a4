//! The asking end of the mesh: a link to each address for what is answered at once, one for what may wait, and a deadline
//! on every call.
//!
//! Owns the [links](super::channel), the circuit of each, and the translation of every failure into a [`PeerError`]; what an
//! answer tells is found out by [`answers`]. Never calls twice: a call that failed is an answer to its caller, who has a
//! deadline of its own.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::response::Response;
use serde::Serialize;
use smol_str::SmolStr;
use tokio::sync::Semaphore;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tonic::{Code, Status};
use tracing::{Instrument as _, Span};
use utoipa::ToSchema;

use super::channel::{Broken, Connect, Link, by_tcp};
use super::circuit_breaker::{Circuit, Patience};
use super::proto::ForwardRequest;
use super::proto::mesh_service_client::MeshServiceClient;
use super::proto::polling_service_client::PollingServiceClient;
use super::security::Security;
use super::{CALLS_PER_CONNECTION, MAX_FORWARDED_BYTES, NODE_ID_METADATA, answers, node_status, proto};
use crate::clock::BootInstant;
use crate::mesh::node_status::NodeStatus;
use crate::mesh_service::{description, forward};
use crate::names::{NodeId, Room};
use crate::roster::RoomSnapshot;
use crate::status::description::Description;
use crate::telemetry::metrics::lookups::Lookups;
use crate::telemetry::traces;

/// Why a peer's answer is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PeerError {
    /// It did not answer in time.
    Deadline,
    /// Nobody listens at its address, who listens there is another node, or one of the two does not trust the other.
    Refused,
    /// The connection broke, or the answer made no sense.
    Failed,
    /// It said that it has too much to do.
    Overloaded,
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "deadline",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Overloaded => "overloaded",
        })
    }
}

/// The reply of a peer to a lookup.
#[derive(Debug)]
pub enum PeerReply {
    Snapshot(RoomSnapshot),
    /// The process at that address has another node id now, this one.
    NodeIdChanged(NodeId),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    connect: Connect,
    security: Security,
    peers: Arc<Mutex<HashMap<SmolStr, Arc<Peer>>>>,
}

struct Peer {
    link: Link,
    /// Over a connection of its own, where what waits for long is in nobody's way.
    polling: PollingServiceClient<Link>,
    /// One for each request that is forwarded.
    forwards: Semaphore,
    circuit: Mutex<Circuit>,
    lookups: Lookups,
}

/// One call to a peer, and what it does to the peer's circuit.
struct Call<'a> {
    circuit: &'a Mutex<Circuit>,
    began: BootInstant,
    /// The circuit is open, and this caller alone asks.
    probing: bool,
}

impl Default for Peers {
    fn default() -> Self {
        Self::secured(Security::default())
    }
}

impl Peers {
    /// Peers of an open mesh that are reached in another way than by TCP.
    pub fn new(connect: Connect) -> Self {
        Self { connect, security: Security::default(), peers: Arc::default() }
    }

    /// Peers of a mesh that is closed by `security`.
    pub fn secured(security: Security) -> Self {
        Self { connect: by_tcp, security, peers: Arc::default() }
    }

    /// Asks the node at `mesh` for its part of the room, or for what makes it of the part at the version `known`.
    ///
    /// # Errors
    /// Whatever came instead of an answer within `within`.
    pub async fn lookup(
        &self,
        mesh: &SmolStr,
        node: &NodeId,
        room: &Room,
        known: Option<u64>,
        within: Duration,
    ) -> Result<PeerReply, PeerError> {
        let peer = self.peer(mesh)?;
        let (call, within) = Call::begin(&peer.circuit, within).inspect_err(|_| peer.lookups.skipped())?;
        let lookup = peer.lookups.begin();
        let question = proto::LookupSocketsRequest {
            room: room.to_string(),
            node_id: node.to_string(),
            known_version: known,
            takes_changes: known.is_some(),
            ..Default::default()
        };
        let span = traces::lookup(mesh, node, room);
        let answer = timeout(within, peer.ask(question, within, &span)).instrument(span.clone()).await;
        let reply = match call.end(answer) {
            Ok(response) => answers::part(node, known, &response).map(PeerReply::Snapshot),
            Err(Failure::NodeStatus(status)) => moved(&status)
                .filter(|now| now != node)
                .map(PeerReply::NodeIdChanged)
                .ok_or_else(|| peer_error(&status)),
            Err(Failure::Late) => Err(PeerError::Deadline),
        };
        lookup.end(&reply);
        traces::looked_up(&span, &reply);
        reply
    }

    /// Tells the node at `mesh` this node's word, and hears its own. Tells it also when its circuit is open.
    ///
    /// # Errors
    /// Whatever came instead of an answer within `within`.
    pub async fn announce(&self, mesh: &SmolStr, said: &NodeStatus, within: Duration) -> Result<NodeStatus, PeerError> {
        let peer = self.peer(mesh)?;
        let call = Call { circuit: &peer.circuit, began: BootInstant::now(), probing: false };
        let request = proto::AnnounceRequest { status: Some(node_status::encode(said)) };
        match call.end(timeout(within, peer.client().announce(request)).await) {
            Ok(response) => {
                let status = response.status.ok_or(PeerError::Failed)?;
                node_status::decode(status).map_err(|_| PeerError::Failed)
            }
            Err(Failure::NodeStatus(status)) => Err(peer_error(&status)),
            Err(Failure::Late) => Err(PeerError::Deadline),
        }
    }

    /// Asks the node at `mesh` how it is, also when its circuit is open. `None`: it is of a version that cannot say.
    ///
    /// # Errors
    /// Whatever came instead of an answer within `within`.
    pub async fn describe(
        &self,
        mesh: &SmolStr,
        node: &NodeId,
        within: Duration,
    ) -> Result<Option<Description>, PeerError> {
        let peer = self.peer(mesh)?;
        let mut client = peer.client().max_decoding_message_size(description::MAX_BYTES);
        let call = Call { circuit: &peer.circuit, began: BootInstant::now(), probing: false };
        let mut request = tonic::Request::new(description::question());
        request.set_timeout(within);
        match call.end(timeout(within, client.describe(request)).await) {
            Ok(response) => answers::described(node, &response).map(Some),
            Err(Failure::NodeStatus(status)) if status.code() == Code::Unimplemented => Ok(None),
            Err(Failure::NodeStatus(status)) => Err(peer_error(&status)),
            Err(Failure::Late) => Err(PeerError::Deadline),
        }
    }

    /// Hands a request of a polling client on to the node at `mesh`, and returns the response for the client. If it is
    /// dropped, the other node stops working on it.
    ///
    /// # Errors
    /// Whatever came instead of an answer within `within`; at once where the peer is given up.
    pub async fn forward(
        &self,
        mesh: &SmolStr,
        request: ForwardRequest,
        within: Duration,
    ) -> Result<Response, PeerError> {
        let peer = self.peer(mesh)?;
        if lock(&peer.circuit).is_open() {
            return Err(PeerError::Deadline);
        }
        let _one = peer.forwards.try_acquire().map_err(|_| PeerError::Overloaded)?;
        let mut request = tonic::Request::new(request);
        request.set_timeout(within);
        match timeout(within, peer.polling.clone().forward(request)).await {
            Ok(Ok(answer)) => forward::decode_answer(answer.into_inner()).ok_or(PeerError::Failed),
            Ok(Err(status)) => Err(peer_error(&status)),
            Err(_elapsed) => Err(PeerError::Deadline),
        }
    }

    /// Whether the peer at `mesh` has missed so many deadlines that hardly anybody waits for it.
    pub fn is_given_up(&self, mesh: &str) -> bool {
        self.lock().get(mesh).is_some_and(|peer| lock(&peer.circuit).is_open())
    }

    /// What was measured of asking each peer, by its address, and whether its circuit is open.
    pub fn each(&self, mut see: impl FnMut(&str, &Lookups, bool)) {
        let peers: Vec<_> = self.lock().iter().map(|(mesh, peer)| (mesh.clone(), Arc::clone(peer))).collect();
        for (mesh, peer) in peers {
            see(&mesh, &peer.lookups, lock(&peer.circuit).is_open());
        }
    }

    /// Closes the links to addresses that no member has any more.
    pub fn retain(&self, in_use: impl Fn(&str) -> bool) {
        self.lock().retain(|mesh, _| in_use(mesh));
    }

    fn peer(&self, mesh: &SmolStr) -> Result<Arc<Peer>, PeerError> {
        if let Some(peer) = self.lock().get(mesh) {
            return Ok(Arc::clone(peer));
        }
        // An address that is none came from a node entry or a status; it is that node's failure.
        let link = || Link::secured(mesh, self.connect, self.security.clone()).map_err(|_| PeerError::Failed);
        let peer = Arc::new(Peer {
            link: link()?,
            polling: PollingServiceClient::new(link()?).max_decoding_message_size(MAX_FORWARDED_BYTES),
            forwards: Semaphore::new(CALLS_PER_CONNECTION),
            circuit: Mutex::default(),
            lookups: Lookups::default(),
        });
        Ok(Arc::clone(self.lock().entry(mesh.clone()).or_insert(peer)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SmolStr, Arc<Peer>>> {
        self.peers.lock().expect("no code panics while it holds the links")
    }
}

impl Peer {
    fn client(&self) -> MeshServiceClient<Link> {
        self.link.clone().client()
    }

    /// Over the stream of what is asked again, where the question is one for it; else, or where no answer came that way, by a
    /// call, which may take so long.
    async fn ask(
        &self,
        question: proto::LookupSocketsRequest,
        within: Duration,
        span: &Span,
    ) -> Result<tonic::Response<proto::LookupSocketsResponse>, Status> {
        // A call has a head of its own, for the trace that it belongs to.
        if question.known_version.is_some()
            && span.is_disabled()
            && let Some(answer) = self.link.revalidate(&question).await
        {
            return Ok(tonic::Response::new(answer));
        }
        let mut request = tonic::Request::new(question);
        request.set_timeout(within);
        traces::inject(span, request.metadata_mut().as_mut());
        let answer = self.client().lookup_sockets(request).await?;
        self.link.prepare_revalidation();
        Ok(answer)
    }
}

/// What came instead of an answer.
enum Failure {
    Late,
    NodeStatus(Status),
}

impl<'a> Call<'a> {
    /// Returns how long it may take. Fails where the circuit is open and somebody else is asking.
    fn begin(circuit: &'a Mutex<Circuit>, within: Duration) -> Result<(Self, Duration), PeerError> {
        let patience = lock(circuit).admit();
        let call = |probing| Self { circuit, began: BootInstant::now(), probing };
        match patience {
            Patience::Whole => Ok((call(false), within)),
            Patience::Probe(most) => Ok((call(true), within.min(most))),
            Patience::None => Err(PeerError::Deadline),
        }
    }

    fn end<T>(&self, answer: Result<Result<tonic::Response<T>, Status>, Elapsed>) -> Result<T, Failure> {
        let mut circuit = lock(self.circuit);
        let (answer, error) = match answer {
            Err(_elapsed) => (Err(Failure::Late), Some(PeerError::Deadline)),
            Ok(Ok(response)) => (Ok(response.into_inner()), None),
            Ok(Err(status)) => {
                let error = peer_error(&status);
                // What has no cause on this side is the peer's own word.
                let answered = status.source().is_none() && error != PeerError::Deadline;
                (Err(Failure::NodeStatus(status)), Some(error).filter(|_| !answered))
            }
        };
        match error {
            None | Some(PeerError::Refused) => circuit.answered(),
            Some(PeerError::Deadline) => circuit.missed(self.began, BootInstant::now()),
            // The connection broke; a peer that hangs breaks its connections too, by not keeping them alive.
            Some(PeerError::Failed | PeerError::Overloaded) => {}
        }
        answer
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.probing {
            lock(self.circuit).probed();
        }
    }
}

fn lock(circuit: &Mutex<Circuit>) -> MutexGuard<'_, Circuit> {
    circuit.lock().expect("no code panics while it holds a circuit")
}

fn moved(status: &Status) -> Option<NodeId> {
    if status.code() != Code::FailedPrecondition {
        return None;
    }
    let named = status.metadata().get(NODE_ID_METADATA)?;
    NodeId::parse(named.to_str().ok()?).ok()
}

fn peer_error(status: &Status) -> PeerError {
    match status.code() {
        // tonic calls it cancelled when the time that a call was given has run out, on either side.
        Code::DeadlineExceeded | Code::Cancelled => PeerError::Deadline,
        Code::ResourceExhausted => PeerError::Overloaded,
        Code::FailedPrecondition | Code::Unauthenticated | Code::PermissionDenied => PeerError::Refused,
        _ => status.source().and_then(|cause| cause.downcast_ref()).map_or(PeerError::Failed, |broken| match broken {
            Broken::Silent => PeerError::Deadline,
            Broken::Distrusted(_) => PeerError::Refused,
            Broken::Unreachable(error) if error.kind() == io::ErrorKind::TimedOut => PeerError::Deadline,
            Broken::Unreachable(error) if error.kind() == io::ErrorKind::ConnectionRefused => PeerError::Refused,
            Broken::Unreachable(_) | Broken::Lost(_) | Broken::Unwritten(_) => PeerError::Failed,
        }),
    }
}
