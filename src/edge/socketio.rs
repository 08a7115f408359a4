//! The socket edge: where Socket.IO clients come in.
//!
//! Owns the namespace `/`, its connect middleware, and the events `join` and `leave`. A socket gets its [`Registration`]
//! in the middleware, before it is told that it is connected, and keeps it in its extensions, so its rows go when it
//! goes, whatever way that was. socketioxide's own rooms are not used. What a handshake says is read in [`handshake`],
//! whether it gets a client in is decided in [`admission`], and when its token is over in [`expiry`]; who gets as far as
//! that is decided at the [`crate::edge::readiness_gate`], and in what way by [`polling`].

pub mod admission;
pub mod expiry;
pub mod handshake;
mod users;

use std::collections::HashSet;
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
use crate::telemetry::metrics::refusals::{Refusals, Wanted};
use admission::{Admitted, Turned};
use expiry::Expiry;
use handshake::{Auth, Given, Handshake, Refusal};
use users::Users;

/// How much of the time in which a client must be admitted it may wait for the directory to confirm its rooms: less than
/// all of it, so that it is this bound that ends the transport.
const SETTLE_SHARE: f64 = 0.8;
/// The most attachments of a message.
const ATTACHMENTS_MOST: usize = 16;
/// How many packets may wait for a client that reads slowly. The queue grows with what is in it.
const PACKETS_WAITING: usize = 4096;
/// Every socket has a read buffer of this size, in bytes.
const READ_BUFFER: usize = 256;
/// How often a client that has to wait for the directory is looked after: is it still there?
const GONE_EVERY: Duration = Duration::from_millis(50);
/// How often the roster is compared with the live namespace.
const COMPARE_EVERY: Duration = Duration::from_secs(5);

/// IdentityMode what clients may come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transports {
    #[default]
    Websocket,
    /// HTTP long-polling, too: what official clients begin with unless told otherwise.
    WebsocketAndPolling,
}

/// What clients are held to.
#[derive(Debug, Clone, Copy)]
pub struct SocketIoConfig {
    pub transports: Transports,
    /// RoomScope per socket.
    pub rooms: usize,
    /// How often a client is asked for a sign of life.
    pub ping_interval: Duration,
    /// How long it may take to answer, and the kernel to bring it what was sent.
    pub ping_timeout: Duration,
}

