//! Metrics of the process and of the runtime in it: read when somebody scrapes.
//!
//! The names of the former are those that every client library of Prometheus uses.

use std::time::Duration;

use procfs::process::{LimitValue, Process};
use procfs::{WithCurrentSystemInfo, boot_time_secs, ticks_per_second};
use prometheus::{Counter, Gauge, IntCounter, IntGauge};
use tokio::runtime::Handle;

use super::{Definitions, raise, set};

pub(crate) struct System {
    cpu: Counter,
    open_files: IntGauge,
    most_files: IntGauge,
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

impl System {
    pub fn define(definitions: &Definitions) -> Self {
        let gauge = |name: &str, help: &str| definitions.gauge(name, help);
        Self {
            cpu: definitions.fraction_counter("process_cpu_seconds_total", "CPU time of the process, in seconds."),
            open_files: gauge("process_open_fds", "Open file descriptors, connections included."),
            most_files: gauge("process_max_fds", "How many file descriptors may be open."),
            virtual_memory: gauge("process_virtual_memory_bytes", "Virtual memory of the process, in bytes."),
            resident_memory: gauge("process_resident_memory_bytes", "Resident memory of the process, in bytes."),
            started: definitions
                .fraction_gauge("process_start_time_seconds", "When the process started, in seconds since 1970."),
            threads: gauge("process_threads", "Threads of the process."),
            workers: gauge("tokio_workers", "Threads that run tasks."),
            tasks: gauge("tokio_alive_tasks", "Tasks that have not ended."),
            queue: gauge("tokio_global_queue_depth", "Tasks that wait for a worker to take them."),
            busy: definitions
                .fraction_counter("tokio_busy_seconds_total", "Time that workers were busy, in seconds, summed up."),
            parks: definitions.counter("tokio_parks_total", "How often a worker had nothing to do, summed up."),
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
        // What the system does not tell stays as it was.
        let Ok(process) = Process::myself() else { return };
        if let Ok(files) = process.fd_count() {
            set(&self.open_files, files);
        }
        if let Ok(limits) = process.limits()
            && let LimitValue::Value(most) = limits.max_open_files.soft_limit
        {
            self.most_files.set(i64::try_from(most).unwrap_or(i64::MAX));
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
