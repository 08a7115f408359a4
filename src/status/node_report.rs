//! The report of a node about itself: made from this node's memory, and converted to and from `DescribeResponse`.
//!
//! Owns the reading ([`NodeReporter`]) and the validation of received reports: one invalid field rejects the whole report.
//! The busiest rooms need a walk over the roster, so they are read at most once a second. Owns no sum over nodes
//! ([`mod@super::merge`]).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use smol_str::SmolStr;
use thiserror::Error;

use crate::clock::{BootInstant, whole_milliseconds};
use crate::membership::{Membership, NodeInfo};
use crate::mesh::answers::PeerError;
use crate::mesh::proto;
use crate::names::{NameError, NodeId, Room};
use crate::roster::Roster;
use crate::telemetry::anomalies::{Anomalies, Anomaly};
use crate::telemetry::metrics::recent::{
    BUCKET_COUNT, BUCKET_DURATION, Bucket, DURATION_CLASSES, RecentRollCalls, Series,
};

/// The busiest rooms in a report, and the number that this node requests from others.
pub const MAX_BUSIEST_ROOMS: usize = 100;
const MAX_BUSIEST_ROOMS_AGE: Duration = Duration::from_secs(1);
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The report of one node about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeReport {
    pub node: NodeId,
    /// The start time of the process, RFC 3339.
    pub since: SmolStr,
    pub uptime: Duration,
    /// The version of the program.
    pub version: SmolStr,
    pub sockets: u64,
    pub rooms: u64,
    /// Largest first, at most [`MAX_BUSIEST_ROOMS`].
    pub busiest: Vec<(Room, u64)>,
    /// The node is active: it has a lease, or most members have acknowledged that they must ask it.
    pub is_active: bool,
    pub whole: bool,
    pub draining: bool,
    /// `None`: the node has no lease, or its last confirmed renewal is too old.
    pub lease_left: Option<Duration>,
    pub roll_calls: Series,
}

/// Makes the report of this node. Cheap to clone.
#[derive(Clone)]
pub struct NodeReporter {
    pub roster: Arc<Roster>,
    pub membership: Arc<Membership>,
    recent: RecentRollCalls,
    started: BootInstant,
    busiest: Arc<Mutex<Option<CachedBusiest>>>,
}

#[derive(Clone)]
struct CachedBusiest {
    read: BootInstant,
    rooms: Arc<[(Room, u64)]>,
}

impl NodeReporter {
    pub fn new(roster: Arc<Roster>, membership: Arc<Membership>, recent: RecentRollCalls) -> Self {
        Self { roster, membership, recent, started: BootInstant::now(), busiest: Arc::default() }
    }

    pub fn node_info(&self) -> Arc<NodeInfo> {
        self.membership.node_info()
    }

    /// This node's report, with up to `rooms` of its busiest rooms.
    pub async fn report(&self, rooms: usize) -> NodeReport {
        let busiest = self.busiest().await;
        let (size, index) = (self.roster.size(), self.roster.index_state().borrow().clone());
        NodeReport {
            node: index.incarnation.clone(),
            since: self.node_info().since.clone(),
            uptime: self.started.elapsed(),
            version: VERSION.into(),
            sockets: size.sockets as u64,
            rooms: size.rooms as u64,
            busiest: busiest.iter().take(rooms).cloned().collect(),
            is_active: self.membership.is_active(),
            whole: index.fully_indexed_in.is_some(),
            draining: self.membership.is_draining(),
            lease_left: self.membership.lease_left(&index.incarnation),
            roll_calls: self.recent.series(),
        }
    }

    /// Holds no lock during the walk. So concurrent callers may walk too, which is rare.
    async fn busiest(&self) -> Arc<[(Room, u64)]> {
        let cached = self.busiest.lock().clone();
        if let Some(CachedBusiest { rooms, .. }) =
            cached.filter(|busiest| busiest.read.elapsed() < MAX_BUSIEST_ROOMS_AGE)
        {
            return rooms;
        }
        let read = BootInstant::now();
        let rooms = self.roster.busiest(MAX_BUSIEST_ROOMS).await;
        let rooms: Arc<[_]> = rooms.into_iter().map(|(room, sockets)| (room, sockets as u64)).collect();
        *self.busiest.lock() = Some(CachedBusiest { read, rooms: Arc::clone(&rooms) });
        rooms
    }
}

