//! The TCP stream of one client connection, as hyper and rustls see it.
//!
//! Owns what lasts as long as the connection: its entry in the registry, its [`ConnectionPermit`], the timeout for a slow
//! reader, and the rate at which a WebSocket is read. Reads and writes fail once the connection's handle has closed it.
//!
//! The kernel ends a connection whose peer reads nothing at all (`TCP_USER_TIMEOUT`). A peer that reads a byte from time to
//! time would keep a large answer in memory without end, so [`WriteWatchdog`] asks for a minimum of progress. It allocates
//! and sets a timer only when a write has to wait.

use std::io;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::edge::connections::handle::RegisteredHandle;
use crate::edge::limits::connection_limiter::ConnectionPermit;

/// The burst of a WebSocket, in seconds of its read rate.
const READ_BURST_SECONDS: u32 = 8;

pub(crate) struct TrackedStream {
    stream: TcpStream,
    registered: RegisteredHandle,
    watchdog: WriteWatchdog,
    /// Applies to WebSockets only.
    read_rate: Option<ReadRateLimiter>,
    _permit: ConnectionPermit,
}

/// Bounds the work that a client causes without sending an event: packets for unknown namespaces, unexpected
/// acknowledgements, pings.
///
/// The limiter refuses no data: it waits in the client's own kernel. Takes a few words of memory, and no timer while the
/// client stays below the rate.
struct ReadRateLimiter {
    bytes: DefaultDirectRateLimiter,
    burst: NonZeroU32,
    /// Bytes that were read and are not charged to `bytes` yet. Their number is known only after the read.
    uncharged: Option<NonZeroU32>,
    delay: Option<Pin<Box<Sleep>>>,
}

impl TrackedStream {
    /// `answer_timeout` bounds how slowly the peer may read, and `read_rate` how many bytes per second are read from a
    /// WebSocket.
    pub(crate) fn new(
        stream: TcpStream,
        registered: RegisteredHandle,
        answer_timeout: Duration,
        read_rate: Option<NonZeroU32>,
        permit: ConnectionPermit,
    ) -> Self {
        let watchdog = WriteWatchdog::new(answer_timeout);
        Self { stream, registered, watchdog, read_rate: read_rate.map(ReadRateLimiter::new), _permit: permit }
    }

    fn watch(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Err(error) = self.watchdog.on_write(&written, context) {
            // Otherwise the kernel would keep the unsent data and try to deliver it.
            let _ = self.stream.set_zero_linger();
            return Poll::Ready(Err(error));
        }
        written
    }
}

