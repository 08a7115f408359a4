//! The interpretation of a peer's answer: its rows, a changed node id, or the cause of a failure.
//!
//! Owns [`PeerReply`], [`PeerError`] and the checks: an answer of another node, or one that does not fit the request, is a
//! [`PeerError::Failed`] and is counted as an [`Anomaly`]. Performs no I/O. The tests are
//! below.

use std::collections::HashSet;
use std::error::Error as StdError;
use std::{fmt, io};

use serde::Serialize;
use tonic::{Code, Status};
use utoipa::ToSchema;

use super::io::ConnectionError;
use super::{NODE_ID_METADATA, proto};
use crate::names::{NameError, NodeId, SocketId, UserId};
use crate::roster::{RoomSnapshot, Row, RowsDelta, RowsUpdate};
use crate::telemetry::anomalies::{Anomalies, Anomaly};
use crate::telemetry::metrics::lookups::LookupOutcome;

/// The reason why a peer gave no valid answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PeerError {
    /// No answer within the deadline.
    Deadline,
    /// Connection refused, another node at the address, or failed authentication between the two.
    Refused,
    /// The connection was lost, or the answer was invalid.
    Failed,
    /// The peer reported `RESOURCE_EXHAUSTED`.
    Overloaded,
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "deadline",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Overloaded => "overloaded",
        })
    }
}

/// The reply of a peer to a lookup.
#[derive(Debug)]
pub enum PeerReply {
    Snapshot(RoomSnapshot),
    /// The process at that address has this node id now.
    NodeIdChanged(NodeId),
}

/// The snapshot in the response of `node` to a lookup with `known_version`. A socket with two rows is listed once, with
/// the first.
pub(crate) fn decode_snapshot(
    node: &NodeId,
    known_version: Option<u64>,
    response: &proto::LookupSocketsResponse,
    anomalies: &Anomalies,
) -> Result<RoomSnapshot, PeerError> {
    let has_no_rows = response.sockets.is_empty() && response.gone.is_empty();
    let is_delta = response.changes_since != 0;
    let is_invalid = response.version == 0 && (!has_no_rows || is_delta)
        || response.unchanged && (known_version != Some(response.version) || !has_no_rows || is_delta)
        || is_delta && known_version != Some(response.changes_since)
        || !is_delta && !response.gone.is_empty();
    if response.node_id != node.as_str() || is_invalid {
        let named = &response.node_id;
        let detail = format_args!("{node} sent an answer that does not fit the request, as node {named:.40?}");
        anomalies.record(Anomaly::SenselessAnswer, detail);
        return Err(PeerError::Failed);
    }
    let update = if response.unchanged {
        RowsUpdate::Unchanged
    } else if is_delta {
        let removed = response.gone.iter().map(|id| SocketId::parse(id)).collect::<Result<_, _>>();
        let removed = removed.map_err(|error| invalid_name(node, error, anomalies))?;
        RowsUpdate::Delta(RowsDelta {
            since: response.changes_since,
            removed,
            added: rows(node, &response.sockets, anomalies)?,
        })
    } else {
        RowsUpdate::Full(rows(node, &response.sockets, anomalies)?)
    };
    Ok(RoomSnapshot { node: node.clone(), version: response.version, update })
}

fn rows(node: &NodeId, sockets: &[proto::Socket], anomalies: &Anomalies) -> Result<Vec<Row>, PeerError> {
    let mut seen = HashSet::with_capacity(sockets.len());
    let mut rows = Vec::with_capacity(sockets.len());
    for socket in sockets {
        if !seen.insert(socket.id_socket.as_str()) {
            anomalies.record(Anomaly::RepeatedRow, format_args!("{node} sent two rows for one socket"));
            continue;
        }
        let row = SocketId::parse(&socket.id_socket).and_then(|id_socket| {
            let id_user = UserId::parse(&socket.id_user)?;
            Ok(Row { id_socket, id_user })
        });
        rows.push(row.map_err(|error| invalid_name(node, error, anomalies))?);
    }
    Ok(rows)
}

fn invalid_name(node: &NodeId, error: NameError, anomalies: &Anomalies) -> PeerError {
    anomalies.record(Anomaly::SenselessAnswer, format_args!("{node} sent a socket or user id that {error}"));
    PeerError::Failed
}

