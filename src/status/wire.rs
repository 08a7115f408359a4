//! A node's description on the wire: `DescribeResponse` to [`Description`] and back.
//!
//! Owns the checks of what comes in: an answer that no node can have given is refused as a whole, and none is larger than
//! [`MAX_BYTES`].

use std::time::Duration;

use smol_str::SmolStr;
use thiserror::Error;

use crate::clock::whole_milliseconds;
use crate::membership::NodeInfo;
use crate::mesh::peers::PeerError;
use crate::mesh::proto;
use crate::names::{NameError, NodeId, Room};
use crate::status::description::{Description, ROOMS_MOST};
use crate::telemetry::anomalies::Oddity;
use crate::telemetry::metrics::recent::{BUCKET, BUCKETS, Bucket, DURATIONS, Series};

/// The longest text in it that is not a name.
const TEXT_MOST: usize = 64;

/// Why a description makes no sense. `Display` completes the sentence "the description …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    #[error("has a name or an id that {0}")]
    Name(#[from] NameError),
    #[error("has a text that is too long or not plain")]
    Text,
    #[error("names more rooms than were asked for")]
    Rooms,
    #[error("has roll calls in another form")]
    RollCalls,
}

/// What is asked.
pub fn question() -> proto::DescribeRequest {
    proto::DescribeRequest { busiest_rooms: u32::try_from(ROOMS_MOST).unwrap_or(u32::MAX) }
}

pub fn encode(about: &NodeInfo, told: &Description) -> proto::DescribeResponse {
    let busiest = told.busiest.iter();
    proto::DescribeResponse {
        node_id: told.node.to_string(),
        name: about.name.to_string(),
        mesh: about.mesh.to_string(),
        since: told.since.to_string(),
        uptime_ms: whole_milliseconds(told.uptime),
        version: told.version.to_string(),
        sockets: told.sockets,
        rooms: told.rooms,
        busiest_rooms: busiest
            .map(|(room, sockets)| proto::RoomSize { room: room.to_string(), sockets: *sockets })
            .collect(),
        counts: told.is_active,
        whole: told.whole,
        draining: told.draining,
        lease_left_ms: told.lease_left.map(whole_milliseconds),
        roll_calls: Some(proto::RecentRollCalls {
            bucket_ms: u32::try_from(BUCKET.as_millis()).unwrap_or(u32::MAX),
            running_ms: u32::try_from(told.roll_calls.running.as_millis()).unwrap_or(u32::MAX),
            buckets: told.roll_calls.buckets.iter().map(encode_bucket).collect(),
        }),
    }
}

/// The report in the response of `node`, under whatever id it has by now.
///
/// # Errors
/// When it is invalid, or comes from another process.
pub fn reported_by(node: &NodeId, response: &proto::DescribeResponse) -> Result<Description, PeerError> {
    let described = decode(response).map_err(|error| {
        Oddity::SenselessAnswer.note(format_args!("of {node} the description {error}"));
        PeerError::Failed
    })?;
    (described.node.process() == node.process()).then_some(described).ok_or(PeerError::Refused)
}

/// Name and address are left to what is known of the node that was asked.
///
/// # Errors
/// When something in it is none of what a node tells, or more.
pub fn decode(told: &proto::DescribeResponse) -> Result<Description, Error> {
    if told.busiest_rooms.len() > ROOMS_MOST {
        return Err(Error::Rooms);
    }
    let busiest = told.busiest_rooms.iter().map(|size| Ok((Room::parse(&size.room)?, size.sockets)));
    Ok(Description {
        node: NodeId::parse(&told.node_id)?,
        since: text(&told.since)?,
        uptime: Duration::from_millis(told.uptime_ms),
        version: text(&told.version)?,
        sockets: told.sockets,
        rooms: told.rooms,
        busiest: busiest.collect::<Result<_, NameError>>()?,
        is_active: told.counts,
        whole: told.whole,
        draining: told.draining,
        lease_left: told.lease_left_ms.map(Duration::from_millis),
        roll_calls: told.roll_calls.as_ref().map(decode_series).transpose()?.unwrap_or_default(),
    })
}

fn encode_bucket(bucket: &Bucket) -> proto::RollCallBucket {
    let used = bucket.durations.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    proto::RollCallBucket { incomplete: bucket.incomplete, durations: bucket.durations[..used].to_vec() }
}

