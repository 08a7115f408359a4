//! The rows of one node at one version, with their JSON: made once, shared by every answer that has them.
//!
//! Owns how rows are kept so that a change costs what changed and not the room: in buckets, by the hash of the socket's
//! id, each with its JSON. The rows of before and after a change share every bucket that has no changed socket. The
//! order of rows means nothing.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;
use serde::Serialize;

use crate::names::SocketId;
use crate::roster::Row;
use crate::roster::RowsDelta;

/// How many rows a bucket has when it is made, on the average: as many are written again for one that changed.
const BUCKET_ROWS: usize = 64;
/// Rows are dealt out anew when there are so many times more or fewer of them than their buckets were made for.
const OUT_OF_SHAPE: usize = 2;
/// The most bytes of a name that are kept in place.
const SHORT: usize = 23;

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Rows {
    pub version: u64,
    len: usize,
    /// Of the JSON of all buckets.
    json_bytes: usize,
    buckets: Vec<Arc<Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    rows: Box<[Row]>,
    /// The rows as objects of JSON, separated by commas.
    json: Bytes,
    /// The memory that it takes, about.
    bytes: usize,
}

impl Rows {
    pub fn new(version: u64, rows: Vec<Row>) -> Self {
        let len = rows.len();
        let count = len.div_ceil(BUCKET_ROWS);
        let buckets: Vec<_> = if count > 1 {
            // Hardly any bucket gets more than half as much again.
            let mut dealt: Vec<_> = (0..count).map(|_| Vec::with_capacity(BUCKET_ROWS * 3 / 2)).collect();
            for row in rows {
                dealt[place(&row.id_socket, count)].push(row);
            }
            dealt.into_iter().map(Bucket::shared).collect()
        } else {
            Some(rows).filter(|rows| !rows.is_empty()).map(Bucket::shared).into_iter().collect()
        };
        Self { version, len, json_bytes: buckets.iter().map(|bucket| bucket.json.len()).sum(), buckets }
    }

    /// These rows after the changes, at `version`. `None`: the changes are of other rows than these.
    pub fn with(&self, version: u64, changes: RowsDelta) -> Option<Self> {
        let count = self.buckets.len();
        if changes.since != self.version || count == 0 {
            return None;
        }
        let len = (self.len + changes.added.len()).checked_sub(changes.removed.len())?;
        let mut dealt: IndexMap<usize, RowsDelta> = IndexMap::new();
        for socket in changes.removed {
            dealt.entry(place(&socket, count)).or_default().removed.push(socket);
        }
        for row in changes.added {
            dealt.entry(place(&row.id_socket, count)).or_default().added.push(row);
        }
        let (mut buckets, mut json_bytes) = (self.buckets.clone(), self.json_bytes);
        for (place, changes) in dealt {
            let bucket = buckets[place].with(changes)?;
            json_bytes = json_bytes - buckets[place].json.len() + bucket.json.len();
            buckets[place] = bucket;
        }
        let made_for = count * BUCKET_ROWS;
        let changed = Self { version, len, json_bytes, buckets };
        let in_shape = len <= made_for * OUT_OF_SHAPE && (count == 1 || made_for <= len * OUT_OF_SHAPE);
        Some(if in_shape { changed } else { Self::new(version, changed.iter().cloned().collect()) })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = &Row> {
        self.buckets.iter().flat_map(|bucket| &*bucket.rows)
    }

    /// Some of the rows, those of one bucket. `None` after the last.
    pub fn bucket(&self, place: usize) -> Option<&[Row]> {
        self.buckets.get(place).map(|bucket| &*bucket.rows)
    }

    /// All rows as objects of JSON, in pieces: between two of them a comma is missing.
    pub fn json(&self) -> impl Iterator<Item = &Bytes> {
        self.buckets.iter().map(|bucket| &bucket.json).filter(|json| !json.is_empty())
    }

    /// How long all of that is, without what is missing in between.
    pub fn json_bytes(&self) -> usize {
        self.json_bytes
    }

    /// The memory that they take, about.
    pub fn bytes(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.bytes as u64).sum()
    }
}

impl Bucket {
    fn shared(rows: Vec<Row>) -> Arc<Self> {
        #[derive(Serialize)]
        struct User<'a> {
            id_socket: &'a str,
            id_user: &'a str,
        }
        // An id of Engine.IO and a short name: most rows take no more.
        let mut json = Vec::with_capacity(rows.len() * 64);
        for row in &rows {
            if !json.is_empty() {
                json.push(b',');
            }
            let user = User { id_socket: row.id_socket.as_str(), id_user: row.id_user.as_str() };
            serde_json::to_writer(&mut json, &user).expect("two strings can be written to memory");
        }
        // A short name is part of its row, and a long one lies elsewhere.
        let elsewhere = rows.iter().map(|row| row.id_user.as_str().len()).filter(|length| *length > SHORT);
        let bytes = size_of::<Self>() + size_of_val(&*rows) + json.len() + elsewhere.sum::<usize>();
        // What was reserved for more is given back.
        Arc::new(Self { rows: rows.into(), json: json.into_boxed_slice().into(), bytes })
    }

    fn with(&self, changes: RowsDelta) -> Option<Arc<Self>> {
        let mut rows = self.rows.to_vec();
        for socket in &changes.removed {
            let place = rows.iter().position(|row| row.id_socket == *socket)?;
            rows.swap_remove(place);
        }
        for row in changes.added {
            if rows.iter().any(|held| held.id_socket == row.id_socket) {
                return None;
            }
            rows.push(row);
        }
        Some(Self::shared(rows))
    }
}

