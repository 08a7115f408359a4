//! The circuit of one peer: whether asking it is worth a caller's whole deadline.
//!
//! Owns the count of deadlines missed in a row. Closed: whoever asks waits as long as it likes. Open, after several
//! misses: one caller at a time waits a short while, the others not at all. Any answer closes it. Without I/O and
//! clocks of its own; who keeps asking a peer whose circuit is open is the announcer.

use std::time::Duration;

use crate::clock::BootInstant;

/// This many deadlines missed in a row open the circuit.
const MISSES: u32 = 3;
/// A caller that waited for less than this says nothing about the peer.
const MEANINGFUL: Duration = Duration::from_millis(100);
/// How long a caller waits for a peer whose circuit is open. A peer that is back has mostly been noticed before.
const PROBE_WITHIN: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub struct Circuit {
    misses: u32,
    /// When the last miss that counted was noticed: of those that wait together, one counts.
    missed: Option<BootInstant>,
    probing: bool,
}

/// How long a caller may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// As long as it likes.
    Whole,
    /// This long; the others do not ask meanwhile.
    Probe(Duration),
    /// Not at all: somebody else is asking.
    None,
}

impl Circuit {
    pub fn is_open(&self) -> bool {
        self.misses >= MISSES
    }

    /// What the next caller may do. Whoever gets a [`Patience::Probe`] gives it back with [`Circuit::probed`].
    pub fn admit(&mut self) -> Patience {
        if !self.is_open() {
            return Patience::Whole;
        }
        if std::mem::replace(&mut self.probing, true) {
            return Patience::None;
        }
        Patience::Probe(PROBE_WITHIN)
    }

    pub fn probed(&mut self) {
        self.probing = false;
    }

    /// The peer answered, whatever it said.
    pub fn answered(&mut self) {
        self.misses = 0;
    }

    /// A caller that began at `began` has waited in vain until `now`.
    pub fn missed(&mut self, began: BootInstant, now: BootInstant) {
        if now.since(began) < MEANINGFUL || self.missed.is_some_and(|missed| began < missed) {
            return;
        }
        self.missed = Some(now);
        self.misses = self.misses.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_millis(500);

    fn miss(circuit: &mut Circuit, began: BootInstant) -> BootInstant {
        let now = began.after(DEADLINE);
        circuit.missed(began, now);
        now
    }

    #[test]
    fn misses_in_a_row_open_it_and_one_answer_closes_it() {
        let (mut circuit, mut now) = (Circuit::default(), BootInstant::now());
        for _ in 0..MISSES {
            assert_eq!(circuit.admit(), Patience::Whole);
            now = miss(&mut circuit, now);
        }
        assert!(circuit.is_open());
        assert_eq!(circuit.admit(), Patience::Probe(PROBE_WITHIN));
        assert_eq!(circuit.admit(), Patience::None, "one at a time");
        circuit.probed();
        assert_eq!(circuit.admit(), Patience::Probe(PROBE_WITHIN));
        circuit.answered();
        assert_eq!(circuit.admit(), Patience::Whole);
    }

    #[test]
    fn an_answer_in_between_starts_the_count_again() {
        let (mut circuit, mut now) = (Circuit::default(), BootInstant::now());
        for _ in 0..MISSES * 2 {
            now = miss(&mut circuit, now);
            now = miss(&mut circuit, now);
            circuit.answered();
        }
        assert!(!circuit.is_open());
    }

    #[test]
    fn callers_that_wait_together_or_hardly_at_all_do_not_open_it() {
        let (mut circuit, now) = (Circuit::default(), BootInstant::now());
        for _ in 0..MISSES * 10 {
            miss(&mut circuit, now);
        }
        assert!(!circuit.is_open(), "a hundred callers of one moment are one miss");
        let mut now = now.after(DEADLINE);
        for _ in 0..MISSES * 10 {
            let began = now;
            now = began.after(MEANINGFUL / 2);
            circuit.missed(began, now);
        }
        assert!(!circuit.is_open(), "their own deadline was at fault");
    }
}
