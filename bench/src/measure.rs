//! Asking: one question after another on one connection, and many at once on sixteen.
//!
//! Owns the asking end, kept small so that little of what is measured is its own, and the check that answers are right.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::crowd::Crowd;
use crate::system::System;

/// How many connections ask at once.
pub const CONNECTIONS: usize = 16;
/// How long a system may take until an answer is right: some read what is written behind.
const RIGHT_WITHIN: Duration = Duration::from_secs(30);

/// One connection that asks for one room.
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
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(address: SocketAddr, room: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // What ends it is seen by the next request.
        let connection = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, connection, address, path: format!("/{room}/users") })
    }

    /// The whole answer, and whether its server calls it complete; those that do not say so mean that it is.
    async fn ask(&mut self) -> Result<(bool, Bytes)> {
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

/// Waits until every process lists exactly the crowd.
///
/// # Errors
/// With what is wrong, when one does not in time.
pub async fn expect_right(system: &System, room: &str, crowd: &Crowd) -> Result<()> {
    expect(system, room, &crowd.pairs()).await
}

/// Waits until every process lists nobody.
///
/// # Errors
/// With what is wrong, when one does not in time.
pub async fn expect_empty(system: &System, room: &str) -> Result<()> {
    expect(system, room, &BTreeSet::new()).await
}

async fn expect(system: &System, room: &str, expected: &BTreeSet<(String, String)>) -> Result<()> {
    let began = Instant::now();
    for address in &system.addresses {
        while let Err(wrong) = is_right(*address, room, expected).await {
            ensure!(began.elapsed() < RIGHT_WITHIN, "{address} is wrong: {wrong:#}");
            sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

async fn is_right(address: SocketAddr, room: &str, expected: &BTreeSet<(String, String)>) -> Result<()> {
    let (complete, body) = Asker::connect(address, room).await?.ask().await?;
    ensure!(complete, "it says that it is incomplete");
    let users: Vec<Value> = serde_json::from_slice(&body)?;
    let pair = |user: &Value| {
        let text = |key: &str| user[key].as_str().map(str::to_owned).with_context(|| format!("no {key} in {user}"));
        Ok((text("id_socket")?, text("id_user")?))
    };
    let listed = users.iter().map(pair).collect::<Result<BTreeSet<_>>>()?;
    ensure!(users.len() == listed.len(), "somebody is listed twice");
    let (missing, wrong) = (expected.difference(&listed).count(), listed.difference(expected).count());
    ensure!(missing + wrong == 0, "{missing} are missing and {wrong} wrong, of {}", expected.len());
    Ok(())
}
