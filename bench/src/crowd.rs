//! The crowd: raw WebSocket clients that do nothing but be there, and come and go when told.
//!
//! Owns the connections, spread evenly over a system's processes, and which ids they were given.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::SinkExt;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::system::Protocol;

/// How many connect at once.
const AT_ONCE: usize = 64;
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A client reads hardly anything.
const READ_BUFFER: usize = 1024;
/// How often some of them come and go under churn.
const CHURN_EVERY: Duration = Duration::from_millis(50);

type Transport = WebSocketStream<TcpStream>;

pub struct Crowd {
    protocol: Protocol,
    addresses: Vec<SocketAddr>,
    room: String,
    members: Arc<Mutex<Vec<Member>>>,
    stop: watch::Sender<bool>,
}

struct Member {
    id: String,
    user: String,
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// Members come and go until this is dropped.
pub struct Churn(JoinHandle<()>);

impl Drop for Churn {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Crowd {
    /// Connects so many clients. Returns how long it took.
    ///
    /// # Errors
    /// When one of them is not let in.
    pub async fn fill(
        protocol: Protocol,
        addresses: &[SocketAddr],
        room: &str,
        size: usize,
    ) -> Result<(Self, Duration)> {
        let (stop, stopped) = watch::channel(false);
        let began = Instant::now();
        let connecting = (0..size).map(|number| {
            let (address, room, stopped) = (addresses[number % addresses.len()], room.to_owned(), stopped.clone());
            async move { Member::connect(protocol, address, &format!("user-{number}"), &room, stopped).await }
        });
        let members: Vec<Member> = stream::iter(connecting).buffer_unordered(AT_ONCE).try_collect().await?;
        let took = began.elapsed();
        let (addresses, members) = (addresses.to_vec(), Arc::new(Mutex::new(members)));
        Ok((Self { protocol, addresses, room: room.to_owned(), members, stop }, took))
    }

    /// The (id, user) of everybody.
    pub fn pairs(&self) -> BTreeSet<(String, String)> {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.iter().map(|member| (member.id.clone(), member.user.clone())).collect()
    }

    /// So many of them go each second, and others come in their places.
    pub fn churn(&self, each_second: usize) -> Churn {
        let (protocol, room, stopped) = (self.protocol, self.room.clone(), self.stop.subscribe());
        let members = Arc::clone(&self.members);
        let addresses = self.addresses.clone();
        Churn(tokio::spawn(async move {
            let mut ticks = interval(CHURN_EVERY);
            let (mut due, mut next) = (0.0, 0);
            loop {
                ticks.tick().await;
                due += each_second as f64 * CHURN_EVERY.as_secs_f64();
                while due >= 1.0 {
                    due -= 1.0;
                    next += 1;
                    let user = format!("newcomer-{next}");
                    let address = addresses[next % addresses.len()];
                    // Nobody goes before another is there, so the room keeps its size.
                    let Ok(newcomer) = Member::connect(protocol, address, &user, &room, stopped.clone()).await else {
                        continue;
                    };
                    let mut members = members.lock().unwrap_or_else(PoisonError::into_inner);
                    let place = members.iter().position(|member| member.address == address).unwrap_or_default();
                    members.remove(place).task.abort();
                    members.push(newcomer);
                }
            }
        }))
    }

    /// Everybody goes.
    pub async fn leave(self) {
        self.stop.send_replace(true);
        let members = std::mem::take(&mut *self.members.lock().unwrap_or_else(PoisonError::into_inner));
        for member in members {
            // One that was aborted is gone as well.
            let _ = member.task.await;
        }
    }
}

impl Member {
    async fn connect(
        protocol: Protocol,
        address: SocketAddr,
        user: &str,
        room: &str,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<Self> {
        let (mut transport, id) = timeout(ANSWER_WITHIN, enter(protocol, address, user, room))
            .await
            .context("a client was kept waiting")??;
        let task = tokio::spawn(async move {
            tokio::select! {
                _ = stopped.changed() => {}
                () = stay(protocol, &mut transport) => {}
            }
        });
        Ok(Self { id, user: user.to_owned(), address, task })
    }
}

/// Connects, and waits until the server has said that the client is in.
async fn enter(protocol: Protocol, address: SocketAddr, user: &str, room: &str) -> Result<(Transport, String)> {
    let query = format!("id_user={user}&room={room}");
    let path = match protocol {
        Protocol::EngineIo4 => format!("socket.io/?EIO=4&transport=websocket&{query}"),
        Protocol::EngineIo3 => format!("socket.io/?EIO=3&transport=websocket&{query}"),
        Protocol::Centrifuge => format!("connection/websocket?{query}"),
    };
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER).write_buffer_size(0);
    let request = format!("ws://{address}/{path}");
    let (mut transport, _) = client_async_with_config(request, stream, Some(config)).await?;
    match protocol {
        Protocol::EngineIo4 => transport.send(Message::text("40")).await?,
        Protocol::EngineIo3 => {}
        Protocol::Centrifuge => transport.send(Message::text(r#"{"id":1,"connect":{}}"#)).await?,
    }
    let mut session = String::new();
    while let Some(message) = transport.next().await {
        let message = message?;
        let Ok(text) = message.to_text() else { continue };
        match protocol {
            Protocol::Centrifuge => {
                for line in text.lines() {
                    let reply: Value = serde_json::from_str(line)?;
                    if let Some(id) = reply["connect"]["client"].as_str() {
                        return Ok((transport, id.to_owned()));
                    }
                }
            }
            Protocol::EngineIo3 if text == "40" => return Ok((transport, session)),
            _ if text.starts_with("44") => bail!("refused: {text}"),
            _ if text == "2" => transport.send(Message::text("3")).await?,
            _ => {
                let packet = text.strip_prefix("40").or_else(|| text.strip_prefix('0'));
                let Some(packet) = packet.filter(|packet| packet.starts_with('{')) else { continue };
                let sid = serde_json::from_str::<Value>(packet)?["sid"].as_str().context("no sid")?.to_owned();
                if text.starts_with("40") {
                    return Ok((transport, sid));
                }
                session = sid;
            }
        }
    }
    bail!("the connection ended before the client was in")
}

/// Answers pings until the connection ends.
async fn stay(protocol: Protocol, transport: &mut Transport) {
    // An old client asks for signs of life itself.
    let mut pings = interval(Duration::from_secs(20));
    pings.reset();
    loop {
        let answer = tokio::select! {
            _ = pings.tick(), if protocol == Protocol::EngineIo3 => "2",
            message = transport.next() => {
                let Some(Ok(message)) = message else { return };
                match message.to_text() {
                    Ok("2") => "3",
                    Ok("{}") => "{}",
                    _ => continue,
                }
            }
        };
        if transport.send(Message::text(answer)).await.is_err() {
            return;
        }
    }
}
