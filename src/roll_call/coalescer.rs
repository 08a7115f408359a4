//! Flights: callers who ask the same at the same time share one answer.
//!
//! Owns who flies with whom, and no question: what a flight does is given to it. A caller only ever joins a flight that
//! has not begun, so whatever was true when it asked is in its answer. The next flight departs when the one in the air
//! ends, or has been there for a few milliseconds, and until then it takes callers in; a flight that hangs holds up
//! nobody for longer. A flight ends by itself, whoever stopped waiting for it.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::telemetry::metrics::roll_calls::RollCallMetrics;

/// How old a flight gets before the next one departs. Most end sooner.
const DEPARTS_AFTER: Duration = Duration::from_millis(3);

/// Questions of one kind, by what they ask. Cheap to clone.
pub struct Flights<K, T> {
    routes: Arc<Mutex<HashMap<K, Route<T>>>>,
    tasks: TaskTracker,
    metrics: RollCallMetrics,
}

/// How to hear of a flight's end; `None` until it has landed. The sender is dropped with the flight.
type Landing<T> = watch::Receiver<Option<T>>;

struct Route<T> {
    /// The flight that departed last.
    in_air: Flight<T>,
    /// The next one, which takes callers in.
    boarding: Option<Landing<T>>,
}

#[derive(Clone)]
struct Flight<T> {
    departed: Instant,
    landing: Landing<T>,
}

impl<K, T> Clone for Flights<K, T> {
    fn clone(&self) -> Self {
        Self { routes: Arc::clone(&self.routes), tasks: self.tasks.clone(), metrics: self.metrics.clone() }
    }
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// `tasks` owns the flights.
    pub fn new(tasks: TaskTracker, metrics: RollCallMetrics) -> Self {
        Self { routes: Arc::default(), tasks, metrics }
    }

    /// The answer of a flight that begins after this call: the one that is boarding, or a new one. `fly` is called when
    /// that departs, if this caller is its first; that is `patience` after this call at the latest.
    ///
    /// Returns `None` when the flight came to nothing: it panicked, or the runtime is being shut down.
    pub async fn join<F: Future<Output = T> + Send + 'static>(
        &self,
        key: &K,
        patience: Duration,
        fly: impl FnOnce() -> F + Send + 'static,
    ) -> Option<T> {
        let mut landing = self.board(key, patience, fly);
        // An error is a sender that was dropped.
        landing.wait_for(Option::is_some).await.ok()?.clone()
    }

    fn board<F: Future<Output = T> + Send + 'static>(
        &self,
        key: &K,
        patience: Duration,
        fly: impl FnOnce() -> F + Send + 'static,
    ) -> Landing<T> {
        let at_the_latest = Instant::now() + patience;
        let mut routes = self.lock();
        let (landed, landing) = watch::channel(None);
        let before = match routes.get_mut(key) {
            None => {
                let in_air = Flight { departed: Instant::now(), landing: landing.clone() };
                routes.insert(key.clone(), Route { in_air, boarding: None });
                None
            }
            Some(Route { boarding: Some(boarding), .. }) => {
                self.metrics.shared();
                return boarding.clone();
            }
            Some(route) => {
                route.boarding = Some(landing.clone());
                Some(route.in_air.clone())
            }
        };
        drop(routes);
        let arrival = Arrival { flights: self.clone(), key: key.clone(), landing: landing.clone() };
        self.tasks.spawn(async move {
            if let Some(mut before) = before {
                // Landed, lost, or too late to be waited for: in any case the next one goes.
                let departs = at_the_latest.min(before.departed + DEPARTS_AFTER);
                let _ = timeout_at(departs, before.landing.wait_for(Option::is_some)).await;
                arrival.depart();
            }
            let answer = fly().await;
            landed.send_replace(Some(answer));
            drop(arrival);
        });
        landing
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Route<T>>> {
        self.routes.lock().expect("no code panics while it holds the flights")
    }
}

/// A flight's place on its route, which is given back however the flight ends.
struct Arrival<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    flights: Flights<K, T>,
    key: K,
    landing: Landing<T>,
}

impl<K, T> Arrival<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// From now on nobody boards: what follows may read what was true before a later caller asked.
    fn depart(&self) {
        let in_air = Flight { departed: Instant::now(), landing: self.landing.clone() };
        self.flights.lock().insert(self.key.clone(), Route { in_air, boarding: None });
    }
}

