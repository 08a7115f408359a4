//! Decodes arbitrary bytes as mesh requests: lookups, answered from a small roster, and statuses, applied to a member
//! table. A refused lookup is an invalid argument. The reply to any other lists exactly the requested rows of the roster.
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
    /// Dropping them would remove the rows.
    _registrations: Vec<Registration>,
}

fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| {
        let roster = Roster::new(NodeId::parse("00000000000000ff-1").expect("a node's id"));
        let user = || UserId::parse("foo").expect("a user");
        let registrations = ROWS.map(|(id, rooms)| {
            let rooms: Vec<Room> = rooms.iter().map(|room| Room::parse(room).expect("a room")).collect();
            roster.register(SocketId::parse(id).expect("an id"), user(), &rooms)
        });
        Node { roster, _registrations: registrations.into() }
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

    let snapshot = lookup.answer(&node().roster);
    assert_eq!(snapshot.node, node().roster.incarnation());
    // The change log of a small room is empty, so there are no deltas.
    let RowsUpdate::Full(rows) = snapshot.update else {
        assert_eq!(snapshot.update, RowsUpdate::Unchanged);
        assert!(snapshot.version > 0 && *known_version == Some(snapshot.version), "only a known version is unchanged");
        return;
    };
    let mut listed: Vec<&str> = rows.iter().map(|row| row.id_socket.as_str()).collect();
    listed.sort_unstable();
    let requested = |id: &str| id_sockets.is_empty() || id_sockets.iter().any(|requested| requested == id);
    let inside = |rooms: &[&str]| room.is_empty() || rooms.contains(&room.as_str());
    let expected = ROWS.iter().filter(|(id, rooms)| requested(id) && inside(rooms)).map(|(id, _)| *id);
    assert_eq!(listed, expected.collect::<Vec<_>>());
    assert!(snapshot.version == 0 || id_sockets.is_empty() && !listed.is_empty());
}

fn announce(request: AnnounceRequest) {
    let Some(status) = request.status else { return };
    let Ok(received) = node_status::decode(status) else { return };
    let encoded = AnnounceRequest { status: Some(node_status::encode(&received)) }.encode_to_vec();
    let decoded = AnnounceRequest::decode(encoded.as_slice()).expect("an encoded request can be decoded");
    assert_eq!(decoded.status.map(node_status::decode), Some(Ok(received.clone())));

    let own = node().roster.incarnation();
    let mut table = MemberTable::new(&own, Duration::from_secs(5));
    let now = BootInstant::now();
    table.receive_status(&received, now);
    let members = table.view().members;
    assert!(members.len() <= 1 + received.members.len());
    for (index, member) in members.iter().enumerate() {
        assert_ne!(member.node.process(), own.process(), "a node is never its own member");
        let process = member.node.process();
        assert!(members[..index].iter().all(|other| other.node.process() != process), "a process has two incarnations");
        assert!(member.heard.is_none_or(|heard| heard <= now), "a member was heard in the future");
    }
    if received.goodbye {
        assert!(members.iter().all(|member| member.node != received.about.node), "a goodbye removes the member");
    }
    let again = table.receive_status(&received, now);
    assert!(!again.is_some_and(|change| change.must_announce), "the same status again changes nothing");
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
