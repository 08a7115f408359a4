//! A TCP proxy that injects network faults in front of one address. A link is the set of connections from one node. Per
//! link, the proxy forwards bytes, delays them, holds them as if packets were lost, or resets the connections.
//!
//! Owns the connections through it. It finds the node of a connection in `/proc`, by the process that owns the connecting
//! socket. A proxy of a single node needs no look-up.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// The maximum size of a chunk in bytes.
const MAX_CHUNK_BYTES: usize = 16 << 10;
/// The maximum number of chunks in flight per direction of a connection.
const MAX_CHUNKS: usize = 256;

/// The treatment of a link's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Open,
    /// Present and new connections are reset.
    Cut,
    /// Connections are accepted and stay open, but no byte passes until the mode changes.
    Held,
    /// Every chunk passes after this delay.
    Delayed(Duration),
}

/// The mode of each link, by the number of the node it comes from.
type Links = Arc<Mutex<HashMap<usize, watch::Sender<Mode>>>>;

/// The processes that may connect, with the link number of each.
#[derive(Clone, Default)]
pub struct Processes(Arc<Mutex<HashMap<u32, usize>>>);

impl Processes {
    pub fn insert(&self, pid: u32, link: usize) {
        self.0.lock().unwrap().insert(pid, link);
    }

    pub fn remove(&self, pid: u32) {
        self.0.lock().unwrap().remove(&pid);
    }

    /// The link of the process that owns the socket at the other end of this connection.
    fn link(&self, peer: SocketAddr, local: SocketAddr) -> Option<usize> {
        let inode = inode(peer, local)?;
        let processes: Vec<(u32, usize)> = self.0.lock().unwrap().iter().map(|(pid, link)| (*pid, *link)).collect();
        processes.into_iter().find(|(pid, _)| owns(*pid, &inode)).map(|(_, link)| link)
    }
}

/// The inode of the socket that is bound to `peer` and connected to `local`.
fn inode(peer: SocketAddr, local: SocketAddr) -> Option<String> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let (peer, local) = (in_proc(peer)?, in_proc(local)?);
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let found = words.next() == Some(&peer) && words.next() == Some(&local);
        found.then(|| words.nth(6).map(str::to_owned))?
    })
}

/// An address in the format of `/proc/net/tcp`, which writes the IP address in native byte order.
fn in_proc(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port()))
}

fn owns(pid: u32, inode: &str) -> bool {
    let expected = format!("socket:[{inode}]");
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == expected.as_str()))
}

/// The nodes that connect to a proxy.
#[derive(Clone)]
pub enum Callers {
    /// One node, over the link of this number.
    One(usize),
    /// Every node.
    Many(Processes),
}

/// A running proxy. Dropping it ends the proxy and its connections.
pub struct Proxy {
    pub address: SocketAddr,
    links: Links,
    target: watch::Sender<SocketAddr>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub async fn start(target: SocketAddr, callers: Callers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let links = Links::default();
        let (target, _) = watch::channel(target);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, callers, Arc::clone(&links), target.clone()));
        Self { address, links, target, _tasks: tasks }
    }

    /// Sets the mode of the link from node `from`.
    pub fn set(&self, from: usize, mode: Mode) {
        link(&self.links, from).send_replace(mode);
    }

    /// Forwards new connections to `target`, and resets the present ones.
    pub fn point_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }
}

fn link(links: &Links, from: usize) -> watch::Sender<Mode> {
    links.lock().unwrap().entry(from).or_insert_with(|| watch::channel(Mode::Open).0).clone()
}

async fn accept(listener: TcpListener, callers: Callers, links: Links, target: watch::Sender<SocketAddr>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, peer)) = accepted else { continue };
        let from = match &callers {
            Callers::One(from) => Some(*from),
            Callers::Many(processes) => stream.local_addr().ok().and_then(|local| processes.link(peer, local)),
        };
        // No known process owns the socket: the process has ended already.
        let Some(from) = from else {
            reset(stream);
            continue;
        };
        connections.spawn(carry(stream, link(&links, from).subscribe(), target.subscribe()));
    }
}

fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

/// Forwards one connection until an end closes it, the link is cut, or the target changes.
async fn carry(caller: TcpStream, mut mode: watch::Receiver<Mode>, mut target: watch::Receiver<SocketAddr>) {
    let mut cut = mode.clone();
    let address = *target.borrow_and_update();
    let callee = tokio::select! {
        callee = async {
            let _ = mode.wait_for(|mode| *mode != Mode::Held).await;
            TcpStream::connect(address).await.ok()
        } => callee,
        _ = cut.wait_for(|mode| *mode == Mode::Cut) => None,
        _ = target.changed() => None,
    };
    let Some(callee) = callee else { return reset(caller) };
    for stream in [&caller, &callee] {
        let _ = stream.set_nodelay(true);
        // A drop then resets the connection. An orderly end is not affected, because `pump` has shut down the stream.
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
    let (from_caller, to_caller) = split(caller);
    let (from_callee, to_callee) = split(callee);
    let forth = pump(from_caller, to_callee, mode.clone());
    let back = pump(from_callee, to_caller, mode);
    tokio::select! {
        _ = async { tokio::join!(forth, back) } => {}
        _ = cut.wait_for(|mode| *mode == Mode::Cut) => {}
        _ = target.changed() => {}
    }
}

/// Forwards one direction. Ends when the source has ended and every chunk has been written.
async fn pump(mut from: ReadHalf<TcpStream>, mut to: WriteHalf<TcpStream>, mut mode: watch::Receiver<Mode>) {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(MAX_CHUNKS);
    let mut reading = mode.clone();
    let read = async move {
        let mut chunk = vec![0; MAX_CHUNK_BYTES];
        loop {
            let _ = reading.wait_for(|mode| *mode != Mode::Held).await;
            let count = tokio::select! {
                read = from.read(&mut chunk) => read.unwrap_or(0),
                _ = reading.changed() => continue,
            };
            let delay = if let Mode::Delayed(delay) = *reading.borrow() { delay } else { Duration::ZERO };
            if count == 0 || sender.send((Instant::now() + delay, chunk[..count].to_vec())).await.is_err() {
                // The end of the stream is delayed like its chunks.
                sleep_until(Instant::now() + delay).await;
                return from;
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = chunks.recv().await {
            sleep_until(due).await;
            let _ = mode.wait_for(|mode| *mode != Mode::Held).await;
            if to.write_all(&chunk).await.is_err() {
                return to;
            }
        }
        let _ = mode.wait_for(|mode| *mode != Mode::Held).await;
        let _ = to.shutdown().await;
        to
    };
    // Dropping a half early could reset the other direction, so that both halves live until both directions have ended.
    let _halves = tokio::join!(read, write);
}
