//! Waiting for a condition, with a bound.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// Long enough for a busy machine: a test that waits for longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How often a condition is checked.
pub const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Waits until the condition is true. Panics with its name after [`PATIENCE`].
pub async fn until<F: Future<Output = bool>>(what: &str, mut is: impl FnMut() -> F) {
    let began = Instant::now();
    while !is().await {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(POLL_INTERVAL).await;
    }
}

/// Waits until the condition is true, and panics when that takes longer than `bound`. Returns how long it took.
pub async fn within<F: Future<Output = bool>>(bound: Duration, what: &str, mut is: impl FnMut() -> F) -> Duration {
    let began = Instant::now();
    while !is().await {
        assert!(began.elapsed() < bound, "not within {bound:?}: {what}");
        sleep(POLL_INTERVAL).await;
    }
    began.elapsed()
}
