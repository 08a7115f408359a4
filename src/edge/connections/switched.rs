//! The stream of one connection, as it is handed to whoever speaks on it.
//!
//! Owns what goes with the connection for as long as it lasts: its place among the others, its pass through the door, the
//! watch over what was not taken, and the pace at which a WebSocket is read. It reads and writes nothing more once its
//! switch was used.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Tracked;
use super::backlog::Backlog;
use super::pace::Pace;
use super::terms::Terms;
use crate::edge::limits::door::Pass;

pub struct Switched {
    stream: TcpStream,
    tracked: Tracked,
    backlog: Backlog,
    /// Of what a WebSocket sends.
    pace: Option<Pace>,
    _pass: Pass,
}

impl Switched {
    pub fn new(stream: TcpStream, tracked: Tracked, terms: &Terms, pass: Pass) -> Self {
        let (backlog, pace) = (Backlog::new(terms.answer_within), terms.bytes_per_second.map(Pace::new));
        Self { stream, tracked, backlog, pace, _pass: pass }
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Err(error) = self.backlog.wrote(&written, context) {
            // Or the kernel would keep what it has taken, and go on bringing it.
            let _ = self.stream.set_zero_linger();
            return Poll::Ready(Err(error));
        }
        written
    }
}

impl AsyncRead for Switched {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.tracked.switch.check(&self.tracked.switch.0.reader, context)?;
        let Self { stream, tracked, pace, .. } = &mut *self;
        let Some(pace) = pace.as_mut().filter(|_| tracked.switch.0.websocket.load(Ordering::Relaxed)) else {
            return Pin::new(stream).poll_read(context, buf);
        };
        ready!(pace.poll_ready(context));
        let before = buf.filled().len();
        ready!(Pin::new(stream).poll_read(context, buf))?;
        pace.read(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Switched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.tracked.switch.check(&self.tracked.switch.0.writer, context)?;
        let written = Pin::new(&mut self.stream).poll_write(context, buf);
        self.wrote(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tracked.switch.check(&self.tracked.switch.0.writer, context)?;
        // hyper, tungstenite and rustls flush when they have nothing left to write.
        self.backlog.drained();
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tracked.switch.check(&self.tracked.switch.0.writer, context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.tracked.switch.check(&self.tracked.switch.0.writer, context)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bufs);
        self.wrote(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
