//! A member that lies: its statements about others may add members and keep them alive, and do nothing else.

use super::*;

const LIAR: &str = "127.0.0.9:1";

fn at(node: &NodeId, mesh: &str) -> MemberInfo {
    MemberInfo { mesh: mesh.into(), ..info(node, Duration::ZERO) }
}

/// A status of the liar about itself, with statements about others.
fn lie(liar: &NodeId, about_others: Vec<MemberInfo>) -> NodeStatus {
    NodeStatus { about: at(liar, LIAR), members: about_others, ..status(liar, 1, None) }
}

fn mesh(table: &MemberTable, node: &NodeId) -> Option<SmolStr> {
    table.view().get(node).map(|member| member.mesh.clone())
}

#[test]
fn hearsay_moves_renames_ages_and_replaces_no_member() {
    let (mut table, now) = table();
    let [liar, victim] = [(); 2].map(|()| NodeId::new_process());
    list(&mut table, &listing([(victim.clone(), entry("victim"))]), now, true);
    table.receive_status(&status(&victim, 5, Some("E")), now);
    let before = table.view().get(&victim).cloned();
    let old = MemberInfo { age: Some(LEASE * 9), ..at(&victim, LIAR) };
    table.receive_status(&lie(&liar, vec![at(&victim, LIAR), old]), now);
    assert_eq!(table.view().get(&victim), before.as_ref());
    let later = now.after(Duration::from_secs(1));
    table.receive_status(&lie(&liar, vec![at(&victim.next_incarnation(), LIAR)]), later);
    let asked = Member { fully_indexed_in: None, disputed: Some(later), heard: Some(later), ..before.clone().unwrap() };
    assert_eq!(table.view().get(&victim), Some(&asked), "it may be true, so the member is always asked");
    assert_eq!(table.status_receivers(0, later, LEASE).len(), 2);
    table.record_acknowledgement(&victim, 1, now);
    assert_eq!(table.view().get(&victim).unwrap().fully_indexed_in, None, "it was asked before");
    table.record_acknowledgement(&victim, 1, later);
    assert_eq!(table.view().get(&victim).unwrap().fully_indexed_in, before.unwrap().fully_indexed_in);
    assert!(!table.view().departed.contains(&victim));
    assert!(table.view().synced, "the directory has decided, so there is no doubt");
    assert_eq!(table.mesh_of(victim.process()).as_deref(), Some("127.0.0.1:1"));
}

#[test]
fn the_directory_overrides_an_impostor() {
    let (mut table, now) = table();
    let [liar, victim] = [(); 2].map(|()| NodeId::new_process());
    let second = |count: u32| now.after(Duration::from_secs(1) * count);
    let claimed = victim.next_incarnation().next_incarnation();
    let claim = NodeStatus { about: at(&claimed, LIAR), ..status(&claimed, u64::MAX, Some("E")) };
    table.receive_status(&claim, now);
    assert_eq!(members(&table), HashSet::from([claimed.clone()]), "this node knows no better yet");
    assert!(!table.view().get(&claimed).unwrap().is_listed(), "so no roll call skips it");
    table.receive_status(&NodeStatus { goodbye: true, ..claim.clone() }, now);
    assert!(!table.view().departed.contains(&victim), "a process that was never listed is not remembered");
    table.receive_status(&claim, now);
    list(&mut table, &listing([(victim.clone(), entry("victim"))]), second(1), true);
    assert_eq!(members(&table), HashSet::from([victim.clone()]));
    assert_eq!(mesh(&table, &victim).as_deref(), Some("127.0.0.1:1"));
    assert!(table.view().get(&victim).unwrap().is_listed());
    assert_eq!(table.view().get(&victim).unwrap().fully_indexed_in, None);
    assert!(!table.view().departed.contains(&victim) && !table.view().departed.contains(&claimed));
    table.receive_status(&lie(&liar, vec![at(&claimed, LIAR)]), second(1));
    assert_eq!(members(&table), HashSet::from([victim, liar]));
}

