//! The Socket.IO namespace `/`: connecting, and the events `join` and `leave`.
//!
//! Owns the connect middleware and the event handlers. The middleware registers a socket in the roster before the client
//! receives its connect packet. The [`Registration`] stays in the socket's extensions, so the rows go with the socket,
//! however it ends. The rooms of socketioxide are not used. [`handshake`] parses what a client sends, [`admission`]
//! decides whether it may connect, and [`admission::TokenExpiry`] disconnects it when its token expires.

pub mod admission;
pub mod handshake;

use std::collections::HashSet;
use std::ptr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use socketioxide::extract::{AckSender, SocketRef, TryData};
use socketioxide::handler::ConnectHandler;
use socketioxide::layer::SocketIoLayer;
use socketioxide::{ParserConfig, SocketIo, TransportType};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{debug, warn};

use crate::auth::IdentityMode;
use crate::auth::claims::RoomScope;
use crate::edge::connections::handle::ConnectionHandle;
use crate::edge::limits::Limits;
use crate::edge::limits::rate::EventVerdict;
use crate::edge::limits::session_limiter::ClientLimits;
use crate::names::{Room, SocketId};
use crate::reconciler::Reconciler;
use crate::roster::{JoinError, Registration, Roster};
use crate::telemetry::metrics::requests::{RefusalMetrics, RefusedEvent};
use admission::TokenExpiry;
use admission::{Admission, AdmissionError, UserSocketLimiter};
use handshake::{AuthPayload, ClientError, Handshake, StringOrList};

/// The part of the connect timeout that a client may wait for the directory to confirm its rooms. Below 1, so that this
/// timeout and not that of socketioxide closes the transport: the rows must be removed first.
const OWNERSHIP_WAIT_SHARE: f64 = 0.8;
/// Binary attachments of a message.
const MAX_ATTACHMENTS: usize = 16;
/// Packets that may wait for a client that reads slowly. The queue allocates as it fills.
const MAX_QUEUED_PACKETS: usize = 4096;
/// The read buffer of each WebSocket, in bytes. Small, because every client has one.
const READ_BUFFER_BYTES: usize = 256;
/// The interval of checks whether a client that waits for the directory has disconnected.
const DISCONNECT_CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// The interval at which the roster is compared with the sockets of socketioxide.
const COMPARE_INTERVAL: Duration = Duration::from_secs(5);

/// The transports that clients may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transports {
    #[default]
    Websocket,
    /// HTTP long-polling too, with which official clients start by default.
    WebsocketAndPolling,
}

/// Settings of the namespace and of Engine.IO.
#[derive(Debug, Clone, Copy)]
pub struct SocketIoConfig {
    pub transports: Transports,
    /// Rooms of one socket.
    pub max_rooms: usize,
    pub ping_interval: Duration,
    /// For a client to answer a ping, and to acknowledge sent data (`TCP_USER_TIMEOUT`).
    pub ping_timeout: Duration,
}

impl Default for SocketIoConfig {
    /// The ping times are the defaults of the official server.
    fn default() -> Self {
        let transports = Transports::default();
        Self {
            transports,
            max_rooms: 64,
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
        }
    }
}

impl FromStr for Transports {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "websocket" => Ok(Self::Websocket),
            "websocket,polling" | "polling,websocket" => Ok(Self::WebsocketAndPolling),
            _ => Err("must be `websocket` or `websocket,polling`"),
        }
    }
}

struct SocketIoServer {
    roster: Arc<Roster>,
    reconciler: Arc<Reconciler>,
    identity: IdentityMode,
    expiry: Arc<TokenExpiry>,
    refusals: RefusalMetrics,
    max_rooms: usize,
    user_limiter: UserSocketLimiter,
    ownership_timeout: Duration,
}

/// The sockets that socketioxide holds, to compare the roster with.
pub struct LiveSockets {
    roster: Arc<Roster>,
    io: SocketIo,
}

