//! Merges the reports of all nodes into the status of the cluster. Pure and synchronous.
//!
//! Owns the sums: the busiest rooms, with an upper bound if a report is partial, and the roll calls of all nodes on one time
//! axis. The axis uses the age of each bucket, because the wall clocks of the nodes may differ.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use smol_str::SmolStr;

use super::cluster_status::{BusyRoom, ClusterStatus, LastMinute, NodeRow, ReportedDetails, RollCallSeries};
use super::node_report::NodeReport;
use crate::clock::whole_milliseconds;
use crate::membership::Member;
use crate::mesh::answers::PeerError;
use crate::names::Room;
use crate::telemetry::metrics::recent::{BUCKET_COUNT, BUCKET_DURATION, Bucket, Series};

const MAX_SHOWN_ROOMS: usize = 20;
const BUCKETS_PER_MINUTE: usize = 12;

/// A member and its reply to `Describe`.
#[derive(Debug, Clone)]
pub struct PolledMember {
    pub member: Member,
    pub heard: Option<Duration>,
    pub took: Duration,
    pub circuit_open: bool,
    /// `None`: its version has no `Describe`.
    pub reply: Result<Option<NodeReport>, PeerError>,
}

/// The node that collects the status.
#[derive(Debug, Clone)]
pub struct LocalNode {
    pub name: SmolStr,
    pub mesh: SmolStr,
    pub directory: &'static str,
    pub leased: bool,
    pub report: NodeReport,
}

/// The status of the cluster. The caller fills in `as_of` and `took_ms`.
pub fn merge(local: LocalNode, polled: &[PolledMember], now: Timestamp) -> ClusterStatus {
    let reports = || polled.iter().filter_map(|polled| polled.reply.as_ref().ok()?.as_ref());
    let all: Vec<&NodeReport> = [&local.report].into_iter().chain(reports()).collect();
    // The end of the latest complete bucket of this node. All reports are aligned to it.
    let running = local.report.roll_calls.running;
    let until_ms = now.as_millisecond().saturating_sub(i64::try_from(running.as_millis()).unwrap_or(0));
    let sum = all
        .iter()
        .map(|report| aligned(&report.roll_calls, running))
        .reduce(|one, next| std::array::from_fn(|age| one[age].sum(&next[age])));
    let mut roll_calls = series(&sum.unwrap_or([Bucket::default(); BUCKET_COUNT - 1]), Duration::MAX, until_ms);
    let sockets = all.iter().fold(0u64, |sum, report| sum.saturating_add(report.sockets));
    let busiest_rooms = busiest(&all);

    let details = |report: &NodeReport| ReportedDetails {
        version: report.version.clone(),
        since: report.since.clone(),
        uptime_ms: whole_milliseconds(report.uptime),
        sockets: report.sockets,
        rooms: report.rooms,
        is_active: report.is_active,
        whole: report.whole,
        draining: report.draining,
        lease_left_ms: report.lease_left.map(whole_milliseconds),
        roll_calls: series(&aligned(&report.roll_calls, running), report.uptime, until_ms),
    };
    let mut nodes: Vec<NodeRow> = polled
        .iter()
        .map(|polled| {
            let report = polled.reply.as_ref().ok().and_then(Option::as_ref);
            let error = match &polled.reply {
                Ok(Some(_)) => None,
                Ok(None) => Some("older".into()),
                Err(error) => Some(smol_str::format_smolstr!("{error}")),
            };
            NodeRow {
                id: report.map_or(&polled.member.node, |report| &report.node).as_str().into(),
                name: polled.member.name.as_str().into(),
                mesh: polled.member.mesh.clone(),
                error,
                round_trip_ms: milliseconds(polled.took),
                circuit_open: polled.circuit_open,
                leased: polled.member.leased,
                heard_ms: polled.heard.map(whole_milliseconds),
                report: report.map(details),
            }
        })
        .collect();
    nodes.push(NodeRow {
        id: local.report.node.as_str().into(),
        name: local.name,
        mesh: local.mesh,
        error: None,
        round_trip_ms: 0.0,
        circuit_open: false,
        leased: local.leased,
        heard_ms: Some(0),
        report: Some(details(&local.report)),
    });
    // The sum of the rates of the nodes, because a node that started within the minute has measured for a shorter time.
    let rates = nodes.iter().filter_map(|node| Some(node.report.as_ref()?.roll_calls.last_minute.per_second));
    roll_calls.last_minute.per_second = rates.sum();
    nodes.sort_by(|one, next| natural_order(&one.name, &next.name).then_with(|| one.id.cmp(&next.id)));
    ClusterStatus {
        well: nodes.iter().all(|node| node.report.as_ref().is_some_and(|report| report.is_active)),
        as_of: SmolStr::default(),
        took_ms: 0.0,
        asked: local.report.node.as_str().into(),
        directory: local.directory.into(),
        sockets,
        nodes,
        busiest_rooms,
        roll_calls,
    }
}

