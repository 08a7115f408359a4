//! Metrics: what this node counts and measures, as Prometheus reads it from the admin port.
//!
//! Owns every name, help text and bucket, in one registry for each node, and the text. Other modules are given handles,
//! which are atomics: no label is looked up where something is counted. What is state elsewhere is read when somebody
//! scrapes ([`scrape`]). No label's values grow with rooms, users or sockets; those named after a peer go with it.
//! `docs/METRICS.md` lists them all, and a test holds it to that.

pub mod flushes;
pub mod lookups;
pub mod recent;
pub mod refusals;
pub mod requests;
pub mod roll_calls;
pub mod system;

use std::array;

use prometheus::core::Collector;
use prometheus::{
    Counter, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use crate::directory::measured::DirectoryMetrics;
use flushes::Flushes;
use refusals::Refusals;
use requests::Requests;
use roll_calls::RollCalls;

/// From a quarter of a millisecond, which is a fast roll call, to the longest deadline, in seconds.
const DURATIONS: [f64; 14] = [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// The registry of one node, and what is handed out to those who count. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    pub(crate) definitions: Definitions,
    pub roll_calls: RollCalls,
    pub calls: DirectoryMetrics,
    pub flushes: Flushes,
    pub refusals: Refusals,
    pub requests: Requests,
}

impl Default for Metrics {
    fn default() -> Self {
        let definitions = Definitions::default();
        Self {
            roll_calls: RollCalls::define(&definitions),
            calls: DirectoryMetrics::define(&definitions),
            flushes: Flushes::define(&definitions),
            refusals: Refusals::define(&definitions),
            requests: Requests::define(&definitions),
            definitions,
        }
    }
}

/// Defines metrics: each name once, all of them constants of this module's files.
#[derive(Clone, Default)]
pub struct Definitions(pub(crate) Registry);

impl Definitions {
    pub(crate) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    /// One that counts by fractions.
    fn fraction_counter(&self, name: &str, help: &str) -> Counter {
        self.add(Counter::new(name, help))
    }

    pub(crate) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(crate) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    pub(crate) fn fraction_gauge(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::new(name, help))
    }

    pub(crate) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub(crate) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    pub(crate) fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(DURATIONS.to_vec()), labels))
    }

    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let metric = made.expect("names, labels and buckets are constants that Prometheus allows");
        self.0.register(Box::new(metric.clone())).expect("each name is defined once");
        metric
    }
}

/// One counter for each value of a label, all of them there from the start.
pub(crate) fn each<const N: usize>(counters: &IntCounterVec, values: [&str; N]) -> [IntCounter; N] {
    array::from_fn(|place| counters.with_label_values(&[values[place]]))
}

/// Sets a gauge to a count.
pub(crate) fn set(gauge: &IntGauge, count: usize) {
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}

/// Raises a counter to a total that is counted elsewhere.
pub(crate) fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}
