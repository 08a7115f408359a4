//! The rules of evidence of the member table, one test for each.

use std::collections::HashSet;

use super::super::events;
use super::*;
use crate::directory::{NodeEntry, NodeListing};
use crate::index::Epoch;
use crate::names::NodeName;

const LEASE: Duration = Duration::from_secs(5);

fn entry(name: &str) -> NodeEntry {
    let name = NodeName::from_any(name);
    NodeEntry { name, mesh: "127.0.0.1:1".into(), since: SmolStr::default(), draining: false }
}

fn info(node: &NodeId, age: impl Into<Option<Duration>>) -> MemberInfo {
    let NodeEntry { name, mesh, since, .. } = entry("node");
    MemberInfo { node: node.clone(), name, mesh, since, age: age.into() }
}

fn status(node: &NodeId, sequence: u64, fully_indexed_in: Option<&str>) -> NodeStatus {
    NodeStatus {
        about: info(node, Duration::ZERO),
        sequence,
        fully_indexed_in: fully_indexed_in.map(|epoch| Epoch(epoch.into())),
        draining: false,
        goodbye: false,
        members: Vec::new(),
    }
}

fn table() -> (MemberTable, BootInstant) {
    (MemberTable::new(&NodeId::new_process(), LEASE), BootInstant::now())
}

fn listing<const N: usize>(nodes: [(NodeId, NodeEntry); N]) -> NodeListing {
    NodeListing { nodes: nodes.into(), epoch: Some(Epoch("E".into())), age: Some(LEASE), time: Duration::ZERO }
}

/// Applies a listing that was read at `moment`.
fn list(table: &mut MemberTable, listing: &NodeListing, moment: BootInstant, has_lease: bool) -> TableChange {
    table.apply_listing(&ListingRead { listing, started: moment, ended: moment, has_lease })
}

fn members(table: &MemberTable) -> HashSet<NodeId> {
    table.view().members.into_iter().map(|member| member.node).collect()
}

mod hearsay;

#[test]
fn a_status_with_a_lower_sequence_is_ignored() {
    let (mut table, now) = table();
    let node = NodeId::new_process();
    assert!(table.receive_status(&status(&node, 2, None), now).unwrap().must_announce);
    assert_eq!(
        table.receive_status(&status(&node, 1, Some("E")), now),
        Some(TableChange::default()),
        "it arrived late"
    );
    assert_eq!(table.view().get(&node).unwrap().fully_indexed_in, None);
    assert!(table.receive_status(&status(&node, 3, Some("E")), now).unwrap().must_announce);
    assert_eq!(table.view().get(&node).unwrap().fully_indexed_in, Some(Epoch("E".into())));
}

#[test]
fn a_listing_does_not_bring_back_a_node_that_said_goodbye() {
    let (mut table, now) = table();
    let node = NodeId::new_process();
    list(&mut table, &listing([(node.clone(), entry("node"))]), now, true);
    assert_eq!(members(&table), HashSet::from([node.clone()]));
    table.receive_status(&NodeStatus { goodbye: true, ..status(&node, 1, None) }, now);
    list(&mut table, &listing([(node.clone(), entry("node"))]), now, true);
    assert_eq!(members(&table), HashSet::new());
    assert!(table.view().departed.contains(&node));
}

#[test]
fn only_a_later_incarnation_replaces_another() {
    let (mut table, now) = table();
    let first = NodeId::new_process();
    let second = first.next_incarnation();
    table.receive_status(&status(&first, 1, Some("E")), now);
    table.receive_status(&status(&second, 2, None), now);
    assert_eq!(members(&table), HashSet::from([second.clone()]));
    list(&mut table, &listing([(first, entry("node")), (second.clone(), entry("node"))]), now, true);
    assert_eq!(members(&table), HashSet::from([second]));
}

/// Empty listings, one each second from `from` to `to`, as the lease loop reads them.
fn silence(table: &mut MemberTable, now: BootInstant, from: u32, to: u32) {
    for second in from..=to {
        let moment = now.after(Duration::from_secs(1) * second);
        list(table, &listing([]), moment, true);
    }
}

