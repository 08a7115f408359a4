//! One client of the crowd: how it gets in, that it stays, and how it comes back after its connection was cut.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::system::Protocol;

/// How long a client waits until it is in: what Socket.IO's own takes for granted.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// A client reads hardly anything.
const READ_BUFFER: usize = 1024;
/// How long a client waits that was not let in: twice as long each time, and half of it more or less. Socket.IO's own
/// waits the same; after a connection was cut it waits as long before it tries at all, which is left out here.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(5);

type Transport = WebSocketStream<TcpStream>;

/// Where members go.
pub struct Place {
    pub protocol: Protocol,
    pub addresses: Vec<SocketAddr>,
    pub room: String,
    /// When it is sent to, every connection is cut.
    pub cut: watch::Sender<()>,
}

pub struct Member {
    pub id: String,
    pub user: String,
    /// Which of the addresses it went to.
    pub at: usize,
    /// Ends when its connection does.
    pub stays: JoinHandle<()>,
}

/// What matters of the packets that open a session and a namespace.
#[derive(Deserialize)]
struct Packet {
    sid: String,
}

/// What matters of what centrifuge says.
#[derive(Deserialize)]
struct Reply {
    connect: Option<Connected>,
}

#[derive(Deserialize)]
struct Connected {
    client: String,
}

/// A member that is back.
pub struct Returned {
    pub member: Member,
    pub when: SystemTime,
    /// Why earlier attempts failed.
    pub failures: Vec<String>,
}

impl Member {
    /// Goes to the process whose turn it is by `number`.
    ///
    /// # Errors
    /// When it is not let in.
    pub async fn connect(place: &Place, number: usize, user: String) -> Result<Self> {
        let at = number % place.addresses.len();
        let entering = enter(place.protocol, place.addresses[at], &user, &place.room);
        let (mut transport, id) = timeout(ANSWER_WITHIN, entering).await.context("a client was kept waiting")??;
        let (protocol, mut cut) = (place.protocol, place.cut.subscribe());
        let stays = tokio::spawn(async move {
            tokio::select! {
                _ = cut.changed() => {
                    // A reset, as when the network is gone: nobody says goodbye. Without it, it only ends more politely.
                    let _ = transport.get_ref().set_zero_linger();
                }
                () = stay(protocol, &mut transport) => {}
            }
        });
        Ok(Self { id, user, at, stays })
    }

    /// Tries until it is in, each time at the next process.
    pub async fn come_back(place: &Place, number: usize, user: String, was_at: usize) -> Returned {
        let mut failures = Vec::new();
        let mut pause = RETRY_FIRST;
        loop {
            let next = was_at + 1 + failures.len();
            match Self::connect(place, next, user.clone()).await {
                Ok(member) => return Returned { member, when: SystemTime::now(), failures },
                Err(error) => failures.push(format!("{error:#}").replace('\n', " ")),
            }
            // Spread evenly instead of by chance, so that runs are alike.
            sleep(pause.mul_f64(0.5 + (number % 100) as f64 / 100.0)).await;
            pause = (pause * 2).min(RETRY_MOST);
        }
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
                    if let Some(connected) = serde_json::from_str::<Reply>(line)?.connect {
                        return Ok((transport, connected.client));
                    }
                }
            }
            Protocol::EngineIo3 if text == "40" => return Ok((transport, session)),
            _ if text.starts_with("44") => bail!("refused: {text}"),
            _ if text == "2" => transport.send(Message::text("3")).await?,
            _ => {
                let packet = text.strip_prefix("40").or_else(|| text.strip_prefix('0'));
                let Some(packet) = packet.filter(|packet| packet.starts_with('{')) else { continue };
                let Packet { sid } = serde_json::from_str(packet)?;
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
