//! The roll call: lists the sockets of a room by asking every node that may have some.
//!
//! [`RollCall::call`] is the entry point of REST. Concurrent callers share one execution ([`coalescer`]). An execution
//! ([`fan_out`]) copies the member table, reads the owners from the directory, decides which nodes to ask ([`mod@plan`]),
//! asks them in parallel, and joins their replies ([`answer`]). `plan`, [`silence`] and `answer` are pure. Owns no row: the
//! rosters of the nodes do, and a cached copy ([`cache`]) is used only if its owner confirms it during the same call.

pub mod answer;
pub mod cache;
pub mod coalescer;
pub mod document;
pub mod fan_out;
pub mod plan;
pub mod rows;
pub mod silence;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

use crate::directory::Directory;
use crate::membership::Membership;
use crate::mesh::peers::Peers;
use crate::names::Room;
use crate::roster::Roster;
use crate::telemetry::logging::request;
use crate::telemetry::metrics::roll_calls::RollCallMetrics;
use crate::telemetry::traces;
use crate::telemetry::traces::SharedSpan;
use answer::RollCallAnswer;
use cache::SnapshotCache;
use coalescer::Coalescer;
use fan_out::FanOut;

/// The deadline of a roll call whose caller names none, unless the node is configured otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_millis(500);
/// The longest deadline that a caller may ask for.
pub const MAX_DEADLINE: Duration = Duration::from_secs(5);
/// A caller's execution starts within its deadline divided by this, so that most of the deadline remains for asking.
const START_SHARE: u32 = 4;

/// Calls the roll of rooms. Cheap to clone.
#[derive(Clone)]
pub struct RollCall {
    fan_out: Arc<FanOut>,
    coalescer: Coalescer<(Room, Duration), SharedAnswer>,
}

/// The reason why a roll call has no answer, not even an incomplete one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RollCallError {
    #[error("this node has not read the directory since it started and knows no other node yet; try again in a moment")]
    NotJoined,
    #[error("this node is shutting down; try another node")]
    Stopping,
}

/// The result of one execution, for all callers that share it.
#[derive(Clone)]
struct SharedAnswer {
    answer: Arc<RollCallAnswer>,
    /// The span that the spans of the other callers link to; `None` if the execution is not traced.
    span: Option<SharedSpan>,
}

impl RollCall {
    /// `background` owns the tasks of executions, and the removals of dead owners, which outlive an execution.
    pub fn new(
        roster: Arc<Roster>,
        membership: Arc<Membership>,
        directory: Arc<dyn Directory>,
        peers: Peers,
        cache: SnapshotCache,
        background: TaskTracker,
        metrics: RollCallMetrics,
    ) -> Self {
        let coalescer = Coalescer::new(background.clone(), metrics.clone());
        let fan_out = FanOut { roster, membership, directory, peers, cache, background, metrics };
        Self { fan_out: Arc::new(fan_out), coalescer }
    }

    /// Lists the sockets of a room, within `deadline`. The answer names the nodes that did not reply.
    ///
    /// The execution starts after this call, so a socket that was acknowledged before the call is in a complete answer
    /// (read your join). Cancelling the returned future does not cancel an execution that other callers share.
    ///
    /// # Errors
    /// [`RollCallError`] when this node cannot ask any node.
    pub async fn call(&self, room: &Room, deadline: Duration) -> Result<Arc<RollCallAnswer>, RollCallError> {
        if !self.fan_out.membership.has_joined() {
            return Err(RollCallError::NotJoined);
        }
        let (fan_out, asked_room) = (Arc::clone(&self.fan_out), room.clone());
        // The deadline of the first caller is the earliest of all that share the execution.
        let until = Instant::now() + deadline;
        let (caller_span, request_id) = (Span::current(), request::current_id());
        let start = move || async move {
            let span = traces::roll_call_span(&caller_span, &asked_room);
            let shared_span = traces::shared_span(&span, &caller_span);
            // Log lines of a shared execution carry the id of the request that started it.
            let execution = request::with_id(request_id, fan_out.execute(&asked_room, until).instrument(span));
            SharedAnswer { answer: Arc::new(execution.await), span: shared_span }
        };
        let shared = self.coalescer.join_next(&(room.clone(), deadline), deadline / START_SHARE, start).await;
        let SharedAnswer { answer, span } = shared.ok_or(RollCallError::Stopping)?;
        traces::link_shared_span(span.as_ref());
        Ok(answer)
    }

    /// Counts an incomplete answer that was refused because its caller asked for `strict`.
    pub fn count_strict_refusal(&self) {
        self.fan_out.metrics.strict_refused();
    }
}
