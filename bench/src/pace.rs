//! So many a second: when those are due that come and go.

use std::time::Duration;

use tokio::time::{Interval, interval};

/// Those that have become due meanwhile are due together.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub struct Pace {
    looks: Interval,
    each_second: usize,
    due: f64,
}

impl Pace {
    pub fn new(each_second: usize) -> Self {
        Self { looks: interval(LOOK_EVERY), each_second, due: 0.0 }
    }

    /// Ends when the next one is due.
    pub async fn next(&mut self) {
        while self.due < 1.0 {
            self.looks.tick().await;
            self.due += self.each_second as f64 * LOOK_EVERY.as_secs_f64();
        }
        self.due -= 1.0;
    }
}
