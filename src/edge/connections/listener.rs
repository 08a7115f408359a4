//! Listening sockets, and the process's limit of open files.
//!
//! Owns the options of listening sockets. Accepts nothing: that is the accept loop's task.

use std::io;
use std::net::SocketAddr;

use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tracing::warn;

/// Connections that may wait to be accepted; the kernel may lower the number. After a failure, all clients of a node
/// reconnect at the same time.
const ACCEPT_BACKLOG: i32 = 4096;

/// Listens on an address. With `shared`, several listeners of this user may have the same address, and the kernel spreads
/// connections over them.
///
/// # Errors
/// When the address is in use, or does not belong to this machine.
pub fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(ACCEPT_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Raises this process's limit of open files to the hard limit, since each connection takes one. Returns the new limit.
pub fn raise_file_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "cannot raise the limit of open files (RLIMIT_NOFILE)");
    }
    file_limit()
}

/// The maximum of open files of this process, connections included. `None`: unlimited.
pub fn file_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}
