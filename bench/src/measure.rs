//! Asking: one question after another on one connection, and many at once on sixteen.
//!
//! Owns the asking end, kept small so that little of what is measured is its own, and the check that answers are right.

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

use crate::crowd::Pairs;
use crate::system::System;

/// How many connections ask at once.
pub const CONNECTIONS: usize = 16;
/// How long a system may take until an answer is right: some read what is written behind.
const RIGHT_WITHIN: Duration = Duration::from_secs(30);
/// How long after a wrong answer the next question is asked.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// One row of an answer.
#[derive(Deserialize)]
pub struct Row {
    pub id_socket: String,
    /// Absent where a system cannot tell.
    #[serde(default)]
    pub id_user: String,
}

/// One connection that asks for one thing.
pub struct Asker {
    sender: SendRequest<Empty<Bytes>>,
    connection: JoinHandle<()>,
    address: SocketAddr,
    path: String,
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Asker {
    /// One that asks who is in the room.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(address: SocketAddr, room: &str) -> Result<Self> {
        Self::of(address, format!("/{room}/users")).await
    }

    /// One that asks for whatever is at the path.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn of(address: SocketAddr, path: String) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // What ends it is seen by the next request.
        let connection = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, connection, address, path })
    }

    /// The whole answer, and whether its server calls it complete; those that do not say so mean that it is.
    ///
    /// # Errors
    /// When it is no answer.
    pub async fn ask(&mut self) -> Result<(bool, Bytes)> {
        let request = Request::get(&self.path).header("host", self.address.to_string()).body(Empty::new())?;
        self.sender.ready().await?;
        let response: Response<_> = self.sender.send_request(request).await?;
        let complete = response.headers().get("rollcall-complete").is_none_or(|said| said == "true");
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
        Ok((complete, body))
    }

    /// Asks for so long. Returns how long each answer took.
    ///
    /// # Errors
    /// When an answer is none.
    pub async fn one_after_another(&mut self, time: Duration) -> Result<Vec<Duration>> {
        one_after_another(time, async || self.ask().await).await
    }
}

/// Asks for so long, each time when the last answer is there. Returns how long each took.
///
/// # Errors
/// The first that comes instead of an answer.
pub async fn one_after_another<T>(time: Duration, mut ask: impl AsyncFnMut() -> Result<T>) -> Result<Vec<Duration>> {
    let began = Instant::now();
    let mut took = Vec::new();
    while began.elapsed() < time {
        let asked = Instant::now();
        ask().await?;
        took.push(asked.elapsed());
    }
    Ok(took)
}

/// Asks on many connections for so long. Returns how many answers there were, and the time until the last of them.
///
/// # Errors
/// When an answer is none.
pub async fn at_once(address: SocketAddr, room: &str, time: Duration) -> Result<(usize, Duration)> {
    let began = Instant::now();
    let asking = (0..CONNECTIONS).map(|_| async {
        let mut asker = Asker::connect(address, room).await?;
        asker.one_after_another(time).await
    });
    let answers = try_join_all(asking).await?.iter().map(Vec::len).sum();
    Ok((answers, began.elapsed()))
}

/// Waits until every process lists exactly these. Returns how many answers were wrong before.
///
/// # Errors
/// With what is wrong, when one does not in time.
pub async fn expect_right(system: &System, room: &str, expected: &Pairs) -> Result<usize> {
    if system.kind.tells_users() {
        return expect(&system.addresses, room, expected).await;
    }
    let ids = expected.iter().map(|(id, _)| (id.clone(), String::new())).collect();
    expect(&system.addresses, room, &ids).await
}

/// Waits until every process lists nobody.
///
/// # Errors
/// With what is wrong, when one does not in time.
pub async fn expect_empty(system: &System, room: &str) -> Result<()> {
    expect(&system.addresses, room, &Pairs::new()).await.map(drop)
}

/// Waits until each of these lists exactly the expected. Returns how many answers were wrong before.
///
/// # Errors
/// With what is wrong, when one does not in time.
pub async fn expect(addresses: &[SocketAddr], room: &str, expected: &Pairs) -> Result<usize> {
    let began = Instant::now();
    let mut wrong_ones = 0;
    for address in addresses {
        while let Err(wrong) = is_right(*address, room, expected).await {
            ensure!(began.elapsed() < RIGHT_WITHIN, "{address} is wrong: {wrong:#}");
            wrong_ones += 1;
            sleep(ASK_AGAIN_AFTER).await;
        }
    }
    Ok(wrong_ones)
}

async fn is_right(address: SocketAddr, room: &str, expected: &Pairs) -> Result<()> {
    let (complete, body) = Asker::connect(address, room).await?.ask().await?;
    ensure!(complete, "it says that it is incomplete");
    let rows: Vec<Row> = serde_json::from_slice(&body)?;
    let count = rows.len();
    let listed: Pairs = rows.into_iter().map(|row| (row.id_socket, row.id_user)).collect();
    ensure!(count == listed.len(), "somebody is listed twice");
    let (missing, wrong) = (expected.difference(&listed).count(), listed.difference(expected).count());
    ensure!(missing + wrong == 0, "{missing} are missing and {wrong} wrong, of {}", expected.len());
    Ok(())
}
