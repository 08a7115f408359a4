//! The rows of one node at one version, with their JSON, serialized once and shared by all answers.
//!
//! Owns a layout in which the cost of a change does not depend on the size of the room. Rows are in buckets by the hash of
//! the socket id, and each bucket has its JSON. Two versions share every bucket in which no socket changed. The order of the
//! rows has no meaning.
//!
//! [`JsonArrayChunks`] joins the JSON of the buckets one chunk at a time, so that a large array is never copied as a whole. The
//! HTTP body limits the rate at which it requests chunks.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;

use crate::names::SocketId;
use crate::roll_call::document::SocketDocument;
use crate::roster::{Row, RowsDelta};

/// The average number of rows in a new bucket. One changed row costs the serialization of one bucket.
const BUCKET_ROWS: usize = 64;
/// Rows are distributed to new buckets when their number differs from [`BUCKET_ROWS`] per bucket by more than this factor.
const MAX_FILL_RATIO: usize = 2;
/// The longest string that `SmolStr` stores inline, in bytes.
const MAX_INLINE_BYTES: usize = 23;

/// Rows in buckets. See the [module](self).
#[derive(Debug, Default)]
pub struct SerializedRows {
    pub version: u64,
    len: usize,
    buckets: Vec<Arc<RowBucket>>,
}

#[derive(Debug)]
struct RowBucket {
    rows: Box<[Row]>,
    /// The rows as JSON objects, separated by commas.
    json: Bytes,
    /// The approximate memory that the bucket takes.
    bytes: usize,
}

impl SerializedRows {
    pub fn new(version: u64, rows: Vec<Row>) -> Self {
        let len = rows.len();
        let count = len.div_ceil(BUCKET_ROWS);
        let buckets: Vec<_> = if count > 1 {
            // Few buckets get more than 1.5 times the average.
            let mut by_bucket: Vec<_> = (0..count).map(|_| Vec::with_capacity(BUCKET_ROWS * 3 / 2)).collect();
            for row in rows {
                by_bucket[bucket_of(&row.id_socket, count)].push(row);
            }
            by_bucket.into_iter().map(RowBucket::serialize).collect()
        } else {
            Some(rows).filter(|rows| !rows.is_empty()).map(RowBucket::serialize).into_iter().collect()
        };
        Self { version, len, buckets }
    }

    /// These rows with the changes applied, at `version`. `None` if the changes do not fit these rows.
    pub fn with(&self, version: u64, changes: RowsDelta) -> Option<Self> {
        let count = self.buckets.len();
        if changes.since != self.version || count == 0 {
            return None;
        }
        let len = (self.len + changes.added.len()).checked_sub(changes.removed.len())?;
        let mut by_bucket: IndexMap<usize, RowsDelta> = IndexMap::new();
        for socket in changes.removed {
            by_bucket.entry(bucket_of(&socket, count)).or_default().removed.push(socket);
        }
        for row in changes.added {
            by_bucket.entry(bucket_of(&row.id_socket, count)).or_default().added.push(row);
        }
        let mut buckets = self.buckets.clone();
        for (index, changes) in by_bucket {
            buckets[index] = buckets[index].with(changes)?;
        }
        let expected = count * BUCKET_ROWS;
        let changed = Self { version, len, buckets };
        let is_balanced = len <= expected * MAX_FILL_RATIO && (count == 1 || expected <= len * MAX_FILL_RATIO);
        Some(if is_balanced { changed } else { Self::new(version, changed.iter().cloned().collect()) })
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

    /// The rows of one bucket. `None` after the last bucket.
    pub fn bucket(&self, index: usize) -> Option<&[Row]> {
        self.buckets.get(index).map(|bucket| &*bucket.rows)
    }

    /// All rows as JSON objects, in non-empty runs. A run has commas between its objects, but none at its ends.
    pub fn json(&self) -> impl Iterator<Item = &Bytes> {
        self.buckets.iter().map(|bucket| &bucket.json).filter(|json| !json.is_empty())
    }

    /// The approximate memory that the rows take.
    pub fn bytes(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.bytes as u64).sum()
    }
}

