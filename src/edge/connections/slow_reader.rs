//! A timeout for peers that read an answer too slowly.
//!
//! Owns the [`WriteWatchdog`]. The kernel ends a connection whose peer reads nothing at all (`TCP_USER_TIMEOUT`). A peer
//! that reads a byte from time to time would keep a large answer in memory without end. So the watchdog asks for a
//! minimum of progress. It allocates and sets a timer only when a write has to wait.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Bytes that the peer must read within the timeout, unless everything is written before.
const MIN_PROGRESS: usize = 1 << 20;
/// The timeout starts anew after the connection had nothing to write for this long. A shorter break is a gap within the
/// same answer, such as between two TLS records.
const MIN_IDLE: Duration = Duration::from_secs(1);

/// Watches the writes of one connection.
pub struct WriteWatchdog {
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
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, blocked: None }
    }

    /// Takes the result of a write. If the write has to wait, registers the task for the deadline.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when the peer read too little in time; the caller closes the connection.
    pub fn on_write(&mut self, written: &Poll<io::Result<usize>>, context: &mut Context<'_>) -> io::Result<()> {
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
    pub fn on_flush(&mut self) {
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