#[test]
fn a_silent_member_is_dead_only_after_a_lease_of_one_epoch() {
    let (mut table, now) = table();
    let node = NodeId::new_process();
    let second = |count: u32| now.after(Duration::from_secs(1) * count);
    silence(&mut table, now, 0, 4);
    table.receive_status(&status(&node, 1, None), second(5));
    silence(&mut table, now, 5, 9);
    assert_eq!(members(&table), HashSet::from([node.clone()]), "heard within a lease");
    silence(&mut table, now, 10, 10);
    table.record_unanswered(&node, second(10));
    assert_eq!(members(&table), HashSet::new());

    table.receive_status(&status(&node, 2, None), second(10));
    silence(&mut table, now, 11, 11);
    table.end_steady_period();
    silence(&mut table, now, 15, 19);
    assert_eq!(
        members(&table),
        HashSet::from([node.clone()]),
        "no listing could be read, so no lease could be renewed"
    );
    let flushed = NodeListing { epoch: None, age: Some(Duration::ZERO), ..listing([]) };
    list(&mut table, &flushed, second(20), true);
    assert_eq!(members(&table), HashSet::from([node.clone()]), "after a flush no node has a lease");
    list(&mut table, &flushed, second(25), false);
    assert_eq!(members(&table), HashSet::from([node.clone()]), "the directory accepts no writes");
    list(&mut table, &flushed, second(26), true);
    table.record_unanswered(&node, second(26));
    assert_eq!(members(&table), HashSet::new());

    table.receive_status(&status(&node, 3, None), second(26));
    list(&mut table, &flushed, second(32), true);
    table.record_unanswered(&node, second(32));
    assert_eq!(members(&table), HashSet::from([node]), "no listing was read for longer than a lease");
}

#[test]
fn members_with_a_lease_are_asked_before_one_is_dead() {
    let (mut table, now) = table();
    let [suspect, witness] = [(); 2].map(|()| NodeId::new_process());
    let second = |count: u32| now.after(Duration::from_secs(1) * count);
    let list_witness = |table: &mut MemberTable, count: u32| {
        list(table, &listing([(witness.clone(), entry("witness"))]), second(count), true)
    };
    let both = HashSet::from([suspect.clone(), witness.clone()]);
    table.receive_status(&status(&suspect, 1, Some("E")), now);
    for count in 0..8 {
        list_witness(&mut table, count);
    }
    table.record_unanswered(&suspect, second(7));
    assert_eq!(members(&table), both, "the witness has not answered since");
    table.record_acknowledgement(&witness, 1, second(4));
    assert_eq!(members(&table), both, "its answer is older than the suspicion");

    let heard = vec![info(&suspect, Duration::from_secs(1))];
    table.receive_status(&NodeStatus { members: heard, ..status(&witness, 1, Some("E")) }, second(8));
    table.record_acknowledgement(&witness, 1, second(8));
    list_witness(&mut table, 9);
    assert_eq!(members(&table), both, "the witness has heard it");

    for count in 10..14 {
        list_witness(&mut table, count);
    }
    assert_eq!(
        table.status_receivers(0, second(13), Duration::from_secs(1)).len(),
        2,
        "a suspicion makes every node send its status"
    );
    table.receive_status(&status(&witness, 2, Some("E")), second(13));
    table.record_unanswered(&suspect, second(13));
    assert_eq!(members(&table), both, "the witness has not answered since");
    table.record_acknowledgement(&witness, 2, second(13));
    assert_eq!(members(&table), HashSet::from([witness.clone()]));

    let late = vec![info(&suspect, LEASE), info(&NodeId::new_process(), None)];
    table.receive_status(&NodeStatus { members: late, ..status(&witness, 3, Some("E")) }, second(14));
    assert_eq!(members(&table), HashSet::from([witness]), "old gossip does not bring it back");
}