/// The acknowledgement of a `join` or `leave`.
#[derive(Debug, Serialize)]
struct EventAck {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// The layer that serves Socket.IO in front of an HTTP service, and the sockets that it holds.
pub fn build(
    roster: Arc<Roster>,
    reconciler: Arc<Reconciler>,
    identity: IdentityMode,
    expiry: Arc<TokenExpiry>,
    refusals: RefusalMetrics,
    config: SocketIoConfig,
    limits: &Limits,
) -> (SocketIoLayer, LiveSockets) {
    let max_message_size = limits.message_size as usize;
    // No event of this server has attachments, so those of a client get the limits of a message.
    let parser =
        ParserConfig::common().max_incoming_binary_buf_size(max_message_size).max_incoming_binaries(MAX_ATTACHMENTS);
    let builder = match config.transports {
        Transports::Websocket => SocketIo::builder().transports([TransportType::Websocket]),
        Transports::WebsocketAndPolling => {
            SocketIo::builder().transports([TransportType::Websocket, TransportType::Polling])
        }
    };
    let (layer, io) = builder
        .connect_timeout(limits.connect_timeout)
        .ping_interval(config.ping_interval)
        .ping_timeout(config.ping_timeout)
        .max_payload(limits.message_size.into())
        .ws_max_message_size(max_message_size)
        .ws_max_frame_size(max_message_size)
        .ws_read_buffer_size(READ_BUFFER_BYTES)
        .max_buffer_size(MAX_QUEUED_PACKETS)
        .with_parser(parser)
        .build_layer();
    let server = Arc::new(SocketIoServer {
        roster: Arc::clone(&roster),
        reconciler,
        identity,
        expiry,
        refusals,
        max_rooms: config.max_rooms,
        user_limiter: UserSocketLimiter::new(limits.sockets_per_user),
        ownership_timeout: limits.connect_timeout.mul_f64(OWNERSHIP_WAIT_SHARE),
    });
    let middleware = move |socket: SocketRef, auth: TryData<AuthPayload>| {
        let server = Arc::clone(&server);
        async move {
            let admitted = Arc::clone(&server).admit(socket, auth.0.ok()).await;
            admitted.inspect_err(|error| server.refusals.count(RefusedEvent::Connect, error.code))
        }
    };
    io.ns("/", (async || ()).with(middleware));
    (layer, LiveSockets { roster, io })
}

impl LiveSockets {
    /// Compares the roster with the sockets of socketioxide. Finds nothing unless there is a bug. Runs forever.
    pub async fn compare(&self) {
        let mut ticks = interval(COMPARE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let live: HashSet<SocketId> = self.io.sockets().iter().filter_map(socket_id).collect();
            let closed = self.roster.close_missing(&live);
            if closed > 0 {
                warn!(closed, "removed roster entries of sockets that socketioxide no longer has");
            }
        }
    }
}

impl SocketIoServer {
    /// The connect middleware.
    async fn admit(self: Arc<Self>, socket: SocketRef, auth: Option<AuthPayload>) -> Result<(), ClientError> {
        let started = Instant::now();
        let handle = connection_handle(&socket);
        check_event_rate(&socket)?;
        let admission = admission::admit(&self.identity, socket.req_parts(), auth, self.max_rooms).await;
        let Admission { handshake: Handshake { user, rooms }, allowed_rooms, expires } = match admission {
            Ok(admission) => admission,
            Err(AdmissionError::Refused(error)) => return Err(error),
            Err(AdmissionError::Unavailable) => {
                close(handle.as_ref());
                return Err(ClientError::gone());
            }
        };
        let Some(id) = socket_id(&socket) else {
            return Err(ClientError::gone());
        };
        if let Some(permit) = self.user_limiter.acquire(&user).await? {
            socket.extensions.insert(Arc::new(permit));
        }
        let registration = self.roster.register(id, user, &rooms);
        socket.extensions.insert(registration.clone());
        if self.identity.requires_tokens() {
            socket.extensions.insert(allowed_rooms);
        }
        // Before the client is connected: with handlers set in the connect handler, its first events would be lost.
        self.listen(&socket);
        if let Some(handle) = &handle {
            // A client that sees its transport closed is not listed any more. A client that has closed it is not listed
            // either, although the socket is kept by a handler that waits on its behalf.
            handle.set_on_end(registration.weak_close());
            if handle.is_gone() {
                registration.close();
            }
        }
        if let (Some(expires), Some(handle)) = (expires, &handle) {
            socket.extensions.insert(self.expiry.close_after(expires, handle.clone()));
        }
        let is_gone = || handle.as_ref().is_some_and(ConnectionHandle::is_gone);
        let timeout = self.ownership_timeout.saturating_sub(started.elapsed());
        if !self.wait_for_ownership(&rooms, &registration, handle.as_ref(), timeout, is_gone).await {
            return Err(ClientError::gone());
        }
        registration.mark_connected();
        Ok(())
    }

    /// Waits until the directory has confirmed this node as an owner of the rooms, so that the client may be acknowledged.
    /// Returns `false` if the client disconnected meanwhile, or if it took too long. Its rows are removed then, and on a
    /// timeout its transport is closed, so that it tries again.
    async fn wait_for_ownership(
        &self,
        rooms: &[Room],
        registration: &Registration,
        handle: Option<&ConnectionHandle>,
        timeout: Duration,
        is_gone: impl Fn() -> bool,
    ) -> bool {
        let disconnected = async {
            while !is_gone() {
                sleep(DISCONNECT_CHECK_INTERVAL).await;
            }
        };
        let is_connected = tokio::select! {
            owned = self.reconciler.wait_for_ownership(rooms, timeout) => match owned {
                Ok(()) => return true,
                Err(error) => {
                    debug!(%error, "disconnecting a client so that it tries again");
                    true
                }
            },
            () = disconnected => false,
        };
        // Before the transport: a client that sees its transport closed must not be listed any more.
        registration.close();
        if is_connected {
            close(handle);
        }
        false
    }

