//! Metrics of the process and of the tokio runtime, read at a scrape.
//!
//! The process metrics have the names that the Prometheus client libraries use, so that common dashboards show them.

use std::time::Duration;

use procfs::process::{LimitValue, Process};
use procfs::{WithCurrentSystemInfo, boot_time_secs, ticks_per_second};
use prometheus::{Counter, Gauge, IntCounter, IntGauge};
use tokio::runtime::Handle;

use super::registry::{MetricRegistry, raise, set};

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
    pub fn define(registry: &MetricRegistry) -> Self {
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

    pub fn read(&self, runtime: &Handle) {
        let metrics = runtime.metrics();
        let workers = metrics.num_workers();
        set(&self.workers, workers);
        set(&self.tasks, metrics.num_alive_tasks());
        set(&self.queue, metrics.global_queue_depth());
        let busy: Duration = (0..workers).map(|worker| metrics.worker_total_busy_duration(worker)).sum();
        raise_to(&self.busy, busy.as_secs_f64());
        raise(&self.parks, (0..workers).map(|worker| metrics.worker_park_count(worker)).sum());
        // A metric that /proc does not provide keeps its last value: one unreadable file must not fail the scrape.
        let Ok(process) = Process::myself() else { return };
        if let Ok(files) = process.fd_count() {
            set(&self.open_files, files);
        }
        if let Ok(limits) = process.limits()
            && let LimitValue::Value(max) = limits.max_open_files.soft_limit
        {
            self.max_files.set(i64::try_from(max).unwrap_or(i64::MAX));
        }
        let Ok(stat) = process.stat() else { return };
        let ticks = ticks_per_second() as f64;
        raise_to(&self.cpu, (stat.utime + stat.stime) as f64 / ticks);
        self.virtual_memory.set(i64::try_from(stat.vsize).unwrap_or(i64::MAX));
        self.resident_memory.set(i64::try_from(stat.rss_bytes().get()).unwrap_or(i64::MAX));
        self.threads.set(stat.num_threads);
        if let Ok(booted) = boot_time_secs() {
            self.started.set(booted as f64 + stat.starttime as f64 / ticks);
        }
    }
}

fn raise_to(counter: &Counter, to: f64) {
    counter.inc_by((to - counter.get()).max(0.0));
}