impl<K, T> Drop for Arrival<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    fn drop(&mut self) {
        let mut routes = self.flights.lock();
        let Some(route) = routes.get_mut(&self.key) else { return };
        // One that never departed, because it panicked or was dropped, must not take callers in any more.
        route.boarding.take_if(|boarding| boarding.same_channel(&self.landing));
        if route.boarding.is_none() && route.in_air.landing.same_channel(&self.landing) {
            routes.remove(&self.key);
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

    struct World {
        flights: Flights<&'static str, u64>,
        truth: Arc<AtomicU64>,
        flown: Arc<AtomicU64>,
    }

    impl World {
        fn new() -> Self {
            Self {
                flights: Flights::new(TaskTracker::new(), Metrics::default().roll_calls),
                truth: Arc::default(),
                flown: Arc::default(),
            }
        }

        /// A question that reads the truth as soon as it is asked, and takes `takes`.
        async fn ask(&self, takes: Duration) -> Option<u64> {
            let (truth, flown) = (Arc::clone(&self.truth), Arc::clone(&self.flown));
            let fly = move || async move {
                flown.fetch_add(1, Ordering::Relaxed);
                let read = truth.load(Ordering::Relaxed);
                sleep(takes).await;
                read
            };
            self.flights.join(&"room", Duration::from_secs(1), fly).await
        }

        fn flown(&self) -> u64 {
            self.flown.load(Ordering::Relaxed)
        }

        fn is_idle(&self) -> bool {
            self.flights.lock().is_empty()
        }
    }

    const SHORT: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn callers_share_the_flight_after_the_one_in_the_air() {
        let world = World::new();
        let mut first = Box::pin(world.ask(SHORT));
        assert!(futures::poll!(first.as_mut()).is_pending());
        yield_now().await;
        assert_eq!(world.flown(), 1);
        world.truth.store(1, Ordering::Relaxed);
        let others = join_all((0..100).map(|_| world.ask(SHORT))).await;
        assert_eq!(first.await, Some(0), "it asked before");
        assert!(others.iter().all(|answer| *answer == Some(1)), "what was true when they asked: {others:?}");
        assert_eq!(world.flown(), 2);
        yield_now().await;
        assert!(world.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flight_that_hangs_holds_up_the_next_one_for_a_moment_only() {
        let world = World::new();
        let mut hanging = Box::pin(world.ask(Duration::from_secs(60)));
        assert!(futures::poll!(hanging.as_mut()).is_pending());
        yield_now().await;
        let began = Instant::now();
        assert_eq!(world.ask(SHORT).await, Some(0));
        assert_eq!(began.elapsed(), DEPARTS_AFTER + SHORT);
        let mut hanging_too = Box::pin(world.ask(Duration::from_secs(60)));
        assert!(futures::poll!(hanging_too.as_mut()).is_pending());
        yield_now().await;
        let began = Instant::now();
        assert_eq!(world.flights.join(&"room", SHORT, || async { 7 }).await, Some(7));
        assert_eq!(began.elapsed(), SHORT, "who has little time waits less");
        drop(hanging_too);
        drop(hanging);
        advance(Duration::from_secs(60)).await;
        yield_now().await;
        assert!(world.is_idle(), "it ended although nobody waited for it any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flight_that_comes_to_nothing_leaves_the_route_free() {
        let world = World::new();
        let lost = world.flights.join(&"room", SHORT, || async { panic!("on purpose") });
        assert_eq!(lost.await, None::<u64>);
        assert!(world.is_idle());
        assert_eq!(world.ask(SHORT).await, Some(0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nobody_is_told_what_was_true_before_it_asked() {
        let world = Arc::new(World::new());
        let callers = (0..16).map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move {
                for _ in 0..500 {
                    let before = world.truth.fetch_add(1, Ordering::SeqCst) + 1;
                    let told = world.ask(Duration::ZERO).await.unwrap();
                    assert!(told >= before, "told {told}, and it was {before} when it asked");
                }
            })
        });
        for caller in join_all(callers).await {
            caller.unwrap();
        }
        assert!(world.flown() < 16 * 500, "a test in which nobody shares proves nothing: {}", world.flown());
    }
}
