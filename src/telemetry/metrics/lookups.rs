//! Metrics of the lookups at each peer.
//!
//! Owns the metrics of one peer ([`LookupMetrics`]), which live as long as the channel to that peer, and merges the metrics
//! of all peers at a scrape. The labels are name and address, because two nodes may have the same name.

use prometheus::core::Collector;
use prometheus::proto::{LabelPair, Metric, MetricFamily};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge};
use strum::{EnumCount, EnumIter, IntoEnumIterator, IntoStaticStr};
use tokio::time::Instant;

/// The outcome of one lookup. The variants in snake case are the values of the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum LookupOutcome {
    Answered,
    Moved,
    Deadline,
    Refused,
    Failed,
    Overloaded,
    CircuitOpen,
    Abandoned,
}

/// Fewer buckets than for other durations, because each node has this histogram once for every peer.
const LOOKUP_BUCKETS: [f64; 8] = [0.0005, 0.001, 0.0025, 0.01, 0.05, 0.1, 0.5, 5.0];

/// The lookups at one peer.
pub struct LookupMetrics {
    duration: Histogram,
    outcomes: [IntCounter; LookupOutcome::COUNT],
}

/// Measures one lookup. A timer that is dropped without [`Self::end`] counts the lookup as abandoned.
pub struct LookupTimer<'a> {
    lookups: &'a LookupMetrics,
    started: Instant,
    outcome: LookupOutcome,
}

impl Default for LookupMetrics {
    fn default() -> Self {
        let duration = HistogramOpts::new(
            "rollcall_peer_lookup_duration_seconds",
            "Duration of lookups at a peer, until the answer, the failure or the timeout, in seconds.",
        );
        let outcomes = std::array::from_fn(|_| {
            IntCounter::new(
                "rollcall_peer_lookups_total",
                "Lookups at a peer, by outcome: answered, moved (the peer has another node id now), deadline, refused, \
                 failed, overloaded, circuit_open (not sent), abandoned (the answer was no longer needed).",
            )
            .expect("the name is valid in Prometheus")
        });
        let duration = Histogram::with_opts(duration.buckets(LOOKUP_BUCKETS.to_vec()));
        Self { duration: duration.expect("the name is valid in Prometheus, and the buckets are ascending"), outcomes }
    }
}

impl LookupMetrics {
    pub fn begin(&self) -> LookupTimer<'_> {
        LookupTimer { lookups: self, started: Instant::now(), outcome: LookupOutcome::Abandoned }
    }

    /// Counts a lookup that was not sent because the circuit breaker is open.
    pub fn skipped(&self) {
        self.outcomes[LookupOutcome::CircuitOpen as usize].inc();
    }
}

impl LookupTimer<'_> {
    pub fn end(mut self, outcome: LookupOutcome) {
        self.outcome = outcome;
    }
}

impl Drop for LookupTimer<'_> {
    fn drop(&mut self) {
        self.lookups.outcomes[self.outcome as usize].inc();
        if self.outcome != LookupOutcome::Abandoned {
            self.lookups.duration.observe(self.started.elapsed().as_secs_f64());
        }
    }
}

/// Merges the metrics of all peers into one family per metric.
#[derive(Default)]
pub struct PeerFamilies(Vec<MetricFamily>);

impl PeerFamilies {
    /// Adds the metrics of one peer.
    pub fn add(&mut self, peer: &str, address: &str, lookups: &LookupMetrics, circuit_is_open: bool) {
        let peer_labels = vec![label("address", address), label("peer", peer)];
        self.merge(lookups.duration.collect(), &peer_labels);
        for (outcome, counter) in LookupOutcome::iter().zip(&lookups.outcomes) {
            let mut labels = peer_labels.clone();
            // Prometheus expects the labels in alphabetical order.
            labels.insert(1, label("outcome", outcome.into()));
            self.merge(counter.collect(), &labels);
        }
        let circuit = IntGauge::new(
            "rollcall_peer_circuit_open",
            "1 while the circuit breaker of a peer is open, because the peer missed several deadlines in a row; else 0.",
        );
        let circuit = circuit.expect("the name is valid in Prometheus");
        circuit.set(i64::from(circuit_is_open));
        self.merge(circuit.collect(), &peer_labels);
    }

    pub fn into_inner(self) -> Vec<MetricFamily> {
        self.0
    }

    fn merge(&mut self, families: Vec<MetricFamily>, labels: &[LabelPair]) {
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
    fn peers_with_the_same_name_are_distinguished() {
        let lookups = [LookupMetrics::default(), LookupMetrics::default()];
        lookups[0].begin().end(LookupOutcome::Refused);
        drop(lookups[0].begin());
        lookups[1].skipped();
        let mut families = PeerFamilies::default();
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
            assert!(text.lines().any(|written| written == line), "{line} is missing in {text}");
        }
    }
}