/// The limit of the version and of the start time.
const MAX_TEXT_BYTES: usize = 64;

/// The fault of a received report. `Display` completes the sentence "the report …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReportError {
    #[error("has a name or an id that {0}")]
    Name(#[from] NameError),
    #[error("has a text that is too long or not printable ASCII")]
    Text,
    #[error("has more rooms than were requested")]
    Rooms,
    #[error("has roll calls in an unknown format")]
    RollCalls,
}

pub fn request() -> proto::DescribeRequest {
    proto::DescribeRequest { busiest_rooms: u32::try_from(MAX_BUSIEST_ROOMS).unwrap_or(u32::MAX) }
}

pub fn encode(about: &NodeInfo, report: &NodeReport) -> proto::DescribeResponse {
    let busiest = report.busiest.iter();
    proto::DescribeResponse {
        node_id: report.node.to_string(),
        name: about.name.to_string(),
        mesh: about.mesh.to_string(),
        since: report.since.to_string(),
        uptime_ms: whole_milliseconds(report.uptime),
        version: report.version.to_string(),
        sockets: report.sockets,
        rooms: report.rooms,
        busiest_rooms: busiest
            .map(|(room, sockets)| proto::RoomSize { room: room.to_string(), sockets: *sockets })
            .collect(),
        counts: report.is_active,
        whole: report.whole,
        draining: report.draining,
        lease_left_ms: report.lease_left.map(whole_milliseconds),
        roll_calls: Some(proto::RecentRollCalls {
            bucket_ms: u32::try_from(BUCKET_DURATION.as_millis()).unwrap_or(u32::MAX),
            running_ms: u32::try_from(report.roll_calls.running.as_millis()).unwrap_or(u32::MAX),
            buckets: report.roll_calls.buckets.iter().map(encode_bucket).collect(),
        }),
    }
}

/// The report in the response of `node`. The report may have a later id of the same process.
///
/// # Errors
/// When the report is invalid, or is from another process.
pub fn reported_by(
    node: &NodeId,
    response: &proto::DescribeResponse,
    anomalies: &Anomalies,
) -> Result<NodeReport, PeerError> {
    let report = decode(response).map_err(|error| {
        let detail = format_args!("{node} sent an invalid report: the report {error}");
        anomalies.record(Anomaly::SenselessAnswer, detail);
        PeerError::Failed
    })?;
    (report.node.process() == node.process()).then_some(report).ok_or(PeerError::Refused)
}

/// Ignores the name and the address: the member table has them, and has verified them.
///
/// # Errors
/// When a field is invalid.
pub fn decode(response: &proto::DescribeResponse) -> Result<NodeReport, ReportError> {
    if response.busiest_rooms.len() > MAX_BUSIEST_ROOMS {
        return Err(ReportError::Rooms);
    }
    let busiest = response.busiest_rooms.iter().map(|size| Ok((Room::parse(&size.room)?, size.sockets)));
    Ok(NodeReport {
        node: NodeId::parse(&response.node_id)?,
        since: text(&response.since)?,
        uptime: Duration::from_millis(response.uptime_ms),
        version: text(&response.version)?,
        sockets: response.sockets,
        rooms: response.rooms,
        busiest: busiest.collect::<Result<_, NameError>>()?,
        is_active: response.counts,
        whole: response.whole,
        draining: response.draining,
        lease_left: response.lease_left_ms.map(Duration::from_millis),
        roll_calls: response.roll_calls.as_ref().map(decode_series).transpose()?.unwrap_or_default(),
    })
}

fn encode_bucket(bucket: &Bucket) -> proto::RollCallBucket {
    let used = bucket.durations.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    proto::RollCallBucket { incomplete: bucket.incomplete, durations: bucket.durations[..used].to_vec() }
}

