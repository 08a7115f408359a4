//! A mesh peer that has cached one room of a node. It revalidates the cached room over its own connections.

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
    /// Caches the room. The node must have exactly one socket in it.
    pub async fn of(node: SocketAddr, room: &str, security: Security) -> Self {
        let mesh: SmolStr = node.to_string().into();
        let mut client = PeerChannel::secured(&mesh, connect_tcp, security.clone()).unwrap().client();
        let request = LookupSocketsRequest { room: room.into(), ..Default::default() };
        let reply = client.lookup_sockets(request).await.unwrap().into_inner();
        assert_eq!(reply.sockets.len(), 1);
        let (node, room) = (NodeId::parse(&reply.node_id).unwrap(), Room::parse(room).unwrap());
        Self { peers: Peers::secured(security), mesh, node, room, version: reply.version }
    }

    /// Sends the cached version; the node must answer that nothing has changed.
    pub async fn revalidate(&self) -> Result<(), PeerError> {
        match self.peers.lookup(&self.mesh, &self.node, &self.room, Some(self.version), PATIENCE).await? {
            PeerReply::Snapshot(part) => assert_eq!(part.update, RowsUpdate::Unchanged),
            moved @ PeerReply::NodeIdChanged(_) => panic!("{moved:?}"),
        }
        Ok(())
    }

    /// Revalidates often enough to use a stream: the first lookup is a unary call and opens the stream of later lookups.
    pub async fn revalidate_repeatedly(&self) {
        for _ in 0..20 {
            self.revalidate().await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
    }
}
