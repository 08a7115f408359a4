//! What is measured of the directory: every call to it, from outside.
//!
//! Owns a [`Directory`] that stands around another one and changes nothing. A call whose caller stopped waiting is
//! counted as abandoned: a roll call gives the directory a third of its deadline.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use prometheus::{Histogram, IntCounter, IntGauge};
use tokio::time::Instant;

use crate::directory::{Directory, Error, LeaseAndCount, LeaseRenewal, NodeEntry, NodeListing, Result, RoomOwners};
use crate::index::{Epoch, SocketWrite};
use crate::names::{NodeId, Room};
use crate::telemetry::metrics::Definitions;

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Enter,
    Renew,
    Nodes,
    Claim,
    Release,
    Owners,
    Account,
    Repair,
    List,
    Forget,
}

/// How a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Unanswered,
    Refused,
    Foreign,
    /// Its caller stopped waiting.
    Abandoned,
}

const KINDS: [(Kind, &str); 10] = [
    (Kind::Enter, "enter"),
    (Kind::Renew, "renew"),
    (Kind::Nodes, "nodes"),
    (Kind::Claim, "claim"),
    (Kind::Release, "release"),
    (Kind::Owners, "owners"),
    (Kind::Account, "account"),
    (Kind::Repair, "repair"),
    (Kind::List, "list"),
    (Kind::Forget, "forget"),
];

const FAILURES: [(Failure, &str); 4] = [
    (Failure::Unanswered, "unanswered"),
    (Failure::Refused, "refused"),
    (Failure::Foreign, "foreign"),
    (Failure::Abandoned, "abandoned"),
];

/// Cheap to clone.
#[derive(Clone)]
pub struct Calls(Arc<Counts>);

struct Counts {
    operations: [Operation; KINDS.len()],
    up: IntGauge,
    index_changes: IntCounter,
    index: Mutex<Option<Epoch>>,
}

struct Operation {
    duration: Histogram,
    failures: [IntCounter; FAILURES.len()],
}

/// One call under way.
struct Call<'a> {
    operation: &'a Operation,
    began: Instant,
    ended: bool,
}

/// A directory whose calls are measured.
pub struct Measured {
    inner: Arc<dyn Directory>,
    calls: Calls,
}

impl Calls {
    pub(crate) fn define(definitions: &Definitions) -> Self {
        let durations = definitions.histograms(
            "rollcall_directory_call_duration_seconds",
            "How long calls to the directory took, failed ones included.",
            &["operation"],
        );
        let failures = definitions.counters(
            "rollcall_directory_errors_total",
            "Calls to the directory that failed: without an answer (unanswered), refused by it, refused because a key \
             is another program's (foreign), or given up by their caller (abandoned).",
            &["operation", "kind"],
        );
        let operations = KINDS.map(|(_, operation)| Operation {
            duration: durations.with_label_values(&[operation]),
            failures: FAILURES.map(|(_, kind)| failures.with_label_values(&[operation, kind])),
        });
        let up =
            definitions.gauge("rollcall_directory_up", "1 if the last call to the directory was answered, else 0.");
        let index_changes = definitions.counter(
            "rollcall_directory_index_changes_total",
            "How often the index turned out to be another one: flushed, restarted, rolled back or failed over.",
        );
        Self(Arc::new(Counts { operations, up, index_changes, index: Mutex::default() }))
    }

    /// The directory, with its calls measured.
    pub fn measure(&self, inner: Arc<dyn Directory>) -> Arc<dyn Directory> {
        Arc::new(Measured { inner, calls: self.clone() })
    }
}

impl Counts {
    /// An answer came out of this index.
    fn index_is(&self, now: &Epoch) {
        let mut index = self.index.lock().expect("no code panics while it holds the index");
        if index.as_ref() == Some(now) {
            return;
        }
        if index.replace(now.clone()).is_some() {
            self.index_changes.inc();
        }
    }
}

impl Measured {
    async fn call<T>(&self, kind: Kind, work: impl Future<Output = Result<T>>) -> Result<T> {
        let counts = &self.calls.0;
        let mut call = Call { operation: &counts.operations[kind as usize], began: Instant::now(), ended: false };
        let answer = work.await;
        call.ended = true;
        let failure = match &answer {
            Ok(_) => None,
            Err(Error::Unanswered(_)) => Some(Failure::Unanswered),
            Err(Error::Refused(_)) => Some(Failure::Refused),
            Err(Error::Foreign(_)) => Some(Failure::Foreign),
        };
        if let Some(failure) = failure {
            call.operation.failures[failure as usize].inc();
        }
        counts.up.set(i64::from(failure != Some(Failure::Unanswered)));
        answer
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.operation.duration.observe(self.began.elapsed().as_secs_f64());
        if !self.ended {
            self.operation.failures[Failure::Abandoned as usize].inc();
        }
    }
}

