//! Fetches the whole roster of one node with the RPC `ListRooms`, and checks the answer.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use smol_str::SmolStr;
use thiserror::Error;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::mesh::channel::{PeerChannel, connect_tcp};
use crate::mesh::node_status::MemberInfo;
use crate::mesh::security::Security;
use crate::mesh::{node_status, proto};
use crate::names::{NodeId, Room, SocketId};

/// The timeout for each message of the streamed answer.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// The sockets of a node by room.
pub type RoomSockets = HashMap<Room, HashSet<SocketId>>;

/// The answer of one node.
#[derive(Debug)]
pub struct NodeRoster {
    pub node: NodeId,
    pub rooms: RoomSockets,
    /// The members of the cluster that the node knows.
    pub members: Vec<MemberInfo>,
}

/// Why there is no roster of a node.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RosterError {
    #[error("the request failed: {0}")]
    Failed(String),
    #[error("timeout after {MESSAGE_TIMEOUT:?}")]
    Timeout,
    #[error(
        "the mesh rejected this audit: pass the --mesh-ca, --mesh-cert and --mesh-key or the --mesh-token-file of the nodes"
    )]
    Refused,
    #[error("its version is too old for an audit")]
    TooOld,
    #[error("its node id changed during the audit")]
    IdChanged,
    #[error("malformed answer")]
    Malformed,
}

/// Asks the node whose mesh address is `mesh` (`host:port`).
///
/// # Errors
/// The request failed, or the answer broke off.
pub async fn fetch(mesh: &SmolStr, security: &Security) -> Result<NodeRoster, RosterError> {
    let link = PeerChannel::secured(mesh, connect_tcp, security.clone()).map_err(|_| RosterError::Malformed)?;
    let calling = timeout(MESSAGE_TIMEOUT, async { link.client().list_rooms(proto::ListRoomsRequest {}).await });
    let mut messages = calling.await.map_err(|_elapsed| RosterError::Timeout)??.into_inner();
    let first = next(&mut messages).await?.ok_or(RosterError::Malformed)?;
    let node = NodeId::parse(&first.node_id).map_err(|_| RosterError::Malformed)?;
    let status =
        node_status::decode(first.status.clone().ok_or(RosterError::Malformed)?).map_err(|_| RosterError::Malformed)?;
    let mut roster = NodeRoster { node, rooms: RoomSockets::new(), members: status.members };
    let mut message = Some(first);
    while let Some(rooms) = message {
        roster.add(rooms)?;
        message = next(&mut messages).await?;
    }
    Ok(roster)
}

async fn next(
    messages: &mut tonic::Streaming<proto::ListRoomsResponse>,
) -> Result<Option<proto::ListRoomsResponse>, RosterError> {
    Ok(timeout(MESSAGE_TIMEOUT, messages.message()).await.map_err(|_elapsed| RosterError::Timeout)??)
}

impl NodeRoster {
    /// The number of (room, socket) pairs.
    pub fn sockets(&self) -> usize {
        self.rooms.values().map(HashSet::len).sum()
    }

    fn add(&mut self, message: proto::ListRoomsResponse) -> Result<(), RosterError> {
        if message.node_id != self.node.as_str() {
            return Err(RosterError::IdChanged);
        }
        for proto::RoomSockets { room, id_sockets } in message.rooms {
            let room = Room::parse(&room).map_err(|_| RosterError::Malformed)?;
            let sockets = id_sockets.iter().map(|id| SocketId::parse(id));
            let sockets = sockets.collect::<Result<HashSet<_>, _>>().map_err(|_| RosterError::Malformed)?;
            self.rooms.insert(room, sockets);
        }
        Ok(())
    }
}

impl From<Status> for RosterError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unimplemented => Self::TooOld,
            Code::Unauthenticated | Code::PermissionDenied => Self::Refused,
            _ => Self::Failed(status.message().replace(char::is_control, " ")),
        }
    }
}