impl AsyncRead for TrackedStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.registered.handle().check_read(context)?;
        let Self { stream, registered, read_rate, .. } = &mut *self;
        let Some(read_rate) = read_rate.as_mut().filter(|_| registered.handle().is_websocket()) else {
            return Pin::new(stream).poll_read(context, buf);
        };
        ready!(read_rate.poll_ready(context));
        let before = buf.filled().len();
        ready!(Pin::new(stream).poll_read(context, buf))?;
        read_rate.record(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TrackedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.registered.handle().check_write(context)?;
        let written = Pin::new(&mut self.stream).poll_write(context, buf);
        self.watch(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.registered.handle().check_write(context)?;
        // hyper, tungstenite and rustls flush when they have nothing left to write.
        self.watchdog.on_flush();
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.registered.handle().check_write(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.registered.handle().check_write(context)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bufs);
        self.watch(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl ReadRateLimiter {
    fn new(bytes_per_second: NonZeroU32) -> Self {
        let burst = bytes_per_second.saturating_mul(NonZeroU32::new(READ_BURST_SECONDS).unwrap_or(NonZeroU32::MIN));
        let bytes = RateLimiter::direct(Quota::per_second(bytes_per_second).allow_burst(burst));
        Self { bytes, burst, uncharged: None, delay: None }
    }

    /// Ready when the next read may take place.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Some(uncharged) = self.uncharged {
            if let Some(delay) = &mut self.delay {
                ready!(delay.as_mut().poll(context));
                self.delay = None;
            }
            match self.bytes.check_n(uncharged) {
                Ok(Err(early)) => {
                    let wait = early.wait_time_from(DefaultClock::default().now());
                    self.delay = Some(Box::pin(sleep(wait)));
                }
                Ok(Ok(())) | Err(_) => self.uncharged = None,
            }
        }
        Poll::Ready(())
    }

    fn record(&mut self, bytes: usize) {
        self.uncharged = u32::try_from(bytes).ok().and_then(NonZeroU32::new).map(|bytes| bytes.min(self.burst));
    }
}

/// Bytes that the peer must read within the timeout, unless everything is written before.
const MIN_PROGRESS: usize = 1 << 20;
/// The timeout starts anew after the connection had nothing to write for this long. A shorter break is a gap within the
/// same answer, such as between two TLS records.
const MIN_IDLE: Duration = Duration::from_secs(1);

/// Watches the writes of one connection.
pub(crate) struct WriteWatchdog {
    timeout: Duration,
    /// `None` until a write has to wait for the first time.
    blocked: Option<Box<BlockedWrite>>,
}

struct BlockedWrite {
    deadline: Pin<Box<Sleep>>,
    /// Bytes written since the deadline was set.
    progress: usize,
    /// When everything had been written.
    drained_at: Option<Instant>,
}

impl WriteWatchdog {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, blocked: None }
    }

    /// Takes the result of a write. If the write has to wait, registers the task for the deadline.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when the peer read too little in time; the caller closes the connection.
    pub(crate) fn on_write(&mut self, written: &Poll<io::Result<usize>>, context: &mut Context<'_>) -> io::Result<()> {
        match (written, &mut self.blocked) {
            (Poll::Ready(Ok(bytes)), Some(blocked)) => {
                blocked.progress += bytes;
                if blocked.progress >= MIN_PROGRESS {
                    blocked.restart(self.timeout);
                }
                Ok(())
            }
            (Poll::Ready(_), _) => Ok(()),
            (Poll::Pending, blocked) => {
                let blocked = blocked.get_or_insert_with(|| Box::new(BlockedWrite::new(self.timeout)));
                if blocked.drained_at.take().is_some_and(|drained_at| drained_at.elapsed() > MIN_IDLE) {
                    blocked.restart(self.timeout);
                }
                match blocked.deadline.as_mut().poll(context) {
                    Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
                    Poll::Pending => Ok(()),
                }
            }
        }
    }

    /// Notes that nothing is left to write.
    pub(crate) fn on_flush(&mut self) {
        if let Some(blocked) = &mut self.blocked {
            blocked.drained_at.get_or_insert_with(Instant::now);
        }
    }
}

impl BlockedWrite {
    fn new(timeout: Duration) -> Self {
        Self { deadline: Box::pin(sleep(timeout)), progress: 0, drained_at: None }
    }

    fn restart(&mut self, timeout: Duration) {
        self.deadline.as_mut().reset(Instant::now() + timeout);
        self.progress = 0;
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker;
    use tokio::time::advance;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);
    const PENDING: Poll<io::Result<usize>> = Poll::Pending;

    /// Whether the connection stays open.
    fn on_write(watchdog: &mut WriteWatchdog, written: &Poll<io::Result<usize>>) -> bool {
        watchdog.on_write(written, &mut Context::from_waker(&noop_waker())).is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_times_out_and_a_fast_one_does_not() {
        for (bytes_per_second, lasts) in [(1, 60_u64), (MIN_PROGRESS / 120, 60), (MIN_PROGRESS / 30, 1000)] {
            let mut watchdog = WriteWatchdog::new(TIMEOUT);
            assert!(on_write(&mut watchdog, &PENDING));
            let mut seconds: u64 = 0;
            while seconds < 1000
                && on_write(&mut watchdog, &Poll::Ready(Ok(bytes_per_second)))
                && on_write(&mut watchdog, &PENDING)
            {
                advance(Duration::from_secs(1)).await;
                seconds += 1;
            }
            assert!(seconds.abs_diff(lasts) <= 1, "{bytes_per_second}: {seconds}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_idle_connection_restarts_the_timeout() {
        let mut watchdog = WriteWatchdog::new(TIMEOUT);
        for seconds in [1, 30, 28] {
            assert!(on_write(&mut watchdog, &PENDING));
            watchdog.on_flush();
            assert!(on_write(&mut watchdog, &PENDING));
            advance(Duration::from_secs(seconds)).await;
        }
        assert!(on_write(&mut watchdog, &Poll::Ready(Ok(1))));
        watchdog.on_flush();
        advance(TIMEOUT).await;
        assert!(on_write(&mut watchdog, &PENDING), "the next answer has a timeout of its own");
        advance(TIMEOUT).await;
        assert!(!on_write(&mut watchdog, &PENDING));
    }
}
