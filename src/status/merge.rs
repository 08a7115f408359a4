//! What the answers of all nodes amount to. Pure and synchronous.
//!
//! Owns the sums: the busiest rooms of the cluster, with how exact they are, and the roll calls of all nodes over one axis
//! of time, for which no node's clock is trusted but for how fast it goes.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use smol_str::SmolStr;

use super::description::Description;
use super::{Asked, BusyRoom, Minute, Node, Own, RollCalls, Said, Status, milliseconds};
use crate::clock::whole_milliseconds;
use crate::names::Room;
use crate::telemetry::metrics::recent::{BUCKET, BUCKETS, Bucket, Series};

/// How many of the busiest rooms an operator is shown.
const ROOMS_SHOWN: usize = 20;
/// How many buckets are a minute.
const MINUTE: usize = 12;

/// The status, but for when it was asked for and how long that took.
pub fn merge(own: Own, asked: &[Asked], now: Timestamp) -> Status {
    let descriptions = || asked.iter().filter_map(|asked| asked.reply.as_ref().ok()?.as_ref());
    let all: Vec<&Description> = [&own.said].into_iter().chain(descriptions()).collect();
    // The end of the latest bucket of this node that is over, by which all are aligned.
    let running = own.said.roll_calls.running;
    let until_ms = now.as_millisecond().saturating_sub(i64::try_from(running.as_millis()).unwrap_or(0));
    let sum = all
        .iter()
        .map(|said| aligned(&said.roll_calls, running))
        .reduce(|one, next| std::array::from_fn(|age| one[age].and(&next[age])));
    let mut roll_calls = told(&sum.unwrap_or([Bucket::default(); BUCKETS - 1]), Duration::MAX, until_ms);
    let sockets = all.iter().fold(0u64, |sum, said| sum.saturating_add(said.sockets));
    let busiest_rooms = busiest(&all);

    let said = |description: &Description| Said {
        version: description.version.clone(),
        since: description.since.clone(),
        uptime_ms: whole_milliseconds(description.uptime),
        sockets: description.sockets,
        rooms: description.rooms,
        is_active: description.is_active,
        whole: description.whole,
        draining: description.draining,
        lease_left_ms: description.lease_left.map(whole_milliseconds),
        roll_calls: told(&aligned(&description.roll_calls, running), description.uptime, until_ms),
    };
    let mut nodes: Vec<Node> = asked
        .iter()
        .map(|asked| {
            let described = asked.reply.as_ref().ok().and_then(Option::as_ref);
            let error = match &asked.reply {
                Ok(Some(_)) => None,
                Ok(None) => Some("older".into()),
                Err(error) => Some(smol_str::format_smolstr!("{error}")),
            };
            Node {
                id: described.map_or(&asked.member.node, |said| &said.node).as_str().into(),
                name: asked.member.name.as_str().into(),
                mesh: asked.member.mesh.clone(),
                error,
                round_trip_ms: milliseconds(asked.took),
                circuit_open: asked.circuit_open,
                leased: asked.member.leased,
                heard_ms: asked.heard.map(whole_milliseconds),
                said: described.map(said),
            }
        })
        .collect();
    nodes.push(Node {
        id: own.said.node.as_str().into(),
        name: own.name,
        mesh: own.mesh,
        error: None,
        round_trip_ms: 0.0,
        circuit_open: false,
        leased: own.leased,
        heard_ms: Some(0),
        said: Some(said(&own.said)),
    });
    // Those that started within the minute have had less of it.
    let rates = nodes.iter().filter_map(|node| Some(node.said.as_ref()?.roll_calls.last_minute.per_second));
    roll_calls.last_minute.per_second = rates.sum();
    nodes.sort_by(|one, next| natural(&one.name, &next.name).then_with(|| one.id.cmp(&next.id)));
    Status {
        well: nodes.iter().all(|node| node.said.as_ref().is_some_and(|said| said.is_active)),
        as_of: SmolStr::default(),
        took_ms: 0.0,
        asked: own.said.node.as_str().into(),
        directory: own.directory.into(),
        sockets,
        nodes,
        busiest_rooms,
        roll_calls,
    }
}

