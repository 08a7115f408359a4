//! The simulated network of the mesh, and the simulated clock.
//!
//! Owns the connector, the listener, paused hosts, and the simulated time of leases. Within a thread the time never runs
//! backwards, across hosts and across consecutive simulations. A paused host reads and writes nothing: what others send it
//! waits in its buffers, and what it has sent may wait in theirs.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Once;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::unfold;
use futures::{FutureExt, Stream};
use rollcall::mesh::io::Io;
use smol_str::SmolStr;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use turmoil::net::{TcpListener, TcpStream};

pub(crate) const PORT: u16 = 7000;

/// The clock starts at one hour, because code subtracts durations from the time and must not reach zero.
const START: Duration = Duration::from_secs(3600);

thread_local! {
    /// The start of the present simulation.
    static BEGAN: Cell<Duration> = const { Cell::new(START) };
    /// The latest time that the clock has returned.
    static LATEST: Cell<Duration> = const { Cell::new(START) };
    /// The hosts that are paused now.
    static PAUSED: RefCell<HashSet<IpAddr>> = RefCell::default();
    /// The tasks of paused hosts that wait for the network.
    static WAITING: RefCell<Vec<Waker>> = const { RefCell::new(Vec::new()) };
}

/// Returns whether the host was running.
pub(crate) fn pause(host: IpAddr) -> bool {
    PAUSED.with_borrow_mut(|paused| paused.insert(host))
}

pub(crate) fn resume(host: IpAddr) {
    PAUSED.with_borrow_mut(|paused| paused.remove(&host));
    WAITING.take().into_iter().for_each(Waker::wake);
}

/// Returns when the host runs. It is woken together with the tasks that wait for the network, in any order.
pub(crate) async fn until_running(host: IpAddr) {
    poll_fn(|context| poll_running(host, context)).await;
}

fn poll_running(host: IpAddr, context: &Context<'_>) -> Poll<()> {
    if !PAUSED.with_borrow(|paused| paused.contains(&host)) {
        return Poll::Ready(());
    }
    WAITING.with_borrow_mut(|waiting| waiting.push(context.waker().clone()));
    Poll::Pending
}

/// Begins a simulation in this thread. The clock continues from the end of the previous simulation.
pub(crate) fn begin_time() {
    PAUSED.take();
    WAITING.take();
    static REPLACE: Once = Once::new();
    REPLACE.call_once(|| rollcall::clock::simulate(now));
    BEGAN.set(LATEST.get());
}

/// The simulated time. The hosts run one after another through each tick, so that the clock of one can be behind the
/// latest time; it then gets the latest time. Outside of hosts the clock stands still.
fn now() -> Duration {
    let time = turmoil::sim_elapsed().map_or(Duration::ZERO, |elapsed| BEGAN.get() + elapsed);
    LATEST.set(LATEST.get().max(time));
    LATEST.get()
}

pub(crate) fn connect(mesh: SmolStr) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
    async move {
        let stream = TcpStream::connect(mesh.as_str()).await?;
        let host = stream.local_addr()?.ip();
        Ok(Box::new(PausableStream { stream, host }) as Box<dyn Io>)
    }
    .boxed()
}

/// The connections that this host accepts.
pub(crate) async fn listen(host: IpAddr) -> io::Result<impl Stream<Item = io::Result<PausableStream>>> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    Ok(unfold(listener, move |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| PausableStream { stream, host });
        Some((accepted, listener))
    }))
}

/// A connection of a host, which reads and writes nothing while the host is paused.
pub(crate) struct PausableStream {
    stream: TcpStream,
    host: IpAddr,
}

impl Connected for PausableStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for PausableStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(poll_running(self.host, context));
        Pin::new(&mut self.stream).poll_read(context, to)
    }
}

impl AsyncWrite for PausableStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(poll_running(self.host, context));
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(poll_running(self.host, context));
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
