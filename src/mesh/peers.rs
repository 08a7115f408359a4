//! The client side of the mesh: calls to peers, with a deadline and a circuit breaker each.
//!
//! Owns two [channels](super::channel) per address: one for calls that a peer answers at once, and one for forwarded polls,
//! which wait for long. Never retries: a failed call is a result for the caller, which has a deadline of its own. Owns no
//! validation: [`answers`] checks the responses, and maps failures to a [`PeerError`]. Tests: `tests/cluster/revalidation.rs`
//! and `tests/cluster/cost.rs`.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::Semaphore;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tonic::codegen::http::HeaderMap;
use tonic::{Code, Status};
use tracing::{Instrument as _, Span, debug};

use super::answers::{self, PeerError, PeerReply};
use super::channel::{Connect, PeerChannel, connect_tcp};
use super::circuit_breaker::{CallPermit, CircuitBreaker};
use super::io::ByteCounter;
use super::node_status::{self, NodeStatus};
use super::proto::mesh_service_client::MeshServiceClient;
use super::proto::polling_service_client::PollingServiceClient;
use super::security::Security;
use super::{MAX_CALLS_PER_CONNECTION, MAX_DESCRIPTION_BYTES, MAX_FORWARDED_BYTES, MAX_STATUS_BYTES, proto};
use crate::clock::BootInstant;
use crate::names::{NodeId, Room};
use crate::telemetry::anomalies::Anomalies;
use crate::telemetry::metrics::lookups::LookupMetrics;
use crate::telemetry::traces;
use crate::telemetry::traces::{TRACE_PARENT, TRACE_STATE};

/// The peers of one node. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    connect: Connect,
    security: Security,
    counter: ByteCounter,
    anomalies: Anomalies,
    by_address: Arc<Mutex<HashMap<SmolStr, Arc<PeerConnections>>>>,
}

/// The channels to one address, with their circuit breaker and metrics.
struct PeerConnections {
    channel: PeerChannel,
    /// A connection of its own: polls wait for up to a minute, and a slow poll must not delay lookups.
    polling: PollingServiceClient<PeerChannel>,
    /// One permit per forwarded request.
    forward_permits: Semaphore,
    circuit: Mutex<CircuitBreaker>,
    lookups: LookupMetrics,
}

/// A call in progress, whose result is recorded in the peer's circuit breaker.
struct PeerCall<'a> {
    circuit: &'a Mutex<CircuitBreaker>,
    began: BootInstant,
    is_probe: bool,
}

/// A call without a response.
enum CallFailure {
    TimedOut,
    Status(Status),
}

impl Default for Peers {
    fn default() -> Self {
        Self::secured(Security::default())
    }
}

impl Peers {
    /// Peers without mTLS and tokens, reached by `connect`.
    pub fn new(connect: Connect) -> Self {
        Self { connect, ..Self::secured(Security::default()) }
    }

    /// Peers reached by TCP.
    pub fn secured(security: Security) -> Self {
        Self {
            connect: connect_tcp,
            security,
            counter: ByteCounter::default(),
            anomalies: Anomalies::default(),
            by_address: Arc::default(),
        }
    }

    /// Counts the invalid answers of peers with the anomalies of a node.
    #[must_use]
    pub fn with_anomalies(self, anomalies: Anomalies) -> Self {
        Self { anomalies, ..self }
    }

    /// The bytes of all mesh connections of this node.
    pub fn byte_counter(&self) -> &ByteCounter {
        &self.counter
    }

    /// The invalid answers of peers.
    pub fn anomalies(&self) -> &Anomalies {
        &self.anomalies
    }

    /// Asks `node`, at the address `mesh`, for its sockets in `room`. `known_version`: the version that the caller has
    /// cached, so that the peer may answer "unchanged" or with the difference.
    ///
    /// # Errors
    /// When the peer gives no valid answer within `within`.
    pub async fn lookup(
        &self,
        mesh: &SmolStr,
        node: &NodeId,
        room: &Room,
        known_version: Option<u64>,
        within: Duration,
    ) -> Result<PeerReply, PeerError> {
        let peer = self.connections_to(mesh)?;
        let (call, within) = PeerCall::begin(&peer.circuit, within).inspect_err(|_| peer.lookups.skipped())?;
        let timer = peer.lookups.begin();
        let request = proto::LookupSocketsRequest {
            room: room.to_string(),
            node_id: node.to_string(),
            known_version,
            takes_changes: known_version.is_some(),
            ..Default::default()
        };
        let span = traces::lookup_span(mesh, node, room);
        let answer = timeout(within, peer.look_up(request, within, &span)).instrument(span.clone()).await;
        let reply = match call.end(answer) {
            Ok(response) => {
                answers::decode_snapshot(node, known_version, &response, &self.anomalies).map(PeerReply::Snapshot)
            }
            Err(CallFailure::Status(status)) => {
                let new_id = answers::changed_node_id(&status).filter(|new_id| new_id != node);
                new_id.map(PeerReply::NodeIdChanged).ok_or_else(|| PeerError::of(&status))
            }
            Err(CallFailure::TimedOut) => Err(PeerError::Deadline),
        };
        timer.end(answers::outcome(&reply));
        traces::record_lookup(&span, answers::outcome(&reply), answers::is_unchanged(&reply));
        reply
    }

