//! Unit tests of the roster: its rules, and consistent reads under concurrent joins and leaves.

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

/// Confirms the ownership of all rooms, as the reconciler would.
fn own_all(roster: &Roster) {
    let node = roster.incarnation();
    let wanting = roster.take_unowned();
    let asked = roster.request_ownership(&node, wanting);
    roster.confirm_ownership(&node, &asked);
}

#[test]
fn a_dropped_registration_removes_its_rows() {
    let roster = Roster::new(NodeId::new_process());
    let registration = roster.register(socket(1), user(1), &[room("a"), room("b")]);
    assert_eq!(roster.size(), RosterSize { sockets: 1, rooms: 2 });
    let kept = registration.clone();
    drop(registration);
    assert_eq!(ids(&roster.snapshot(&room("a"), None)), BTreeSet::from([socket(1)]));
    drop(kept);
    assert_eq!(roster.size(), RosterSize { sockets: 0, rooms: 0 });
    assert_eq!(rows(&roster.snapshot(&room("a"), None)), []);
}

#[test]
fn a_closed_registration_neither_joins_nor_leaves() {
    let roster = Roster::new(NodeId::new_process());
    let registration = roster.register(socket(1), user(1), &[room("a")]);
    registration.close();
    registration.close();
    assert_eq!(registration.join(&room("b"), 64), Err(JoinError::Closed));
    assert_eq!(registration.leave(&room("a")), Err(JoinError::Closed));
    assert_eq!(roster.size(), RosterSize { sockets: 0, rooms: 0 });
}

#[test]
fn a_newer_registration_of_a_socket_id_replaces_the_older() {
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
        let registration = roster.register(socket(1), user(1), &[room("a")]);
        let part = roster.snapshot(&room("a"), None);
        assert!(seen.insert(part.version), "{} came back", part.version);
        assert_eq!(roster.snapshot(&room("a"), Some(known(&part))).update, RowsUpdate::Unchanged);
        drop(registration);
        let empty = roster.snapshot(&room("a"), Some(known(&part)));
        assert_eq!((empty.version, rows(&empty)), (0, &[][..]));
    }
}

#[test]
fn find_returns_each_id_once_and_filters_by_room() {
    let roster = Roster::new(NodeId::new_process());
    let _one = roster.register(socket(1), user(1), &[room("a")]);
    let _two = roster.register(socket(2), user(2), &[room("b")]);
    let asked = [socket(1), socket(2), socket(1), socket(3)];
    assert_eq!(ids(&roster.find(&asked, None)), BTreeSet::from([socket(1), socket(2)]));
    assert_eq!(rows(&roster.find(&asked, None)).len(), 2);
    assert_eq!(ids(&roster.find(&asked, Some(&room("b")))), BTreeSet::from([socket(2)]));
}

#[test]
fn rooms_are_limited_and_joining_twice_is_idempotent() {
    let roster = Roster::new(NodeId::new_process());
    let registration = roster.register(socket(1), user(1), &[room("a")]);
    assert_eq!(registration.join(&room("b"), 2), Ok(()));
    assert_eq!(registration.join(&room("b"), 2), Ok(()));
    assert_eq!(registration.join(&room("c"), 2), Err(JoinError::TooManyRooms(2)));
    assert_eq!(registration.leave(&room("b")), Ok(()));
    assert_eq!(registration.leave(&room("b")), Ok(()));
    assert_eq!(registration.join(&room("c"), 2), Ok(()));
    assert_eq!(roster.size().rooms, 2);
}

#[test]
fn sockets_missing_twice_are_closed_unless_connecting() {
    let roster = Roster::new(NodeId::new_process());
    let connecting = roster.register(socket(1), user(1), &[room("a")]);
    let connected = roster.register(socket(2), user(2), &[room("a")]);
    connected.mark_connected();
    let nobody = HashSet::new();
    assert_eq!(roster.close_missing(&nobody), 0, "absent once");
    assert_eq!(roster.close_missing(&HashSet::from([socket(2)])), 0, "seen again");
    assert_eq!(roster.close_missing(&nobody), 0, "absent once again");
    assert_eq!(roster.close_missing(&nobody), 1, "absent twice");
    assert_eq!(ids(&roster.snapshot(&room("a"), None)), BTreeSet::from([socket(1)]));
    assert_eq!(connected.join(&room("b"), 64), Err(JoinError::Closed));
    drop(connecting);
}

#[test]
fn ownership_outlives_the_last_socket_until_released() {
    let roster = Roster::new(NodeId::new_process());
    let node = roster.incarnation();
    let registration = roster.register(socket(1), user(1), &[room("a")]);
    own_all(&roster);
    assert!(matches!(roster.ownership_status(&node, &[room("a")]), OwnershipStatus::Owned));
    drop(registration);
    let before_it_left = Instant::now() - Duration::from_secs(1);
    assert_eq!(roster.take_emptied(&node, before_it_left, &HashSet::new()), []);
    let _again = roster.register(socket(2), user(2), &[room("a")]);
    assert!(matches!(roster.ownership_status(&node, &[room("a")]), OwnershipStatus::Owned), "a reload costs nothing");
    assert_eq!(roster.take_emptied(&node, Instant::now(), &HashSet::new()), [], "it has rows again");
}

