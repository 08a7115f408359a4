//! The roster alone: its rules, and its one promise under random joins, leaves and reads from many threads.

mod random;

use std::collections::{BTreeSet, HashSet};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::ownership::OwnershipStatus;
use super::*;
use crate::index::{Epoch, SocketWrite};
use crate::names::{NodeId, Room, SocketId, UserId};

fn room(name: &str) -> Room {
    Room::parse(name).unwrap()
}

fn socket(number: usize) -> SocketId {
    SocketId::parse(&format!("socket-{number}")).unwrap()
}

fn user(number: usize) -> UserId {
    UserId::parse(&format!("user-{number}")).unwrap()
}

fn epoch(name: &str) -> Epoch {
    Epoch(name.into())
}

fn rows(part: &RoomSnapshot) -> &[Row] {
    let RowsUpdate::Full(rows) = &part.update else { panic!("not all: {part:?}") };
    rows
}

fn ids(part: &RoomSnapshot) -> BTreeSet<SocketId> {
    rows(part).iter().map(|row| row.id_socket.clone()).collect()
}

fn known(part: &RoomSnapshot) -> CachedVersion {
    CachedVersion { version: part.version, accepts_delta: false }
}

/// Claims everything that wants a claim, as the registrar would.
fn claim_all(roster: &Roster) {
    let node = roster.incarnation();
    let wanting = roster.take_unowned();
    let asked = roster.request_ownership(&node, wanting);
    roster.confirm_ownership(&node, &asked);
}

#[test]
fn a_dropped_presence_takes_its_rows_along() {
    let roster = Roster::new(NodeId::new_process());
    let presence = roster.register(socket(1), user(1), &[room("a"), room("b")]);
    assert_eq!(roster.size(), RosterSize { sockets: 1, rooms: 2 });
    let kept = presence.clone();
    drop(presence);
    assert_eq!(ids(&roster.snapshot(&room("a"), None)), BTreeSet::from([socket(1)]));
    drop(kept);
    assert_eq!(roster.size(), RosterSize { sockets: 0, rooms: 0 });
    assert_eq!(rows(&roster.snapshot(&room("a"), None)), []);
}

#[test]
fn a_closed_presence_neither_joins_nor_leaves() {
    let roster = Roster::new(NodeId::new_process());
    let presence = roster.register(socket(1), user(1), &[room("a")]);
    presence.close();
    presence.close();
    assert_eq!(presence.join(&room("b"), 64), Err(JoinError::Closed));
    assert_eq!(presence.leave(&room("a")), Err(JoinError::Closed));
    assert_eq!(roster.size(), RosterSize { sockets: 0, rooms: 0 });
}

#[test]
fn the_same_socket_id_again_replaces_the_older_presence_and_survives_its_end() {
    let roster = Roster::new(NodeId::new_process());
    let older = roster.register(socket(1), user(1), &[room("a"), room("b")]);
    let newer = roster.register(socket(1), user(2), &[room("a")]);
    assert_eq!(rows(&roster.snapshot(&room("a"), None)), [Row { id_socket: socket(1), id_user: user(2) }]);
    assert_eq!(rows(&roster.snapshot(&room("b"), None)), []);
    drop(older);
    assert_eq!(ids(&roster.snapshot(&room("a"), None)), BTreeSet::from([socket(1)]));
    assert_eq!(rows(&roster.find(&[socket(1)], None)).len(), 1);
    drop(newer);
    assert_eq!(roster.size().sockets, 0);
}

#[test]
fn a_version_is_never_zero_and_never_comes_back() {
    let roster = Roster::new(NodeId::new_process());
    let mut seen = HashSet::from([0]);
    for _ in 0..5 {
        let presence = roster.register(socket(1), user(1), &[room("a")]);
        let part = roster.snapshot(&room("a"), None);
        assert!(seen.insert(part.version), "{} came back", part.version);
        assert_eq!(roster.snapshot(&room("a"), Some(known(&part))).update, RowsUpdate::Unchanged);
        drop(presence);
        let empty = roster.snapshot(&room("a"), Some(known(&part)));
        assert_eq!((empty.version, rows(&empty)), (0, &[][..]));
    }
}

