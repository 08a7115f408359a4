//! A small Socket.IO client over WebSocket that can misbehave.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::{PATIENCE, text};

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens a WebSocket with this handshake query and sends `40` with this payload. Reads nothing.
pub async fn open(address: SocketAddr, query: &str, auth: &str) -> Socket {
    let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket&{query}");
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    socket.send(Message::text(format!("40{auth}"))).await.unwrap();
    socket
}

/// A client that answers pings, can join and leave rooms, and can drop its connection.
pub struct Client {
    pub id: String,
    commands: mpsc::UnboundedSender<(String, oneshot::Sender<Value>)>,
    task: JoinHandle<()>,
}

impl Client {
    /// Connects. The error is the message of the server's `connect_error`.
    pub async fn connect(address: SocketAddr, user: &str, rooms: &[&str]) -> Result<Self, String> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("id_user", user);
        for room in rooms {
            query.append_pair("room", room);
        }
        Self::with(address, &query.finish(), "").await
    }

    pub async fn with(address: SocketAddr, query: &str, auth: &str) -> Result<Self, String> {
        let mut socket = open(address, query, auth).await;
        let id = loop {
            let message = timeout(PATIENCE, socket.next()).await.expect("an answer").expect("not closed").unwrap();
            let message = message.to_text().unwrap().to_owned();
            if let Some(answer) = message.strip_prefix("40") {
                break text(&serde_json::from_str(answer).unwrap(), "sid");
            }
            if let Some(answer) = message.strip_prefix("44") {
                return Err(text(&serde_json::from_str(answer).unwrap(), "message"));
            }
            if message == "2" {
                socket.send(Message::text("3")).await.unwrap();
            }
        };
        let (commands, inbox) = mpsc::unbounded_channel();
        let task = tokio::spawn(drive(socket, inbox));
        Ok(Self { id, commands, task })
    }

    /// Emits an event with one argument and returns its acknowledgement.
    pub async fn emit(&self, event: &str, argument: &Value) -> Value {
        let (ack, answer) = oneshot::channel();
        self.commands.send((format!("{}", serde_json::json!([event, argument])), ack)).unwrap();
        timeout(PATIENCE, answer).await.expect("an ack in time").expect("an ack")
    }

    pub async fn join(&self, room: &str) -> Value {
        self.emit("join", &room.into()).await
    }

    pub async fn leave(&self, room: &str) -> Value {
        self.emit("leave", &room.into()).await
    }

    /// Ends when the server has closed the transport.
    pub async fn closed(self) {
        timeout(PATIENCE, self.task).await.expect("closed in time").unwrap();
    }

    /// Drops the connection without a close frame.
    pub fn drop_connection(self) {
        self.task.abort();
    }
}

/// The (socket, user) pairs that an answer must list for these clients.
pub fn expected_rows(of: &[(&Client, &str)]) -> BTreeSet<(String, String)> {
    of.iter().map(|(client, user)| (client.id.clone(), (*user).to_owned())).collect()
}

async fn drive(mut socket: Socket, mut inbox: mpsc::UnboundedReceiver<(String, oneshot::Sender<Value>)>) {
    let mut acks: Vec<Option<oneshot::Sender<Value>>> = Vec::new();
    loop {
        tokio::select! {
            Some((event, ack)) = inbox.recv() => {
                let packet = format!("42{}{event}", acks.len());
                acks.push(Some(ack));
                if socket.send(Message::text(packet)).await.is_err() {
                    return;
                }
            }
            message = socket.next() => {
                let Some(Ok(message)) = message else { return };
                let Ok(message) = message.to_text() else { return };
                if message == "2" {
                    let _ = socket.send(Message::text("3")).await;
                } else if let Some(answer) = message.strip_prefix("43") {
                    let begin = answer.find('[').unwrap();
                    let number: usize = answer[..begin].parse().unwrap();
                    let mut values: Vec<Value> = serde_json::from_str(&answer[begin..]).unwrap();
                    if let Some(ack) = acks[number].take() {
                        let _ = ack.send(values.remove(0));
                    }
                }
            }
        }
    }
}
