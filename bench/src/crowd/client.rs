//! One client of the crowd: its handshake, its answers to pings, and its reconnect after a cut.

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

/// The default `timeout` of Socket.IO's own client.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Small, because an idle client receives only pings.
const READ_BUFFER: usize = 1024;
/// The delay after a failed attempt doubles each time, and is spread by half of itself in both directions. Socket.IO's own
/// client does the same. It also waits before its first attempt, which this client does not.
const MIN_RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);

type Transport = WebSocketStream<TcpStream>;

/// The system that the clients connect to.
pub struct Target {
    pub protocol: Protocol,
    pub addresses: Vec<SocketAddr>,
    pub room: String,
    /// A message cuts every connection.
    pub cut: watch::Sender<()>,
}

pub struct CrowdClient {
    pub id: String,
    pub user: String,

    pub address_index: usize,
    /// Ends with the connection; aborting it closes the connection.
    pub connection: JoinHandle<()>,
}

/// The packets that open a session and a namespace; other fields are ignored.
#[derive(Deserialize)]
struct Packet {
    sid: String,
}

/// A reply of centrifuge; other fields are ignored.
#[derive(Deserialize)]
struct Reply {
    connect: Option<Connected>,
}

#[derive(Deserialize)]
struct Connected {
    client: String,
}

pub struct Reconnected {
    pub client: CrowdClient,
    pub when: SystemTime,
    /// The reason of each failed attempt.
    pub failures: Vec<String>,
}

impl CrowdClient {
    /// Connects to the address at index `number`, modulo the number of addresses.
    ///
    /// # Errors
    /// When the server does not accept the client.
    pub async fn connect(target: &Target, number: usize, user: String) -> Result<Self> {
        let address_index = number % target.addresses.len();
        let joining = join(target.protocol, target.addresses[address_index], &user, &target.room);
        let (mut transport, id) =
            timeout(CONNECT_TIMEOUT, joining).await.context("timed out waiting for the acknowledgement")??;
        let (protocol, mut cut) = (target.protocol, target.cut.subscribe());
        let connection = tokio::spawn(async move {
            tokio::select! {
                _ = cut.changed() => {
                    // Makes the kernel send a reset instead of a close, as after a network failure. If that fails, the
                    // connection is closed.
                    let _ = transport.get_ref().set_zero_linger();
                }
                () = answer_pings(protocol, &mut transport) => {}
            }
        });
        Ok(Self { id, user, address_index, connection })
    }

    /// Retries until the client is accepted, each time at the next address.
    pub async fn reconnect(target: &Target, number: usize, user: String, previous_address: usize) -> Reconnected {
        let mut failures = Vec::new();
        let mut delay = MIN_RETRY_DELAY;
        loop {
            let next = previous_address + 1 + failures.len();
            match Self::connect(target, next, user.clone()).await {
                Ok(client) => return Reconnected { client, when: SystemTime::now(), failures },
                Err(error) => failures.push(format!("{error:#}").replace('\n', " ")),
            }
            // Spread evenly instead of randomly, so that runs are comparable.
            sleep(delay.mul_f64(0.5 + (number % 100) as f64 / 100.0)).await;
            delay = (delay * 2).min(MAX_RETRY_DELAY);
        }
    }
}

/// Connects, and waits until the server has acknowledged the client. Returns the id of the socket.
async fn join(protocol: Protocol, address: SocketAddr, user: &str, room: &str) -> Result<(Transport, String)> {
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
    bail!("the connection ended before the acknowledgement")
}

/// Answers pings until the connection ends.
async fn answer_pings(protocol: Protocol, transport: &mut Transport) {
    // In Engine.IO 3 the client sends the pings.
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