#[test]
fn ids_are_found_once_each_wherever_they_are_or_in_the_room_that_is_named() {
    let roster = Roster::new(NodeId::new_process());
    let _one = roster.register(socket(1), user(1), &[room("a")]);
    let _two = roster.register(socket(2), user(2), &[room("b")]);
    let asked = [socket(1), socket(2), socket(1), socket(3)];
    assert_eq!(ids(&roster.find(&asked, None)), BTreeSet::from([socket(1), socket(2)]));
    assert_eq!(rows(&roster.find(&asked, None)).len(), 2);
    assert_eq!(ids(&roster.find(&asked, Some(&room("b")))), BTreeSet::from([socket(2)]));
}

#[test]
fn rooms_have_a_limit_and_joining_twice_is_joining_once() {
    let roster = Roster::new(NodeId::new_process());
    let presence = roster.register(socket(1), user(1), &[room("a")]);
    assert_eq!(presence.join(&room("b"), 2), Ok(()));
    assert_eq!(presence.join(&room("b"), 2), Ok(()));
    assert_eq!(presence.join(&room("c"), 2), Err(JoinError::TooManyRooms(2)));
    assert_eq!(presence.leave(&room("b")), Ok(()));
    assert_eq!(presence.leave(&room("b")), Ok(()));
    assert_eq!(presence.join(&room("c"), 2), Ok(()));
    assert_eq!(roster.size().rooms, 2);
}

#[test]
fn the_comparison_takes_what_was_absent_twice_and_spares_newborns() {
    let roster = Roster::new(NodeId::new_process());
    let newborn = roster.register(socket(1), user(1), &[room("a")]);
    let settled = roster.register(socket(2), user(2), &[room("a")]);
    settled.mark_connected();
    let nobody = HashSet::new();
    assert_eq!(roster.close_missing(&nobody), 0, "absent once");
    assert_eq!(roster.close_missing(&HashSet::from([socket(2)])), 0, "seen again");
    assert_eq!(roster.close_missing(&nobody), 0, "absent once again");
    assert_eq!(roster.close_missing(&nobody), 1, "absent twice");
    assert_eq!(ids(&roster.snapshot(&room("a"), None)), BTreeSet::from([socket(1)]));
    assert_eq!(settled.join(&room("b"), 64), Err(JoinError::Closed));
    drop(newborn);
}

#[test]
fn a_claim_outlives_the_last_socket_until_it_is_given_back() {
    let roster = Roster::new(NodeId::new_process());
    let node = roster.incarnation();
    let presence = roster.register(socket(1), user(1), &[room("a")]);
    claim_all(&roster);
    assert!(matches!(roster.ownership_status(&node, &[room("a")]), OwnershipStatus::Owned));
    drop(presence);
    let before_it_left = Instant::now() - Duration::from_secs(1);
    assert_eq!(roster.take_emptied(&node, before_it_left, &HashSet::new()), []);
    let _again = roster.register(socket(2), user(2), &[room("a")]);
    assert!(matches!(roster.ownership_status(&node, &[room("a")]), OwnershipStatus::Owned), "a reload costs nothing");
    assert_eq!(roster.take_emptied(&node, Instant::now(), &HashSet::new()), [], "it has rows again");
}