#[test]
fn a_suspect_that_nobody_asked_is_not_dead() {
    let (mut table, now) = table();
    let node = NodeId::new_process();
    let second = |count: u32| now.after(Duration::from_secs(1) * count);
    let alive = HashSet::from([node.clone()]);
    list(&mut table, &listing([(node.clone(), entry("node"))]), now, true);
    silence(&mut table, now, 1, 60);
    assert_eq!(members(&table), alive, "no announcement was sent to it");
    assert_eq!(table.status_receivers(0, second(60), LEASE / 5).len(), 1, "a suspect must be asked");
    let (mut table, _) = self::table();
    list(&mut table, &listing([(node.clone(), entry("node"))]), now, true);
    silence(&mut table, now, 1, 5);
    table.record_unanswered(&node, second(4));
    assert_eq!(members(&table), alive, "that question is older than the suspicion");
    table.record_contact(&node, second(5));
    table.record_unanswered(&node, second(5));
    silence(&mut table, now, 6, 9);
    assert_eq!(members(&table), alive, "it was heard after the suspicion");
    silence(&mut table, now, 10, 10);
    table.end_steady_period();
    table.record_unanswered(&node, second(10));
    assert_eq!(members(&table), alive, "the directory cannot be read");
    silence(&mut table, now, 11, 16);
    table.record_unanswered(&node, second(16));
    assert_eq!(members(&table), HashSet::new());
}

#[test]
fn gossip_adds_members_and_proves_no_more_than_its_age() {
    let (mut table, now) = table();
    let [speaker, young, old] = [(); 3].map(|()| NodeId::new_process());
    silence(&mut table, now, 0, 5);
    let moment = now.after(LEASE);
    let gossip = vec![info(&young, Duration::from_secs(4)), info(&old, LEASE)];
    table.receive_status(&NodeStatus { members: gossip.clone(), ..status(&speaker, 1, None) }, moment);
    assert_eq!(members(&table), HashSet::from([speaker.clone(), young.clone()]));
    silence(&mut table, now, 6, 6);
    table.record_unanswered(&young, now.after(LEASE * 2));
    assert_eq!(members(&table), HashSet::from([speaker.clone()]), "five seconds without contact");
    table.end_steady_period();
    table.receive_status(&NodeStatus { members: gossip, ..status(&speaker, 3, None) }, moment);
    assert!(members(&table).contains(&old), "without a listing no node is known to be dead");
}

#[test]
fn synced_after_a_status_of_every_member_with_a_lease() {
    let (mut table, now) = table();
    let [one, two] = [(); 2].map(|()| NodeId::new_process());
    let both = || listing([(one.clone(), entry("one")), (two.clone(), entry("two"))]);
    assert!(!table.view().synced, "no listing was read");
    table.receive_status(&status(&one, 1, None), now);
    list(&mut table, &both(), now, true);
    assert!(!table.view().synced);
    table.receive_status(&status(&two, 1, None), now);
    assert!(table.view().synced);
    let later = now.after(LEASE + Duration::from_secs(1));
    list(&mut table, &both(), later, true);
    assert!(!table.view().synced, "listings were further apart than a lease, so a node may have joined");
    table.receive_status(&status(&one, 2, None), later);
    table.receive_status(&status(&two, 2, None), later);
    assert!(table.view().synced);
    let flushed = NodeListing { age: Some(Duration::from_secs(4)), ..both() };
    list(&mut table, &flushed, later.after(LEASE), true);
    assert!(table.view().synced, "a flush does not end the sync");
    let third = NodeId::new_process();
    list(&mut table, &listing([(third, entry("three"))]), later.after(LEASE), true);
    assert!(table.view().synced, "a node that joins later sends its hello to all");
}

