//! Asks a node's admin port: for probes, and for the commands that a person types.
//!
//! Owns one request at a time, bounded in time and in what is read of the answer, whatever listens there; and what of an
//! answer that is none is shown to a person, which stays one line. The token that it shows is never printed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::auth::tokens::Secret;

/// The longest that asking may take unless told otherwise.
pub const WITHIN: Duration = Duration::from_secs(5);
/// The most bytes that are read of an answer unless told otherwise.
pub const ANSWER_MOST: usize = 1 << 20;
/// The longest line of somebody else that is shown, in characters.
const LINE_MOST: usize = 400;

/// Asks one node.
#[derive(Debug, Clone)]
pub struct AdminClient {
    address: String,
    token: Option<Arc<Secret>>,
    within: Duration,
    most: usize,
}

/// What a node answered, well or not.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
    showed_token: bool,
}

/// Why there is no answer, or not the one that was asked for. One line each.
#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot be reached ({0})")]
    Unreachable(std::io::Error),
    #[error("no answer ({0})")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("what answers is not a node{0}")]
    Stranger(String),
    #[error("it wants a token: pass --token-file, or set ROLLCALL_ADMIN_TOKEN_FILE")]
    TokenMissing,
    #[error("{0}")]
    Refused(String),
}

/// What matters here of a problem document.
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

impl AdminClient {
    /// `address`: `host:port`; a node that listens on every address is asked over loopback.
    pub fn new(address: &str, token: Option<Arc<Secret>>) -> Self {
        Self { address: address.to_owned(), token, within: WITHIN, most: ANSWER_MOST }
    }

    /// The same with other limits.
    #[must_use]
    pub fn bounded(self, within: Duration, most: usize) -> Self {
        Self { within, most, ..self }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// # Errors
    /// Why there is no answer.
    pub async fn get(&self, path: &str) -> Result<Answer, Error> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// # Errors
    /// Why there is no answer. The node may have done it all the same.
    pub async fn put(&self, path: &str, body: impl Into<Bytes>) -> Result<Answer, Error> {
        self.ask(Method::PUT, path, body.into()).await
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Error> {
        timeout(self.within, self.exchange(method, path, body)).await.unwrap_or(Err(Error::Late(self.within)))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Error> {
        let addresses = lookup_host(&self.address).await.map_err(Error::Unreachable)?;
        let addresses: Vec<SocketAddr> = addresses.map(dialled).collect();
        let stream = TcpStream::connect(addresses.as_slice()).await.map_err(Error::Unreachable)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(header::HOST, &self.address).header(header::CONNECTION, "close");
        if let Some(token) = &self.token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose())).map_err(broken)?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Full::new(body)).map_err(broken)?;
        let exchange = async move {
            let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
            let body = Limited::new(body, self.most).collect().await.map_err(Error::Broken)?;
            Ok(Answer { status: head.status, body: body.to_bytes(), showed_token: self.token.is_some() })
        };
        // How the connection ends says nothing more: without it, the exchange has failed.
        let (answer, _) = tokio::join!(exchange, connection);
        answer
    }
}

impl Answer {
    /// The body, where the answer is what was asked for.
    ///
    /// # Errors
    /// What the node says of it instead.
    pub fn expected(self) -> Result<Bytes, Error> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        if self.status == StatusCode::UNAUTHORIZED && !self.showed_token {
            return Err(Error::TokenMissing);
        }
        Err(match serde_json::from_slice::<Problem>(&self.body) {
            Ok(problem) => Error::Refused(one_line(&problem.detail)),
            Err(_) => Error::Stranger(format!(": it says {}", self.status)),
        })
    }

    /// What the body says, where the answer is what was asked for.
    ///
    /// # Errors
    /// What the node says of it instead.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        serde_json::from_slice(&self.expected()?).map_err(|_| Error::Stranger(String::new()))
    }
}

/// Whatever listens there, what it says stays one line.
pub fn one_line(text: &str) -> String {
    text.chars().take(LINE_MOST).map(|character| if character.is_control() { ' ' } else { character }).collect()
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Broken(error.into())
}

/// Where somebody is reached who listens at this address.
fn dialled(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
