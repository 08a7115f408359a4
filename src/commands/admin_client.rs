//! An HTTP client for the admin port of a node.
//!
//! Owns the bounds of a request in time and size, since another program may listen on that port, and the one line that an
//! unexpected answer becomes. The token of the client is never printed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::auth::tokens::Secret;
use crate::names::Room;
use crate::problem::ProblemDocument;
use crate::roll_call::document::RollCallDocument;
use crate::status::ClusterStatus;

pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
pub const DEFAULT_MAX_ANSWER_BYTES: usize = 1 << 20;
/// The timeout of the operators' requests: the longest deadline of a roll call, and time for its answer.
const OPERATOR_TIMEOUT: Duration = Duration::from_secs(8);
/// Enough for thousands of nodes, or for half a million sockets.
const MAX_OPERATOR_ANSWER_BYTES: usize = 64 << 20;
/// The longest line of a foreign answer that is printed, in characters.
const MAX_LINE_CHARS: usize = 400;

#[derive(Debug, Clone)]
pub struct AdminClient {
    address: String,
    token: Option<Arc<Secret>>,
    timeout: Duration,
    max_answer_bytes: usize,
}

/// The answer of a node, of any status.
#[derive(Debug, Clone)]
pub struct AdminAnswer {
    pub status: StatusCode,
    pub body: Bytes,
    sent_token: bool,
}

/// Why a request failed. `Display` is one line.
#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot be reached ({0})")]
    Unreachable(std::io::Error),
    #[error("no answer ({0})")]
    Connection(Box<dyn std::error::Error + Send + Sync>),
    #[error("timeout after {0:?}")]
    Timeout(Duration),
    #[error("the answer is not that of a node{0}")]
    NotANode(String),
    #[error("the node requires a token: pass --token-file, or set ROLLCALL_ADMIN_TOKEN_FILE")]
    TokenMissing,
    #[error("{0}")]
    Refused(String),
}

impl AdminClient {
    /// `address`: `host:port`. An unspecified address, such as 0.0.0.0, means loopback.
    pub fn new(address: &str, token: Option<Arc<Secret>>) -> Self {
        Self {
            address: address.to_owned(),
            token,
            timeout: DEFAULT_TIMEOUT,
            max_answer_bytes: DEFAULT_MAX_ANSWER_BYTES,
        }
    }

    #[must_use]
    pub fn bounded(self, timeout: Duration, max_answer_bytes: usize) -> Self {
        Self { timeout, max_answer_bytes, ..self }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// # Errors
    /// The node cannot be reached, or did not answer in time.
    pub async fn get(&self, path: &str) -> Result<AdminAnswer, Error> {
        self.request(Method::GET, path, Bytes::new()).await
    }

    /// # Errors
    /// The node cannot be reached, or did not answer in time; it may have applied the change.
    pub async fn put(&self, path: &str, body: impl Into<Bytes>) -> Result<AdminAnswer, Error> {
        self.request(Method::PUT, path, body.into()).await
    }

    /// The state of the cluster, as this node sees it.
    ///
    /// # Errors
    /// One line that names the node and the cause.
    pub async fn cluster_status(self) -> Result<ClusterStatus, String> {
        self.operator_json("/_/status").await
    }

    /// The roll call of a room.
    ///
    /// # Errors
    /// One line that names the node and the cause.
    pub async fn roll_call(self, room: &Room) -> Result<RollCallDocument<'static>, String> {
        let room = utf8_percent_encode(room.as_str(), NON_ALPHANUMERIC);
        self.operator_json(&format!("/_/rooms/{room}")).await
    }

    async fn operator_json<T: DeserializeOwned>(self, path: &str) -> Result<T, String> {
        let client = self.bounded(OPERATOR_TIMEOUT, MAX_OPERATOR_ANSWER_BYTES);
        let answer = client.get(path).await.and_then(AdminAnswer::json);
        answer.map_err(|error| format!("{}: {error}", client.address))
    }

    async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<AdminAnswer, Error> {
        timeout(self.timeout, self.exchange(method, path, body)).await.unwrap_or(Err(Error::Timeout(self.timeout)))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<AdminAnswer, Error> {
        let addresses = lookup_host(&self.address).await.map_err(Error::Unreachable)?;
        let addresses: Vec<SocketAddr> = addresses.map(loopback_if_unspecified).collect();
        let stream = TcpStream::connect(addresses.as_slice()).await.map_err(Error::Unreachable)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(connection_error)?;
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(header::HOST, &self.address).header(header::CONNECTION, "close");
        if let Some(token) = &self.token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose())).map_err(connection_error)?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Full::new(body)).map_err(connection_error)?;
        let exchange = async move {
            let (head, body) = sender.send_request(request).await.map_err(connection_error)?.into_parts();
            let body = Limited::new(body, self.max_answer_bytes).collect().await.map_err(Error::Connection)?;
            Ok(AdminAnswer { status: head.status, body: body.to_bytes(), sent_token: self.token.is_some() })
        };
        // The result of the exchange says everything: it fails when the connection does.
        let (answer, _) = tokio::join!(exchange, connection);
        answer
    }
}

impl AdminAnswer {
    /// The body of a successful answer.
    ///
    /// # Errors
    /// The detail of the problem document, or that this is no answer of a node.
    pub fn success_body(self) -> Result<Bytes, Error> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        if self.status == StatusCode::UNAUTHORIZED && !self.sent_token {
            return Err(Error::TokenMissing);
        }
        Err(match serde_json::from_slice::<ProblemDocument<'_>>(&self.body) {
            Ok(problem) => Error::Refused(truncated_line(&problem.detail)),
            Err(_) => Error::NotANode(format!(": status {}", self.status)),
        })
    }

    /// The JSON body of a successful answer.
    ///
    /// # Errors
    /// As [`Self::success_body`].
    pub fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        serde_json::from_slice(&self.success_body()?).map_err(|_| Error::NotANode(String::new()))
    }
}

/// Foreign text as one line of bounded length.
pub fn truncated_line(text: &str) -> String {
    text.chars().take(MAX_LINE_CHARS).map(|character| if character.is_control() { ' ' } else { character }).collect()
}

fn connection_error(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Connection(error.into())
}

fn loopback_if_unspecified(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