#[async_trait]
impl Directory for Measured {
    async fn maintain(&self) {
        self.inner.maintain().await;
    }

    async fn register(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<Option<Epoch>> {
        let entered = self.call(Kind::Enter, self.inner.register(node, entry, lease)).await?;
        entered.iter().for_each(|index| self.calls.0.index_is(index));
        Ok(entered)
    }

    async fn renew(&self, node: &NodeId, entry: &NodeEntry, lease: Duration) -> Result<LeaseRenewal> {
        let renewal = self.call(Kind::Renew, self.inner.renew(node, entry, lease)).await?;
        if let LeaseRenewal::Renewed(index) = &renewal {
            self.calls.0.index_is(index);
        }
        Ok(renewal)
    }

    async fn nodes(&self) -> Result<NodeListing> {
        self.call(Kind::Nodes, self.inner.nodes()).await
    }

    async fn add_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<Option<Epoch>> {
        self.call(Kind::Claim, self.inner.add_owner(node, rooms)).await
    }

    async fn remove_owner(&self, node: &NodeId, rooms: &[Room]) -> Result<()> {
        self.call(Kind::Release, self.inner.remove_owner(node, rooms)).await
    }

    async fn owners(&self, room: &Room) -> Result<RoomOwners> {
        self.call(Kind::Owners, self.inner.owners(room)).await
    }

    async fn leases_and_counts(&self, room: &Room, nodes: &[NodeId]) -> Result<Vec<LeaseAndCount>> {
        self.call(Kind::Account, self.inner.leases_and_counts(room, nodes)).await
    }

    async fn remove_dead_owners(&self, room: &Room, nodes: &[NodeId]) -> Result<()> {
        self.call(Kind::Repair, self.inner.remove_dead_owners(room, nodes)).await
    }

    async fn write_sockets(&self, node: &NodeId, changes: &[SocketWrite]) -> Result<()> {
        self.call(Kind::List, self.inner.write_sockets(node, changes)).await
    }

    async fn deregister(&self, node: &NodeId) -> Result<()> {
        self.call(Kind::Forget, self.inner.deregister(node)).await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::directory::faulty::{self, Fault, Faulty};
    use crate::directory::memory::Memory;
    use crate::names::NodeName;
    use crate::telemetry::metrics::Metrics;

    #[tokio::test]
    async fn every_end_of_a_call_is_counted_and_so_is_another_index() {
        let calls = Metrics::default().calls;
        let memory = Memory::new();
        let faulty = Faulty::new(Arc::clone(&memory) as Arc<dyn Directory>);
        let directory = calls.measure(Arc::clone(&faulty) as Arc<dyn Directory>);
        let (room, node) = (Room::parse("a").unwrap(), NodeId::new_process());
        let failures = |kind: Kind| calls.0.operations[kind as usize].failures.each_ref().map(IntCounter::get);

        directory.owners(&room).await.unwrap();
        assert_eq!((failures(Kind::Owners), calls.0.up.get()), ([0; 4], 1));
        faulty.will(faulty::Call::Owners, Fault::FailBefore);
        directory.owners(&room).await.unwrap_err();
        assert_eq!((failures(Kind::Owners), calls.0.up.get()), ([1, 0, 0, 0], 0));
        faulty.will(faulty::Call::Claim, Fault::Refuse);
        directory.add_owner(&node, std::slice::from_ref(&room)).await.unwrap_err();
        assert_eq!((failures(Kind::Claim), calls.0.up.get()), ([0, 1, 0, 0], 1), "who refuses is there");
        let (_go, held) = tokio::sync::oneshot::channel();
        faulty.will(faulty::Call::Owners, Fault::Hold(held));
        assert!(directory.owners(&room).now_or_never().is_none());
        assert_eq!(failures(Kind::Owners), [1, 0, 0, 1], "its caller gave it up");
        assert_eq!(calls.0.operations[Kind::Owners as usize].duration.get_sample_count(), 3);

        for (place, (kind, _)) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
        for (place, (failure, _)) in FAILURES.into_iter().enumerate() {
            assert_eq!(failure as usize, place);
        }
        let entry = NodeEntry {
            name: NodeName::from_any("node"),
            mesh: "127.0.0.1:1".into(),
            since: "now".into(),
            draining: false,
        };
        let lease = Duration::from_secs(5);
        directory.register(&node, &entry, lease).await.unwrap();
        directory.renew(&node, &entry, lease).await.unwrap();
        assert_eq!(calls.0.index_changes.get(), 0);
        memory.flush();
        directory.register(&node, &entry, lease).await.unwrap();
        assert_eq!(calls.0.index_changes.get(), 1);
    }
}
