//! Request coalescing: concurrent callers with the same key share one execution.
//!
//! A caller never joins an execution that has already started, so its result contains every change before the call. Calls and
//! starts are numbered in one order, and a caller gets a result only if its execution has a later number. The next
//! execution starts when the running one ends or is a few milliseconds old, whichever is first; until then, callers join
//! it. So an execution that hangs delays the next one only by milliseconds. Each execution runs in a task of its own, and
//! ends even if no caller waits for it any more. Keys and results are generic; the only domain type is the metrics.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::telemetry::metrics::roll_calls::RollCallMetrics;

/// The age of the running execution at which the next one starts. Most end sooner.
const NEXT_START_DELAY: Duration = Duration::from_millis(3);

/// Executions by key. Cheap to clone.
pub struct Coalescer<K, T> {
    slots: Arc<Mutex<HashMap<K, Slot<T>>>>,
    order: EventOrder,
    tasks: TaskTracker,
    metrics: RollCallMetrics,
}

/// The order of all calls and all starts of executions. Cheap to clone.
#[derive(Clone, Default)]
struct EventOrder(Arc<AtomicU64>);

/// A position in the [`EventOrder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct EventNumber(u64);

/// The output of an execution, and the number of its start.
#[derive(Clone)]
struct NumberedOutput<T> {
    started: EventNumber,
    output: T,
}

/// Receives the result; `None` until then. The sender is dropped when the execution ends, also by a panic.
type ResultReceiver<T> = watch::Receiver<Option<NumberedOutput<T>>>;

impl EventOrder {
    fn next(&self) -> EventNumber {
        EventNumber(self.0.fetch_add(1, Ordering::SeqCst))
    }
}

/// The executions of one key.
struct Slot<T> {
    /// The execution that started last.
    running: RunningExecution<T>,
    /// The next execution, which callers join.
    next: Option<ResultReceiver<T>>,
}

#[derive(Clone)]
struct RunningExecution<T> {
    started: Instant,
    result: ResultReceiver<T>,
}

impl<K, T> Clone for Coalescer<K, T> {
    fn clone(&self) -> Self {
        let (slots, order) = (Arc::clone(&self.slots), self.order.clone());
        Self { slots, order, tasks: self.tasks.clone(), metrics: self.metrics.clone() }
    }
}

impl<K, T> Coalescer<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// `tasks` owns the executions.
    pub fn new(tasks: TaskTracker, metrics: RollCallMetrics) -> Self {
        Self { slots: Arc::default(), order: EventOrder::default(), tasks, metrics }
    }

    /// The result of an execution that starts after this call. If this caller is the first of that execution, `start` runs
    /// at most `max_delay` after this call; otherwise `start` is dropped.
    ///
    /// Returns `None` if the execution panicked, or the runtime shuts down. Whatever happens between two steps, also a stop of
    /// the whole process, the result of an execution with an earlier number than this call is not returned.
    pub async fn join_next<F: Future<Output = T> + Send + 'static>(
        &self,
        key: &K,
        max_delay: Duration,
        start: impl FnOnce() -> F + Send + 'static,
    ) -> Option<T> {
        let called = self.order.next();
        let mut result = self.join_or_schedule(key, max_delay, start);
        // An error means that the sender was dropped.
        let NumberedOutput { started, output } = result.wait_for(Option::is_some).await.ok()?.clone()?;
        debug_assert!(started > called, "a caller joined an execution that had started before");
        (started > called).then_some(output)
    }

    fn join_or_schedule<F: Future<Output = T> + Send + 'static>(
        &self,
        key: &K,
        max_delay: Duration,
        start: impl FnOnce() -> F + Send + 'static,
    ) -> ResultReceiver<T> {
        let latest_start = Instant::now() + max_delay;
        let mut slots = self.slots.lock();
        let (sender, result) = watch::channel(None);
        let previous = match slots.get_mut(key) {
            None => {
                let running = RunningExecution { started: Instant::now(), result: result.clone() };
                slots.insert(key.clone(), Slot { running, next: None });
                None
            }
            Some(Slot { next: Some(next), .. }) => {
                self.metrics.shared();
                return next.clone();
            }
            Some(slot) => {
                slot.next = Some(result.clone());
                Some(slot.running.clone())
            }
        };
        drop(slots);
        let guard = SlotGuard { coalescer: self.clone(), key: key.clone(), result: result.clone() };
        self.tasks.spawn(async move {
            if let Some(mut previous) = previous {
                // This execution starts in every case: the previous one has ended, panicked, or is too old to wait for.
                let start_at = latest_start.min(previous.started + NEXT_START_DELAY);
                let _ = timeout_at(start_at, previous.result.wait_for(Option::is_some)).await;
                guard.mark_started();
            }
            // The number is taken before anything is read, and no caller has joined since `mark_started`.
            let started = guard.coalescer.order.next();
            let output = start().await;
            sender.send_replace(Some(NumberedOutput { started, output }));
            drop(guard);
        });
        result
    }
}

