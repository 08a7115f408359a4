//! The pace of churn: spreads a number of events per second over time.

use std::time::Duration;

use tokio::time::{Interval, interval};

/// The events that become due within one interval happen together.
const TICK_INTERVAL: Duration = Duration::from_millis(50);

pub struct Pace {
    ticks: Interval,
    each_second: usize,
    due: f64,
}

impl Pace {
    pub fn new(each_second: usize) -> Self {
        Self { ticks: interval(TICK_INTERVAL), each_second, due: 0.0 }
    }

    /// Waits until the next event is due.
    pub async fn next(&mut self) {
        while self.due < 1.0 {
            self.ticks.tick().await;
            self.due += self.each_second as f64 * TICK_INTERVAL.as_secs_f64();
        }
        self.due -= 1.0;
    }
}