/// The bucket of a socket, out of so many.
fn place(socket: &SocketId, count: usize) -> usize {
    if count == 1 {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    socket.hash(&mut hasher);
    (hasher.finish() % count as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::names::{NodeId, Room, UserId};
    use crate::roster::{CachedVersion, Registration, Roster, RowsUpdate};

    fn row(id: &str, user: &str) -> Row {
        Row { id_socket: SocketId::parse(id).unwrap(), id_user: UserId::parse(user).unwrap() }
    }

    fn pairs<'a>(rows: impl Iterator<Item = &'a Row>) -> BTreeSet<(String, String)> {
        rows.map(|row| (row.id_socket.to_string(), row.id_user.to_string())).collect()
    }

    fn json(rows: &Rows) -> Vec<serde_json::Value> {
        assert_eq!(rows.json().map(Bytes::len).sum::<usize>(), rows.json_bytes());
        let pieces: Vec<&[u8]> = rows.json().map(|piece| &**piece).collect();
        serde_json::from_slice(&[b"[", &*pieces.join(&b','), b"]"].concat()).unwrap()
    }

    #[test]
    fn the_json_is_that_of_the_rows() {
        let rows = Rows::new(1, vec![row("s1", "f\"oo"), row("s2", "bar")]);
        let user = |id, user| serde_json::json!({"id_socket": id, "id_user": user});
        assert_eq!(json(&rows), [user("s1", "f\"oo"), user("s2", "bar")]);
        assert_eq!(Rows::default().json().count(), 0);
    }

    #[test]
    fn one_change_of_many_rows_writes_few_of_them_again() {
        let rows = Rows::new(1, (0..10_000).map(|number| row(&format!("s{number}"), "foo")).collect());
        let changes =
            RowsDelta { since: 1, removed: vec![SocketId::parse("s17").unwrap()], added: vec![row("new", "bar")] };
        let changed = rows.with(2, changes).unwrap();
        let shared = rows.buckets.iter().zip(&changed.buckets).filter(|(one, other)| Arc::ptr_eq(one, other)).count();
        assert!(shared + 2 >= rows.buckets.len(), "{shared} of {}", rows.buckets.len());
        assert_eq!((changed.len(), json(&changed).len()), (10_000, 10_000));
    }

    /// A crowd, or one socket, comes or goes.
    #[derive(Debug, Clone)]
    enum Step {
        Come(BTreeSet<usize>),
        Go(BTreeSet<usize>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let few = || prop::collection::btree_set(0..400_usize, 1..6);
        let crowd = || (0..400_usize, 1..300_usize).prop_map(|(from, count)| (from..from + count).collect());
        prop_oneof![
            4 => few().prop_map(Step::Come),
            4 => few().prop_map(Step::Go),
            1 => crowd().prop_map(Step::Come),
            1 => crowd().prop_map(Step::Go),
        ]
    }

    proptest! {
        /// Whatever version of the room somebody holds: what it is told makes it the rows of now.
        #[test]
        fn what_is_held_and_what_changed_since_are_the_rows_of_now(
            crowd in 0..300_usize,
            steps in prop::collection::vec(step(), 1..10),
        ) {
            let (roster, room) = (Roster::new(NodeId::new_process()), Room::parse("a").unwrap());
            let mut presences: BTreeMap<usize, Registration> = BTreeMap::new();
            let mut versions: Vec<Rows> = Vec::new();
            let crowd = Step::Come((0..crowd).collect());
            for (turn, step) in [crowd].into_iter().chain(steps).enumerate() {
                match step {
                    Step::Come(numbers) => for number in numbers {
                        let Row { id_socket, id_user } = row(&format!("s{number}"), &format!("user-{turn}"));
                        presences.insert(number, roster.register(id_socket, id_user, std::slice::from_ref(&room)));
                    },
                    Step::Go(numbers) => presences.retain(|number, _| !numbers.contains(number)),
                }
                let now = roster.snapshot(&room, None);
                let RowsUpdate::Full(rows) = now.update else { panic!("nothing was known") };
                let all = pairs(rows.iter());
                for held in &versions {
                    let known = CachedVersion { version: held.version, accepts_delta: true };
                    let part = roster.snapshot(&room, Some(known));
                    let made = match part.update {
                        RowsUpdate::Full(rows) => Rows::new(part.version, rows),
                        RowsUpdate::Unchanged => {
                            prop_assert_eq!((held.version, &pairs(held.iter())), (now.version, &all));
                            continue;
                        }
                        RowsUpdate::Delta(changes) => {
                            prop_assert!(changes.removed.len() + changes.added.len() <= all.len() / 4, "hardly a saving");
                            held.with(part.version, changes).expect("they are changes of these")
                        }
                    };
                    prop_assert_eq!((made.version, made.len(), &pairs(made.iter())), (now.version, all.len(), &all));
                    let json: BTreeSet<_> = json(&made)
                        .iter()
                        .map(|user| (user["id_socket"].as_str().unwrap().into(), user["id_user"].as_str().unwrap().into()))
                        .collect();
                    prop_assert_eq!(&json, &all);
                    let known = CachedVersion { accepts_delta: false, ..known };
                    prop_assert!(matches!(roster.snapshot(&room, Some(known)).update, RowsUpdate::Full(_)), "it did not ask for less");
                }
                versions.push(Rows::new(now.version, rows));
            }
        }
    }
}
