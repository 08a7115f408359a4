//! A semaphore for each key: at most N permits per address, or per user.
//!
//! Owns the counting. A permit is released when it is dropped, so no exit leaves a count behind. A key without permits
//! takes no memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts permits by key. Clones share the counts.
pub struct KeyedSemaphore<K>(Arc<Mutex<HashMap<K, u32>>>);

/// A permit of one key, released on drop.
pub struct KeyedPermit<K: Hash + Eq> {
    key: K,
    semaphore: KeyedSemaphore<K>,
}

impl<K: Hash + Eq + Clone> KeyedSemaphore<K> {
    /// `None` if the key has `max` permits already.
    pub fn try_acquire(&self, key: &K, max: u32) -> Option<KeyedPermit<K>> {
        let mut counts = self.0.lock();
        match counts.entry(key.clone()) {
            Entry::Occupied(count) if *count.get() >= max => return None,
            Entry::Occupied(mut count) => *count.get_mut() += 1,
            Entry::Vacant(_) if max == 0 => return None,
            Entry::Vacant(vacant) => {
                vacant.insert(1);
            }
        }
        drop(counts);
        Some(KeyedPermit { key: key.clone(), semaphore: self.clone() })
    }
}

impl<K> Clone for KeyedSemaphore<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Default for KeyedSemaphore<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Hash + Eq> Drop for KeyedPermit<K> {
    fn drop(&mut self) {
        let mut counts = self.semaphore.0.lock();
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
    fn a_released_permit_is_available_again() {
        let semaphore = KeyedSemaphore::default();
        let permits: Vec<_> = (0..3).map(|_| semaphore.try_acquire(&"a", 3).expect("below the limit")).collect();
        assert!(semaphore.try_acquire(&"a", 3).is_none());
        assert!(semaphore.try_acquire(&"b", 3).is_some(), "other keys have their own permits");
        drop(permits);
        assert!(semaphore.0.lock().is_empty(), "released keys take no memory");
        assert!(semaphore.try_acquire(&"a", 0).is_none());
        assert!(semaphore.0.lock().is_empty(), "refused keys take no memory");
    }

    #[test]
    fn the_limit_holds_across_threads() {
        let semaphore = KeyedSemaphore::default();
        let permits: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..50).filter_map(|_| semaphore.try_acquire(&0, 100)).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(permits.len(), 100);
        drop(permits);
        assert!(semaphore.0.lock().is_empty());
    }
}