    /// Sets the event handlers of a socket.
    fn listen(self: &Arc<Self>, socket: &SocketRef) {
        let server = Arc::clone(self);
        // Each event runs in a task of its own, and tasks run in any order. The synchronous part of a handler runs in the
        // order of the events, so the roster is changed there.
        socket.on("join", move |socket: SocketRef, io: SocketIo, room: TryData<StringOrList>, ack: AckSender| {
            let joined = check_event_rate(&socket).and_then(|()| server.join(&socket, room.0.ok()));
            let joined = joined.inspect_err(|error| server.refusals.count(RefusedEvent::Join, error.code));
            let handle = connection_handle(&socket);
            async move {
                let answer = match joined {
                    Ok((room, registration)) => {
                        // The namespace has every socket that may send events, and loses it with its disconnect packet.
                        // The flag `connected` is no sign: socketioxide sets it after the first events.
                        let is_gone = || io.get_socket(socket.id).is_none_or(|current| !ptr::eq(&*current, &*socket));
                        let timeout = server.ownership_timeout;
                        if !server.wait_for_ownership(&[room], &registration, handle.as_ref(), timeout, is_gone).await {
                            return;
                        }
                        EventAck::ok()
                    }
                    Err(error) => EventAck::failed(&error),
                };
                acknowledge(ack, &answer, handle.as_ref());
            }
        });
        let refusals = self.refusals.clone();
        socket.on("leave", move |socket: SocketRef, room: TryData<StringOrList>, ack: AckSender| {
            let left = check_event_rate(&socket).and_then(|()| leave(&socket, room.0.ok()));
            let left = left.inspect_err(|error| refusals.count(RefusedEvent::Leave, error.code));
            let handle = connection_handle(&socket);
            async move {
                let answer = left.map_or_else(|error| EventAck::failed(&error), |()| EventAck::ok());
                acknowledge(ack, &answer, handle.as_ref());
            }
        });
        // Unknown events are not answered, but they count for the rate limit.
        socket.on_fallback(|socket: SocketRef| {
            let _ = check_event_rate(&socket);
            async {}
        });
    }

    fn join(&self, socket: &SocketRef, room: Option<StringOrList>) -> Result<(Room, Registration), ClientError> {
        let room = handshake::event_room(room)?;
        let registration = socket.extensions.get::<Registration>().ok_or_else(ClientError::gone)?;
        if self.identity.requires_tokens() {
            let allowed_rooms = socket.extensions.get::<RoomScope>().ok_or_else(ClientError::gone)?;
            if !allowed_rooms.covers(&room) {
                return Err(ClientError::room_forbidden(&room));
            }
        }
        registration.join(&room, self.max_rooms).map_err(|error| match error {
            JoinError::Closed => ClientError::gone(),
            JoinError::TooManyRooms(max) => ClientError::rooms_too_many(max),
        })?;
        Ok((room, registration))
    }
}

impl EventAck {
    fn ok() -> Self {
        Self { ok: true, code: None, message: None }
    }

    fn failed(error: &ClientError) -> Self {
        Self { ok: false, code: Some(error.code), message: Some(error.advice.clone()) }
    }
}

/// Counts an event of a client, or its connect. Events above the rate are refused; a client that ignores the refusals is
/// disconnected.
fn check_event_rate(socket: &SocketRef) -> Result<(), ClientError> {
    let Some(client) = socket.req_parts().extensions.get::<Arc<ClientLimits>>() else { return Ok(()) };
    match client.check_event() {
        EventVerdict::Allowed => Ok(()),
        EventVerdict::TooMany => Err(ClientError::events_too_many()),
        EventVerdict::Flood => {
            close(connection_handle(socket).as_ref());
            Err(ClientError::events_too_many())
        }
    }
}

fn leave(socket: &SocketRef, room: Option<StringOrList>) -> Result<(), ClientError> {
    let room = handshake::event_room(room)?;
    let registration = socket.extensions.get::<Registration>().ok_or_else(ClientError::gone)?;
    registration.leave(&room).map_err(|_closed| ClientError::gone())
}

/// Sends an acknowledgement. If the client reads so slowly that its queue is full, it is disconnected: it must not
/// believe that the event is still in progress.
fn acknowledge(ack: AckSender, answer: &EventAck, handle: Option<&ConnectionHandle>) {
    if let Err(error) = ack.send(answer) {
        debug!(%error, "disconnecting a client that cannot be sent an acknowledgement");
        close(handle);
    }
}

/// The handle of the socket's connection, or of its session if the client connected by polling.
fn connection_handle(socket: &SocketRef) -> Option<ConnectionHandle> {
    socket.req_parts().extensions.get().cloned()
}

fn close(handle: Option<&ConnectionHandle>) {
    if let Some(handle) = handle {
        handle.close();
    }
}

fn socket_id(socket: &SocketRef) -> Option<SocketId> {
    SocketId::parse(socket.id.as_str()).ok()
}
