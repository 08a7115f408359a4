//! The roster against a model, under random joins, leaves and ends of sockets.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Register { socket: usize, rooms: Vec<usize> },
    Join { slot: usize, room: usize },
    Leave { slot: usize, room: usize },
    Close { slot: usize },
    Drop { slot: usize },
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..6_usize, prop::collection::vec(0..3_usize, 0..3))
            .prop_map(|(socket, rooms)| Step::Register { socket, rooms }),
        3 => (0..8_usize, 0..3_usize).prop_map(|(slot, room)| Step::Join { slot, room }),
        2 => (0..8_usize, 0..3_usize).prop_map(|(slot, room)| Step::Leave { slot, room }),
        1 => (0..8_usize).prop_map(|slot| Step::Close { slot }),
        2 => (0..8_usize).prop_map(|slot| Step::Drop { slot }),
        2 => Just(Step::Flush),
    ]
}

proptest! {
    /// Against a model: which socket is in which room, and what a written-behind index has listed.
    #[test]
    fn the_roster_is_what_its_presences_did(steps in prop::collection::vec(step(), 1..80)) {
        let roster = Roster::new(NodeId::new_process());
        let rooms: Vec<Room> = (0..3).map(|number| room(&format!("room-{number}"))).collect();
        let mut slots: Vec<(usize, Registration)> = Vec::new();
        // Socket -> (which registration it is, its rooms).
        let mut model: BTreeMap<usize, (usize, BTreeSet<usize>)> = BTreeMap::new();
        let mut born = 0;
        let mut owners: Vec<usize> = Vec::new();
        let mut index: BTreeSet<(Room, SocketId)> = BTreeSet::new();
        let mut held: BTreeMap<usize, RoomSnapshot> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Register { socket: number, rooms: wanted } => {
                    let named: Vec<Room> = wanted.iter().map(|&room| rooms[room].clone()).collect();
                    slots.push((number, roster.register(socket(number), user(number), &named)));
                    owners.push(born);
                    model.insert(number, (born, wanted.into_iter().collect()));
                    born += 1;
                }
                Step::Join { slot, room } if slot < slots.len() => {
                    let (number, registration) = &slots[slot];
                    let open = model.get(number).is_some_and(|(owner, _)| *owner == owners[slot]);
                    prop_assert_eq!(registration.join(&rooms[room], 64).is_ok(), open);
                    if open {
                        model.get_mut(number).unwrap().1.insert(room);
                    }
                }
                Step::Leave { slot, room } if slot < slots.len() => {
                    let (number, registration) = &slots[slot];
                    let open = model.get(number).is_some_and(|(owner, _)| *owner == owners[slot]);
                    prop_assert_eq!(registration.leave(&rooms[room]).is_ok(), open);
                    if open {
                        model.get_mut(number).unwrap().1.remove(&room);
                    }
                }
                Step::Close { slot } if slot < slots.len() => {
                    slots[slot].1.close();
                    if model.get(&slots[slot].0).is_some_and(|(owner, _)| *owner == owners[slot]) {
                        model.remove(&slots[slot].0);
                    }
                }
                Step::Drop { slot } if slot < slots.len() => {
                    let (number, registration) = slots.remove(slot);
                    let owner = owners.remove(slot);
                    drop(registration);
                    if model.get(&number).is_some_and(|(current, _)| *current == owner) {
                        model.remove(&number);
                    }
                }
                Step::Flush => {
                    for SocketWrite { entry, present } in roster.take_writes(&roster.incarnation(), usize::MAX) {
                        let listed = (entry.room, entry.socket);
                        if present { index.insert(listed); } else { index.remove(&listed); }
                    }
                }
                _ => {}
            }
            for (number, name) in rooms.iter().enumerate() {
                let expected: BTreeSet<SocketId> = model
                    .iter()
                    .filter(|(_, (_, joined))| joined.contains(&number))
                    .map(|(number, _)| socket(*number))
                    .collect();
                let part = roster.snapshot(name, held.get(&number).map(known));
                if part.update == RowsUpdate::Unchanged {
                    prop_assert_eq!(&ids(&held[&number]), &expected, "unchanged, and yet not the rows of now");
                } else {
                    prop_assert_eq!(&ids(&part), &expected);
                    held.insert(number, part);
                }
            }
        }
        drop(slots);
        prop_assert_eq!(roster.size(), RosterSize { sockets: 0, rooms: 0 });
        for SocketWrite { entry, present } in roster.take_writes(&roster.incarnation(), usize::MAX) {
            let listed = (entry.room, entry.socket);
            if present { index.insert(listed); } else { index.remove(&listed); }
        }
        prop_assert!(index.is_empty(), "still listed: {:?}", index);
    }
}
