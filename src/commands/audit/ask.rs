//! Asking one node for its whole roster.
//!
//! Owns the call (`ListRooms`), its bounds, and what an answer that makes no sense means.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use smol_str::SmolStr;
use thiserror::Error;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::mesh::channel::{Link, by_tcp};
use crate::mesh::node_status::MemberInfo;
use crate::mesh::security::Security;
use crate::mesh::{node_status, proto};
use crate::names::{NodeId, Room, SocketId};

/// The longest that a node may take for the next part of its answer.
const PART_WITHIN: Duration = Duration::from_secs(5);

/// Who is in which room of a node.
pub type Roster = HashMap<Room, HashSet<SocketId>>;

/// What a node has told.
#[derive(Debug)]
pub struct Told {
    pub node: NodeId,
    pub roster: Roster,
    /// The nodes that it knows.
    pub members: Vec<MemberInfo>,
}

/// Why a node has not told what it has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unheard {
    #[error("it does not answer: {0}")]
    Failed(String),
    #[error("it did not answer within {PART_WITHIN:?}")]
    Late,
    #[error("it does not let this audit in: pass what its own mesh has, --mesh-ca and the like or --mesh-token-file")]
    Refused,
    #[error("it is of a version that cannot be asked")]
    TooOld,
    #[error("it took another id meanwhile")]
    Changed,
    #[error("what it says makes no sense")]
    Nonsense,
}

/// Asks the node at `mesh`, `host:port`.
///
/// # Errors
/// [`Unheard`], also when only a part of the answer came.
pub async fn whole(mesh: &SmolStr, security: &Security) -> Result<Told, Unheard> {
    let link = Link::secured(mesh, by_tcp, security.clone()).map_err(|_| Unheard::Nonsense)?;
    let calling = timeout(PART_WITHIN, async { link.client().list_rooms(proto::ListRoomsRequest {}).await });
    let mut parts = calling.await.map_err(|_elapsed| Unheard::Late)??.into_inner();
    let first = next(&mut parts).await?.ok_or(Unheard::Nonsense)?;
    let node = NodeId::parse(&first.node_id).map_err(|_| Unheard::Nonsense)?;
    let word = node_status::decode(first.status.clone().ok_or(Unheard::Nonsense)?).map_err(|_| Unheard::Nonsense)?;
    let mut told = Told { node, roster: Roster::new(), members: word.members };
    let mut part = Some(first);
    while let Some(told_now) = part {
        told.add(told_now)?;
        part = next(&mut parts).await?;
    }
    Ok(told)
}

async fn next(
    parts: &mut tonic::Streaming<proto::ListRoomsResponse>,
) -> Result<Option<proto::ListRoomsResponse>, Unheard> {
    Ok(timeout(PART_WITHIN, parts.message()).await.map_err(|_elapsed| Unheard::Late)??)
}

impl Told {
    /// Each room of each socket counts.
    pub fn sockets(&self) -> usize {
        self.roster.values().map(HashSet::len).sum()
    }

    fn add(&mut self, part: proto::ListRoomsResponse) -> Result<(), Unheard> {
        if part.node_id != self.node.as_str() {
            return Err(Unheard::Changed);
        }
        for proto::RoomSockets { room, id_sockets } in part.rooms {
            let room = Room::parse(&room).map_err(|_| Unheard::Nonsense)?;
            let sockets = id_sockets.iter().map(|id| SocketId::parse(id));
            let sockets = sockets.collect::<Result<HashSet<_>, _>>().map_err(|_| Unheard::Nonsense)?;
            self.roster.insert(room, sockets);
        }
        Ok(())
    }
}

impl From<Status> for Unheard {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unimplemented => Self::TooOld,
            Code::Unauthenticated | Code::PermissionDenied => Self::Refused,
            _ => Self::Failed(status.message().replace(char::is_control, " ")),
        }
    }
}