#[test]
fn a_node_is_not_synced_in_an_epoch_younger_than_a_lease() {
    let (mut table, now) = table();
    let young = |seconds| NodeListing { age: Some(Duration::from_secs(seconds)), ..listing([]) };
    for second in 0..5 {
        let moment = now.after(Duration::from_secs(second));
        list(&mut table, &young(second), moment, true);
        assert!(!table.view().synced && !table.was_synced(), "{second}");
    }
    list(&mut table, &young(5), now.after(LEASE), true);
    assert!(table.view().synced && table.was_synced());
}

#[test]
fn a_node_alone_in_an_old_epoch_is_synced_after_a_lease() {
    let (mut table, now) = table();
    let old = || NodeListing { age: Some(LEASE * 100), ..listing([]) };
    for second in 0..5 {
        let moment = now.after(Duration::from_secs(second));
        list(&mut table, &old(), moment, true);
        assert!(!table.view().synced, "{second}");
    }
    list(&mut table, &old(), now.after(LEASE), true);
    assert!(table.view().synced, "other nodes had a whole lease to come back");

    let (mut table, now) = self::table();
    let other = NodeId::new_process();
    list(&mut table, &old(), now, true);
    list(&mut table, &NodeListing { nodes: vec![(other.clone(), entry("other"))], ..old() }, now, true);
    table.receive_status(&status(&other, 1, None), now);
    assert!(table.view().synced, "a node that was there reports the others");

    let (mut table, now) = self::table();
    list(&mut table, &NodeListing { age: None, ..listing([]) }, now, true);
    assert!(table.view().synced, "no node can have been cut off");
}

#[test]
fn a_change_of_a_member_is_an_event() {
    let (mut table, now) = table();
    let node = NodeId::new_process();
    let named =
        |node: &NodeId| events::MemberName { node: node.clone(), name: "node".into(), mesh: "127.0.0.1:1".into() };
    let second = |count: u32| now.after(Duration::from_secs(1) * count);
    let added = |node, source| MembershipEvent::Added { member: named(node), source };
    silence(&mut table, now, 0, 5);
    assert_eq!(
        table.receive_status(&status(&node, 1, None), second(5)).unwrap().events,
        [added(&node, MemberSource::Status)]
    );
    assert_eq!(table.receive_status(&status(&node, 2, None), second(5)).unwrap().events, []);
    let next = node.next_incarnation();
    let replaced = MembershipEvent::Departed { member: named(&node), reason: events::Departure::Replaced };
    let change = table.receive_status(&status(&next, 3, None), second(5)).unwrap();
    assert_eq!(change.events, [replaced, added(&next, MemberSource::Status)]);
    let witness = NodeId::new_process();
    for count in 6..10 {
        let change = list(&mut table, &listing([(witness.clone(), entry("node"))]), second(count), true);
        assert_eq!(change.events, if count == 6 { vec![added(&witness, MemberSource::Lease)] } else { vec![] });
    }
    let change = list(&mut table, &listing([(witness.clone(), entry("node"))]), second(10), true);
    assert_eq!(change.events, [MembershipEvent::Suspected(named(&next))]);
    assert_eq!(table.record_contact(&next, second(10)).events, [MembershipEvent::Recovered(named(&next))]);
    let change = list(&mut table, &listing([(witness.clone(), entry("node"))]), second(15), true);
    assert_eq!(change.events, [MembershipEvent::Suspected(named(&next))]);
    assert_eq!(table.record_acknowledgement(&witness, 1, second(15)).events, []);
    let change = table.record_unanswered(&next, second(15));
    assert_eq!(change.events, [MembershipEvent::Removed(named(&next))]);
    let goodbye = NodeStatus { goodbye: true, ..status(&witness, 1, None) };
    let departed = MembershipEvent::Departed { member: named(&witness), reason: events::Departure::Goodbye };
    assert_eq!(table.receive_status(&goodbye, second(15)).unwrap().events, [departed]);
}