fn decode_series(told: &proto::RecentRollCalls) -> Result<Series, Error> {
    if u128::from(told.bucket_ms) != BUCKET.as_millis()
        || told.running_ms > told.bucket_ms
        || told.buckets.len() > BUCKETS
    {
        return Err(Error::RollCalls);
    }
    let buckets = told.buckets.iter().map(|told| {
        if told.durations.len() > DURATIONS {
            return Err(Error::RollCalls);
        }
        let mut bucket = Bucket { incomplete: told.incomplete, ..Bucket::default() };
        bucket.durations[..told.durations.len()].copy_from_slice(&told.durations);
        Ok(bucket)
    });
    Ok(Series { running: Duration::from_millis(told.running_ms.into()), buckets: buckets.collect::<Result<_, _>>()? })
}

fn text(told: &str) -> Result<SmolStr, Error> {
    let plain = told.len() <= TEXT_MOST && told.bytes().all(|byte| byte.is_ascii_graphic());
    plain.then(|| told.into()).ok_or(Error::Text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::NodeName;

    fn description() -> Description {
        let bucket = Bucket { incomplete: 1, durations: std::array::from_fn(|place| u64::from(place == 3)) };
        Description {
            node: NodeId::new_process(),
            since: "2026-01-02T03:04:05.678Z".into(),
            uptime: Duration::from_secs(7),
            version: "0.1.0".into(),
            sockets: 3,
            rooms: 2,
            busiest: vec![(Room::parse("Maths").unwrap(), 2), (Room::parse("café au lait").unwrap(), 1)],
            is_active: true,
            whole: true,
            draining: false,
            lease_left: Some(Duration::from_millis(4_321)),
            roll_calls: Series { running: Duration::from_secs(2), buckets: vec![bucket, Bucket::default(), bucket] },
        }
    }

    fn wire() -> proto::DescribeResponse {
        let about = NodeInfo { name: NodeName::from_any("node"), mesh: "127.0.0.1:1".into(), since: "now".into() };
        encode(&about, &description())
    }

    #[test]
    fn a_description_arrives_as_it_was_given() {
        let told = wire();
        assert_eq!((told.name.as_str(), told.mesh.as_str()), ("node", "127.0.0.1:1"));
        let decoded = decode(&told).unwrap();
        assert_eq!(decoded, Description { node: decoded.node.clone(), ..description() });
        assert_eq!(told.roll_calls.unwrap().buckets[1], proto::RollCallBucket::default(), "nothing is told as nothing");
    }

    #[test]
    fn what_no_node_tells_is_refused_as_a_whole() {
        let series = |series: proto::RecentRollCalls| proto::DescribeResponse { roll_calls: Some(series), ..wire() };
        let told = wire().roll_calls.unwrap();
        let size = |room: &str| proto::RoomSize { room: room.to_owned(), sockets: 1 };
        for (senseless, error) in [
            (proto::DescribeResponse { node_id: "me".into(), ..wire() }, Error::Name(NameError::Alphabet)),
            (
                proto::DescribeResponse { busiest_rooms: vec![size("a\nb")], ..wire() },
                Error::Name(NameError::ControlCharacter),
            ),
            (
                proto::DescribeResponse { busiest_rooms: vec![size(&"x".repeat(1 << 20))], ..wire() },
                Error::Name(NameError::TooLong(256)),
            ),
            (proto::DescribeResponse { busiest_rooms: vec![size("a"); ROOMS_MOST + 1], ..wire() }, Error::Rooms),
            (proto::DescribeResponse { version: "x".repeat(65), ..wire() }, Error::Text),
            (proto::DescribeResponse { since: "\u{1b}[2J".into(), ..wire() }, Error::Text),
            (series(proto::RecentRollCalls { bucket_ms: 1, ..told.clone() }), Error::RollCalls),
            (series(proto::RecentRollCalls { running_ms: 5_001, ..told.clone() }), Error::RollCalls),
            (
                series(proto::RecentRollCalls { buckets: vec![Default::default(); BUCKETS + 1], ..told.clone() }),
                Error::RollCalls,
            ),
            (
                series(proto::RecentRollCalls {
                    buckets: vec![proto::RollCallBucket { incomplete: 0, durations: vec![1; DURATIONS + 1] }],
                    ..told
                }),
                Error::RollCalls,
            ),
        ] {
            assert_eq!(decode(&senseless).unwrap_err(), error);
        }
    }
}
