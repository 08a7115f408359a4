//! The crowd: raw Socket.IO clients over WebSocket that tell the oracle what they do and what they see.
//!
//! Owns one connection and one task per client. A client knows its socket id before it asks to be connected, from the
//! Engine.IO open packet, so no row can name a socket that the oracle has not heard of.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::oracle::{Oracle, Present};
use crate::text;

/// Longer than any node lets a client wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Where clients connect to, and who is behind it at present. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Door {
    pub address: SocketAddr,
    pub process: Present,
}

/// A way to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Going {
    /// A WebSocket close frame.
    Close,
    /// A Socket.IO disconnect: the transport stays a moment longer.
    Leave,
    /// The connection is closed without a word.
    Drop,
    /// The connection is reset.
    Reset,
}

/// Why a client was not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Nobody listens.
    Unreachable,
    /// An HTTP status instead of a WebSocket.
    Status(u16),
    /// The transport ended before the client was connected.
    Ended,
    /// A `connect_error`: final for every official client.
    Error(String),
}

enum Command {
    Emit { event: &'static str, room: String, acknowledged: oneshot::Sender<Value> },
    Go(Going),
}

type Transport = WebSocketStream<TcpStream>;

/// A connected client. Dropping it closes the connection.
pub struct TrackedClient {
    pub socket: String,
    pub user: String,
    oracle: Oracle,
    commands: mpsc::UnboundedSender<Command>,
    ended: watch::Receiver<bool>,
}

impl TrackedClient {
    pub async fn connect(oracle: &Oracle, door: &Door, user: &str, rooms: &[&str]) -> Result<Self, Refused> {
        let rooms: Vec<String> = rooms.iter().map(|room| (*room).to_owned()).collect();
        let query = query(user, &rooms);
        let stream = TcpStream::connect(door.address).await.map_err(|_| Refused::Unreachable)?;
        // Looked up now: whoever was behind the door before could not have taken the connection.
        let process = door.process.get();
        let _ = stream.set_nodelay(true);
        let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket&{query}", door.address);
        let mut transport = match patient(client_async(url, stream)).await {
            Ok((transport, _)) => transport,
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                return Err(Refused::Status(answer.status().as_u16()));
            }
            Err(_) => return Err(Refused::Ended),
        };
        let opened = next(&mut transport).await.ok_or(Refused::Ended)?;
        let opened: Value = serde_json::from_str(opened.strip_prefix('0').unwrap()).unwrap();
        let socket = text(&opened, "sid");
        oracle.connecting(&socket, user, process, &rooms);
        if let Err(refused) = admitted(&mut transport).await {
            oracle.ended(&socket);
            return Err(refused);
        }
        oracle.connected(&socket);
        let (commands, inbox) = mpsc::unbounded_channel();
        let (over, ended) = watch::channel(false);
        let conversation = Conversation {
            oracle: oracle.clone(),
            socket: socket.clone(),
            transport,
            waiting: HashMap::new(),
            sent: 0,
        };
        tokio::spawn(async move {
            conversation.hold(inbox).await;
            over.send_replace(true);
        });
        Ok(Self { socket, user: user.to_owned(), oracle: oracle.clone(), commands, ended })
    }

    /// Whether it was acknowledged: not when the transport ended before.
    pub async fn join(&self, room: &str) -> bool {
        self.oracle.joining(&self.socket, room);
        let joined = self.emit("join", room).await;
        if joined {
            self.oracle.joined(&self.socket, room);
        }
        joined
    }

    /// Whether it was acknowledged.
    pub async fn leave(&self, room: &str) -> bool {
        self.oracle.leaving(&self.socket, room);
        let left = self.emit("leave", room).await;
        if left {
            self.oracle.left(&self.socket, room);
        }
        left
    }

