//! What a peer's answer tells, if it makes sense.
//!
//! Owns that judgement: an answer of another node, or to something else than was asked, is a failure and is counted as an
//! [`Oddity`]. Without I/O.

use std::collections::HashSet;

use super::peers::PeerError;
use super::proto;
use crate::mesh_service::description;
use crate::names::{NameError, NodeId, SocketId, UserId};
use crate::roster::change_log::RowsDelta;
use crate::roster::{RoomSnapshot, Row, RowsUpdate};
use crate::status::description::Description;
use crate::telemetry::anomalies::Oddity;

/// What an answer tells, if it is one of the node that was asked, to what it was asked. A socket that it names twice is
/// listed once.
pub fn part(
    asked: &NodeId,
    known: Option<u64>,
    response: &proto::LookupSocketsResponse,
) -> Result<RoomSnapshot, PeerError> {
    let empty = response.sockets.is_empty() && response.gone.is_empty();
    let told_changes = response.changes_since != 0;
    let senseless = response.version == 0 && (!empty || told_changes)
        || response.unchanged && (known != Some(response.version) || !empty || told_changes)
        || told_changes && known != Some(response.changes_since)
        || !told_changes && !response.gone.is_empty();
    if response.node_id != asked.as_str() || senseless {
        Oddity::SenselessAnswer.note(format_args!("{asked} answers for {:.40?}", response.node_id));
        return Err(PeerError::Failed);
    }
    let told = if response.unchanged {
        RowsUpdate::Unchanged
    } else if told_changes {
        let removed = response.gone.iter().map(|id| SocketId::parse(id)).collect::<Result<_, _>>();
        let removed = removed.map_err(|error| misnamed(asked, error))?;
        RowsUpdate::Delta(RowsDelta { since: response.changes_since, removed, added: rows(asked, &response.sockets)? })
    } else {
        RowsUpdate::Full(rows(asked, &response.sockets)?)
    };
    Ok(RoomSnapshot { node: asked.clone(), version: response.version, update: told })
}

/// What an answer says of the node that was asked, under whatever id that goes by now.
pub fn described(asked: &NodeId, response: &proto::DescribeResponse) -> Result<Description, PeerError> {
    let described = description::decode(response).map_err(|error| {
        Oddity::SenselessAnswer.note(format_args!("of {asked} the description {error}"));
        PeerError::Failed
    })?;
    // Another process listens there.
    (described.node.process() == asked.process()).then_some(described).ok_or(PeerError::Refused)
}

fn rows(asked: &NodeId, sockets: &[proto::Socket]) -> Result<Vec<Row>, PeerError> {
    let mut seen = HashSet::with_capacity(sockets.len());
    let mut rows = Vec::with_capacity(sockets.len());
    for socket in sockets {
        if !seen.insert(socket.id_socket.as_str()) {
            Oddity::RepeatedRow.note(format_args!("{asked} names a socket twice"));
            continue;
        }
        let row = SocketId::parse(&socket.id_socket).and_then(|id_socket| {
            let id_user = UserId::parse(&socket.id_user)?;
            Ok(Row { id_socket, id_user })
        });
        rows.push(row.map_err(|error| misnamed(asked, error))?);
    }
    Ok(rows)
}

fn misnamed(asked: &NodeId, error: NameError) -> PeerError {
    Oddity::SenselessAnswer.note(format_args!("{asked} names a socket or a user that {error}"));
    PeerError::Failed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(node: &NodeId, sockets: &[(&str, &str)]) -> proto::LookupSocketsResponse {
        let socket = |&(id_socket, id_user): &(&str, &str)| proto::Socket {
            id_socket: id_socket.to_owned(),
            id_user: id_user.to_owned(),
        };
        proto::LookupSocketsResponse {
            node_id: node.to_string(),
            version: 1,
            sockets: sockets.iter().map(socket).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn an_answer_of_another_node_or_to_something_else_is_a_failure_and_a_repeated_row_is_one() {
        let [asked, other] = [(); 2].map(|()| NodeId::new_process());
        let before = [Oddity::SenselessAnswer, Oddity::RepeatedRow].map(Oddity::count);
        let twice = part(&asked, None, &answer(&asked, &[("s1", "foo"), ("s1", "bar"), ("s2", "foo")])).unwrap();
        let RowsUpdate::Full(rows) = twice.update else { panic!("{twice:?}") };
        let ids: Vec<_> = rows.iter().map(|row| row.id_socket.as_str()).collect();
        assert_eq!(ids, ["s1", "s2"]);
        let unasked = proto::LookupSocketsResponse { unchanged: true, ..answer(&asked, &[]) };
        for senseless in [answer(&other, &[]), unasked, answer(&asked, &[("", "foo")]), answer(&asked, &[("s", "\n")])]
        {
            assert_eq!(part(&asked, None, &senseless).unwrap_err(), PeerError::Failed);
        }
        let unchanged = proto::LookupSocketsResponse { unchanged: true, ..answer(&asked, &[]) };
        let held = part(&asked, Some(1), &unchanged).unwrap();
        assert_eq!((held.version, held.update), (1, RowsUpdate::Unchanged));
        let with_rows = proto::LookupSocketsResponse { unchanged: true, ..answer(&asked, &[("s1", "foo")]) };
        let without_version = proto::LookupSocketsResponse { version: 0, ..answer(&asked, &[("s1", "foo")]) };
        let changes = proto::LookupSocketsResponse { changes_since: 7, gone: vec!["s2".into()], ..answer(&asked, &[]) };
        let changed = part(&asked, Some(7), &changes).unwrap();
        let removed = vec![SocketId::parse("s2").unwrap()];
        assert_eq!(changed.update, RowsUpdate::Delta(RowsDelta { since: 7, removed, added: vec![] }));
        assert_eq!(part(&asked, None, &changes).unwrap_err(), PeerError::Failed, "it was not asked for changes");
        let of_none = proto::LookupSocketsResponse { version: 0, ..changes.clone() };
        let and_unchanged = proto::LookupSocketsResponse { unchanged: true, version: 7, ..changes.clone() };
        let among_all = proto::LookupSocketsResponse { changes_since: 0, ..changes.clone() };
        let misnamed = proto::LookupSocketsResponse { gone: vec![String::new()], ..changes.clone() };
        for (known, senseless) in [
            (2, unchanged),
            (1, with_rows),
            (1, without_version),
            (8, changes),
            (7, of_none),
            (7, and_unchanged),
            (7, among_all),
            (7, misnamed),
        ] {
            assert_eq!(part(&asked, Some(known), &senseless).unwrap_err(), PeerError::Failed, "{senseless:?}");
        }
        let after = [Oddity::SenselessAnswer, Oddity::RepeatedRow].map(Oddity::count);
        assert_eq!([after[0] - before[0], after[1] - before[1]], [13, 1], "each is counted");
    }
}
