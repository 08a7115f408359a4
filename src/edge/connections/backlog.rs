//! What was written to a connection and not yet taken by its other end.
//!
//! Owns the bound on readers that are slow on purpose: the kernel ends a connection whose other end takes nothing, and
//! one that takes a byte now and then would keep a large answer in memory for as long as it likes. Costs nothing while
//! everything is taken as it comes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// So much must be taken within the time, or everything.
const PIECE: usize = 1 << 20;
/// A connection that had nothing to write for this long begins anew. What is shorter is a pause between two pieces of
/// the same answer: TLS hands it down in such.
const PAUSE: Duration = Duration::from_secs(1);

/// The watch over one connection.
pub struct Backlog {
    within: Duration,
    /// There since something could not be written at once.
    waiting: Option<Box<Waiting>>,
}

struct Waiting {
    until: Pin<Box<Sleep>>,
    /// Of the piece.
    taken: usize,
    /// When everything had been written.
    drained: Option<Instant>,
}

impl Backlog {
    pub fn new(within: Duration) -> Self {
        Self { within, waiting: None }
    }

    /// Something was written, or could not be.
    ///
    /// # Errors
    /// When too little was taken for too long: the end of the connection.
    pub fn wrote(&mut self, written: &Poll<io::Result<usize>>, context: &mut Context<'_>) -> io::Result<()> {
        match (written, &mut self.waiting) {
            (Poll::Ready(Ok(bytes)), Some(waiting)) => {
                waiting.taken += bytes;
                if waiting.taken >= PIECE {
                    waiting.begin(self.within);
                }
                Ok(())
            }
            (Poll::Ready(_), _) => Ok(()),
            (Poll::Pending, waiting) => {
                let waiting = waiting.get_or_insert_with(|| Box::new(Waiting::new(self.within)));
                if waiting.drained.take().is_some_and(|drained| drained.elapsed() > PAUSE) {
                    waiting.begin(self.within);
                }
                match waiting.until.as_mut().poll(context) {
                    Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
                    Poll::Pending => Ok(()),
                }
            }
        }
    }

    /// Everything was written that there is.
    pub fn drained(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            waiting.drained.get_or_insert_with(Instant::now);
        }
    }
}

impl Waiting {
    fn new(within: Duration) -> Self {
        Self { until: Box::pin(sleep(within)), taken: 0, drained: None }
    }

    fn begin(&mut self, within: Duration) {
        self.until.as_mut().reset(Instant::now() + within);
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker;
    use tokio::time::advance;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(60);
    const PENDING: Poll<io::Result<usize>> = Poll::Pending;

    /// Whether the connection goes on.
    fn wrote(backlog: &mut Backlog, written: &Poll<io::Result<usize>>) -> bool {
        backlog.wrote(written, &mut Context::from_waker(&noop_waker())).is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_little_is_out_in_time_and_who_takes_enough_is_not() {
        for (each, lasts) in [(1, 60_u64), (PIECE / 120, 60), (PIECE / 30, 1000)] {
            let mut backlog = Backlog::new(WITHIN);
            assert!(wrote(&mut backlog, &PENDING));
            let mut seconds: u64 = 0;
            while seconds < 1000 && wrote(&mut backlog, &Poll::Ready(Ok(each))) && wrote(&mut backlog, &PENDING) {
                advance(Duration::from_secs(1)).await;
                seconds += 1;
            }
            assert!(seconds.abs_diff(lasts) <= 1, "{each}: {seconds}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_pause_ends_what_is_waited_for() {
        let mut backlog = Backlog::new(WITHIN);
        for seconds in [1, 30, 28] {
            assert!(wrote(&mut backlog, &PENDING));
            backlog.drained();
            assert!(wrote(&mut backlog, &PENDING));
            advance(Duration::from_secs(seconds)).await;
        }
        assert!(wrote(&mut backlog, &Poll::Ready(Ok(1))));
        backlog.drained();
        advance(WITHIN).await;
        assert!(wrote(&mut backlog, &PENDING), "another answer, another time");
        advance(WITHIN).await;
        assert!(!wrote(&mut backlog, &PENDING));
    }
}
