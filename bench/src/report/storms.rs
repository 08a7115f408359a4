//! The table of reconnect storms.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{format_ms, percentile};
use crate::storm::Storm;
use crate::storm::index::READ_INTERVAL;
use crate::system::Kind;

/// The storms of one size, one for each system.
#[derive(Default)]
pub struct Storms {
    pub size: usize,
    pub by_kind: BTreeMap<Kind, Storm>,
}

impl fmt::Display for Storms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.by_kind.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n**Reconnect storm: {} clients are disconnected at once, and reconnect**\n", self.size)?;
        writeln!(
            f,
            "| system | reconnect time, median | p99 | maximum | failed attempts | from the last reconnect until every node \
             lists exactly these clients | wrong answers until then | last listing of a disconnected client |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for (kind, storm) in &self.by_kind {
            let with_ratio = |of: &dyn Fn(&Storm) -> f64| self.with_ratio(*kind, of);
            let reconnect = |share| with_ratio(&move |storm| percentile(&storm.reconnect_times, share));
            let failed: usize = storm.failures.values().sum();
            let listed = with_ratio(&|storm| to_ms(storm.listed));
            let (median, p99, last) = (reconnect(0.5), reconnect(0.99), reconnect(1.0));
            let (wrong, dead) = (storm.wrong, format_ms(to_ms(storm.calls.last_dead_listing)));
            writeln!(f, "| {kind} | {median} | {p99} | {last} | {failed} | {listed} | {wrong} | {dead} ms |")?;
        }
        writeln!(f, "\n| roll calls during the storm | answered | median | p99 | maximum | incomplete | failed |")?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        for (kind, storm) in &self.by_kind {
            let took = |share| self.with_ratio(*kind, &move |storm| percentile(&storm.calls.took, share));
            let (median, p99, longest) = (took(0.5), took(0.99), took(1.0));
            let (count, incomplete, failed) = (storm.calls.took.len(), storm.calls.incomplete, storm.calls.failed);
            writeln!(f, "| {kind} | {count} | {median} | {p99} | {longest} | {incomplete} | {failed} |")?;
        }
        for (kind, storm) in &self.by_kind {
            for (reason, count) in &storm.failures {
                writeln!(f, "\n{kind}: {count} attempts failed: {reason}")?;
            }
            if let Some(lag) = &storm.lag {
                let (joined, dead) = (format_ms(to_ms(lag.joined)), format_ms(to_ms(lag.dead)));
                writeln!(
                    f,
                    "\n{kind}, lists in Redis (written asynchronously, read here every {} ms): every \
                     client was listed at most {joined} ms after its acknowledgement. No disconnected client was \
                     listed {dead} ms after the disconnect.",
                    READ_INTERVAL.as_millis()
                )?;
            }
        }
        Ok(())
    }
}

impl Storms {
    /// A value of a system in format_ms, with the ratio to rollcall.
    fn with_ratio(&self, kind: Kind, of: &dyn Fn(&Storm) -> f64) -> String {
        let Some(other) = self.by_kind.get(&kind).map(of) else { return "–".to_owned() };
        let shown = format!("{} ms", format_ms(other));
        match self.by_kind.get(&Kind::Rollcall).map(of) {
            Some(rollcall) if kind != Kind::Rollcall => format!("{shown} (rollcall {:.2}×)", other / rollcall),
            _ => shown,
        }
    }
}

fn to_ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}
