//! Tests of the sums and of their bounds.

use super::*;
use crate::membership::Member;
use crate::mesh::answers::PeerError;
use crate::names::{NodeId, NodeName};
use crate::telemetry::metrics::recent::DURATION_CLASSES;

fn report(rooms: u64, busiest: &[(&str, u64)]) -> NodeReport {
    NodeReport {
        node: NodeId::new_process(),
        since: "2026-01-02T03:04:05.678Z".into(),
        uptime: Duration::from_secs(600),
        version: "0.1.0".into(),
        sockets: 10,
        rooms,
        busiest: busiest.iter().map(|(room, sockets)| (Room::parse(room).unwrap(), *sockets)).collect(),
        is_active: true,
        whole: true,
        draining: false,
        lease_left: None,
        roll_calls: Series::default(),
    }
}

fn local(report: NodeReport) -> LocalNode {
    LocalNode { name: "own".into(), mesh: "127.0.0.1:1".into(), directory: "ok", leased: true, report }
}

fn polled(name: &str, reply: Result<Option<NodeReport>, PeerError>) -> PolledMember {
    let node = reply.as_ref().ok().and_then(Option::as_ref).map_or_else(NodeId::new_process, |said| said.node.clone());
    let member = Member::new(node, NodeName::from_any(name), "127.0.0.1:2".into(), None);
    PolledMember { member, heard: None, took: Duration::from_millis(1), circuit_open: false, reply }
}

fn now() -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000).unwrap()
}

fn bucket(calls: u64) -> Bucket {
    Bucket { incomplete: 0, durations: std::array::from_fn(|place| if place == 4 { calls } else { 0 }) }
}

#[test]
fn a_cluster_is_well_when_all_nodes_are_active() {
    let fine = || Ok(Some(report(1, &[("a", 1)])));
    let lost = || Ok(Some(NodeReport { is_active: false, ..report(0, &[]) }));
    for (replies, well) in [
        (vec![], true),
        (vec![fine(), fine()], true),
        (vec![fine(), lost()], false),
        (vec![fine(), Ok(None)], false),
        (vec![Err(PeerError::Deadline)], false),
    ] {
        let replies: Vec<_> = replies.into_iter().map(|reply| polled("peer", reply)).collect();
        assert_eq!(merge(local(report(1, &[("a", 1)])), &replies, now()).well, well, "{replies:?}");
    }
    let alone = NodeReport { is_active: false, ..report(0, &[]) };
    assert!(!merge(local(alone), &[polled("peer", fine())], now()).well);
}

#[test]
fn each_node_has_a_row_and_a_missing_report_a_reason() {
    let replies = [
        polled("node-10", Err(PeerError::Refused)),
        polled("node-2", Ok(None)),
        polled("node-9", Ok(Some(report(0, &[])))),
    ];
    let status = merge(local(report(0, &[])), &replies, now());
    let rows: Vec<_> = status.nodes.iter().map(|node| (node.name.as_str(), node.error.as_deref())).collect();
    assert_eq!(rows, [("node-2", Some("older")), ("node-9", None), ("node-10", Some("refused")), ("own", None)]);
    assert_eq!(status.sockets, 20, "those of the nodes that answered");
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["nodes"][1]["sockets"], 10);
    assert_eq!(json["nodes"][2].get("sockets"), None);
    assert_eq!(serde_json::from_value::<ClusterStatus>(json).unwrap(), status, "as the command line reads it");
}

#[test]
fn a_partial_report_gives_an_upper_bound_for_a_room() {
    // Two of a thousand rooms are reported; any other has at most four sockets there.
    let cut = report(1_000, &[("a", 9), ("b", 4)]);
    let whole = report(2, &[("b", 7), ("c", 1)]);
    let status = merge(local(whole), &[polled("cut", Ok(Some(cut)))], now());
    let rooms: Vec<_> =
        status.busiest_rooms.iter().map(|room| (room.room.as_str(), room.sockets, room.most, room.nodes)).collect();
    assert_eq!(rooms, [("b", 11, 11, 2), ("a", 9, 9, 1), ("c", 1, 5, 1)]);
}

#[test]
fn roll_calls_of_all_nodes_are_summed_on_one_time_axis() {
    let of = |running_ms, calls: &[u64]| NodeReport {
        roll_calls: Series {
            running: Duration::from_millis(running_ms),
            buckets: calls.iter().map(|calls| bucket(*calls)).collect(),
        },
        ..report(0, &[])
    };
    // The local node's current bucket is 1 s old. One node's is almost 5 s old, so it overlaps the local node's previous
    // bucket. The other's is 0.1 s old, so it overlaps the local node's current bucket.
    let (early, late) = (of(4_900, &[5, 50, 500]), of(100, &[7, 70, 700]));
    let status =
        merge(local(of(1_000, &[1, 10, 100])), &[polled("a", Ok(Some(early))), polled("b", Ok(Some(late)))], now());
    let calls = &status.roll_calls.calls;
    assert_eq!(calls.len(), BUCKET_COUNT - 1);
    assert_eq!(calls[BUCKET_COUNT - 4..], [500, 100 + 50 + 700, 10 + 5 + 70]);
    assert_eq!(status.roll_calls.until_ms, now().as_millisecond() - 1_000);
    assert_eq!(status.nodes[2].report.as_ref().unwrap().roll_calls.calls[BUCKET_COUNT - 3..], [100, 10]);
    let minute = status.roll_calls.last_minute;
    // On the local axis, the early node's current bucket is complete, and the others' are not.
    assert!((minute.per_second - 1435.0 / 60.0).abs() < 0.001, "{minute:?}");
    let young = NodeReport { uptime: Duration::from_secs(20), ..of(0, &[0, 40, 60]) };
    let minute = merge(local(young), &[], now()).roll_calls.last_minute;
    assert!((minute.per_second - 5.0).abs() < 0.001, "it has run for a third of the minute: {minute:?}");
    assert!(minute.p50_ms.is_some_and(|ms| ms > 0.3 && ms <= 0.5), "{minute:?}");
}

#[test]
fn impossible_numbers_of_a_node_do_not_overflow() {
    let most = Bucket { incomplete: u64::MAX, durations: [u64::MAX; DURATION_CLASSES] };
    let said = || NodeReport {
        sockets: u64::MAX,
        uptime: Duration::from_millis(u64::MAX),
        lease_left: Some(Duration::from_millis(u64::MAX)),
        roll_calls: Series { running: Duration::ZERO, buckets: vec![most; BUCKET_COUNT] },
        ..report(u64::MAX, &[("a", u64::MAX), ("a", u64::MAX)])
    };
    let status = merge(local(said()), &[polled("peer", Ok(Some(said())))], now());
    assert_eq!((status.sockets, status.busiest_rooms[0].sockets), (u64::MAX, u64::MAX));
    assert!(serde_json::to_string(&status).is_ok());
}
