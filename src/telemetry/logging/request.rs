//! Which request a line of the log is about.
//!
//! Owns the id of the request that the running task works for. It is no span: one that is entered whenever a request goes
//! on takes 2 % of a roll call (room of 10, four nodes on two cores, 140 alternating pairs of 0.4 s).

use std::future::Future;

use axum::http::HeaderValue;
use tokio::task_local;

task_local! {
    static ID: Option<HeaderValue>;
}

/// What is logged while the future goes on is about this request, or about none. Tasks that it spawns are told by
/// [`current`].
pub fn about<F: Future>(id: Option<HeaderValue>, work: F) -> impl Future<Output = F::Output> {
    ID.scope(id, work)
}

/// What is logged by the closure is about this request.
pub fn within<T>(id: HeaderValue, work: impl FnOnce() -> T) -> T {
    ID.sync_scope(Some(id), work)
}

/// The request that this task works for, if it is one's.
pub fn current() -> Option<HeaderValue> {
    ID.try_with(Option::clone).ok().flatten()
}
