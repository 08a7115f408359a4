//! Requests of the mesh: lookups, which are answered from a small roster, and statuses.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use prost::Message;
use rollcall::mesh::proto::{LookupSocketsRequest, Status};
use rollcall::mesh::server::Lookup;
use rollcall::mesh::status;
use rollcall::names::{NodeId, Room, SocketId, UserId};
use rollcall::roster::{Presence, Roster};

/// Two sockets, one of them in two rooms.
fn roster() -> &'static (std::sync::Arc<Roster>, Vec<Presence>) {
    static ROSTER: OnceLock<(std::sync::Arc<Roster>, Vec<Presence>)> = OnceLock::new();
    ROSTER.get_or_init(|| {
        let roster = Roster::new(NodeId::new_process());
        let room = |name| Room::parse(name).expect("a room");
        let register = |id, rooms: &[Room]| {
            let socket = SocketId::parse(id).expect("an id");
            roster.register(socket, UserId::parse("foo").expect("a user"), rooms)
        };
        let presences = vec![register("s1", &[room("a"), room("b")]), register("s2", &[room("a")])];
        (roster, presences)
    })
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = LookupSocketsRequest::decode(bytes) {
        let ids = request.id_sockets.len();
        match Lookup::check(&request) {
            Ok(lookup) => {
                let part = lookup.answer(&roster().0);
                assert!(part.rows.is_some() || request.known_version.is_some(), "unchanged since what?");
                assert!(ids == 0 || part.rows.is_some_and(|rows| rows.len() <= ids.min(2)));
            }
            Err(status) => assert_eq!(status.code(), tonic::Code::InvalidArgument),
        }
    }
    if let Ok(status) = Status::decode(bytes)
        && let Ok(said) = status::decode(status)
    {
        assert_eq!(status::decode(status::encode(&said)).ok(), Some(said));
    }
});