/// The busiest rooms. The count is exact if no report can have omitted the room; otherwise `most` is the upper bound.
fn busiest(all: &[&NodeReport]) -> Vec<BusyRoom> {
    // A node has at most as many sockets in an omitted room as in its smallest reported room.
    let omitted = |report: &NodeReport| {
        let is_partial = (report.busiest.len() as u64) < report.rooms;
        report.busiest.last().filter(|_| is_partial).map_or(0, |(_, sockets)| *sockets)
    };
    let omitted_by_all = all.iter().fold(0u64, |sum, report| sum.saturating_add(omitted(report)));
    let mut rooms: HashMap<&Room, BusyRoom> = HashMap::new();
    for report in all {
        for (room, sockets) in &report.busiest {
            let busy = rooms.entry(room).or_insert_with(|| BusyRoom {
                room: room.as_str().into(),
                sockets: 0,
                most: omitted_by_all,
                nodes: 0,
            });
            busy.sockets = busy.sockets.saturating_add(*sockets);
            busy.most = busy.most.saturating_sub(omitted(report)).saturating_add(*sockets);
            busy.nodes += 1;
        }
    }
    let mut rooms: Vec<BusyRoom> = rooms.into_values().collect();
    rooms.sort_by(|one, next| next.sockets.cmp(&one.sockets).then_with(|| one.room.cmp(&next.room)));
    rooms.truncate(MAX_SHOWN_ROOMS);
    rooms
}

/// The complete buckets of a node, latest first, each at the index of the bucket of this node with which it overlaps most.
/// `running`: the age of this node's current bucket.
fn aligned(series: &Series, running: Duration) -> [Bucket; BUCKET_COUNT - 1] {
    let mut aligned = [Bucket::default(); BUCKET_COUNT - 1];
    let ahead = series.running.as_secs_f64() - running.as_secs_f64();
    // One bucket further if its current bucket began more than half a bucket before this node's.
    let shift = (ahead / BUCKET_DURATION.as_secs_f64()).round() as isize;
    for (age, bucket) in series.buckets.iter().enumerate() {
        let index = isize::try_from(age).ok().and_then(|age| usize::try_from(age + shift - 1).ok());
        if let Some(slot) = index.and_then(|index| aligned.get_mut(index)) {
            *slot = bucket.sum(slot);
        }
    }
    aligned
}

/// `uptime`: a node that started within the last minute has had less time for roll calls.
fn series(latest_first: &[Bucket; BUCKET_COUNT - 1], uptime: Duration, until_ms: i64) -> RollCallSeries {
    let over = uptime.clamp(BUCKET_DURATION, BUCKET_DURATION * BUCKETS_PER_MINUTE as u32);
    let minute = latest_first[..BUCKETS_PER_MINUTE].iter().fold(Bucket::default(), |sum, bucket| sum.sum(bucket));
    let earliest_first = || latest_first.iter().rev();
    let quantile = |bucket: &Bucket, share| bucket.quantile_ms(share).map(|ms| (ms * 1000.0).round() / 1000.0);
    RollCallSeries {
        bucket_ms: whole_milliseconds(BUCKET_DURATION),
        until_ms,
        calls: earliest_first().map(Bucket::calls).collect(),
        incomplete: earliest_first().map(|bucket| bucket.incomplete).collect(),
        p50_ms: earliest_first().map(|bucket| quantile(bucket, 0.5)).collect(),
        p99_ms: earliest_first().map(|bucket| quantile(bucket, 0.99)).collect(),
        last_minute: LastMinute {
            per_second: minute.calls() as f64 / over.as_secs_f64(),
            incomplete: minute.incomplete,
            p50_ms: quantile(&minute, 0.5),
            p99_ms: quantile(&minute, 0.99),
        },
    }
}

/// Natural order: `node-2` before `node-10`.
fn natural_order(one: &str, next: &str) -> std::cmp::Ordering {
    let parts = |text: &str| {
        let name = text.trim_end_matches(|char: char| char.is_ascii_digit()).to_owned();
        let number = text[name.len()..].trim_start_matches('0').to_owned();
        (name, number.len(), number)
    };
    parts(one).cmp(&parts(next))
}

/// Rounded to microseconds, below which a measurement is noise.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests;
