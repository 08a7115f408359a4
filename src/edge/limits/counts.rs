//! How many there are of each kind, with a limit.
//!
//! Owns the counting: whoever is let in holds a [`Place`], and gives it back by dropping it, whatever way it went. A kind
//! of which there are none takes no memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};

/// Counts by key. Cheap to clone.
pub struct Counts<K>(Arc<Mutex<HashMap<K, u32>>>);

/// One of those that are counted.
pub struct Place<K: Hash + Eq> {
    key: K,
    counts: Counts<K>,
}

impl<K: Hash + Eq + Clone> Counts<K> {
    /// One more of this kind; `None` when there are `most` already.
    pub fn take(&self, key: &K, most: u32) -> Option<Place<K>> {
        let mut counts = self.lock();
        match counts.entry(key.clone()) {
            Entry::Occupied(taken) if *taken.get() >= most => return None,
            Entry::Occupied(mut taken) => *taken.get_mut() += 1,
            Entry::Vacant(_) if most == 0 => return None,
            Entry::Vacant(free) => {
                free.insert(1);
            }
        }
        drop(counts);
        Some(Place { key: key.clone(), counts: self.clone() })
    }
}

impl<K> Counts<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, u32>> {
        self.0.lock().expect("no code panics while it counts")
    }
}

impl<K> Clone for Counts<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        let Some(count) = counts.get_mut(&self.key) else { return };
        *count -= 1;
        if *count == 0 {
            counts.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn so_many_get_a_place_and_the_next_when_one_was_given_back() {
        let counts = Counts::default();
        let places: Vec<_> = (0..3).map(|_| counts.take(&"a", 3).expect("below the limit")).collect();
        assert!(counts.take(&"a", 3).is_none());
        assert!(counts.take(&"b", 3).is_some(), "others are not concerned");
        drop(places);
        assert!(counts.lock().is_empty(), "nothing is kept");
        assert!(counts.take(&"a", 0).is_none());
        assert!(counts.lock().is_empty(), "nor of who was turned away");
    }

    #[test]
    fn the_limit_holds_among_threads() {
        let counts = Counts::default();
        let taken: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..50).filter_map(|_| counts.take(&0, 100)).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(taken.len(), 100);
        drop(taken);
        assert!(counts.lock().is_empty());
    }
}