#[test]
fn a_room_counts_as_unclaimed_before_its_removal_is_sent() {
    let roster = Roster::new(NodeId::new_process());
    let node = roster.incarnation();
    drop(roster.register(socket(1), user(1), &[room("a")]));
    assert_eq!(roster.take_emptied(&node, Instant::now(), &HashSet::new()), [], "never claimed, nothing to give back");
    let presence = roster.register(socket(1), user(1), &[room("a")]);
    claim_all(&roster);
    drop(presence);
    let busy = HashSet::from([room("a")]);
    assert_eq!(roster.take_emptied(&node, Instant::now(), &busy), [], "another command is under way");
    assert_eq!(roster.take_emptied(&node, Instant::now(), &HashSet::new()), [room("a")]);
    let _again = roster.register(socket(2), user(2), &[room("a")]);
    assert!(matches!(roster.ownership_status(&node, &[room("a")]), OwnershipStatus::Pending(_)));
    assert!(roster.take_unowned().contains(&room("a")));
}

#[test]
fn a_claim_that_was_asked_for_and_never_answered_is_given_back_too() {
    let roster = Roster::new(NodeId::new_process());
    let node = roster.incarnation();
    let presence = roster.register(socket(1), user(1), &[room("a")]);
    assert_eq!(roster.request_ownership(&node, HashSet::from([room("a")])), [room("a")]);
    drop(presence);
    assert_eq!(roster.take_emptied(&node, Instant::now(), &HashSet::new()), [room("a")]);
    assert!(roster.is_clear());
}

#[test]
fn a_retired_incarnation_leaves_its_claims_behind_and_the_next_owes_every_room() {
    let roster = Roster::new(NodeId::new_process());
    let first = roster.incarnation();
    roster.set_registered(&first, &epoch("E"));
    let _one = roster.register(socket(1), user(1), &[room("a")]);
    let two = roster.register(socket(2), user(2), &[room("b")]);
    claim_all(&roster);
    assert_eq!(roster.index_state().borrow().fully_indexed_in, Some(epoch("E")));
    roster.take_writes(&roster.incarnation(), 10);

    assert!(roster.check_epoch(&first, &epoch("E")));
    assert!(!roster.check_epoch(&first, &epoch("F")), "another index ends the incarnation");
    let second = roster.incarnation();
    assert_eq!(second.process(), first.process());
    let abandoned = roster.take_retired();
    assert_eq!(abandoned.len(), 1);
    assert_eq!(abandoned[0].node, first);
    assert_eq!(abandoned[0].rooms.iter().collect::<BTreeSet<_>>(), BTreeSet::from([&room("a"), &room("b")]));
    assert_eq!(roster.snapshot(&room("a"), None).node, second, "the rows stay, under the new id");

    roster.set_registered(&second, &epoch("F"));
    assert_eq!(roster.index_state().borrow().fully_indexed_in, None, "two rooms are owed");
    roster.confirm_ownership(&first, &[room("a")]);
    assert!(
        matches!(roster.ownership_status(&second, &[room("a")]), OwnershipStatus::Pending(_)),
        "a late answer for the old id"
    );
    assert_eq!(roster.request_ownership(&second, HashSet::from([room("a")])), [room("a")]);
    roster.confirm_ownership(&second, &[room("a")]);
    assert_eq!(roster.index_state().borrow().fully_indexed_in, None, "one room is owed");
    drop(two);
    roster.republish_index_state();
    assert_eq!(roster.index_state().borrow().fully_indexed_in, Some(epoch("F")), "the other emptied");
    let listed: Vec<SocketWrite> = roster.take_writes(&roster.incarnation(), 10);
    assert_eq!(listed.len(), 1, "what is still there is listed anew, what left was never listed");
    assert!(listed[0].present && listed[0].entry.socket == socket(1));
}

#[tokio::test]
async fn a_waiting_client_is_told_when_its_claim_is_held() {
    let roster = Roster::new(NodeId::new_process());
    let node = roster.incarnation();
    let _presence = roster.register(socket(1), user(1), &[room("a")]);
    let OwnershipStatus::Pending(waiting) = roster.ownership_status(&node, &[room("a")]) else {
        panic!("nothing is claimed yet")
    };
    claim_all(&roster);
    waiting.await.expect("told, not dropped");
    assert!(matches!(roster.ownership_status(&node, &[room("a")]), OwnershipStatus::Owned));
}