fn decode_series(response: &proto::RecentRollCalls) -> Result<Series, ReportError> {
    if u128::from(response.bucket_ms) != BUCKET_DURATION.as_millis()
        || response.running_ms > response.bucket_ms
        || response.buckets.len() > BUCKET_COUNT
    {
        return Err(ReportError::RollCalls);
    }
    let buckets = response.buckets.iter().map(|response| {
        if response.durations.len() > DURATION_CLASSES {
            return Err(ReportError::RollCalls);
        }
        let mut bucket = Bucket { incomplete: response.incomplete, ..Bucket::default() };
        bucket.durations[..response.durations.len()].copy_from_slice(&response.durations);
        Ok(bucket)
    });
    Ok(Series {
        running: Duration::from_millis(response.running_ms.into()),
        buckets: buckets.collect::<Result<_, _>>()?,
    })
}

fn text(response: &str) -> Result<SmolStr, ReportError> {
    let plain = response.len() <= MAX_TEXT_BYTES && response.bytes().all(|byte| byte.is_ascii_graphic());
    plain.then(|| response.into()).ok_or(ReportError::Text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::NodeName;

    fn report() -> NodeReport {
        let bucket = Bucket { incomplete: 1, durations: std::array::from_fn(|place| u64::from(place == 3)) };
        NodeReport {
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

    fn encoded() -> proto::DescribeResponse {
        let about = NodeInfo { name: NodeName::from_any("node"), mesh: "127.0.0.1:1".into(), since: "now".into() };
        encode(&about, &report())
    }

    #[test]
    fn a_report_is_decoded_as_it_was_encoded() {
        let wire = encoded();
        assert_eq!((wire.name.as_str(), wire.mesh.as_str()), ("node", "127.0.0.1:1"));
        let decoded = decode(&wire).unwrap();
        assert_eq!(decoded, NodeReport { node: decoded.node.clone(), ..report() });
        assert_eq!(
            wire.roll_calls.unwrap().buckets[1],
            proto::RollCallBucket::default(),
            "an empty bucket is encoded as an empty message"
        );
    }

    #[test]
    fn an_invalid_report_is_rejected_as_a_whole() {
        let series = |series: proto::RecentRollCalls| proto::DescribeResponse { roll_calls: Some(series), ..encoded() };
        let wire = encoded().roll_calls.unwrap();
        let size = |room: &str| proto::RoomSize { room: room.to_owned(), sockets: 1 };
        for (senseless, error) in [
            (proto::DescribeResponse { node_id: "me".into(), ..encoded() }, ReportError::Name(NameError::Alphabet)),
            (
                proto::DescribeResponse { busiest_rooms: vec![size("a\nb")], ..encoded() },
                ReportError::Name(NameError::ControlCharacter),
            ),
            (
                proto::DescribeResponse { busiest_rooms: vec![size(&"x".repeat(1 << 20))], ..encoded() },
                ReportError::Name(NameError::TooLong(256)),
            ),
            (
                proto::DescribeResponse { busiest_rooms: vec![size("a"); MAX_BUSIEST_ROOMS + 1], ..encoded() },
                ReportError::Rooms,
            ),
            (proto::DescribeResponse { version: "x".repeat(65), ..encoded() }, ReportError::Text),
            (proto::DescribeResponse { since: "\u{1b}[2J".into(), ..encoded() }, ReportError::Text),
            (series(proto::RecentRollCalls { bucket_ms: 1, ..wire.clone() }), ReportError::RollCalls),
            (series(proto::RecentRollCalls { running_ms: 5_001, ..wire.clone() }), ReportError::RollCalls),
            (
                series(proto::RecentRollCalls { buckets: vec![Default::default(); BUCKET_COUNT + 1], ..wire.clone() }),
                ReportError::RollCalls,
            ),
            (
                series(proto::RecentRollCalls {
                    buckets: vec![proto::RollCallBucket { incomplete: 0, durations: vec![1; DURATION_CLASSES + 1] }],
                    ..wire
                }),
                ReportError::RollCalls,
            ),
        ] {
            assert_eq!(decode(&senseless).unwrap_err(), error);
        }
    }
}