impl RowBucket {
    fn serialize(rows: Vec<Row>) -> Arc<Self> {
        // 64 bytes per row are enough for an Engine.IO id and a short user id.
        let mut json = Vec::with_capacity(rows.len() * 64);
        for row in &rows {
            if !json.is_empty() {
                json.push(b',');
            }
            let document =
                SocketDocument { id_socket: row.id_socket.as_str().into(), id_user: row.id_user.as_str().into() };
            serde_json::to_writer(&mut json, &document).expect("two strings can be written to memory");
        }
        // A long user id is on the heap; a short one is part of its row.
        let on_heap = rows.iter().map(|row| row.id_user.as_str().len()).filter(|length| *length > MAX_INLINE_BYTES);
        let bytes = size_of::<Self>() + size_of_val(&*rows) + json.len() + on_heap.sum::<usize>();
        // A boxed slice has no spare capacity.
        Arc::new(Self { rows: rows.into(), json: json.into_boxed_slice().into(), bytes })
    }

    fn with(&self, changes: RowsDelta) -> Option<Arc<Self>> {
        let mut rows = self.rows.to_vec();
        for socket in &changes.removed {
            let index = rows.iter().position(|row| row.id_socket == *socket)?;
            rows.swap_remove(index);
        }
        for row in changes.added {
            if rows.iter().any(|other| other.id_socket == row.id_socket) {
                return None;
            }
            rows.push(row);
        }
        Some(Self::serialize(rows))
    }
}

