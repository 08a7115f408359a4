//! The operators' requests to the admin port of a node: its status, and the roll call of a room.
//!
//! Owns the paths, and the bounds of an answer in time and size. Another program may listen on that port.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;

use crate::commands::admin_client::AdminAnswer;
use crate::commands::args::AdminTarget;
use crate::names::Room;
use crate::roll_call::document::RollCallDocument;
use crate::status::ClusterStatus;

/// The timeout: the longest deadline of a roll call, and time for its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// Enough for thousands of nodes, or for half a million sockets.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// The state of the cluster, as the node with this admin port sees it.
///
/// # Errors
/// One line that names the node and the cause.
pub async fn status(target: &AdminTarget) -> Result<ClusterStatus, String> {
    request(target, "/_/status").await
}

/// The roll call of a room.
///
/// # Errors
/// One line that names the node and the cause.
pub async fn roll(target: &AdminTarget, room: &Room) -> Result<RollCallDocument<'static>, String> {
    let room = utf8_percent_encode(room.as_str(), NON_ALPHANUMERIC);
    request(target, &format!("/_/rooms/{room}")).await
}

async fn request<T: DeserializeOwned>(target: &AdminTarget, path: &str) -> Result<T, String> {
    let client = target.client().map_err(|error| format!("{error:#}"))?.bounded(REQUEST_TIMEOUT, MAX_ANSWER_BYTES);
    let answer = client.get(path).await.and_then(AdminAnswer::json);
    answer.map_err(|error| format!("{}: {error}", client.address()))
}