#[test]
fn a_majority_is_more_than_half_with_this_node() {
    let (mut table, now) = table();
    assert!(table.answering_majority(1, now).is_some(), "a single node is a majority");
    let nodes = [(); 3].map(|()| NodeId::new_process());
    for (members, answers_needed) in [(1, 1), (2, 1), (3, 2)] {
        table.receive_status(&status(&nodes[members - 1], 1, None), now);
        let asked = now.after(LEASE * members as u32);
        for (answers, node) in nodes[..members].iter().enumerate() {
            assert_eq!(
                table.answering_majority(1, asked).is_some(),
                answers >= answers_needed,
                "{answers} answers of {members}"
            );
            table.record_acknowledgement(node, 1, asked);
        }
        assert!(table.answering_majority(1, asked).is_some());
        assert!(
            table.answering_majority(1, asked.after(Duration::from_millis(1))).is_none(),
            "older answers are not counted"
        );
        assert!(table.answering_majority(2, asked).is_none(), "nor what is no answer to this index");
    }
}

#[test]
fn a_status_is_repeated_only_while_the_cluster_is_degraded() {
    let (mut table, now) = table();
    let node_info = NodeInfo { name: NodeName::from_any("own"), mesh: "127.0.0.1:2".into(), since: SmolStr::default() };
    let (own, node) = (NodeId::new_process(), NodeId::new_process());
    let whole = Some(Epoch("E".into()));
    let say = |table: &mut MemberTable, fully_indexed_in: &Option<Epoch>| {
        let index = IndexState { incarnation: own.clone(), fully_indexed_in: fully_indexed_in.clone() };
        table.own_status(&node_info, &index, DrainState::Serving, now).sequence
    };
    let second = |count: u32| now.after(Duration::from_secs(1) * count);
    let told = |table: &MemberTable, sequence: u64, at: u32| {
        table.status_receivers(sequence, second(at), Duration::from_secs(1)).len()
    };
    list(&mut table, &listing([(node.clone(), entry("node"))]), now, true);
    let sequence = say(&mut table, &whole);
    assert_eq!(told(&table, sequence, 0), 1, "the hello");
    table.receive_status(&status(&node, 1, Some("E")), now);
    table.record_acknowledgement(&node, sequence, now);
    assert_eq!(told(&table, sequence, 60), 0, "nothing to repeat");
    let sequence = say(&mut table, &None);
    table.record_acknowledgement(&node, sequence, now);
    assert_eq!((told(&table, sequence, 0), told(&table, sequence, 1)), (0, 1), "this node is not fully indexed");
    assert!(table.all_answered(sequence, now) && !table.all_answered(sequence, second(1)));
    let sequence = say(&mut table, &whole);
    table.record_acknowledgement(&node, sequence, second(1));
    table.receive_status(&status(&node, 2, None), second(1));
    assert_eq!(told(&table, sequence, 2), 1, "another node is not fully indexed");
}

#[test]
fn hello_acked_needs_a_listing_read_after_registration() {
    let (mut table, now) = table();
    let node_info = NodeInfo { name: NodeName::from_any("own"), mesh: "127.0.0.1:2".into(), since: SmolStr::default() };
    let node = NodeId::new_process();
    let own = NodeId::new_process();
    let index = |incarnation: &NodeId| IndexState { incarnation: incarnation.clone(), fully_indexed_in: None };
    let hello = table.own_status(&node_info, &index(&own), DrainState::Serving, now).sequence;
    assert!(!table.hello_acked(now), "no listing yet");
    list(&mut table, &listing([(node.clone(), entry("node"))]), now, true);
    assert!(!table.hello_acked(now));
    assert_eq!(table.status_receivers(hello, now, LEASE).len(), 1);
    table.record_acknowledgement(&node, hello, now);
    assert!(table.hello_acked(now));
    assert_eq!(
        table.own_status(&node_info, &index(&own), DrainState::Serving, now).sequence,
        hello,
        "the status is the same"
    );
    let next = table.own_status(&node_info, &index(&own.next_incarnation()), DrainState::Serving, now).sequence;
    assert!(next > hello && !table.hello_acked(now), "a new incarnation needs a new hello");
    assert!(table.all_acknowledged(hello) && !table.all_acknowledged(next));
}
