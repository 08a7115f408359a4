//! Somebody who holds a room of a node, and asks it as its peers do, over connections of its own.

use std::net::SocketAddr;
use std::time::Duration;

use rollcall::mesh::answers::{PeerError, PeerReply};
use rollcall::mesh::channel::{PeerChannel, connect_tcp};
use rollcall::mesh::peers::Peers;
use rollcall::mesh::proto::LookupSocketsRequest;
use rollcall::mesh::security::Security;
use rollcall::names::{NodeId, Room};
use rollcall::roster::RowsUpdate;
use smol_str::SmolStr;
use tokio::time::sleep;

use super::PATIENCE;

pub struct Holder {
    peers: Peers,
    mesh: SmolStr,
    node: NodeId,
    room: Room,
    version: u64,
}

impl Holder {
    /// The node has one socket in the room.
    pub async fn of(node: SocketAddr, room: &str, security: Security) -> Self {
        let mesh: SmolStr = node.to_string().into();
        let mut client = PeerChannel::secured(&mesh, connect_tcp, security.clone()).unwrap().client();
        let request = LookupSocketsRequest { room: room.into(), ..Default::default() };
        let told = client.lookup_sockets(request).await.unwrap().into_inner();
        assert_eq!(told.sockets.len(), 1);
        let (node, room) = (NodeId::parse(&told.node_id).unwrap(), Room::parse(room).unwrap());
        Self { peers: Peers::secured(security), mesh, node, room, version: told.version }
    }

    /// Whether it is told that what it holds is still true.
    pub async fn hears(&self) -> Result<(), PeerError> {
        match self.peers.lookup(&self.mesh, &self.node, &self.room, Some(self.version), PATIENCE).await? {
            PeerReply::Snapshot(part) => assert_eq!(part.update, RowsUpdate::Unchanged),
            moved @ PeerReply::NodeIdChanged(_) => panic!("{moved:?}"),
        }
        Ok(())
    }

    /// The first question is put by a call, and one of those after it by the stream that is opened then.
    pub async fn hears_for_a_while(&self) {
        for _ in 0..20 {
            self.hears().await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
    }
}
