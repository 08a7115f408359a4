//! The registry of a node's metrics, and one constructor for each kind of metric; the metrics of the process.
//!
//! Owns no metric of a component. A scrape reads the metrics of the process and of the tokio runtime, whose names are those
//! of the Prometheus client libraries, so that common dashboards show them. An invalid or repeated definition panics at once,
//! while the node is built.

use std::time::Duration;
use std::{array, fs};

use prometheus::core::Collector;
use prometheus::{
    Counter, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use tokio::runtime::Handle;

/// In seconds: from a fast roll call (a quarter of a millisecond) to the longest deadline of one.
pub(super) const DURATION_BUCKETS: [f64; 14] =
    [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Registers metrics, each name once. Cheap to clone.
#[derive(Clone, Default)]
pub struct MetricRegistry(pub(crate) Registry);

impl MetricRegistry {
    pub(crate) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    /// A counter of fractions.
    pub(crate) fn fraction_counter(&self, name: &str, help: &str) -> Counter {
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
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(DURATION_BUCKETS.to_vec()), labels))
    }

    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let metric = made.expect("names, labels and buckets are constants that Prometheus allows");
        self.0.register(Box::new(metric.clone())).expect("each name is defined once");
        metric
    }
}

/// One counter for each value of a label, so that all of them exist from the start.
pub(crate) fn counter_per_value<const N: usize>(counters: &IntCounterVec, values: [&str; N]) -> [IntCounter; N] {
    array::from_fn(|index| counters.with_label_values(&[values[index]]))
}

/// Raises a counter to a value that another component counts. Callers must not run concurrently.
pub(crate) fn raise(counter: &IntCounter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

pub(crate) fn set(gauge: &IntGauge, count: usize) {
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}

pub(crate) struct ProcessMetrics {
    cpu: Counter,
    open_files: IntGauge,
    max_files: IntGauge,
    virtual_memory: IntGauge,
    resident_memory: IntGauge,
    started: Gauge,
    threads: IntGauge,
    workers: IntGauge,
    tasks: IntGauge,
    queue: IntGauge,
    busy: Counter,
    parks: IntCounter,
}

impl ProcessMetrics {
    pub(crate) fn define(registry: &MetricRegistry) -> Self {
        let gauge = |name: &str, help: &str| registry.gauge(name, help);
        Self {
            cpu: registry.fraction_counter("process_cpu_seconds_total", "CPU time of the process, in seconds."),
            open_files: gauge("process_open_fds", "Open file descriptors, connections included."),
            max_files: gauge("process_max_fds", "Maximum number of open file descriptors."),
            virtual_memory: gauge("process_virtual_memory_bytes", "Virtual memory of the process, in bytes."),
            resident_memory: gauge("process_resident_memory_bytes", "Resident memory of the process, in bytes."),
            started: registry
                .fraction_gauge("process_start_time_seconds", "Start time of the process, in seconds since 1970."),
            threads: gauge("process_threads", "Threads of the process."),
            workers: gauge("tokio_workers", "Worker threads of the runtime."),
            tasks: gauge("tokio_alive_tasks", "Tasks that have not ended."),
            queue: gauge("tokio_global_queue_depth", "Tasks in the global queue that wait for a worker."),
            busy: registry
                .fraction_counter("tokio_busy_seconds_total", "Time that workers were busy, summed up, in seconds."),
            parks: registry
                .counter("tokio_parks_total", "Times that a worker parked because it had no task, summed up."),
        }
    }

    pub(crate) fn read(&self, runtime: &Handle) {
        let metrics = runtime.metrics();
        let workers = metrics.num_workers();
        set(&self.workers, workers);
        set(&self.tasks, metrics.num_alive_tasks());
        set(&self.queue, metrics.global_queue_depth());
        let busy: Duration = (0..workers).map(|worker| metrics.worker_total_busy_duration(worker)).sum();
        raise_to(&self.busy, busy.as_secs_f64());
        raise(&self.parks, (0..workers).map(|worker| metrics.worker_park_count(worker)).sum());
        if let Some(max) = getrlimit(Resource::Nofile).current {
            self.max_files.set(i64::try_from(max).unwrap_or(i64::MAX));
        }
        // A metric that /proc does not provide keeps its last value: one unreadable file must not fail the scrape.
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            // The folder itself is open while it is read.
            set(&self.open_files, files.count().saturating_sub(1));
        }
        if let Some(usage) = ProcessUsage::read() {
            raise_to(&self.cpu, usage.cpu);
            self.virtual_memory.set(usage.virtual_memory);
            self.resident_memory.set(usage.resident_memory);
            self.threads.set(usage.threads);
            self.started.set(usage.started);
        }
    }
}

/// The usage of this process, from `/proc/self/stat` and `/proc/stat`: see proc_pid_stat(5) and proc_stat(5).
struct ProcessUsage {
    /// In seconds.
    cpu: f64,
    /// In bytes.
    virtual_memory: i64,
    /// In bytes.
    resident_memory: i64,
    threads: i64,
    /// The start time, in seconds since 1970.
    started: f64,
}

impl ProcessUsage {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?, &fs::read_to_string("/proc/stat").ok()?)
    }

    fn parse(process: &str, system: &str) -> Option<Self> {
        // The name of the program, in parentheses, may contain spaces and parentheses. The field after it has number 3.
        let fields: Vec<&str> = process.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
        let seconds = |ticks: i64| ticks as f64 / clock_ticks_per_second() as f64;
        let booted: i64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Some(Self {
            cpu: seconds(field(14)? + field(15)?),
            threads: field(20)?,
            started: booted as f64 + seconds(field(22)?),
            virtual_memory: field(23)?,
            resident_memory: field(24)?.saturating_mul(i64::try_from(page_size()).ok()?),
        })
    }
}

fn raise_to(counter: &Counter, to: f64) {
    counter.inc_by((to - counter.get()).max(0.0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_of_a_process_with_an_odd_name_is_read() {
        let process =
            "7 (a b) S) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 1000 4096000 20 18446744073709551615";
        let usage = ProcessUsage::parse(process, "cpu 1 2 3\nbtime 1700000000\nprocesses 4\n").unwrap();
        let ticks = clock_ticks_per_second() as f64;
        assert!((usage.cpu - 300.0 / ticks).abs() < 1e-9, "{}", usage.cpu);
        assert!((usage.started - (1_700_000_000.0 + 1000.0 / ticks)).abs() < 1e-3, "{}", usage.started);
        assert_eq!(usage.threads, 9);
        assert_eq!(usage.virtual_memory, 4_096_000);
        assert_eq!(usage.resident_memory, 20 * i64::try_from(page_size()).unwrap());
        assert!(ProcessUsage::parse("7 (a) S 1", "btime 1").is_none(), "too few fields");
        assert!(ProcessUsage::read().is_some(), "the kernel writes this format");
    }
}
