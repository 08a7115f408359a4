//! The simulated network of the mesh, and the simulated clock.
//!
//! Owns the connector, the listener, and the simulated time of leases. Within a thread the time never runs backwards,
//! across hosts and across consecutive simulations.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Once;
use std::task::{Context, Poll};
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
}

/// Begins a simulation in this thread. The clock continues from the end of the previous simulation.
pub(crate) fn begin_time() {
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
    async move { Ok(Box::new(TcpStream::connect(mesh.as_str()).await?) as Box<dyn Io>) }.boxed()
}

/// The connections that this host accepts.
pub(crate) async fn listen() -> io::Result<impl Stream<Item = io::Result<Accepted>>> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    Ok(unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| Accepted(stream));
        Some((accepted, listener))
    }))
}

pub(crate) struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, to)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