#[test]
fn a_room_is_unowned_before_its_removal_is_sent() {
    let roster = Roster::new(NodeId::new_process());
    let node = roster.incarnation();
    drop(roster.register(socket(1), user(1), &[room("a")]));
    assert_eq!(roster.take_emptied(&node, Instant::now(), &HashSet::new()), [], "never owned, nothing to release");
    let registration = roster.register(socket(1), user(1), &[room("a")]);
    own_all(&roster);
    drop(registration);
    let busy = HashSet::from([room("a")]);
    assert_eq!(roster.take_emptied(&node, Instant::now(), &busy), [], "another command is under way");
    assert_eq!(roster.take_emptied(&node, Instant::now(), &HashSet::new()), [room("a")]);
    let _again = roster.register(socket(2), user(2), &[room("a")]);
    assert!(matches!(roster.ownership_status(&node, &[room("a")]), OwnershipStatus::Pending(_)));
    assert!(roster.take_unowned().contains(&room("a")));
}

#[test]
fn an_unanswered_ownership_request_is_released_too() {
    let roster = Roster::new(NodeId::new_process());
    let node = roster.incarnation();
    let registration = roster.register(socket(1), user(1), &[room("a")]);
    assert_eq!(roster.request_ownership(&node, HashSet::from([room("a")])), [room("a")]);
    drop(registration);
    assert_eq!(roster.take_emptied(&node, Instant::now(), &HashSet::new()), [room("a")]);
    assert!(roster.is_clear());
}

#[test]
fn the_incarnation_after_a_retired_one_owns_no_room() {
    let roster = Roster::new(NodeId::new_process());
    let first = roster.incarnation();
    roster.set_registered(&first, &epoch("E"));
    let _one = roster.register(socket(1), user(1), &[room("a")]);
    let two = roster.register(socket(2), user(2), &[room("b")]);
    own_all(&roster);
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
    assert_eq!(roster.index_state().borrow().fully_indexed_in, None, "two rooms are unowned");
    roster.confirm_ownership(&first, &[room("a")]);
    assert!(
        matches!(roster.ownership_status(&second, &[room("a")]), OwnershipStatus::Pending(_)),
        "a late answer for the old id"
    );
    assert_eq!(roster.request_ownership(&second, HashSet::from([room("a")])), [room("a")]);
    roster.confirm_ownership(&second, &[room("a")]);
    assert_eq!(roster.index_state().borrow().fully_indexed_in, None, "one room is unowned");
    drop(two);
    roster.republish_index_state();
    assert_eq!(roster.index_state().borrow().fully_indexed_in, Some(epoch("F")), "the other room is empty");
    let listed: Vec<SocketWrite> = roster.take_writes(&roster.incarnation(), 10);
    assert_eq!(listed.len(), 1, "the remaining socket is written again, the other was never written");
    assert!(listed[0].present && listed[0].entry.socket == socket(1));
}

#[tokio::test]
async fn a_waiting_client_is_notified_when_its_room_is_owned() {
    let roster = Roster::new(NodeId::new_process());
    let node = roster.incarnation();
    let _presence = roster.register(socket(1), user(1), &[room("a")]);
    let OwnershipStatus::Pending(waiting) = roster.ownership_status(&node, &[room("a")]) else {
        panic!("nothing is claimed yet")
    };
    own_all(&roster);
    waiting.await.expect("notified, not dropped");
    assert!(matches!(roster.ownership_status(&node, &[room("a")]), OwnershipStatus::Owned));
}

#[test]
fn a_socket_that_left_before_its_write_is_not_written() {
    let roster = Roster::new(NodeId::new_process());
    let registration = roster.register(socket(1), user(1), &[room("a")]);
    drop(registration);
    assert_eq!(roster.take_writes(&roster.incarnation(), 10), []);
    let registration = roster.register(socket(1), user(1), &[room("a")]);
    let written = roster.take_writes(&roster.incarnation(), 10);
    assert!(written[0].present);
    drop(registration);
    let removed = roster.take_writes(&roster.incarnation(), 10);
    assert!(!removed[0].present && removed[0].entry == written[0].entry);
    roster.requeue_writes(&roster.incarnation(), removed.into_iter().map(|change| change.entry));
    let _again = roster.register(socket(1), user(1), &[room("a")]);
    assert!(roster.take_writes(&roster.incarnation(), 10)[0].present, "the present state is written");
}

#[test]
fn removals_are_written_before_later_additions() {
    let roster = Roster::new(NodeId::new_process());
    let node = roster.incarnation();
    let left: Vec<_> = (1..=3).map(|number| roster.register(socket(number), user(1), &[room("a")])).collect();
    assert_eq!(roster.take_writes(&node, 10).len(), 3);
    drop(left);
    assert!(!roster.take_writes(&node, 1)[0].present, "a removal first");
    let _came: Vec<_> = (4..=6).map(|number| roster.register(socket(number), user(1), &[room("a")])).collect();
    let taken: Vec<bool> = roster.take_writes(&node, 10).iter().map(|change| change.present).collect();
    assert_eq!(taken, [false, false, true, true, true]);
}

/// A writer moves a marker through a sequence that readers can check: the cached rows of a reader that receives
/// `Unchanged` must be the rows of a moment during its read.
#[test]
fn cached_rows_are_current_when_a_read_says_unchanged() {
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
    assert!(unchanged.into_inner() > 0, "no read was unchanged, so the test proved nothing");
    drop(last);
    assert_eq!(roster.size().sockets, 0);
}
