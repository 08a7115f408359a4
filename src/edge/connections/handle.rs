//! Handles of client connections, and the registry of all open ones.
//!
//! Owns the [`ConnectionHandle`], with which any part of the node closes a connection, also a WebSocket that was upgraded
//! long ago. Neither hyper nor socketioxide can close the transport of one client from outside. A polling client uses
//! many connections, so its session has a handle of its own in the same registry. Does no I/O: the stream checks its
//! handle before each read and write.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Context;

use futures::task::AtomicWaker;
use parking_lot::Mutex;

/// Closes one connection, or one polling session. Cheap to clone.
#[derive(Clone, Default)]
pub struct ConnectionHandle(Arc<HandleState>);

type OnEnd = Box<dyn FnOnce() + Send + Sync>;
type CloseSession = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct HandleState {
    /// This node has closed the connection.
    closed: AtomicBool,
    /// The stream was dropped.
    gone: AtomicBool,
    has_client: AtomicBool,
    is_websocket: AtomicBool,
    on_end: Mutex<Option<OnEnd>>,
    peer: Option<IpAddr>,
    /// Set for a polling session, which has no stream.
    close_session: Option<CloseSession>,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

/// The handles of all open connections, upgraded ones included, and of all polling sessions. Cheap to clone.
#[derive(Clone, Default)]
pub struct ConnectionRegistry(Arc<RegistryState>);

#[derive(Default)]
struct RegistryState {
    next_id: AtomicU64,
    open: Mutex<HashMap<u64, ConnectionHandle>>,
}

/// Keeps a handle in the registry until it is dropped.
pub struct RegisteredHandle {
    handle: ConnectionHandle,
    id: u64,
    registry: ConnectionRegistry,
}

impl ConnectionHandle {
    pub(super) fn of_connection(peer: IpAddr) -> Self {
        Self(Arc::new(HandleState { peer: Some(peer), ..HandleState::default() }))
    }

    /// Closes the connection: from now on its reads and writes fail, and its owner drops it.
    pub fn close(&self) {
        self.run_on_end();
        self.0.closed.store(true, Ordering::Release);
        self.0.reader.wake();
        self.0.writer.wake();
        if let Some(close_session) = &self.0.close_session {
            close_session();
        }
    }

    /// Whether the connection has ended, whichever side ended it.
    pub fn is_gone(&self) -> bool {
        self.0.gone.load(Ordering::Acquire)
    }

    /// Sets what runs when the connection ends, at most once. If this node closes the connection, it runs before the peer
    /// can see that; if the peer ends it, it runs as soon as the stream is dropped. Replaces an earlier closure.
    pub fn set_on_end(&self, act: impl FnOnce() + Send + Sync + 'static) {
        *self.0.on_end.lock() = Some(Box::new(act));
    }

    /// Records that the peer has ended a polling session, which may still be in use here.
    pub fn set_gone(&self) {
        self.0.gone.store(true, Ordering::Release);
        self.run_on_end();
    }

    fn run_on_end(&self) {
        // Taken first, so that the lock is free while the closure runs.
        let on_end = self.0.on_end.lock().take();
        if let Some(on_end) = on_end {
            on_end();
        }
    }

    /// `None` for a polling session, which is not bound to a connection.
    pub fn peer(&self) -> Option<IpAddr> {
        self.0.peer
    }

    /// Marks the connection as that of a Socket.IO client: [`ConnectionRegistry::clients`] lists it.
    pub fn mark_client(&self) {
        self.0.has_client.store(true, Ordering::Release);
    }

    /// Marks the connection as a WebSocket: it is read at a limited rate from now on.
    pub fn mark_websocket(&self) {
        self.0.is_websocket.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_websocket(&self) -> bool {
        self.0.is_websocket.load(Ordering::Relaxed)
    }

    /// Fails if the connection was closed; otherwise a later close wakes the reading task.
    pub(super) fn check_read(&self, context: &Context<'_>) -> io::Result<()> {
        self.check(&self.0.reader, context)
    }

    /// Fails if the connection was closed; otherwise a later close wakes the writing task.
    pub(super) fn check_write(&self, context: &Context<'_>) -> io::Result<()> {
        self.check(&self.0.writer, context)
    }

    fn check(&self, waker: &AtomicWaker, context: &Context<'_>) -> io::Result<()> {
        // Registered before the flag is read, or a close between the two would wake no task.
        waker.register(context.waker());
        if self.0.closed.load(Ordering::Acquire) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl ConnectionRegistry {
    /// The handles of the Socket.IO clients that are connected now.
    pub fn clients(&self) -> Vec<ConnectionHandle> {
        let open = self.0.open.lock();
        open.values().filter(|handle| handle.0.has_client.load(Ordering::Acquire)).cloned().collect()
    }

    /// The number of open connections and polling sessions.
    pub fn count(&self) -> usize {
        self.0.open.lock().len()
    }

    /// Registers a polling session. `close` may be called more than once.
    pub fn register_session(&self, close: impl Fn() + Send + Sync + 'static) -> RegisteredHandle {
        let state = HandleState { close_session: Some(Box::new(close)), ..HandleState::default() };
        let handle = ConnectionHandle(Arc::new(state));
        handle.mark_client();
        self.register(handle)
    }

    pub(super) fn register(&self, handle: ConnectionHandle) -> RegisteredHandle {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        self.0.open.lock().insert(id, handle.clone());
        RegisteredHandle { handle, id, registry: self.clone() }
    }
}

impl RegisteredHandle {
    pub fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }
}

impl Drop for RegisteredHandle {
    fn drop(&mut self) {
        self.handle.set_gone();
        self.registry.0.open.lock().remove(&self.id);
    }
}
