//! The table of reconnect storms.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{at, milliseconds};
use crate::storm::Storm;
use crate::storm::index::READ_EVERY;
use crate::system::Kind;

/// Storms of one size.
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
            let beside = |of: &dyn Fn(&Storm) -> f64| self.beside(*kind, of);
            let away = |share| beside(&move |storm| at(&storm.away, share));
            let failed: usize = storm.failures.values().sum();
            let listed = beside(&|storm| one(storm.listed));
            let (median, most, last) = (away(0.5), away(0.99), away(1.0));
            let (wrong, dead) = (storm.wrong, milliseconds(one(storm.calls.dead_until)));
            writeln!(f, "| {kind} | {median} | {most} | {last} | {failed} | {listed} | {wrong} | {dead} ms |")?;
        }
        writeln!(f, "\n| roll calls during the storm | answered | median | p99 | maximum | incomplete | failed |")?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        for (kind, storm) in &self.by_kind {
            let took = |share| self.beside(*kind, &move |storm| at(&storm.calls.took, share));
            let (median, most, longest) = (took(0.5), took(0.99), took(1.0));
            let (count, incomplete, failed) = (storm.calls.took.len(), storm.calls.incomplete, storm.calls.failed);
            writeln!(f, "| {kind} | {count} | {median} | {most} | {longest} | {incomplete} | {failed} |")?;
        }
        for (kind, storm) in &self.by_kind {
            for (why, count) in &storm.failures {
                writeln!(f, "\n{kind}: {count} attempts failed: {why}")?;
            }
            if let Some(lag) = &storm.lag {
                let (joined, dead) = (milliseconds(one(lag.joined)), milliseconds(one(lag.dead)));
                writeln!(
                    f,
                    "\n{kind}, lists in Redis (written asynchronously, read here every {} ms): every \
                     client was listed at most {joined} ms after its acknowledgement. No disconnected client was \
                     listed {dead} ms after the disconnect.",
                    READ_EVERY.as_millis()
                )?;
            }
        }
        Ok(())
    }
}

impl Storms {
    /// Milliseconds of a system, with how many times rollcall is better.
    fn beside(&self, kind: Kind, of: &dyn Fn(&Storm) -> f64) -> String {
        let Some(theirs) = self.by_kind.get(&kind).map(of) else { return "–".to_owned() };
        let shown = format!("{} ms", milliseconds(theirs));
        match self.by_kind.get(&Kind::Rollcall).map(of) {
            Some(ours) if kind != Kind::Rollcall => format!("{shown} (rollcall {:.2}×)", theirs / ours),
            _ => shown,
        }
    }
}

fn one(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}
