//! A TCP proxy that breaks links: it stands in front of one address, and for each link that leads there (from one node)
//! it passes bytes, resets connections, holds them as if packets were dropped, or passes them late.
//!
//! Owns the connections through it. Which node a connection comes from is looked up in `/proc`: the process that owns
//! the connecting socket. A proxy that serves one node alone needs no look-up.

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

/// The most bytes of one chunk, and the most chunks that are on their way.
const CHUNK: usize = 16 << 10;
const CHUNKS: usize = 256;

/// What a link does with its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Open,
    /// Connections are reset, and so are new ones.
    Cut,
    /// Connections are taken and stay, and nothing passes until the link is open again.
    Held,
    /// Every chunk passes this much later.
    Delayed(Duration),
}

/// The link that a connection belongs to, by where it comes from.
type Links = Arc<Mutex<HashMap<usize, watch::Sender<Mode>>>>;

/// Which processes connections may come from, with the number of the link each has.
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

/// An address as `/proc/net/tcp` writes it: the bytes of the IP address in the order of this machine.
fn in_proc(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port()))
}

fn owns(pid: u32, inode: &str) -> bool {
    let wanted = format!("socket:[{inode}]");
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()))
}

/// Who connects to a proxy.
#[derive(Clone)]
pub enum Callers {
    /// One node, over the link of this number.
    One(usize),
    /// Every node.
    Many(Processes),
}

/// Runs until it is dropped.
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

    /// From now on the link from node `from` does this.
    pub fn set(&self, from: usize, mode: Mode) {
        link(&self.links, from).send_replace(mode);
    }

    /// New connections lead there, and the present ones are reset.
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
        // Nobody's: the process is gone already.
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

/// Carries one connection until an end closes it, or the link is cut.
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
        // Whoever drops it resets the connection; an orderly end was shut down before.
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
    let (from_caller, to_caller) = split(caller);
    let (from_callee, to_callee) = split(callee);
    let there = pump(from_caller, to_callee, mode.clone());
    let back = pump(from_callee, to_caller, mode);
    tokio::select! {
        _ = async { tokio::join!(there, back) } => {}
        _ = cut.wait_for(|mode| *mode == Mode::Cut) => {}
        _ = target.changed() => {}
    }
}

/// Carries one direction. Ends when its source has ended and everything was passed on.
async fn pump(mut from: ReadHalf<TcpStream>, mut to: WriteHalf<TcpStream>, mut mode: watch::Receiver<Mode>) {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
    let mut reading = mode.clone();
    let read = async move {
        let mut chunk = vec![0; CHUNK];
        loop {
            let _ = reading.wait_for(|mode| *mode != Mode::Held).await;
            let count = tokio::select! {
                read = from.read(&mut chunk) => read.unwrap_or(0),
                _ = reading.changed() => continue,
            };
            let late = if let Mode::Delayed(by) = *reading.borrow() { by } else { Duration::ZERO };
            if count == 0 || sender.send((Instant::now() + late, chunk[..count].to_vec())).await.is_err() {
                // The end is as late as the rest.
                sleep_until(Instant::now() + late).await;
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
    // Both halves are kept until both directions are done.
    let _halves = tokio::join!(read, write);
}