/// The bucket of a socket, out of `count`.
fn bucket_of(socket: &SocketId, count: usize) -> usize {
    if count == 1 {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    socket.hash(&mut hasher);
    (hasher.finish() % count as u64) as usize
}

/// Elements that are joined on demand, between a prefix that ends with `[` and a suffix that begins with `]`.
pub struct JsonArrayChunks<I: Iterator<Item = Bytes>> {
    prefix: Option<Bytes>,
    /// Each run has one or more elements, separated by commas.
    runs: Peekable<I>,
    suffix: Option<Bytes>,
    wrote_elements: bool,
}

impl<I: Iterator<Item = Bytes>> JsonArrayChunks<I> {
    /// `runs`: each has one or more serialized elements, separated by commas. No run may be empty.
    pub fn new(prefix: impl Into<Bytes>, runs: I, suffix: impl Into<Bytes>) -> Self {
        Self { prefix: Some(prefix.into()), runs: runs.peekable(), suffix: Some(suffix.into()), wrote_elements: false }
    }

    /// The next chunk: about `size` bytes, or one run if that is longer. `None` after the last.
    pub fn next_chunk(&mut self, size: usize) -> Option<Bytes> {
        self.suffix.as_ref()?;
        let mut chunk = Vec::with_capacity(size);
        chunk.extend_from_slice(&self.prefix.take().unwrap_or_default());
        let mut has_run = false;
        while let Some(run) = self.runs.next_if(|run| !has_run || chunk.len() + run.len() < size) {
            if self.wrote_elements {
                chunk.push(b',');
            }
            chunk.extend_from_slice(&run);
            (has_run, self.wrote_elements) = (true, true);
        }
        if self.runs.peek().is_none() {
            chunk.extend_from_slice(&self.suffix.take().unwrap_or_default());
        }
        Some(chunk.into())
    }
}

/// The length of the array `[…]` of these runs, in bytes.
pub fn array_length(runs: impl Iterator<Item = usize>) -> usize {
    let (count, bytes) = runs.fold((0_usize, 0), |(count, bytes), run| (count + 1, bytes + run));
    bytes + count.saturating_sub(1) + "[]".len()
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

    fn json(rows: &SerializedRows) -> Vec<serde_json::Value> {
        let pieces: Vec<&[u8]> = rows.json().map(|piece| &**piece).collect();
        serde_json::from_slice(&[b"[", &*pieces.join(&b','), b"]"].concat()).unwrap()
    }

    #[test]
    fn the_json_has_all_rows() {
        let rows = SerializedRows::new(1, vec![row("s1", "f\"oo"), row("s2", "bar")]);
        let user = |id, user| serde_json::json!({"id_socket": id, "id_user": user});
        assert_eq!(json(&rows), [user("s1", "f\"oo"), user("s2", "bar")]);
        assert_eq!(SerializedRows::default().json().count(), 0);
    }

    #[test]
    fn one_change_serializes_only_one_bucket_again() {
        let rows = SerializedRows::new(1, (0..10_000).map(|number| row(&format!("s{number}"), "foo")).collect());
        let changes =
            RowsDelta { since: 1, removed: vec![SocketId::parse("s17").unwrap()], added: vec![row("new", "bar")] };
        let changed = rows.with(2, changes).unwrap();
        let shared = rows.buckets.iter().zip(&changed.buckets).filter(|(one, other)| Arc::ptr_eq(one, other)).count();
        assert!(shared + 2 >= rows.buckets.len(), "{shared} of {}", rows.buckets.len());
        assert_eq!((changed.len(), json(&changed).len()), (10_000, 10_000));
    }

    /// Sockets join or leave, a few or many.
    #[derive(Debug, Clone)]
    enum Step {
        Join(BTreeSet<usize>),
        Leave(BTreeSet<usize>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let few = || prop::collection::btree_set(0..400_usize, 1..6);
        let crowd = || (0..400_usize, 1..300_usize).prop_map(|(from, count)| (from..from + count).collect());
        prop_oneof![
            4 => few().prop_map(Step::Join),
            4 => few().prop_map(Step::Leave),
            1 => crowd().prop_map(Step::Join),
            1 => crowd().prop_map(Step::Leave),
        ]
    }

    proptest! {
        /// An update from any earlier version results in the current rows.
        #[test]
        fn cached_rows_with_changes_are_the_current_rows(
            crowd in 0..300_usize,
            steps in prop::collection::vec(step(), 1..10),
        ) {
            let (roster, room) = (Roster::new(NodeId::new_process()), Room::parse("a").unwrap());
            let mut registrations: BTreeMap<usize, Registration> = BTreeMap::new();
            let mut versions: Vec<SerializedRows> = Vec::new();
            let crowd = Step::Join((0..crowd).collect());
            for (turn, step) in [crowd].into_iter().chain(steps).enumerate() {
                match step {
                    Step::Join(numbers) => for number in numbers {
                        let Row { id_socket, id_user } = row(&format!("s{number}"), &format!("user-{turn}"));
                        registrations.insert(number, roster.register(id_socket, id_user, std::slice::from_ref(&room)));
                    },
                    Step::Leave(numbers) => registrations.retain(|number, _| !numbers.contains(number)),
                }
                let now = roster.snapshot(&room, None);
                let RowsUpdate::Full(rows) = now.update else { panic!("no version was known") };
                let all = pairs(rows.iter());
                for cached in &versions {
                    let known = CachedVersion { version: cached.version, accepts_delta: true };
                    let snapshot = roster.snapshot(&room, Some(known));
                    let updated = match snapshot.update {
                        RowsUpdate::Full(rows) => SerializedRows::new(snapshot.version, rows),
                        RowsUpdate::Unchanged => {
                            prop_assert_eq!((cached.version, &pairs(cached.iter())), (now.version, &all));
                            continue;
                        }
                        RowsUpdate::Delta(changes) => {
                            prop_assert!(changes.removed.len() + changes.added.len() <= all.len() / 4, "the delta saves little");
                            cached.with(snapshot.version, changes).expect("the changes fit these rows")
                        }
                    };
                    prop_assert_eq!((updated.version, updated.len(), &pairs(updated.iter())), (now.version, all.len(), &all));
                    let json: BTreeSet<_> = json(&updated)
                        .iter()
                        .map(|user| (user["id_socket"].as_str().unwrap().into(), user["id_user"].as_str().unwrap().into()))
                        .collect();
                    prop_assert_eq!(&json, &all);
                    let known = CachedVersion { accepts_delta: false, ..known };
                    prop_assert!(matches!(roster.snapshot(&room, Some(known)).update, RowsUpdate::Full(_)), "the reader accepts no delta");
                }
                versions.push(SerializedRows::new(now.version, rows));
            }
        }
    }

    #[test]
    fn the_chunks_make_the_array_at_every_chunk_size() {
        let run = |text: &'static str| Bytes::from_static(text.as_bytes());
        for (runs, whole) in
            [(vec![], "[]"), (vec![run("1")], "[1]"), (vec![run("1,2"), run("34"), run("5")], "[1,2,34,5]")]
        {
            assert_eq!(array_length(runs.iter().map(Bytes::len)), whole.len());
            for size in [0, 1, 2, 3, 4, 5, 6, 9, 10, 1_000] {
                let mut chunks = JsonArrayChunks::new("[", runs.clone().into_iter(), "]");
                let mut joined = Vec::new();
                while let Some(chunk) = chunks.next_chunk(size) {
                    let longest = runs.iter().map(Bytes::len).max().unwrap_or_default() + "[]".len();
                    assert!((1..=longest.max(size + 1)).contains(&chunk.len()), "{chunk:?} of {size}");
                    joined.extend_from_slice(&chunk);
                }
                assert_eq!(String::from_utf8(joined).unwrap(), whole);
            }
        }
    }
}
