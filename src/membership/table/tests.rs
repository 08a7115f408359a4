//! The rules of evidence, one by one.

use super::*;

const LEASE: Duration = Duration::from_secs(5);

fn entry(name: &str) -> NodeEntry {
    let name = NodeName::from_any(name);
    NodeEntry { name, mesh: "127.0.0.1:1".into(), since: SmolStr::default(), draining: false }
}

fn known(node: &NodeId, age: impl Into<Option<Duration>>) -> MemberInfo {
    let NodeEntry { name, mesh, since, .. } = entry("node");
    MemberInfo { node: node.clone(), name, mesh, since, age: age.into() }
}

fn said(node: &NodeId, sequence: u64, fully_indexed_in: Option<&str>) -> NodeStatus {
    NodeStatus {
        about: known(node, Duration::ZERO),
        sequence,
        fully_indexed_in: fully_indexed_in.map(|epoch| Epoch(epoch.into())),
        draining: false,
        goodbye: false,
        members: Vec::new(),
    }
}

fn table() -> (Table, BootInstant) {
    (Table::new(&NodeId::new_process(), LEASE), BootInstant::now())
}

fn listing<const N: usize>(nodes: [(NodeId, NodeEntry); N]) -> NodeListing {
    NodeListing { nodes: nodes.into(), epoch: Some(Epoch("E".into())), age: LEASE }
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
    assert_eq!(table.view().get(&node).unwrap().fully_indexed_in, None);
    assert!(table.told(&said(&node, 3, Some("E")), now));
    assert_eq!(table.view().get(&node).unwrap().fully_indexed_in, Some(Epoch("E".into())));
}

#[test]
fn a_goodbye_is_for_good_whatever_a_list_says_that_was_read_before() {
    let (mut table, now) = table();
    let node = NodeId::new_process();
    table.list(&listing([(node.clone(), entry("node"))]), now, now, true);
    assert_eq!(members(&table), HashSet::from([node.clone()]));
    table.told(&NodeStatus { goodbye: true, ..said(&node, 1, None) }, now);
    table.list(&listing([(node.clone(), entry("node"))]), now, now, true);
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
    table.list(&listing([(first, entry("node")), (second.clone(), entry("node"))]), now, now, true);
    assert_eq!(members(&table), HashSet::from([second]));
}

/// Lists that nobody is in, one each second from `from` to `to`, as the lease loop reads them.
fn silence(table: &mut Table, now: BootInstant, from: u32, to: u32) {
    for second in from..=to {
        let moment = now.after(Duration::from_secs(1) * second);
        table.list(&listing([]), moment, moment, true);
    }
}

#[test]
fn only_an_index_that_was_the_same_for_a_lease_lets_a_silent_member_go() {
    let (mut table, now) = table();
    let node = NodeId::new_process();
    let second = |count: u32| now.after(Duration::from_secs(1) * count);
    silence(&mut table, now, 0, 4);
    table.told(&said(&node, 1, None), second(5));
    silence(&mut table, now, 5, 9);
    assert_eq!(members(&table), HashSet::from([node.clone()]), "heard within a lease");
    silence(&mut table, now, 10, 10);
    assert_eq!(members(&table), HashSet::new());

    table.told(&said(&node, 2, None), second(10));
    silence(&mut table, now, 11, 11);
    table.unreadable();
    silence(&mut table, now, 15, 19);
    assert_eq!(members(&table), HashSet::from([node.clone()]), "leases could not be read, so none could be renewed");
    let flushed = NodeListing { nodes: vec![], epoch: None, age: Duration::ZERO };
    table.list(&flushed, second(20), second(20), true);
    assert_eq!(members(&table), HashSet::from([node.clone()]), "after a flush nobody has a lease");
    table.list(&flushed, second(25), second(25), false);
    assert_eq!(members(&table), HashSet::from([node.clone()]), "an index that nobody can write to");
    table.list(&flushed, second(26), second(26), true);
    assert_eq!(members(&table), HashSet::new());

    table.told(&said(&node, 3, None), second(26));
    table.list(&flushed, second(32), second(32), true);
    assert_eq!(members(&table), HashSet::from([node]), "nobody looked for longer than a lease");
}

