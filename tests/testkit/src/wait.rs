//! Functions that wait for a condition, with a timeout.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// The maximum wait for a condition. It is long, because a loaded machine is slow.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The interval between two checks of a condition.
pub const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Waits until the condition is true. Panics with its name after [`PATIENCE`].
pub async fn until<F: Future<Output = bool>>(condition: &str, mut holds: impl FnMut() -> F) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {condition}");
        sleep(POLL_INTERVAL).await;
    }
}

/// Waits until the condition is true, and returns the duration. Panics when that exceeds `bound`.
pub async fn within<F>(bound: Duration, condition: &str, mut holds: impl FnMut() -> F) -> Duration
where
    F: Future<Output = bool>,
{
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < bound, "not within {bound:?}: {condition}");
        sleep(POLL_INTERVAL).await;
    }
    began.elapsed()
}