    /// Announces this node's status to the node at `mesh`, and returns the status of that node. The circuit breaker does not
    /// apply: only an answer can close it.
    ///
    /// # Errors
    /// When the peer gives no valid answer within `within`.
    pub async fn announce(
        &self,
        mesh: &SmolStr,
        status: &NodeStatus,
        within: Duration,
    ) -> Result<NodeStatus, PeerError> {
        let peer = self.connections_to(mesh)?;
        let call = PeerCall::unlimited(&peer.circuit);
        let request = proto::AnnounceRequest { status: Some(node_status::encode(status)) };
        let mut client = peer.client().max_decoding_message_size(MAX_STATUS_BYTES);
        let response = call.end(timeout(within, client.announce(request)).await)?;
        let invalid = |reason: &dyn Display| {
            debug!(%mesh, %reason, "a peer answered an announcement with an invalid status");
            PeerError::Failed
        };
        let status = response.status.ok_or_else(|| invalid(&"the status is missing"))?;
        node_status::decode(status).map_err(|error| invalid(&error))
    }

    /// Calls `Describe` on the node at `mesh`, even while its circuit is open. `None`: its version does not have this call.
    ///
    /// # Errors
    /// When the peer gives no response within `within`.
    pub async fn describe(
        &self,
        mesh: &SmolStr,
        request: proto::DescribeRequest,
        within: Duration,
    ) -> Result<Option<proto::DescribeResponse>, PeerError> {
        let peer = self.connections_to(mesh)?;
        let mut client = peer.client().max_decoding_message_size(MAX_DESCRIPTION_BYTES);
        let call = PeerCall::unlimited(&peer.circuit);
        let mut request = tonic::Request::new(request);
        request.set_timeout(within);
        match call.end(timeout(within, client.describe(request)).await) {
            Ok(response) => Ok(Some(response)),
            Err(CallFailure::Status(status)) if status.code() == Code::Unimplemented => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Forwards a request of a polling client to the node at `mesh`. Dropping the future cancels it there.
    ///
    /// # Errors
    /// When the peer gives no response within `within`; at once while its circuit is open.
    pub async fn forward(
        &self,
        mesh: &SmolStr,
        request: proto::ForwardRequest,
        within: Duration,
    ) -> Result<proto::ForwardResponse, PeerError> {
        let peer = self.connections_to(mesh)?;
        if peer.circuit.lock().is_open() {
            return Err(PeerError::Deadline);
        }
        let _permit = peer.forward_permits.try_acquire().map_err(|_| PeerError::Overloaded)?;
        let mut request = tonic::Request::new(request);
        request.set_timeout(within);
        match timeout(within, peer.polling.clone().forward(request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(PeerError::of(&status)),
            Err(_elapsed) => Err(PeerError::Deadline),
        }
    }

    /// Whether the circuit of the peer at `mesh` is open.
    pub fn is_circuit_open(&self, mesh: &str) -> bool {
        self.by_address.lock().get(mesh).is_some_and(|peer| peer.circuit.lock().is_open())
    }

    /// Visits each peer: its address, its lookup metrics, and whether its circuit is open.
    pub fn each(&self, mut visit: impl FnMut(&str, &LookupMetrics, bool)) {
        // A copy, because `visit` must not run under the lock.
        let peers: Vec<_> =
            self.by_address.lock().iter().map(|(mesh, peer)| (mesh.clone(), Arc::clone(peer))).collect();
        for (mesh, peer) in peers {
            let is_open = peer.circuit.lock().is_open();
            visit(&mesh, &peer.lookups, is_open);
        }
    }

    /// Closes the connections to addresses that no member has.
    pub fn retain(&self, in_use: impl Fn(&str) -> bool) {
        self.by_address.lock().retain(|mesh, _| in_use(mesh));
    }

    fn connections_to(&self, mesh: &SmolStr) -> Result<Arc<PeerConnections>, PeerError> {
        if let Some(peer) = self.by_address.lock().get(mesh) {
            return Ok(Arc::clone(peer));
        }
        // The address is from a node entry or a status, so an invalid address is a failure of that node.
        let channel = || {
            let (security, counter, anomalies) = (self.security.clone(), self.counter.clone(), self.anomalies.clone());
            PeerChannel::counted(mesh, self.connect, security, counter, anomalies).map_err(|error| {
                debug!(%mesh, %error, "cannot use the mesh address of a node");
                PeerError::Failed
            })
        };
        let peer = Arc::new(PeerConnections {
            channel: channel()?,
            polling: PollingServiceClient::new(channel()?).max_decoding_message_size(MAX_FORWARDED_BYTES),
            forward_permits: Semaphore::new(MAX_CALLS_PER_CONNECTION),
            circuit: Mutex::default(),
            lookups: LookupMetrics::default(),
        });
        Ok(Arc::clone(self.by_address.lock().entry(mesh.clone()).or_insert(peer)))
    }
}

impl PeerConnections {
    fn client(&self) -> MeshServiceClient<PeerChannel> {
        self.channel.clone().client()
    }

    /// Uses the revalidation stream if the caller has a cached version. Otherwise, or if the stream gives no answer,
    /// makes a unary call with the timeout `within`.
    async fn look_up(
        &self,
        request: proto::LookupSocketsRequest,
        within: Duration,
        span: &Span,
    ) -> Result<tonic::Response<proto::LookupSocketsResponse>, Status> {
        if request.known_version.is_some()
            && let Some(answer) = self.channel.revalidate(revalidate_request(request.clone(), span)).await
        {
            return Ok(tonic::Response::new(answer));
        }
        let mut request = tonic::Request::new(request);
        request.set_timeout(within);
        traces::inject(span, request.metadata_mut().as_mut());
        let answer = self.client().lookup_sockets(request).await?;
        self.channel.prepare_revalidation();
        Ok(answer)
    }
}

/// The trace context is in the message, because all requests share the headers of the stream.
fn revalidate_request(question: proto::LookupSocketsRequest, span: &Span) -> proto::RevalidateRequest {
    let mut request = proto::RevalidateRequest { question: Some(question), ..Default::default() };
    if !span.is_disabled() {
        let mut headers = HeaderMap::new();
        traces::inject(span, &mut headers);
        let text = |name| headers.get(name)?.to_str().ok().map(ToOwned::to_owned);
        request.traceparent = text(TRACE_PARENT);
        request.tracestate = text(TRACE_STATE);
    }
    request
}

impl<'a> PeerCall<'a> {
    /// A call that the circuit breaker permits, and the limit of its duration.
    fn begin(circuit: &'a Mutex<CircuitBreaker>, within: Duration) -> Result<(Self, Duration), PeerError> {
        let permit = circuit.lock().permit();
        match permit {
            CallPermit::Unlimited => Ok((Self::unlimited(circuit), within)),
            CallPermit::Probe(limit) => Ok((Self { is_probe: true, ..Self::unlimited(circuit) }, within.min(limit))),
            CallPermit::Rejected => Err(PeerError::Deadline),
        }
    }

    /// A call that is made even if the circuit is open.
    fn unlimited(circuit: &'a Mutex<CircuitBreaker>) -> Self {
        Self { circuit, began: BootInstant::now(), is_probe: false }
    }

    fn end<T>(&self, answer: Result<Result<tonic::Response<T>, Status>, Elapsed>) -> Result<T, CallFailure> {
        let mut circuit = self.circuit.lock();
        let (answer, error) = match answer {
            Err(_elapsed) => (Err(CallFailure::TimedOut), Some(PeerError::Deadline)),
            Ok(Ok(response)) => (Ok(response.into_inner()), None),
            Ok(Err(status)) => {
                let error = PeerError::of(&status);
                if error == PeerError::Failed {
                    debug!(%status, "a call to a peer failed");
                }
                // A status without a source is from the peer, so the peer is alive.
                let answered = status.source().is_none() && error != PeerError::Deadline;
                (Err(CallFailure::Status(status)), Some(error).filter(|_| !answered))
            }
        };
        match error {
            None | Some(PeerError::Refused) => circuit.record_answer(),
            Some(PeerError::Deadline) => circuit.record_timeout(self.began, BootInstant::now()),
            // Not counted: a peer that hangs causes a keep-alive timeout, which is a `Deadline`.
            Some(PeerError::Failed | PeerError::Overloaded) => {}
        }
        answer
    }
}

impl Drop for PeerCall<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.circuit.lock().end_probe();
        }
    }
}

impl From<CallFailure> for PeerError {
    fn from(failure: CallFailure) -> Self {
        match failure {
            CallFailure::TimedOut => Self::Deadline,
            CallFailure::Status(status) => PeerError::of(&status),
        }
    }
}