#[test]
fn a_seat_that_came_and_went_before_it_was_listed_is_not_written_at_all() {
    let roster = Roster::new(NodeId::new_process());
    let presence = roster.register(socket(1), user(1), &[room("a")]);
    drop(presence);
    assert_eq!(roster.take_writes(&roster.incarnation(), 10), []);
    let presence = roster.register(socket(1), user(1), &[room("a")]);
    let written = roster.take_writes(&roster.incarnation(), 10);
    assert!(written[0].present);
    drop(presence);
    let removed = roster.take_writes(&roster.incarnation(), 10);
    assert!(!removed[0].present && removed[0].entry == written[0].entry);
    roster.requeue_writes(&roster.incarnation(), removed.into_iter().map(|change| change.entry));
    let _again = roster.register(socket(1), user(1), &[room("a")]);
    assert!(
        roster.take_writes(&roster.incarnation(), 10)[0].present,
        "what is true now is written, not what was true then"
    );
}

#[test]
fn who_left_is_written_before_those_who_came_later() {
    let roster = Roster::new(NodeId::new_process());
    let node = roster.incarnation();
    let left: Vec<_> = (1..=3).map(|number| roster.register(socket(number), user(1), &[room("a")])).collect();
    assert_eq!(roster.take_writes(&node, 10).len(), 3);
    drop(left);
    assert!(!roster.take_writes(&node, 1)[0].present, "one of those that left");
    let _came: Vec<_> = (4..=6).map(|number| roster.register(socket(number), user(1), &[room("a")])).collect();
    let taken: Vec<bool> = roster.take_writes(&node, 10).iter().map(|change| change.present).collect();
    assert_eq!(taken, [false, false, true, true, true]);
}

/// Writers flip one marker socket through a sequence that readers can check: whoever is told "unchanged" must hold
/// the rows of a moment within its read.
#[test]
fn a_reader_that_is_told_unchanged_has_the_rows_of_now() {
    let roster = Roster::new(NodeId::new_process());
    let name = room("busy");
    let done = AtomicBool::new(false);
    // The writer publishes the turn before and after it changes the rows; a reader sees a turn in between.
    let (begun, ended) = (AtomicU64::new(0), AtomicU64::new(0));
    let (all_here, unchanged) = (Barrier::new(4), AtomicU64::new(0));
    // Lives longer than the readers, so that the room is empty before the first turn only.
    let mut last = None;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut held: Option<RoomSnapshot> = None;
                all_here.wait();
                while !done.load(Ordering::SeqCst) {
                    let least = ended.load(Ordering::SeqCst);
                    let part = roster.snapshot(&name, held.as_ref().map(known));
                    let most = begun.load(Ordering::SeqCst);
                    if part.update == RowsUpdate::Unchanged {
                        unchanged.fetch_add(1, Ordering::SeqCst);
                    } else {
                        held = Some(part);
                    }
                    let turn: u64 = rows(held.as_ref().unwrap())
                        .iter()
                        .map(|row| row.id_user.as_str().parse::<u64>().unwrap())
                        .max()
                        .unwrap_or(0);
                    assert!((least..=most).contains(&turn), "{turn} is not in {least}..={most}");
                }
            });
        }
        scope.spawn(|| {
            all_here.wait();
            for turn in 1..20_000_u64 {
                begun.store(turn, Ordering::SeqCst);
                let user = UserId::parse(&turn.to_string()).unwrap();
                let next = roster.register(socket(turn as usize % 7), user, std::slice::from_ref(&name));
                // The new one before the old one goes, so that the room is never empty.
                last = Some(next);
                ended.store(turn, Ordering::SeqCst);
            }
            done.store(true, Ordering::SeqCst);
        });
    });
    assert!(unchanged.into_inner() > 0, "a test that never takes the short way proves nothing");
    drop(last);
    assert_eq!(roster.size().sockets, 0);
}
