//! The nodes that said goodbye, and the incarnations that a later one of their process has replaced.
//!
//! One number for each process is enough: with an incarnation, all earlier ones have ended. So a process that starts
//! incarnation after incarnation takes no memory. Pure; the tests are below.

use std::collections::HashMap;
use std::time::Duration;

use smol_str::SmolStr;

use crate::clock::BootInstant;
use crate::names::NodeId;

/// For each process the latest incarnation that has ended.
#[derive(Debug, Clone, Default)]
pub struct DepartedNodes(HashMap<SmolStr, Ended>);

#[derive(Debug, Clone, Copy)]
struct Ended {
    incarnation: u64,
    at: BootInstant,
}

impl DepartedNodes {
    pub fn contains(&self, node: &NodeId) -> bool {
        self.0.get(node.process()).is_some_and(|ended| node.incarnation() <= ended.incarnation)
    }

    /// Adds a node and the earlier incarnations of its process.
    pub fn insert(&mut self, node: &NodeId, at: BootInstant) {
        let ended = Ended { incarnation: node.incarnation(), at };
        let present = self.0.entry(node.process().into()).or_insert(ended);
        if present.incarnation <= ended.incarnation {
            *present = ended;
        }
    }

    /// Forgets the processes whose last incarnation ended more than `age` before `now`.
    pub fn forget(&mut self, age: Duration, now: BootInstant) {
        self.0.retain(|_, ended| now.since(ended.at) < age);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_incarnations_have_departed_too() {
        let (first, now) = (NodeId::new_process(), BootInstant::now());
        let second = first.next_incarnation();
        let third = second.next_incarnation();
        let mut departed = DepartedNodes::default();
        departed.insert(&second, now);
        departed.insert(&first, now);
        assert_eq!([&first, &second, &third].map(|node| departed.contains(node)), [true, true, false]);
        assert!(!departed.contains(&NodeId::new_process()));
        departed.forget(Duration::from_secs(5), now.after(Duration::from_secs(4)));
        assert!(departed.contains(&first));
        departed.forget(Duration::from_secs(5), now.after(Duration::from_secs(5)));
        assert!(!departed.contains(&second));
    }
}