#[test]
fn two_claims_of_an_unlisted_process_make_answers_incomplete() {
    let (mut table, now) = table();
    let [liar, witness, victim] = [(); 3].map(|()| NodeId::new_process());
    let second = |count: u32| now.after(Duration::from_secs(1) * count);
    let list_witness = |table: &mut MemberTable, count: u32| {
        list(table, &listing([(witness.clone(), entry("witness"))]), second(count), true)
    };
    list_witness(&mut table, 0);
    table.receive_status(&NodeStatus { members: vec![at(&victim, LIAR)], ..status(&liar, 1, None) }, now);
    table.receive_status(&status(&witness, 1, Some("E")), now);
    assert!(table.view().synced);
    assert_eq!(table.mesh_of(victim.process()), None, "hearsay redirects nothing");
    table
        .receive_status(&NodeStatus { members: vec![info(&victim, Duration::ZERO)], ..status(&witness, 2, None) }, now);
    assert!(!table.view().synced, "one of the two addresses is not asked");
    let claim = NodeStatus { about: at(&victim, LIAR), ..status(&victim, 1, None) };
    table.receive_status(&claim, now);
    (0..6).for_each(|count| _ = list_witness(&mut table, count));
    assert!(table.view().synced, "a lease later the doubt is over");
    table.contest(victim.process(), second(5));
    assert!(!table.view().synced, "a node with another certificate claims the process too");
    table.contest(witness.process(), second(5));
    (6..11).for_each(|count| _ = list_witness(&mut table, count));
    assert!(table.view().synced);
    table.contest(witness.process(), second(11));
    assert!(table.view().synced, "the directory names its address");
}

#[test]
fn invented_members_are_bounded_and_not_passed_on() {
    let (mut table, now) = table();
    let node_info = NodeInfo { name: NodeName::from_any("own"), mesh: "127.0.0.1:2".into(), since: SmolStr::default() };
    let own = IndexState { incarnation: NodeId::new_process(), fully_indexed_in: None };
    let [liar, witness] = [(); 2].map(|()| NodeId::new_process());
    let list_witness = |table: &mut MemberTable, count: u32| {
        let moment = now.after(Duration::from_secs(1) * count);
        list(table, &listing([(witness.clone(), entry("witness"))]), moment, true)
    };
    list_witness(&mut table, 0);
    table.receive_status(&status(&witness, 1, Some("E")), now);
    assert!(table.view().synced);
    for _ in 0..20 {
        let invented = (0..1_000).map(|_| info(&NodeId::new_process(), Duration::ZERO)).collect();
        table.receive_status(&lie(&liar, invented), now);
    }
    assert_eq!(members(&table).len(), 1 + MAX_UNLISTED_MEMBERS);
    assert!(!table.view().synced, "one that was not added may be real");
    let told = table.own_status(&node_info, &own, DrainState::Serving, now);
    assert_eq!(told.members.len(), 2, "the witness and the liar");
    let crowd = NodeId::new_process();
    assert_eq!(table.receive_status(&status(&crowd, 1, None), now), None, "no room: it must try again");
    list(&mut table, &listing([(crowd.clone(), entry("node")), (witness.clone(), entry("witness"))]), now, true);
    assert!(table.receive_status(&status(&crowd, 1, None), now).is_some(), "a listed node is no invention");
    let sequence = table.number_status(&own, DrainState::Serving);
    for node in [&witness, &liar, &crowd] {
        table.record_acknowledgement(node, sequence, now);
    }
    assert!(table.all_answered(sequence, now), "invented members have no vote");
    assert!(table.answering_majority(sequence, now).is_some());
    for _ in 0..1_000 {
        table.receive_status(&status(&crowd.next_incarnation(), 1, None), now);
        table.receive_status(&NodeStatus { goodbye: true, ..status(&NodeId::new_process(), 1, None) }, now);
    }
    assert_eq!(members(&table).len(), 2 + MAX_UNLISTED_MEMBERS);
}

#[test]
fn invented_members_that_do_not_answer_are_forgotten() {
    let (mut table, now) = table();
    let witness = NodeId::new_process();
    let second = |count: u32| now.after(Duration::from_secs(1) * count);
    let list_witness = |table: &mut MemberTable, count: u32| {
        list(table, &listing([(witness.clone(), entry("witness"))]), second(count), true)
    };
    (0..6).for_each(|count| _ = list_witness(&mut table, count));
    let invented: Vec<_> = (0..10).map(|_| info(&NodeId::new_process(), Duration::ZERO)).collect();
    table.receive_status(&NodeStatus { members: invented.clone(), ..status(&witness, 1, Some("E")) }, second(5));
    let dialled = |table: &MemberTable, count: u32| table.status_receivers(1, second(count), LEASE / 5);
    assert_eq!(dialled(&table, 5).len(), 1, "the directory is asked for the others first");
    list_witness(&mut table, 6);
    let receivers = dialled(&table, 6);
    assert_eq!(receivers.iter().filter(|receiver| !receiver.is_verified).count(), 10);
    table.record_unanswered(&invented[3].node, second(6));
    assert_eq!(dialled(&table, 6).last().map(|receiver| &receiver.node), Some(&invented[3].node), "others come first");
    (7..11).for_each(|count| _ = list_witness(&mut table, count));
    for gossip in &invented {
        table.record_unanswered(&gossip.node, second(10));
    }
    table.record_acknowledgement(&witness, 1, second(10));
    assert_eq!(members(&table), HashSet::from([witness]));
}