    async fn emit(&self, event: &'static str, room: &str) -> bool {
        let (acknowledged, answer) = oneshot::channel();
        if self.commands.send(Command::Emit { event, room: room.to_owned(), acknowledged }).is_err() {
            return false;
        }
        match patient(answer).await {
            Ok(answer) => {
                assert_eq!(answer, json!({"ok": true}), "{event} {room}");
                true
            }
            Err(_ended) => false,
        }
    }

    /// Goes that way, and ends when the connection is closed on this side.
    pub async fn go(mut self, going: Going) {
        self.oracle.going(&self.socket);
        let _ = self.commands.send(Command::Go(going));
        let _ = patient(self.ended.wait_for(|ended| *ended)).await;
    }

    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Ends when the transport has ended.
    pub async fn ended(&self) {
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }
}

impl Drop for TrackedClient {
    fn drop(&mut self) {
        self.oracle.going(&self.socket);
        let _ = self.commands.send(Command::Go(Going::Drop));
    }
}

fn query(user: &str, rooms: &[String]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("id_user", user);
    for room in rooms {
        query.append_pair("room", room);
    }
    query.finish()
}

async fn patient<T>(what: impl Future<Output = T>) -> T {
    timeout(ANSWER_WITHIN, what).await.expect("an answer, or an end")
}

/// The next message; `None` when the transport has ended.
async fn next(transport: &mut Transport) -> Option<String> {
    let message = patient(transport.next()).await?.ok()?;
    message.into_text().ok().map(|text| text.to_string())
}

async fn admitted(transport: &mut Transport) -> Result<(), Refused> {
    transport.send(Message::text("40")).await.map_err(|_| Refused::Ended)?;
    loop {
        let message = next(transport).await.ok_or(Refused::Ended)?;
        if message.starts_with("40") {
            return Ok(());
        }
        if let Some(error) = message.strip_prefix("44") {
            return Err(Refused::Error(text(&serde_json::from_str(error).unwrap(), "message")));
        }
        if message == "2" {
            transport.send(Message::text("3")).await.map_err(|_| Refused::Ended)?;
        }
    }
}

struct Conversation {
    oracle: Oracle,
    socket: String,
    transport: Transport,
    waiting: HashMap<u64, oneshot::Sender<Value>>,
    sent: u64,
}

impl Conversation {
    async fn hold(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        loop {
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(Command::Emit { event, room, acknowledged }) => {
                        let packet = format!("42{}{}", self.sent, json!([event, room]));
                        self.waiting.insert(self.sent, acknowledged);
                        self.sent += 1;
                        if self.transport.send(Message::text(packet)).await.is_err() {
                            break;
                        }
                    }
                    Some(Command::Go(going)) => {
                        self.go(going).await;
                        break;
                    }
                    None => break,
                },
                message = self.transport.next() => {
                    let Some(Ok(Message::Text(message))) = message else { break };
                    if !self.hear(&message).await {
                        break;
                    }
                }
            }
        }
        self.oracle.ended(&self.socket);
    }

    async fn hear(&mut self, message: &str) -> bool {
        if message == "2" {
            return self.transport.send(Message::text("3")).await.is_ok();
        }
        if message.starts_with("41") {
            self.oracle.disconnected_by_server();
        } else if let Some(answer) = message.strip_prefix("43") {
            let begin = answer.find('[').unwrap();
            let number: u64 = answer[..begin].parse().unwrap();
            let mut values: Vec<Value> = serde_json::from_str(&answer[begin..]).unwrap();
            if let Some(acknowledged) = self.waiting.remove(&number) {
                let _ = acknowledged.send(values.remove(0));
            }
        }
        true
    }

    async fn go(&mut self, going: Going) {
        match going {
            Going::Close => {
                let _ = timeout(Duration::from_secs(1), self.transport.close(None)).await;
            }
            Going::Leave => {
                let _ = self.transport.send(Message::text("41")).await;
            }
            Going::Drop => {}
            Going::Reset => {
                let _ = SockRef::from(self.transport.get_ref()).set_linger(Some(Duration::ZERO));
            }
        }
    }
}
