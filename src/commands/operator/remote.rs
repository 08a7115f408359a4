//! The asking end of what is there for operators: a node's admin port, whatever listens there.
//!
//! Owns the questions, and the reading of their answers: bounded in time and size, and refused where they are none.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::commands::admin_client::Answer;
use crate::commands::args::Asked;
use crate::names::Room;
use crate::status::Status;

/// The longest that asking may take: a roll call of the longest deadline, and its answer.
const WITHIN: Duration = Duration::from_secs(8);
/// The most that is read: thousands of nodes, or half a million sockets.
const ANSWER_MOST: usize = 64 << 20;

/// What `/_/rooms/{room}` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Roll {
    pub room: String,
    pub complete: bool,
    pub as_of: String,
    pub took_ms: f64,
    pub source: String,
    pub nodes: Vec<Node>,
    pub unresolved: Option<u64>,
    pub users: Vec<User>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub id: String,
    pub name: String,
    pub vouched: u64,
    pub unchanged: bool,
    pub error: Option<String>,
    pub took_ms: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    pub id_socket: String,
    pub id_user: String,
    pub node: String,
}

/// How the cluster is, as the node with this admin port sees it.
///
/// # Errors
/// One line that says why there is no answer.
pub async fn status(asked: &Asked) -> Result<Status, String> {
    ask(asked, "/_/status").await
}

/// Who is in the room.
///
/// # Errors
/// One line that says why there is no answer.
pub async fn roll(asked: &Asked, room: &Room) -> Result<Roll, String> {
    let room = utf8_percent_encode(room.as_str(), NON_ALPHANUMERIC);
    ask(asked, &format!("/_/rooms/{room}")).await
}

async fn ask<T: DeserializeOwned>(asked: &Asked, path: &str) -> Result<T, String> {
    let client = asked.client().map_err(|error| format!("{error:#}"))?.bounded(WITHIN, ANSWER_MOST);
    let answer = client.get(path).await.and_then(Answer::json);
    answer.map_err(|why| format!("{}: {why}", client.address()))
}
