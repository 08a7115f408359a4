//! The simulated network as the mesh sees it, and the clock.
//!
//! Owns the connector, the listener, and the time that leases go by: simulated time, which never runs backwards within
//! a thread, whichever host asks, and whatever was simulated there before.

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

/// An hour, so that no age is cut off at the start of the clock.
const START: Duration = Duration::from_secs(3600);

thread_local! {
    /// When the present simulation began, and the latest moment that was told.
    static BEGAN: Cell<Duration> = const { Cell::new(START) };
    static LATEST: Cell<Duration> = const { Cell::new(START) };
}

/// A simulation begins in this thread: the clock goes on from where the last one left it.
pub(crate) fn begin_time() {
    static REPLACE: Once = Once::new();
    REPLACE.call_once(|| rollcall::clock::simulate(now));
    BEGAN.set(LATEST.get());
}

/// Hosts run one after the other through each tick: one that is behind the latest is given the latest. Outside of
/// hosts the time stands still.
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
