//! The asking end of the mesh: one lazily connected HTTP/2 channel per address, and a deadline on every call.
//!
//! Owns the channels and the translation of every failure into a [`Silence`]. Never asks twice: a call that failed is
//! an answer to its caller, who has a deadline of its own.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use smol_str::SmolStr;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::proto::mesh_service_client::MeshServiceClient;
use super::{MAX_ANSWER_BYTES, NODE_ID_METADATA, proto, status};
use crate::membership::table::Said;
use crate::names::{NodeId, Room, SocketId, UserId};
use crate::roster::{Part, Row};

/// How long connecting may take. Longer than a round trip to anywhere, shorter than most deadlines.
const CONNECT_WITHIN: Duration = Duration::from_millis(400);
/// A connection that stays silent is asked for a sign of life this often, used or not…
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(5);
/// …and given up when none came within this time.
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(2);

/// Why a peer's answer is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Silence {
    /// It did not answer in time.
    Deadline,
    /// Nobody listens at its address, or who listens there is another node.
    Refused,
    /// The connection broke, or the answer made no sense.
    Failed,
    /// It said that it has too much to do.
    Overloaded,
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "deadline",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Overloaded => "overloaded",
        })
    }
}

/// What a peer said to a lookup.
#[derive(Debug)]
pub enum Reply {
    Part(Part),
    /// The node at that address goes by another id now.
    Moved(NodeId),
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Peers(Arc<Mutex<HashMap<SmolStr, MeshServiceClient<Channel>>>>);

impl Peers {
    /// Asks the node at `mesh` for its part of the room.
    ///
    /// # Errors
    /// Whatever came instead of an answer within `within`.
    pub async fn lookup(&self, mesh: &SmolStr, node: &NodeId, room: &Room, within: Duration) -> Result<Reply, Silence> {
        let mut client = self.client(mesh)?;
        let mut request = tonic::Request::new(proto::LookupSocketsRequest {
            room: room.to_string(),
            node_id: node.to_string(),
            ..Default::default()
        });
        request.set_timeout(within);
        match timeout(within, client.lookup_sockets(request)).await {
            Err(_elapsed) => Err(Silence::Deadline),
            Ok(Ok(response)) => part(node, &response.into_inner()).map(Reply::Part),
            Ok(Err(status)) => {
                moved(&status).filter(|now| now != node).map(Reply::Moved).ok_or_else(|| silence(&status))
            }
        }
    }

    /// Tells the node at `mesh` this node's word, and hears its own.
    ///
    /// # Errors
    /// Whatever came instead of an answer within `within`.
    pub async fn announce(&self, mesh: &SmolStr, said: &Said, within: Duration) -> Result<Said, Silence> {
        let mut client = self.client(mesh)?;
        let request = proto::AnnounceRequest { status: Some(status::encode(said)) };
        match timeout(within, client.announce(request)).await {
            Err(_elapsed) => Err(Silence::Deadline),
            Ok(Ok(response)) => {
                let status = response.into_inner().status.ok_or(Silence::Failed)?;
                status::decode(status).map_err(|_| Silence::Failed)
            }
            Ok(Err(status)) => Err(silence(&status)),
        }
    }

    /// Closes the channels to addresses that no member has any more.
    pub fn retain(&self, in_use: impl Fn(&str) -> bool) {
        self.lock().retain(|mesh, _| in_use(mesh));
    }

    fn client(&self, mesh: &SmolStr) -> Result<MeshServiceClient<Channel>, Silence> {
        if let Some(client) = self.lock().get(mesh) {
            return Ok(client.clone());
        }
        // An address that is none came from a node entry or a status; it is that node's failure.
        let endpoint = Endpoint::from_shared(format!("http://{mesh}")).map_err(|_| Silence::Failed)?;
        let channel = endpoint
            .connect_timeout(CONNECT_WITHIN)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
            .keep_alive_timeout(KEEP_ALIVE_WITHIN)
            .keep_alive_while_idle(true)
            .connect_lazy();
        let client = MeshServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(self.lock().entry(mesh.clone()).or_insert(client).clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SmolStr, MeshServiceClient<Channel>>> {
        self.0.lock().expect("no code panics while it holds the channels")
    }
}

/// The rows of an answer, if it is one of the node that was asked.
fn part(asked: &NodeId, response: &proto::LookupSocketsResponse) -> Result<Part, Silence> {
    if response.node_id != asked.as_str() {
        return Err(Silence::Failed);
    }
    let rows = response.sockets.iter().map(|socket| {
        let id_socket = SocketId::parse(&socket.id_socket)?;
        let id_user = UserId::parse(&socket.id_user)?;
        Ok(Row { id_socket, id_user })
    });
    let rows = rows.collect::<Result<Vec<_>, crate::names::NameError>>().map_err(|_| Silence::Failed)?;
    Ok(Part { node: asked.clone(), version: response.version, rows: Some(rows) })
}

fn moved(status: &Status) -> Option<NodeId> {
    if status.code() != Code::FailedPrecondition {
        return None;
    }
    let named = status.metadata().get(NODE_ID_METADATA)?;
    NodeId::parse(named.to_str().ok()?).ok()
}

fn silence(status: &Status) -> Silence {
    match status.code() {
        Code::DeadlineExceeded => Silence::Deadline,
        Code::ResourceExhausted => Silence::Overloaded,
        Code::FailedPrecondition => Silence::Refused,
        // tonic reports its own time-outs as `Cancelled`.
        Code::Cancelled if caused_by(status, |kind| kind == io::ErrorKind::TimedOut) => Silence::Deadline,
        _ if caused_by(status, |kind| kind == io::ErrorKind::ConnectionRefused) => Silence::Refused,
        _ if caused_by(status, |kind| kind == io::ErrorKind::TimedOut) => Silence::Deadline,
        _ => Silence::Failed,
    }
}

fn caused_by(status: &Status, is: impl Fn(io::ErrorKind) -> bool) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(status);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| is(error.kind())) {
            return true;
        }
        cause = error.source();
    }
    false
}
