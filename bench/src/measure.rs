//! The requests: sequential ones on one connection, and concurrent ones on sixteen.
//!
//! Owns the client side, kept small because its cost is part of every measurement, and the check that answers are right.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::crowd::Listing;
use crate::system::System;

pub const CONNECTIONS: usize = 16;
/// Some systems read data that is written behind, so their answers are right only after a delay.
const LISTING_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_DELAY: Duration = Duration::from_millis(10);

/// One row of an answer.
#[derive(Deserialize)]
pub struct Row {
    pub id_socket: String,
    /// Empty for systems that list no users.
    #[serde(default)]
    pub id_user: String,
}

/// One connection that requests one path.
pub struct Requester {
    sender: SendRequest<Empty<Bytes>>,
    connection: JoinHandle<()>,
    address: SocketAddr,
    path: String,
}

impl Drop for Requester {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Requester {
    /// Requests the users of the room.
    ///
    /// # Errors
    /// When no server listens at the address.
    pub async fn connect(address: SocketAddr, room: &str) -> Result<Self> {
        Self::for_path(address, format!("/{room}/users")).await
    }

    /// # Errors
    /// When no server listens at the address.
    pub async fn for_path(address: SocketAddr, path: String) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // The next request reports the error.
        let connection = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, connection, address, path })
    }

    /// Returns whether the answer is complete, and its body. Systems without that header have only complete answers.
    ///
    /// # Errors
    /// When the connection fails, or the status is not a success.
    pub async fn request(&mut self) -> Result<(bool, Bytes)> {
        let request = Request::get(&self.path).header("host", self.address.to_string()).body(Empty::new())?;
        self.sender.ready().await?;
        let response: Response<_> = self.sender.send_request(request).await?;
        let complete = response.headers().get("rollcall-complete").is_none_or(|value| value == "true");
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
        Ok((complete, body))
    }

    /// Sends sequential requests for the given time. Returns the duration of each.
    ///
    /// # Errors
    /// When a request fails.
    pub async fn sequential(&mut self, time: Duration) -> Result<Vec<Duration>> {
        sequential(time, async || self.request().await).await
    }
}

/// Calls `request` for the given time, one call after another. Returns the duration of each.
///
/// # Errors
/// The first error of `request`.
pub async fn sequential<T>(time: Duration, mut request: impl AsyncFnMut() -> Result<T>) -> Result<Vec<Duration>> {
    let began = Instant::now();
    let mut took = Vec::new();
    while began.elapsed() < time {
        let requested = Instant::now();
        request().await?;
        took.push(requested.elapsed());
    }
    Ok(took)
}

/// Sends requests on [`CONNECTIONS`] connections for the given time. Returns the number of answers, and the time until the
/// last one.
///
/// # Errors
/// When a request fails.
pub async fn concurrent(address: SocketAddr, room: &str, time: Duration) -> Result<(usize, Duration)> {
    let began = Instant::now();
    let requests = (0..CONNECTIONS).map(|_| async {
        let mut requester = Requester::connect(address, room).await?;
        requester.sequential(time).await
    });
    let answers = try_join_all(requests).await?.iter().map(Vec::len).sum();
    Ok((answers, began.elapsed()))
}

/// Waits until every process lists exactly the expected clients. Returns the number of wrong answers until then.
///
/// # Errors
/// The difference, when a process does not list them in time.
pub async fn expect_listing(system: &System, room: &str, expected: &Listing) -> Result<usize> {
    if system.kind.lists_users() {
        return expect_at(&system.addresses, room, expected).await;
    }
    let ids = expected.iter().map(|(id, _)| (id.clone(), String::new())).collect();
    expect_at(&system.addresses, room, &ids).await
}

/// Waits until every process lists no client.
///
/// # Errors
/// The number of listed clients, when a process still lists some after the timeout.
pub async fn expect_empty(system: &System, room: &str) -> Result<()> {
    expect_at(&system.addresses, room, &Listing::new()).await.map(drop)
}

/// Waits until the server at each address lists exactly the expected. Returns the number of wrong answers until then.
///
/// # Errors
/// The difference, when a server does not list them in time.
pub async fn expect_at(addresses: &[SocketAddr], room: &str, expected: &Listing) -> Result<usize> {
    let began = Instant::now();
    let mut wrong_answers = 0;
    for address in addresses {
        while let Err(wrong) = check_listing(*address, room, expected).await {
            ensure!(began.elapsed() < LISTING_TIMEOUT, "{address} is wrong: {wrong:#}");
            wrong_answers += 1;
            sleep(RETRY_DELAY).await;
        }
    }
    Ok(wrong_answers)
}

async fn check_listing(address: SocketAddr, room: &str, expected: &Listing) -> Result<()> {
    let (complete, body) = Requester::connect(address, room).await?.request().await?;
    ensure!(complete, "the answer is incomplete");
    let rows: Vec<Row> = serde_json::from_slice(&body)?;
    let count = rows.len();
    let listed: Listing = rows.into_iter().map(|row| (row.id_socket, row.id_user)).collect();
    ensure!(count == listed.len(), "a socket is listed twice");
    let (missing, wrong) = (expected.difference(&listed).count(), listed.difference(expected).count());
    ensure!(missing + wrong == 0, "{missing} are missing and {wrong} wrong, of {}", expected.len());
    Ok(())
}