impl Default for SocketIoConfig {
    /// The pings are those of Socket.IO's own server.
    fn default() -> Self {
        let transports = Transports::default();
        Self { transports, rooms: 64, ping_interval: Duration::from_secs(25), ping_timeout: Duration::from_secs(20) }
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

struct SocketEdge {
    roster: Arc<Roster>,
    reconciler: Arc<Reconciler>,
    identity: IdentityMode,
    expiry: Arc<Expiry>,
    refusals: Refusals,
    rooms_most: usize,
    users: Users,
    settle_within: Duration,
}

/// The sockets that socketioxide holds to be live, for comparison with the roster.
pub struct Live {
    roster: Arc<Roster>,
    io: SocketIo,
}

/// What a `join` or `leave` is acknowledged with.
#[derive(Debug, Serialize)]
struct Ack {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// The layer that takes Socket.IO requests out of an HTTP service, and the sockets it holds.
pub fn build(
    roster: Arc<Roster>,
    reconciler: Arc<Reconciler>,
    identity: IdentityMode,
    expiry: Arc<Expiry>,
    refusals: Refusals,
    config: SocketIoConfig,
    limits: &Limits,
) -> (SocketIoLayer, Live) {
    let message_most = limits.message_size as usize;
    // No event here has attachments; what a client sends all the same is bounded like a message.
    let parser =
        ParserConfig::common().max_incoming_binary_buf_size(message_most).max_incoming_binaries(ATTACHMENTS_MOST);
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
        .ws_max_message_size(message_most)
        .ws_max_frame_size(message_most)
        .ws_read_buffer_size(READ_BUFFER)
        .max_buffer_size(PACKETS_WAITING)
        .with_parser(parser)
        .build_layer();
    let edge = Arc::new(SocketEdge {
        roster: Arc::clone(&roster),
        reconciler,
        identity,
        expiry,
        refusals,
        rooms_most: config.rooms,
        users: Users::new(limits.sockets_per_user),
        settle_within: limits.connect_timeout.mul_f64(SETTLE_SHARE),
    });
    let middleware = move |socket: SocketRef, auth: TryData<Auth>| {
        let edge = Arc::clone(&edge);
        async move {
            let admitted = Arc::clone(&edge).admit(socket, auth.0.ok()).await;
            admitted.inspect_err(|refusal| edge.refusals.count(Wanted::Connect, refusal))
        }
    };
    io.ns("/", (async || ()).with(middleware));
    (layer, Live { roster, io })
}

impl Live {
    /// Compares the roster with the live namespace, for ever. Finds nothing unless something is wrong elsewhere.
    pub async fn compare(&self) {
        let mut ticks = interval(COMPARE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let live: HashSet<SocketId> = self.io.sockets().iter().filter_map(id).collect();
            let closed = self.roster.close_missing(&live);
            if closed > 0 {
                warn!(closed, "sockets were gone without their presence");
            }
        }
    }
}

impl SocketEdge {
    /// The connect middleware.
    async fn admit(self: Arc<Self>, socket: SocketRef, auth: Option<Auth>) -> Result<(), Refusal> {
        let began = Instant::now();
        let switch = switch(&socket);
        allowed(&socket)?;
        let admitted = admission::admit(&self.identity, socket.req_parts(), auth, self.rooms_most).await;
        let Admitted { handshake: Handshake { user, rooms }, rooms: covered, until } = match admitted {
            Ok(admitted) => admitted,
            Err(Turned::Away(refusal)) => return Err(refusal),
            Err(Turned::Back) => {
                end(switch.as_ref());
                return Err(Refusal::gone());
            }
        };
        let Some(id) = id(&socket) else {
            return Err(Refusal::gone());
        };
        if let Some(place) = self.users.enter(&user).await? {
            socket.extensions.insert(Arc::new(place));
        }
        let presence = self.roster.register(id, user, &rooms);
        socket.extensions.insert(presence.clone());
        if self.identity.takes_tokens() {
            socket.extensions.insert(covered);
        }
        // Here and not in the connect handler: events sent right after connecting would find no one to take them.
        self.listen(&socket);
        if let Some(switch) = &switch {
            // Whoever sees that its transport was ended here is not listed any more.
            switch.set_before_close(presence.weak_close());
        }
        if let (Some(until), Some(switch)) = (until, &switch) {
            socket.extensions.insert(self.expiry.watch(until, switch.clone()));
        }
        let gone = || switch.as_ref().is_some_and(ConnectionHandle::is_gone);
        let within = self.settle_within.saturating_sub(began.elapsed());
        if !self.settled(&rooms, &presence, switch.as_ref(), within, gone).await {
            return Err(Refusal::gone());
        }
        presence.mark_connected();
        Ok(())
    }

    /// Waits until a client may be told that these rooms are its own. Whoever is `gone` meanwhile is not waited for, and
    /// who waited too long is dropped, so that it tries again: in both cases its rows go now.
    async fn settled(
        &self,
        rooms: &[Room],
        presence: &Registration,
        switch: Option<&ConnectionHandle>,
        within: Duration,
        mut gone: impl FnMut() -> bool,
    ) -> bool {
        let left = async {
            while !gone() {
                sleep(GONE_EVERY).await;
            }
        };
        let still_there = tokio::select! {
            settled = self.reconciler.wait_until_owned(rooms, within) => match settled {
                Ok(()) => return true,
                Err(unsettled) => {
                    debug!(%unsettled, "dropping a client so that it tries again");
                    true
                }
            },
            () = left => false,
        };
        // The rows go before the transport does.
        presence.close();
        if still_there {
            end(switch);
        }
        false
    }

    fn listen(self: &Arc<Self>, socket: &SocketRef) {
        let edge = Arc::clone(self);
        // Events sent together run as tasks of their own, in any order: what must keep their order is done before the
        // task begins, in the synchronous part of the handler.
        socket.on("join", move |socket: SocketRef, room: TryData<Given>, ack: AckSender| {
            let joined = allowed(&socket).and_then(|()| edge.join(&socket, room.0.ok()));
            let joined = joined.inspect_err(|refusal| edge.refusals.count(Wanted::Join, refusal));
            let switch = switch(&socket);
            async move {
                let answer = match joined {
                    Ok((room, presence)) => {
                        // socketioxide sends the connect packet before it calls the socket connected.
                        let mut was_connected = false;
                        let gone = || {
                            let connected = socket.connected();
                            was_connected |= connected;
                            was_connected && !connected
                        };
                        if !edge.settled(&[room], &presence, switch.as_ref(), edge.settle_within, gone).await {
                            return;
                        }
                        Ack::ok()
                    }
                    Err(refusal) => Ack::refused(&refusal),
                };
                acknowledge(ack, &answer, switch.as_ref());
            }
        });
        let refusals = self.refusals.clone();
        socket.on("leave", move |socket: SocketRef, room: TryData<Given>, ack: AckSender| {
            let left = allowed(&socket).and_then(|()| leave(&socket, room.0.ok()));
            let left = left.inspect_err(|refusal| refusals.count(Wanted::Leave, refusal));
            let switch = switch(&socket);
            async move {
                let answer = left.map_or_else(|refusal| Ack::refused(&refusal), |()| Ack::ok());
                acknowledge(ack, &answer, switch.as_ref());
            }
        });
        // Events that are none here are not answered, but they count.
        socket.on_fallback(|socket: SocketRef| {
            let _ = allowed(&socket);
            async {}
        });
    }

    fn join(&self, socket: &SocketRef, room: Option<Given>) -> Result<(Room, Registration), Refusal> {
        let room = handshake::one_room(room)?;
        let presence = socket.extensions.get::<Registration>().ok_or_else(Refusal::gone)?;
        if self.identity.takes_tokens() {
            let allowed = socket.extensions.get::<RoomScope>().ok_or_else(Refusal::gone)?;
            if !allowed.covers(&room) {
                return Err(Refusal::room_forbidden(&room));
            }
        }
        presence.join(&room, self.rooms_most).map_err(|error| match error {
            JoinError::Closed => Refusal::gone(),
            JoinError::TooManyRooms(most) => Refusal::rooms_too_many(most),
        })?;
        Ok((room, presence))
    }
}

impl Ack {
    fn ok() -> Self {
        Self { ok: true, code: None, message: None }
    }

    fn refused(refusal: &Refusal) -> Self {
        Self { ok: false, code: Some(refusal.code), message: Some(refusal.advice.clone()) }
    }
}

/// One more event of a client, its connecting included. Events beyond its rate are refused, and who goes on all the same
/// loses its transport.
fn allowed(socket: &SocketRef) -> Result<(), Refusal> {
    let Some(client) = socket.req_parts().extensions.get::<Arc<ClientLimits>>() else { return Ok(()) };
    match client.check_event() {
        EventVerdict::Allowed => Ok(()),
        EventVerdict::TooMany => Err(Refusal::events_too_many()),
        EventVerdict::Flood => {
            end(switch(socket).as_ref());
            Err(Refusal::events_too_many())
        }
    }
}

fn leave(socket: &SocketRef, room: Option<Given>) -> Result<(), Refusal> {
    let room = handshake::one_room(room)?;
    let presence = socket.extensions.get::<Registration>().ok_or_else(Refusal::gone)?;
    presence.leave(&room).map_err(|_closed| Refusal::gone())
}

/// A client that reads so slowly that an answer finds no place loses its connection rather than the answer.
fn acknowledge(ack: AckSender, answer: &Ack, switch: Option<&ConnectionHandle>) {
    if let Err(error) = ack.send(answer) {
        debug!(%error, "dropping a client that cannot be answered");
        end(switch);
    }
}

/// The switch of the connection that a socket came in on, or of its session if it came by polling.
fn switch(socket: &SocketRef) -> Option<ConnectionHandle> {
    socket.req_parts().extensions.get().cloned()
}

fn end(switch: Option<&ConnectionHandle>) {
    if let Some(switch) = switch {
        switch.close();
    }
}

fn id(socket: &SocketRef) -> Option<SocketId> {
    SocketId::parse(socket.id.as_str()).ok()
}
