//! Socket.IO clients over WebSocket that report their actions and observations to the oracle.
//!
//! Owns one connection and one task per client. A client reads its socket id from the Engine.IO open packet, and reports
//! it before it sends the connect packet. The oracle therefore knows every socket that a row can name.

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

use crate::oracle::{CurrentProcess, Oracle};
use crate::text;

/// Longer than every timeout of a node.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The public address of a node and its current process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub process: CurrentProcess,
}

/// The ways in which a client disconnects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disconnection {
    /// A WebSocket close frame.
    Close,
    /// A Socket.IO disconnect packet: the transport ends a moment later.
    Leave,
    /// The TCP connection is closed without a close frame.
    Drop,
    /// The TCP connection is reset.
    Reset,
}

/// The reason why a client could not connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The TCP connection failed.
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
    Go(Disconnection),
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
    pub async fn connect(oracle: &Oracle, endpoint: &Endpoint, user: &str, rooms: &[&str]) -> Result<Self, Refused> {
        let rooms: Vec<String> = rooms.iter().map(|room| (*room).to_owned()).collect();
        let query = query(user, &rooms);
        let stream = TcpStream::connect(endpoint.address).await.map_err(|_| Refused::Unreachable)?;
        // Read after the TCP connect: an earlier process cannot have accepted this connection.
        let process = endpoint.process.get();
        let _ = stream.set_nodelay(true);
        let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket&{query}", endpoint.address);
        let mut transport = match in_time(client_async(url, stream)).await {
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
        let (end, ended) = watch::channel(false);
        let connection =
            Connection { oracle: oracle.clone(), socket: socket.clone(), transport, waiting: HashMap::new(), sent: 0 };
        tokio::spawn(async move {
            connection.drive(inbox).await;
            end.send_replace(true);
        });
        Ok(Self { socket, user: user.to_owned(), oracle: oracle.clone(), commands, ended })
    }

    /// Whether the node acknowledged the join before the transport ended.
    pub async fn join(&self, room: &str) -> bool {
        self.oracle.joining(&self.socket, room);
        let joined = self.emit("join", room).await;
        if joined {
            self.oracle.joined(&self.socket, room);
        }
        joined
    }

    /// Whether the node acknowledged the leave before the transport ended.
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
        match in_time(answer).await {
            Ok(answer) => {
                assert_eq!(answer, json!({"ok": true}), "{event} {room}");
                true
            }
            Err(_ended) => false,
        }
    }

    /// Disconnects in this way. Ends when the client has closed the connection.
    pub async fn go(mut self, going: Disconnection) {
        self.oracle.going(&self.socket);
        let _ = self.commands.send(Command::Go(going));
        let _ = in_time(self.ended.wait_for(|ended| *ended)).await;
    }

    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits until the transport has ended.
    pub async fn ended(&self) {
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }
}

impl Drop for TrackedClient {
    fn drop(&mut self) {
        self.oracle.going(&self.socket);
        let _ = self.commands.send(Command::Go(Disconnection::Drop));
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

async fn in_time<T>(operation: impl Future<Output = T>) -> T {
    timeout(ANSWER_TIMEOUT, operation).await.expect("the node answers or closes the transport in time")
}

/// The next message, or `None` when the transport has ended.
async fn next(transport: &mut Transport) -> Option<String> {
    let message = in_time(transport.next()).await?.ok()?;
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

struct Connection {
    oracle: Oracle,
    socket: String,
    transport: Transport,
    waiting: HashMap<u64, oneshot::Sender<Value>>,
    sent: u64,
}

impl Connection {
    async fn drive(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
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
                        self.disconnect(going).await;
                        break;
                    }
                    None => break,
                },
                message = self.transport.next() => {
                    let Some(Ok(Message::Text(message))) = message else { break };
                    if !self.receive(&message).await {
                        break;
                    }
                }
            }
        }
        self.oracle.ended(&self.socket);
    }

    /// Handles one message. Returns whether the transport is still usable.
    async fn receive(&mut self, message: &str) -> bool {
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

    async fn disconnect(&mut self, going: Disconnection) {
        match going {
            Disconnection::Close => {
                let _ = timeout(Duration::from_secs(1), self.transport.close(None)).await;
            }
            Disconnection::Leave => {
                let _ = self.transport.send(Message::text("41")).await;
            }
            Disconnection::Drop => {}
            Disconnection::Reset => {
                let _ = SockRef::from(self.transport.get_ref()).set_linger(Some(Duration::ZERO));
            }
        }
    }
}
