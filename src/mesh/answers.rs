//! Validates the answers of peers to lookups.
//!
//! Owns the checks: an answer of another node, or one that does not fit the request, is a [`PeerError::Failed`] and is
//! counted as an [`Oddity`]. Performs no I/O.

use std::collections::HashSet;

use super::peers::PeerError;
use super::proto;
use crate::names::{NameError, NodeId, SocketId, UserId};
use crate::roster::RowsDelta;
use crate::roster::{RoomSnapshot, Row, RowsUpdate};
use crate::telemetry::anomalies::Oddity;

/// The snapshot in the response of `node` to a lookup with `known_version`. A socket with two rows is listed once, with
/// the first.
pub(crate) fn decode_snapshot(
    node: &NodeId,
    known_version: Option<u64>,
    response: &proto::LookupSocketsResponse,
) -> Result<RoomSnapshot, PeerError> {
    let has_no_rows = response.sockets.is_empty() && response.gone.is_empty();
    let is_delta = response.changes_since != 0;
    let is_invalid = response.version == 0 && (!has_no_rows || is_delta)
        || response.unchanged && (known_version != Some(response.version) || !has_no_rows || is_delta)
        || is_delta && known_version != Some(response.changes_since)
        || !is_delta && !response.gone.is_empty();
    if response.node_id != node.as_str() || is_invalid {
        Oddity::SenselessAnswer.note(format_args!(
            "{node} sent an answer that does not fit the request, as node {:.40?}",
            response.node_id
        ));
        return Err(PeerError::Failed);
    }
    let update = if response.unchanged {
        RowsUpdate::Unchanged
    } else if is_delta {
        let removed = response.gone.iter().map(|id| SocketId::parse(id)).collect::<Result<_, _>>();
        let removed = removed.map_err(|error| invalid_name(node, error))?;
        RowsUpdate::Delta(RowsDelta { since: response.changes_since, removed, added: rows(node, &response.sockets)? })
    } else {
        RowsUpdate::Full(rows(node, &response.sockets)?)
    };
    Ok(RoomSnapshot { node: node.clone(), version: response.version, update })
}

fn rows(node: &NodeId, sockets: &[proto::Socket]) -> Result<Vec<Row>, PeerError> {
    let mut seen = HashSet::with_capacity(sockets.len());
    let mut rows = Vec::with_capacity(sockets.len());
    for socket in sockets {
        if !seen.insert(socket.id_socket.as_str()) {
            Oddity::RepeatedRow.note(format_args!("{node} sent two rows for one socket"));
            continue;
        }
        let row = SocketId::parse(&socket.id_socket).and_then(|id_socket| {
            let id_user = UserId::parse(&socket.id_user)?;
            Ok(Row { id_socket, id_user })
        });
        rows.push(row.map_err(|error| invalid_name(node, error))?);
    }
    Ok(rows)
}

fn invalid_name(node: &NodeId, error: NameError) -> PeerError {
    Oddity::SenselessAnswer.note(format_args!("{node} sent a socket or user id that {error}"));
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
    fn answers_that_do_not_fit_are_rejected_and_counted() {
        let [asked, other] = [(); 2].map(|()| NodeId::new_process());
        let before = [Oddity::SenselessAnswer, Oddity::RepeatedRow].map(Oddity::count);
        let twice =
            decode_snapshot(&asked, None, &answer(&asked, &[("s1", "foo"), ("s1", "bar"), ("s2", "foo")])).unwrap();
        let RowsUpdate::Full(rows) = twice.update else { panic!("{twice:?}") };
        let ids: Vec<_> = rows.iter().map(|row| row.id_socket.as_str()).collect();
        assert_eq!(ids, ["s1", "s2"]);
        let unasked = proto::LookupSocketsResponse { unchanged: true, ..answer(&asked, &[]) };
        for senseless in [answer(&other, &[]), unasked, answer(&asked, &[("", "foo")]), answer(&asked, &[("s", "\n")])]
        {
            assert_eq!(decode_snapshot(&asked, None, &senseless).unwrap_err(), PeerError::Failed);
        }
        let unchanged = proto::LookupSocketsResponse { unchanged: true, ..answer(&asked, &[]) };
        let held = decode_snapshot(&asked, Some(1), &unchanged).unwrap();
        assert_eq!((held.version, held.update), (1, RowsUpdate::Unchanged));
        let with_rows = proto::LookupSocketsResponse { unchanged: true, ..answer(&asked, &[("s1", "foo")]) };
        let without_version = proto::LookupSocketsResponse { version: 0, ..answer(&asked, &[("s1", "foo")]) };
        let changes = proto::LookupSocketsResponse { changes_since: 7, gone: vec!["s2".into()], ..answer(&asked, &[]) };
        let changed = decode_snapshot(&asked, Some(7), &changes).unwrap();
        let removed = vec![SocketId::parse("s2").unwrap()];
        assert_eq!(changed.update, RowsUpdate::Delta(RowsDelta { since: 7, removed, added: vec![] }));
        assert_eq!(
            decode_snapshot(&asked, None, &changes).unwrap_err(),
            PeerError::Failed,
            "the request had no known version"
        );
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
            assert_eq!(
                decode_snapshot(&asked, Some(known), &senseless).unwrap_err(),
                PeerError::Failed,
                "{senseless:?}"
            );
        }
        let after = [Oddity::SenselessAnswer, Oddity::RepeatedRow].map(Oddity::count);
        assert_eq!([after[0] - before[0], after[1] - before[1]], [13, 1], "each one is counted");
    }
}
