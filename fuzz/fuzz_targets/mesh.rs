//! Requests of the mesh, byte by byte as they come: lookups, answered from a small roster, and statuses, taken in by a
//! table. What is refused is an invalid argument; what is answered is what was asked, of what there is.
#![no_main]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use prost::Message;
use rollcall::clock::BootInstant;
use rollcall::membership::table::MemberTable;
use rollcall::mesh::proto::{AnnounceRequest, LookupSocketsRequest};
use rollcall::mesh_service::Lookup;
use rollcall::mesh::{MAX_LOOKUP_IDS, node_status};
use rollcall::names::{NodeId, Room, SocketId, UserId};
use rollcall::roster::{Registration, Roster, RowsUpdate};
use tonic::Code;

const ROWS: [(&str, &[&str]); 3] = [("s1", &["a", "b"]), ("s2", &["a"]), ("s3", &["c"])];

struct Node {
    roster: Arc<Roster>,
    /// Held, so that the rows stay.
    _presences: Vec<Registration>,
}

fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| {
        let roster = Roster::new(NodeId::parse("00000000000000ff-1").expect("a node's id"));
        let user = || UserId::parse("foo").expect("a user");
        let presences = ROWS.map(|(id, rooms)| {
            let rooms: Vec<Room> = rooms.iter().map(|room| Room::parse(room).expect("a room")).collect();
            roster.register(SocketId::parse(id).expect("an id"), user(), &rooms)
        });
        Node { roster, _presences: presences.into() }
    })
}

fn lookup(request: &LookupSocketsRequest) {
    let LookupSocketsRequest { room, id_sockets, node_id, known_version, takes_changes: _ } = request;
    let lookup = match Lookup::check(request) {
        Ok(lookup) => lookup,
        Err(status) => {
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(!status.message().is_empty());
            return;
        }
    };
    assert!(id_sockets.len() <= MAX_LOOKUP_IDS && !(room.is_empty() && id_sockets.is_empty()));
    assert!(room.is_empty() || Room::parse(room).is_ok());
    assert!(id_sockets.iter().all(|id| SocketId::parse(id).is_ok()));
    assert!(node_id.is_empty() || NodeId::parse(node_id).is_ok());
    assert!(known_version.is_none() || !(node_id.is_empty() || room.is_empty()) && id_sockets.is_empty());

    let part = lookup.answer(&node().roster);
    assert_eq!(part.node, node().roster.incarnation());
    // A small room remembers no changes.
    let RowsUpdate::Full(rows) = part.update else {
        assert_eq!(part.update, RowsUpdate::Unchanged);
        assert!(part.version > 0 && *known_version == Some(part.version), "unchanged since what?");
        return;
    };
    let mut listed: Vec<&str> = rows.iter().map(|row| row.id_socket.as_str()).collect();
    listed.sort_unstable();
    let asked = |id: &str| id_sockets.is_empty() || id_sockets.iter().any(|asked| asked == id);
    let inside = |rooms: &[&str]| room.is_empty() || rooms.contains(&room.as_str());
    let expected = ROWS.iter().filter(|(id, rooms)| asked(id) && inside(rooms)).map(|(id, _)| *id);
    assert_eq!(listed, expected.collect::<Vec<_>>());
    assert!(part.version == 0 || id_sockets.is_empty() && !listed.is_empty());
}

fn announce(request: AnnounceRequest) {
    let Some(status) = request.status else { return };
    let Ok(received) = node_status::decode(status) else { return };
    let again = AnnounceRequest { status: Some(node_status::encode(&received)) }.encode_to_vec();
    let again = AnnounceRequest::decode(again.as_slice()).expect("what was encoded");
    assert_eq!(again.status.map(node_status::decode), Some(Ok(received.clone())));

    let own = node().roster.incarnation();
    let mut table = MemberTable::new(&own, Duration::from_secs(5));
    let now = BootInstant::now();
    table.receive_status(&received, now);
    let members = table.view().members;
    assert!(members.len() <= 1 + received.members.len());
    for (place, member) in members.iter().enumerate() {
        assert_ne!(member.node.process(), own.process(), "nobody else's word makes a node its own peer");
        let process = member.node.process();
        assert!(members[..place].iter().all(|other| other.node.process() != process), "one incarnation of each");
        assert!(member.heard.is_none_or(|heard| heard <= now), "nobody was heard in the future");
    }
    if said.goodbye {
        assert!(members.iter().all(|member| member.node != said.about.node), "who said goodbye is gone");
    }
    assert!(!table.receive_status(&received, now), "the same word again is no news");
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = LookupSocketsRequest::decode(bytes) {
        assert_eq!(LookupSocketsRequest::decode(request.encode_to_vec().as_slice()).as_ref(), Ok(&request));
        lookup(&request);
    }
    if let Ok(request) = AnnounceRequest::decode(bytes) {
        announce(request);
    }
});
