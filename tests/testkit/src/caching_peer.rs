//! A peer of a node that has cached one of its rooms, and revalidates it over connections of its own.

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

use crate::PATIENCE;

pub struct CachingPeer {
    peers: Peers,
    mesh: SmolStr,
    node: NodeId,
    room: Room,
    version: u64,
}

impl CachingPeer {
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

    /// Asks with the cached version; the node must answer that nothing has changed.
    pub async fn revalidate(&self) -> Result<(), PeerError> {
        match self.peers.lookup(&self.mesh, &self.node, &self.room, Some(self.version), PATIENCE).await? {
            PeerReply::Snapshot(part) => assert_eq!(part.update, RowsUpdate::Unchanged),
            moved @ PeerReply::NodeIdChanged(_) => panic!("{moved:?}"),
        }
        Ok(())
    }

    /// The first lookup is a unary call. It opens the stream that later ones use.
    pub async fn revalidate_repeatedly(&self) {
        for _ in 0..20 {
            self.revalidate().await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
    }
}
