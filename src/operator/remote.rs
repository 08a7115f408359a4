//! The asking end of what is there for operators: a node's admin port, whatever listens there.
//!
//! Owns the questions, and the reading of their answers: bounded in time and size, and refused where they are none.

use std::time::Duration;

use axum::http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::health::probe::get;
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

/// A problem document.
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

/// How the cluster is, as the node with this admin port sees it.
///
/// # Errors
/// One line that says why there is no answer.
pub async fn status(admin: &str) -> Result<Status, String> {
    ask(admin, "/_/status").await
}

/// Who is in the room.
///
/// # Errors
/// One line that says why there is no answer.
pub async fn roll(admin: &str, room: &Room) -> Result<Roll, String> {
    let room = utf8_percent_encode(room.as_str(), NON_ALPHANUMERIC);
    ask(admin, &format!("/_/rooms/{room}")).await
}

async fn ask<T: DeserializeOwned>(admin: &str, path: &str) -> Result<T, String> {
    let asked = timeout(WITHIN, get(admin, path, ANSWER_MOST)).await;
    let answer = asked.unwrap_or_else(|_elapsed| Err(format!("no answer within {WITHIN:?}")));
    answer.and_then(|(status, body)| read(status, &body)).map_err(|why| format!("{admin}: {why}"))
}

fn read<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, String> {
    if status == StatusCode::OK {
        return serde_json::from_slice(body).map_err(|_| "what answers is not a node".to_owned());
    }
    let detail = serde_json::from_slice(body).map(|Problem { detail }| detail);
    Err(match (status, detail) {
        (StatusCode::NOT_FOUND, _) => {
            "there is nothing for operators: it is no admin port, that of an older version, or one that is open to others"
                .to_owned()
        }
        (_, Ok(detail)) => detail,
        (_, Err(_)) => format!("what answers is not a node: it says {status}"),
    })
}
