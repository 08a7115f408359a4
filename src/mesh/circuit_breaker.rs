//! The circuit breaker of one peer. It limits the time that callers wait for the peer.
//!
//! Owns the number of consecutive timeouts. While it is closed, each caller waits up to its own deadline. Several timeouts
//! open it: then one caller at a time probes the peer for a short time, and the others fail at once. Any answer closes it.
//! Performs no I/O and reads no clock. The announcer still contacts a peer whose circuit is open.

use std::time::Duration;

use crate::clock::BootInstant;

/// Consecutive timeouts that open the circuit.
const MAX_TIMEOUTS: u32 = 3;
/// Shorter timeouts are not counted: they prove nothing about the peer.
const MIN_COUNTED_WAIT: Duration = Duration::from_millis(100);
/// Short, because a peer that has recovered usually answers the announcer first, which closes the circuit.
const PROBE_TIMEOUT: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub struct CircuitBreaker {
    timeouts: u32,
    /// The time of the last counted timeout. Of several callers that waited at the same time, only one is counted.
    last_timeout: Option<BootInstant>,
    probing: bool,
}

/// The permission for a call, and the limit of its duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallPermit {
    /// Up to the deadline of the caller.
    Unlimited,
    /// The circuit is open, and only this caller probes the peer, for at most this time.
    Probe(Duration),
    /// The circuit is open, and another caller is probing.
    Rejected,
}

impl CircuitBreaker {
    pub fn is_open(&self) -> bool {
        self.timeouts >= MAX_TIMEOUTS
    }

    /// The permit of the next caller. After a [`CallPermit::Probe`] the caller must call [`CircuitBreaker::end_probe`].
    pub fn permit(&mut self) -> CallPermit {
        if !self.is_open() {
            return CallPermit::Unlimited;
        }
        if std::mem::replace(&mut self.probing, true) {
            return CallPermit::Rejected;
        }
        CallPermit::Probe(PROBE_TIMEOUT)
    }

    pub fn end_probe(&mut self) {
        self.probing = false;
    }

    /// The peer answered, with success or an error.
    pub fn record_answer(&mut self) {
        self.timeouts = 0;
    }

    /// A call that started at `started` timed out at `now`.
    pub fn record_timeout(&mut self, started: BootInstant, now: BootInstant) {
        if now.since(started) < MIN_COUNTED_WAIT || self.last_timeout.is_some_and(|last| started < last) {
            return;
        }
        self.last_timeout = Some(now);
        self.timeouts = self.timeouts.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_millis(500);

    fn time_out(circuit: &mut CircuitBreaker, started: BootInstant) -> BootInstant {
        let now = started.after(DEADLINE);
        circuit.record_timeout(started, now);
        now
    }

    #[test]
    fn consecutive_timeouts_open_it_and_one_answer_closes_it() {
        let (mut circuit, mut now) = (CircuitBreaker::default(), BootInstant::now());
        for _ in 0..MAX_TIMEOUTS {
            assert_eq!(circuit.permit(), CallPermit::Unlimited);
            now = time_out(&mut circuit, now);
        }
        assert!(circuit.is_open());
        assert_eq!(circuit.permit(), CallPermit::Probe(PROBE_TIMEOUT));
        assert_eq!(circuit.permit(), CallPermit::Rejected, "one at a time");
        circuit.end_probe();
        assert_eq!(circuit.permit(), CallPermit::Probe(PROBE_TIMEOUT));
        circuit.record_answer();
        assert_eq!(circuit.permit(), CallPermit::Unlimited);
    }

    #[test]
    fn an_answer_in_between_starts_the_count_again() {
        let (mut circuit, mut now) = (CircuitBreaker::default(), BootInstant::now());
        for _ in 0..MAX_TIMEOUTS * 2 {
            now = time_out(&mut circuit, now);
            now = time_out(&mut circuit, now);
            circuit.record_answer();
        }
        assert!(!circuit.is_open());
    }

    #[test]
    fn concurrent_or_very_short_waits_do_not_open_it() {
        let (mut circuit, now) = (CircuitBreaker::default(), BootInstant::now());
        for _ in 0..MAX_TIMEOUTS * 10 {
            time_out(&mut circuit, now);
        }
        assert!(!circuit.is_open(), "concurrent timeouts are counted once");
        let mut now = now.after(DEADLINE);
        for _ in 0..MAX_TIMEOUTS * 10 {
            let started = now;
            now = started.after(MIN_COUNTED_WAIT / 2);
            circuit.record_timeout(started, now);
        }
        assert!(!circuit.is_open(), "their deadlines were too short");
    }
}