/// Removes an execution from its slot when it is dropped: after the end, a panic or a cancellation.
struct SlotGuard<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    coalescer: Coalescer<K, T>,
    key: K,
    result: ResultReceiver<T>,
}

impl<K, T> SlotGuard<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// After this, no caller joins the execution: it may read state that is older than the call.
    fn mark_started(&self) {
        let running = RunningExecution { started: Instant::now(), result: self.result.clone() };
        self.coalescer.slots.lock().insert(self.key.clone(), Slot { running, next: None });
    }
}

impl<K, T> Drop for SlotGuard<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    fn drop(&mut self) {
        let mut slots = self.coalescer.slots.lock();
        let Some(slot) = slots.get_mut(&self.key) else { return };
        // No caller may join an execution that was dropped before it started.
        slot.next.take_if(|next| next.same_channel(&self.result));
        if slot.next.is_none() && slot.running.result.same_channel(&self.result) {
            slots.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::future::join_all;
    use tokio::task::yield_now;
    use tokio::time::{advance, sleep};

    use super::*;
    use crate::telemetry::metrics::Metrics;

    struct Fixture {
        coalescer: Coalescer<&'static str, u64>,
        truth: Arc<AtomicU64>,
        executions: Arc<AtomicU64>,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                coalescer: Coalescer::new(TaskTracker::new(), Metrics::default().roll_calls),
                truth: Arc::default(),
                executions: Arc::default(),
            }
        }

        /// Reads `truth` by an execution that ends after `takes`.
        async fn ask(&self, takes: Duration) -> Option<u64> {
            let (truth, executions) = (Arc::clone(&self.truth), Arc::clone(&self.executions));
            let start = move || async move {
                executions.fetch_add(1, Ordering::Relaxed);
                let read = truth.load(Ordering::Relaxed);
                sleep(takes).await;
                read
            };
            self.coalescer.join_next(&"room", Duration::from_secs(1), start).await
        }

        fn executions(&self) -> u64 {
            self.executions.load(Ordering::Relaxed)
        }

        fn is_idle(&self) -> bool {
            self.coalescer.slots.lock().is_empty()
        }
    }

    const SHORT: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn callers_share_the_execution_after_the_running_one() {
        let fixture = Fixture::new();
        let mut first = Box::pin(fixture.ask(SHORT));
        assert!(futures::poll!(first.as_mut()).is_pending());
        yield_now().await;
        assert_eq!(fixture.executions(), 1);
        fixture.truth.store(1, Ordering::Relaxed);
        let others = join_all((0..100).map(|_| fixture.ask(SHORT))).await;
        assert_eq!(first.await, Some(0), "the first caller asked before the change");
        assert!(others.iter().all(|answer| *answer == Some(1)), "the value at the time of the call: {others:?}");
        assert_eq!(fixture.executions(), 2);
        yield_now().await;
        assert!(fixture.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_execution_delays_the_next_one_only_briefly() {
        let fixture = Fixture::new();
        let mut hanging = Box::pin(fixture.ask(Duration::from_secs(60)));
        assert!(futures::poll!(hanging.as_mut()).is_pending());
        yield_now().await;
        let started = Instant::now();
        assert_eq!(fixture.ask(SHORT).await, Some(0));
        assert_eq!(started.elapsed(), NEXT_START_DELAY + SHORT);
        let mut hanging_too = Box::pin(fixture.ask(Duration::from_secs(60)));
        assert!(futures::poll!(hanging_too.as_mut()).is_pending());
        yield_now().await;
        let started = Instant::now();
        assert_eq!(fixture.coalescer.join_next(&"room", SHORT, || async { 7 }).await, Some(7));
        assert_eq!(started.elapsed(), SHORT, "a short deadline shortens the delay");
        drop(hanging_too);
        drop(hanging);
        advance(Duration::from_secs(60)).await;
        yield_now().await;
        assert!(fixture.is_idle(), "executions end although no caller waits for them");
    }

    #[tokio::test(start_paused = true)]
    async fn an_execution_that_panics_frees_its_slot() {
        let fixture = Fixture::new();
        let lost = fixture.coalescer.join_next(&"room", SHORT, || async { panic!("on purpose") });
        assert_eq!(lost.await, None::<u64>);
        assert!(fixture.is_idle());
        assert_eq!(fixture.ask(SHORT).await, Some(0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_caller_gets_a_value_older_than_its_call() {
        let fixture = Arc::new(Fixture::new());
        let callers = (0..16).map(|_| {
            let fixture = Arc::clone(&fixture);
            tokio::spawn(async move {
                for _ in 0..500 {
                    let before = fixture.truth.fetch_add(1, Ordering::SeqCst) + 1;
                    let value = fixture.ask(Duration::ZERO).await.unwrap();
                    assert!(value >= before, "got {value}, and it was {before} at the time of the call");
                }
            })
        });
        for caller in join_all(callers).await {
            caller.unwrap();
        }
        assert!(
            fixture.executions() < 16 * 500,
            "no caller shared an execution, so the test proves nothing: {}",
            fixture.executions()
        );
    }
}
