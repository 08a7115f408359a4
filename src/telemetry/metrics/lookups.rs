//! What is measured of asking each peer.
//!
//! Owns the metrics of one peer ([`Lookups`]), which live and die with the link to it, and the families that they make
//! at a scrape. A peer is named by its node's name and its address: two nodes may have been given one name.

use prometheus::core::Collector;
use prometheus::proto::{LabelPair, Metric, MetricFamily};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge};
use tokio::time::Instant;

use crate::mesh::peers::{PeerError, PeerReply};

/// What became of asking a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered,
    Moved,
    Deadline,
    Refused,
    Failed,
    Overloaded,
    CircuitOpen,
    Abandoned,
}

const OUTCOMES: [(Outcome, &str); 8] = [
    (Outcome::Answered, "answered"),
    (Outcome::Moved, "moved"),
    (Outcome::Deadline, "deadline"),
    (Outcome::Refused, "refused"),
    (Outcome::Failed, "failed"),
    (Outcome::Overloaded, "overloaded"),
    (Outcome::CircuitOpen, "circuit_open"),
    (Outcome::Abandoned, "abandoned"),
];

/// Fewer than elsewhere: every node has them for every other.
const BUCKETS: [f64; 8] = [0.0005, 0.001, 0.0025, 0.01, 0.05, 0.1, 0.5, 5.0];

/// Asking one peer for its part of a room.
pub struct Lookups {
    duration: Histogram,
    outcomes: [IntCounter; OUTCOMES.len()],
}

/// One lookup under way. Dropped before its end, it was abandoned: nobody needed its answer any more.
pub struct Lookup<'a> {
    lookups: &'a Lookups,
    began: Instant,
    outcome: Outcome,
}

impl Default for Lookups {
    fn default() -> Self {
        let duration = HistogramOpts::new(
            "rollcall_peer_lookup_duration_seconds",
            "How long a peer took to answer for its part of a room, or was waited for.",
        );
        let outcomes = OUTCOMES.map(|_| {
            IntCounter::new(
                "rollcall_peer_lookups_total",
                "Peers asked for their part of a room, by outcome: answered, moved (another id of that process), the \
                 reasons that answers name (deadline, refused, failed, overloaded), circuit_open (not asked), abandoned \
                 (the answer was not needed any more).",
            )
            .expect("a name that Prometheus allows")
        });
        let duration = Histogram::with_opts(duration.buckets(BUCKETS.to_vec()));
        Self { duration: duration.expect("a name that Prometheus allows, and rising buckets"), outcomes }
    }
}

impl Lookups {
    pub fn begin(&self) -> Lookup<'_> {
        Lookup { lookups: self, began: Instant::now(), outcome: Outcome::Abandoned }
    }

    /// The peer was not asked: its circuit is open, and somebody else is asking.
    pub fn skipped(&self) {
        self.outcomes[Outcome::CircuitOpen as usize].inc();
    }
}

impl Lookup<'_> {
    pub fn end(mut self, answer: &Result<PeerReply, PeerError>) {
        self.outcome = match answer {
            Ok(PeerReply::Snapshot(_)) => Outcome::Answered,
            Ok(PeerReply::NodeIdChanged(_)) => Outcome::Moved,
            Err(PeerError::Deadline) => Outcome::Deadline,
            Err(PeerError::Refused) => Outcome::Refused,
            Err(PeerError::Failed) => Outcome::Failed,
            Err(PeerError::Overloaded) => Outcome::Overloaded,
        };
    }
}

impl Drop for Lookup<'_> {
    fn drop(&mut self) {
        self.lookups.outcomes[self.outcome as usize].inc();
        if self.outcome != Outcome::Abandoned {
            self.lookups.duration.observe(self.began.elapsed().as_secs_f64());
        }
    }
}

/// The families of all peers, as they are put together.
#[derive(Default)]
pub struct Families(Vec<MetricFamily>);

impl Families {
    /// Adds those of one peer.
    pub fn add(&mut self, peer: &str, address: &str, lookups: &Lookups, circuit_is_open: bool) {
        let of_peer = vec![label("address", address), label("peer", peer)];
        self.take(lookups.duration.collect(), &of_peer);
        for ((_, outcome), counter) in OUTCOMES.iter().zip(&lookups.outcomes) {
            let mut labels = of_peer.clone();
            labels.insert(1, label("outcome", outcome));
            self.take(counter.collect(), &labels);
        }
        let circuit = IntGauge::new(
            "rollcall_peer_circuit_open",
            "1 while a peer has missed so many deadlines that hardly anybody waits for it, else 0.",
        );
        let circuit = circuit.expect("a name that Prometheus allows");
        circuit.set(i64::from(circuit_is_open));
        self.take(circuit.collect(), &of_peer);
    }

    pub fn into_inner(self) -> Vec<MetricFamily> {
        self.0
    }

    fn take(&mut self, families: Vec<MetricFamily>, labels: &[LabelPair]) {
        for mut family in families {
            let mut metrics = family.take_metric();
            metrics.iter_mut().for_each(|metric: &mut Metric| metric.set_label(labels.to_vec()));
            match self.0.iter_mut().find(|known| known.name() == family.name()) {
                Some(known) => known.mut_metric().extend(metrics),
                None => {
                    family.set_metric(metrics);
                    self.0.push(family);
                }
            }
        }
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn two_peers_of_one_name_are_told_apart_and_every_end_of_a_lookup_is_counted() {
        for (place, (outcome, _)) in OUTCOMES.into_iter().enumerate() {
            assert_eq!(outcome as usize, place);
        }
        let lookups = [Lookups::default(), Lookups::default()];
        lookups[0].begin().end(&Err(PeerError::Refused));
        drop(lookups[0].begin());
        lookups[1].skipped();
        let mut families = Families::default();
        families.add("node", "a:1", &lookups[0], false);
        families.add("node", "b:\"1", &lookups[1], true);
        let families = families.into_inner();
        assert_eq!(families.len(), 3, "each family once");
        let text = TextEncoder::new().encode_to_string(&families).unwrap();
        for line in [
            r#"rollcall_peer_lookups_total{address="a:1",outcome="refused",peer="node"} 1"#,
            r#"rollcall_peer_lookups_total{address="a:1",outcome="abandoned",peer="node"} 1"#,
            r#"rollcall_peer_lookups_total{address="b:\"1",outcome="circuit_open",peer="node"} 1"#,
            r#"rollcall_peer_lookups_total{address="b:\"1",outcome="refused",peer="node"} 0"#,
            r#"rollcall_peer_lookup_duration_seconds_count{address="a:1",peer="node"} 1"#,
            r#"rollcall_peer_circuit_open{address="b:\"1",peer="node"} 1"#,
        ] {
            assert!(text.lines().any(|told| told == line), "{line} is missing in {text}");
        }
    }
}