#[test]
fn whoever_has_a_lease_is_asked_before_a_silent_member_is_let_go() {
    let (mut table, now) = table();
    let [suspect, witness] = [(); 2].map(|()| NodeId::new_process());
    let second = |count: u32| now.after(Duration::from_secs(1) * count);
    let list = |table: &mut Table, count: u32| {
        table.list(&listing([(witness.clone(), entry("witness"))]), second(count), second(count), true)
    };
    let both = HashSet::from([suspect.clone(), witness.clone()]);
    table.told(&said(&suspect, 1, Some("E")), now);
    for count in 0..8 {
        list(&mut table, count);
    }
    assert_eq!(members(&table), both, "the witness has not answered since");
    table.acknowledged(&witness, 1, second(4));
    assert_eq!(members(&table), both, "it was asked before there was a suspicion");

    let heard = vec![known(&suspect, Duration::from_secs(1))];
    table.told(&NodeStatus { members: heard, ..said(&witness, 1, Some("E")) }, second(8));
    table.acknowledged(&witness, 1, second(8));
    list(&mut table, 9);
    assert_eq!(members(&table), both, "the witness has heard it");

    for count in 10..14 {
        list(&mut table, count);
    }
    assert_eq!(table.to_tell(0, second(13), Duration::from_secs(1)).len(), 2, "a suspicion makes everybody speak");
    table.told(&said(&witness, 2, Some("E")), second(13));
    table.acknowledged(&witness, 2, second(13));
    assert_eq!(members(&table), HashSet::from([witness.clone()]));

    let late = vec![known(&suspect, LEASE), known(&NodeId::new_process(), None)];
    table.told(&NodeStatus { members: late, ..said(&witness, 3, Some("E")) }, second(14));
    assert_eq!(members(&table), HashSet::from([witness]), "who knows it from long ago does not bring it back");
}

#[test]
fn hearsay_makes_members_and_is_worth_no_more_than_its_age() {
    let (mut table, now) = table();
    let [speaker, young, old] = [(); 3].map(|()| NodeId::new_process());
    silence(&mut table, now, 0, 5);
    let moment = now.after(LEASE);
    let hearsay = vec![known(&young, Duration::from_secs(4)), known(&old, LEASE)];
    table.told(&NodeStatus { members: hearsay.clone(), ..said(&speaker, 1, None) }, moment);
    assert_eq!(members(&table), HashSet::from([speaker.clone(), young]));
    silence(&mut table, now, 6, 6);
    assert_eq!(members(&table), HashSet::from([speaker.clone()]), "five seconds without a sign of life");
    table.unreadable();
    table.told(&NodeStatus { members: hearsay, ..said(&speaker, 3, None) }, moment);
    assert!(members(&table).contains(&old), "without an index nobody is known to be dead");
}

#[test]
fn what_others_know_is_known_here_when_all_that_have_a_lease_have_spoken() {
    let (mut table, now) = table();
    let [one, two] = [(); 2].map(|()| NodeId::new_process());
    let both = || listing([(one.clone(), entry("one")), (two.clone(), entry("two"))]);
    assert!(!table.view().acquainted, "nothing was read");
    table.told(&said(&one, 1, None), now);
    table.list(&both(), now, now, true);
    assert!(!table.view().acquainted);
    table.told(&said(&two, 1, None), now);
    assert!(table.view().acquainted);
    let later = now.after(LEASE + Duration::from_secs(1));
    table.list(&both(), later, later, true);
    assert!(!table.view().acquainted, "nobody was heard for longer than a lease, and somebody may have come");
    table.told(&said(&one, 2, None), later);
    table.told(&said(&two, 2, None), later);
    assert!(table.view().acquainted);
    let flushed = NodeListing { age: Duration::from_secs(4), ..both() };
    table.list(&flushed, later.after(LEASE), later.after(LEASE), true);
    assert!(table.view().acquainted, "a flush makes nobody forget");
    let third = NodeId::new_process();
    table.list(&listing([(third, entry("three"))]), later.after(LEASE), later.after(LEASE), true);
    assert!(table.view().acquainted, "who comes later introduces itself to all");
}

#[test]
fn who_starts_in_a_young_index_does_not_know_who_has_yet_to_come_back_to_it() {
    let (mut table, now) = table();
    let young = |seconds| NodeListing { age: Duration::from_secs(seconds), ..listing([]) };
    for second in 0..5 {
        let moment = now.after(Duration::from_secs(second));
        table.list(&young(second), moment, moment, true);
        assert!(!table.view().acquainted && !table.was_acquainted(), "{second}");
    }
    table.list(&young(5), now.after(LEASE), now.after(LEASE), true);
    assert!(table.view().acquainted && table.was_acquainted());
}