/// A room that every node with sockets of it names is exact; one that some node may have left out says how many at most.
fn busiest(all: &[&Description]) -> Vec<BusyRoom> {
    // What a room may have on a node that does not name it: no more than the least that it names.
    let unnamed = |said: &Description| {
        let cut = (said.busiest.len() as u64) < said.rooms;
        said.busiest.last().filter(|_| cut).map_or(0, |(_, sockets)| *sockets)
    };
    let everywhere = all.iter().fold(0u64, |sum, said| sum.saturating_add(unnamed(said)));
    let mut rooms: HashMap<&Room, BusyRoom> = HashMap::new();
    for said in all {
        for (room, sockets) in &said.busiest {
            let busy = rooms.entry(room).or_insert_with(|| BusyRoom {
                room: room.as_str().into(),
                sockets: 0,
                most: everywhere,
                nodes: 0,
            });
            busy.sockets = busy.sockets.saturating_add(*sockets);
            busy.most = busy.most.saturating_sub(unnamed(said)).saturating_add(*sockets);
            busy.nodes += 1;
        }
    }
    let mut rooms: Vec<BusyRoom> = rooms.into_values().collect();
    rooms.sort_by(|one, next| next.sockets.cmp(&one.sockets).then_with(|| one.room.cmp(&next.room)));
    rooms.truncate(ROOMS_SHOWN);
    rooms
}

/// The buckets of a node that are over, the latest first, each in the place of this node's that it shares most time with.
/// `running`: how long this node's present one has lasted.
fn aligned(series: &Series, running: Duration) -> [Bucket; BUCKETS - 1] {
    let mut aligned = [Bucket::default(); BUCKETS - 1];
    let ahead = series.running.as_secs_f64() - running.as_secs_f64();
    // Half a bucket ahead: its present one began more than half of one earlier than this node's.
    let shift = (ahead / BUCKET.as_secs_f64()).round() as isize;
    for (age, bucket) in series.buckets.iter().enumerate() {
        let place = isize::try_from(age).ok().and_then(|age| usize::try_from(age + shift - 1).ok());
        if let Some(there) = place.and_then(|place| aligned.get_mut(place)) {
            *there = bucket.and(there);
        }
    }
    aligned
}

/// `uptime`: of who tells it.
fn told(latest_first: &[Bucket; BUCKETS - 1], uptime: Duration, until_ms: i64) -> RollCalls {
    let over = uptime.clamp(BUCKET, BUCKET * MINUTE as u32);
    let minute = latest_first[..MINUTE].iter().fold(Bucket::default(), |sum, bucket| sum.and(bucket));
    let earliest_first = || latest_first.iter().rev();
    let quantile = |bucket: &Bucket, share| bucket.quantile_ms(share).map(|ms| (ms * 1000.0).round() / 1000.0);
    RollCalls {
        bucket_ms: whole_milliseconds(BUCKET),
        until_ms,
        calls: earliest_first().map(Bucket::calls).collect(),
        incomplete: earliest_first().map(|bucket| bucket.incomplete).collect(),
        p50_ms: earliest_first().map(|bucket| quantile(bucket, 0.5)).collect(),
        p99_ms: earliest_first().map(|bucket| quantile(bucket, 0.99)).collect(),
        last_minute: Minute {
            per_second: minute.calls() as f64 / over.as_secs_f64(),
            incomplete: minute.incomplete,
            p50_ms: quantile(&minute, 0.5),
            p99_ms: quantile(&minute, 0.99),
        },
    }
}

/// `node-2` before `node-10`.
fn natural(one: &str, next: &str) -> std::cmp::Ordering {
    let parts = |text: &str| {
        let name = text.trim_end_matches(|char: char| char.is_ascii_digit()).to_owned();
        let number = text[name.len()..].trim_start_matches('0').to_owned();
        (name, number.len(), number)
    };
    parts(one).cmp(&parts(next))
}

#[cfg(test)]
mod tests;
