//! The rules of evidence, one by one.

use super::*;

const LEASE: Duration = Duration::from_secs(5);

fn entry(name: &str) -> NodeEntry {
    let name = NodeName::from_any(name);
    NodeEntry { name, mesh: "127.0.0.1:1".into(), since: SmolStr::default(), draining: false }
}

fn known(node: &NodeId, age: Duration) -> Known {
    let NodeEntry { name, mesh, since, .. } = entry("node");
    Known { node: node.clone(), name, mesh, since, age }
}

fn said(node: &NodeId, sequence: u64, whole_under: Option<&str>) -> Said {
    Said {
        about: known(node, Duration::ZERO),
        sequence,
        whole_under: whole_under.map(|epoch| Epoch(epoch.into())),
        draining: false,
        goodbye: false,
        members: Vec::new(),
    }
}

fn table() -> (Table, BootInstant) {
    (Table::new(&NodeId::new_process(), LEASE), BootInstant::now())
}

fn listing<const N: usize>(nodes: [(NodeId, NodeEntry); N]) -> Listing {
    Listing { nodes: nodes.into(), epoch: Some(Epoch("E".into())) }
}

fn members(table: &Table) -> HashSet<NodeId> {
    table.view().members.into_iter().map(|member| member.node).collect()
}

#[test]
fn an_earlier_word_does_not_outrank_a_later_one() {
    let (mut table, now) = table();
    let node = NodeId::new_process();
    assert!(table.told(&said(&node, 2, None), now));
    assert!(!table.told(&said(&node, 1, Some("E")), now), "it was on its way for longer");
    assert_eq!(table.view().get(&node).unwrap().whole_under, None);
    assert!(table.told(&said(&node, 3, Some("E")), now));
    assert_eq!(table.view().get(&node).unwrap().whole_under, Some(Epoch("E".into())));
}

#[test]
fn a_goodbye_is_for_good_whatever_a_list_says_that_was_read_before() {
    let (mut table, now) = table();
    let node = NodeId::new_process();
    table.list(&listing([(node.clone(), entry("node"))]), now, now);
    assert_eq!(members(&table), HashSet::from([node.clone()]));
    table.told(&Said { goodbye: true, ..said(&node, 1, None) }, now);
    table.list(&listing([(node.clone(), entry("node"))]), now, now);
    assert_eq!(members(&table), HashSet::new());
    assert!(table.view().departed.contains(&node));
}

#[test]
fn a_later_incarnation_replaces_the_earlier_one_and_not_the_other_way() {
    let (mut table, now) = table();
    let first = NodeId::new_process();
    let second = first.next_incarnation();
    table.told(&said(&first, 1, Some("E")), now);
    table.told(&said(&second, 2, None), now);
    assert_eq!(members(&table), HashSet::from([second.clone()]));
    table.list(&listing([(first, entry("node")), (second.clone(), entry("node"))]), now, now);
    assert_eq!(members(&table), HashSet::from([second]));
}

#[test]
fn only_an_index_that_was_the_same_for_a_lease_lets_a_silent_member_go() {
    let (mut table, now) = table();
    let node = NodeId::new_process();
    let silence = |table: &mut Table, at: BootInstant| table.list(&listing([]), at, at);
    silence(&mut table, now);
    table.told(&said(&node, 1, None), now.after(LEASE));
    silence(&mut table, now.after(LEASE * 2 - Duration::from_millis(1)));
    assert_eq!(members(&table), HashSet::from([node.clone()]), "heard within a lease");
    silence(&mut table, now.after(LEASE * 2));
    assert_eq!(members(&table), HashSet::new());

    table.told(&said(&node, 2, None), now.after(LEASE * 2));
    table.unreadable();
    silence(&mut table, now.after(LEASE * 4));
    assert_eq!(members(&table), HashSet::from([node.clone()]), "leases could not be read, so none could be renewed");
    let flushed = Listing { nodes: vec![], epoch: None };
    table.list(&flushed, now.after(LEASE * 5), now.after(LEASE * 5));
    assert_eq!(members(&table), HashSet::from([node]), "after a flush nobody has a lease");
    table.list(&flushed, now.after(LEASE * 6), now.after(LEASE * 6));
    assert_eq!(members(&table), HashSet::new());
}

#[test]
fn hearsay_makes_members_and_is_worth_no_more_than_its_age() {
    let (mut table, now) = table();
    let [speaker, young, old] = [(); 3].map(|()| NodeId::new_process());
    table.list(&listing([]), now, now);
    let hearsay = vec![known(&young, Duration::from_secs(4)), known(&old, LEASE)];
    table.told(&Said { members: hearsay.clone(), ..said(&speaker, 1, None) }, now);
    assert_eq!(members(&table), HashSet::from([speaker.clone(), young]));
    table.told(&said(&speaker, 2, None), now.after(LEASE));
    let moment = now.after(LEASE + Duration::from_secs(1));
    table.list(&listing([]), moment, moment);
    assert_eq!(members(&table), HashSet::from([speaker.clone()]), "ten seconds without a sign of life");
    table.unreadable();
    table.told(&Said { members: hearsay, ..said(&speaker, 3, None) }, moment);
    assert!(members(&table).contains(&old), "without an index nobody is known to be dead");
}

#[test]
fn a_birth_is_over_when_all_of_a_list_read_after_it_know_this_incarnation() {
    let (mut table, now) = table();
    let identity = Identity { name: NodeName::from_any("own"), mesh: "127.0.0.1:2".into(), since: SmolStr::default() };
    let node = NodeId::new_process();
    let own = NodeId::new_process();
    let word = |incarnation: &NodeId| Word { incarnation: incarnation.clone(), whole_under: None };
    let hello = table.say(&identity, &word(&own), Leaving::Staying, now).sequence;
    assert!(!table.greeted(now), "no list yet");
    table.list(&listing([(node.clone(), entry("node"))]), now, now);
    assert!(!table.greeted(now));
    assert_eq!(table.unacknowledged(hello).len(), 1);
    table.acknowledged(&node, hello);
    assert!(table.greeted(now));
    assert_eq!(table.say(&identity, &word(&own), Leaving::Staying, now).sequence, hello, "nothing new was said");
    let next = table.say(&identity, &word(&own.next_incarnation()), Leaving::Staying, now).sequence;
    assert!(next > hello && !table.greeted(now), "another incarnation says hello again");
    assert!(table.all_acknowledged(hello) && !table.all_acknowledged(next));
}