#[test]
fn who_finds_nobody_in_an_old_index_waits_for_those_that_were_cut_off_from_it() {
    let (mut table, now) = table();
    let old = || NodeListing { age: LEASE * 100, ..listing([]) };
    for second in 0..5 {
        let moment = now.after(Duration::from_secs(second));
        table.list(&old(), moment, moment, true);
        assert!(!table.view().acquainted, "{second}");
    }
    table.list(&old(), now.after(LEASE), now.after(LEASE), true);
    assert!(table.view().acquainted, "they had a whole lease to come back");

    let (mut table, now) = self::table();
    let other = NodeId::new_process();
    table.list(&old(), now, now, true);
    table.list(&NodeListing { nodes: vec![(other.clone(), entry("other"))], ..old() }, now, now, true);
    table.told(&said(&other, 1, None), now);
    assert!(table.view().acquainted, "one that was there says who else is");

    let (mut table, now) = self::table();
    table.list(&NodeListing { age: Duration::MAX, ..listing([]) }, now, now, true);
    assert!(table.view().acquainted, "nobody can have been cut off");
}

#[test]
fn most_are_more_than_half_and_this_node_is_one_of_them() {
    let (mut table, now) = table();
    assert!(table.most_answered(1, now).is_some(), "a cluster of one goes on");
    let nodes = [(); 3].map(|()| NodeId::new_process());
    for (members, answers_needed) in [(1, 1), (2, 1), (3, 2)] {
        table.told(&said(&nodes[members - 1], 1, None), now);
        let asked = now.after(LEASE * members as u32);
        for (answers, node) in nodes[..members].iter().enumerate() {
            assert_eq!(
                table.most_answered(1, asked).is_some(),
                answers >= answers_needed,
                "{answers} answers of {members}"
            );
            table.acknowledged(node, 1, asked);
        }
        assert!(table.most_answered(1, asked).is_some());
        assert!(
            table.most_answered(1, asked.after(Duration::from_millis(1))).is_none(),
            "what was sent earlier does not count"
        );
        assert!(table.most_answered(2, asked).is_none(), "nor what is no answer to this word");
    }
}

#[test]
fn a_word_is_repeated_while_somebody_is_not_whole_and_not_in_quiet_times() {
    let (mut table, now) = table();
    let node_info = NodeInfo { name: NodeName::from_any("own"), mesh: "127.0.0.1:2".into(), since: SmolStr::default() };
    let (own, node) = (NodeId::new_process(), NodeId::new_process());
    let whole = Some(Epoch("E".into()));
    let say = |table: &mut Table, fully_indexed_in: &Option<Epoch>| {
        let word = IndexState { incarnation: own.clone(), fully_indexed_in: fully_indexed_in.clone() };
        table.say(&node_info, &word, Leaving::Staying, now).sequence
    };
    let second = |count: u32| now.after(Duration::from_secs(1) * count);
    let told =
        |table: &Table, sequence: u64, at: u32| table.to_tell(sequence, second(at), Duration::from_secs(1)).len();
    table.list(&listing([(node.clone(), entry("node"))]), now, now, true);
    let sequence = say(&mut table, &whole);
    assert_eq!(told(&table, sequence, 0), 1, "the hello");
    table.told(&said(&node, 1, Some("E")), now);
    table.acknowledged(&node, sequence, now);
    assert_eq!(told(&table, sequence, 60), 0, "quiet");
    let sequence = say(&mut table, &None);
    table.acknowledged(&node, sequence, now);
    assert_eq!((told(&table, sequence, 0), told(&table, sequence, 1)), (0, 1), "this node is not whole");
    assert!(table.all_answered(sequence, now) && !table.all_answered(sequence, second(1)));
    let sequence = say(&mut table, &whole);
    table.acknowledged(&node, sequence, second(1));
    table.told(&said(&node, 2, None), second(1));
    assert_eq!(told(&table, sequence, 2), 1, "another one is not, and others may not be able to hear it");
}

#[test]
fn a_birth_is_over_when_all_of_a_list_read_after_it_know_this_incarnation() {
    let (mut table, now) = table();
    let node_info = NodeInfo { name: NodeName::from_any("own"), mesh: "127.0.0.1:2".into(), since: SmolStr::default() };
    let node = NodeId::new_process();
    let own = NodeId::new_process();
    let word = |incarnation: &NodeId| IndexState { incarnation: incarnation.clone(), fully_indexed_in: None };
    let hello = table.say(&node_info, &word(&own), Leaving::Staying, now).sequence;
    assert!(!table.greeted(now), "no list yet");
    table.list(&listing([(node.clone(), entry("node"))]), now, now, true);
    assert!(!table.greeted(now));
    assert_eq!(table.to_tell(hello, now, LEASE).len(), 1);
    table.acknowledged(&node, hello, now);
    assert!(table.greeted(now));
    assert_eq!(table.say(&node_info, &word(&own), Leaving::Staying, now).sequence, hello, "nothing new was said");
    let next = table.say(&node_info, &word(&own.next_incarnation()), Leaving::Staying, now).sequence;
    assert!(next > hello && !table.greeted(now), "another incarnation says hello again");
    assert!(table.all_acknowledged(hello) && !table.all_acknowledged(next));
}