/// The label of a lookup in metrics and traces.
pub(super) fn outcome(reply: &Result<PeerReply, PeerError>) -> LookupOutcome {
    match reply {
        Ok(PeerReply::Snapshot(_)) => LookupOutcome::Answered,
        Ok(PeerReply::NodeIdChanged(_)) => LookupOutcome::Moved,
        Err(PeerError::Deadline) => LookupOutcome::Deadline,
        Err(PeerError::Refused) => LookupOutcome::Refused,
        Err(PeerError::Failed) => LookupOutcome::Failed,
        Err(PeerError::Overloaded) => LookupOutcome::Overloaded,
    }
}

/// Whether the peer confirmed the version that the caller has cached.
pub(super) fn is_unchanged(reply: &Result<PeerReply, PeerError>) -> bool {
    matches!(reply, Ok(PeerReply::Snapshot(snapshot)) if snapshot.update == RowsUpdate::Unchanged)
}

/// The current id of the node at the address, if `status` reports a change.
pub(super) fn changed_node_id(status: &Status) -> Option<NodeId> {
    if status.code() != Code::FailedPrecondition {
        return None;
    }
    let current = status.metadata().get(NODE_ID_METADATA)?;
    NodeId::parse(current.to_str().ok()?).ok()
}

impl PeerError {
    /// The error for a gRPC status. A status with a source comes from this side: the source is the connection error.
    pub(super) fn of(status: &Status) -> Self {
        match status.code() {
            // tonic reports an expired `grpc-timeout` as cancelled, on either side.
            Code::DeadlineExceeded | Code::Cancelled => Self::Deadline,
            Code::ResourceExhausted => Self::Overloaded,
            Code::FailedPrecondition | Code::Unauthenticated | Code::PermissionDenied => Self::Refused,
            _ => match status.source().and_then(|source| source.downcast_ref()) {
                Some(ConnectionError::KeepAliveTimeout) => Self::Deadline,
                Some(ConnectionError::Untrusted(_)) => Self::Refused,
                Some(ConnectionError::Unreachable(error)) if error.kind() == io::ErrorKind::TimedOut => Self::Deadline,
                Some(ConnectionError::Unreachable(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    Self::Refused
                }
                Some(ConnectionError::Unreachable(_) | ConnectionError::Lost(_) | ConnectionError::Encode(_))
                | None => Self::Failed,
            },
        }
    }
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
        let anomalies = Anomalies::default();
        let decode = |known_version, response: &proto::LookupSocketsResponse| {
            decode_snapshot(&asked, known_version, response, &anomalies)
        };
        let twice = decode(None, &answer(&asked, &[("s1", "foo"), ("s1", "bar"), ("s2", "foo")])).unwrap();
        let RowsUpdate::Full(rows) = twice.update else { panic!("{twice:?}") };
        let ids: Vec<_> = rows.iter().map(|row| row.id_socket.as_str()).collect();
        assert_eq!(ids, ["s1", "s2"]);
        let unasked = proto::LookupSocketsResponse { unchanged: true, ..answer(&asked, &[]) };
        for senseless in [answer(&other, &[]), unasked, answer(&asked, &[("", "foo")]), answer(&asked, &[("s", "\n")])]
        {
            assert_eq!(decode(None, &senseless).unwrap_err(), PeerError::Failed);
        }
        let unchanged = proto::LookupSocketsResponse { unchanged: true, ..answer(&asked, &[]) };
        let snapshot = decode(Some(1), &unchanged).unwrap();
        assert_eq!((snapshot.version, snapshot.update), (1, RowsUpdate::Unchanged));
        let with_rows = proto::LookupSocketsResponse { unchanged: true, ..answer(&asked, &[("s1", "foo")]) };
        let without_version = proto::LookupSocketsResponse { version: 0, ..answer(&asked, &[("s1", "foo")]) };
        let changes = proto::LookupSocketsResponse { changes_since: 7, gone: vec!["s2".into()], ..answer(&asked, &[]) };
        let changed = decode(Some(7), &changes).unwrap();
        let removed = vec![SocketId::parse("s2").unwrap()];
        assert_eq!(changed.update, RowsUpdate::Delta(RowsDelta { since: 7, removed, added: vec![] }));
        assert_eq!(decode(None, &changes).unwrap_err(), PeerError::Failed, "the request had no known version");
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
            assert_eq!(decode(Some(known), &senseless).unwrap_err(), PeerError::Failed, "{senseless:?}");
        }
        let counts = [Anomaly::SenselessAnswer, Anomaly::RepeatedRow].map(|kind| anomalies.count(kind));
        assert_eq!(counts, [13, 1], "each one is counted");
    }
}
