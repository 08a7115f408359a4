//! The printed report: medians of the rounds, and ratios to rollcall.

mod big_room;
pub mod storms;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Write as _};
use std::thread;
use std::time::Duration;

use crate::big_room::BigRoom;
use crate::figure::Line;
use crate::measure::CONNECTIONS;
use crate::storm::Storm;
use crate::system::Kind;
use storms::Storms;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    Quiet,
    Churn,
}

/// The parts of a roll call, in one round.
pub struct RollCallParts {
    pub prepared: Vec<Duration>,
    /// Prepared bodies per second on [`CONNECTIONS`] connections.
    pub per_second: f64,
    pub directory: Vec<Duration>,
    pub lookup: Vec<Duration>,
}

/// One number for each round.
type Rounds = Vec<f64>;
type ByRoom = BTreeMap<(Load, usize), Rounds>;

#[derive(Default)]
struct SystemResults {
    /// In milliseconds, as `p99`.
    median: ByRoom,
    p99: ByRoom,
    per_second: ByRoom,
    /// CPU seconds for each request.
    cpu: ByRoom,
    /// By room: connects per second, CPU seconds for each, and resident bytes before, with and after the clients.
    connects: BTreeMap<usize, Rounds>,
    connecting: BTreeMap<usize, Rounds>,
    before: BTreeMap<usize, Rounds>,
    filled: BTreeMap<usize, Rounds>,
    emptied: BTreeMap<usize, Rounds>,
}

#[derive(Default)]
pub struct Report {
    rooms: Vec<usize>,
    measured: BTreeMap<Kind, SystemResults>,
    missing: Vec<String>,
    /// By room, in milliseconds: prepared body, owner set, one lookup. The last are prepared bodies per second.
    parts: BTreeMap<usize, [Rounds; 4]>,
    rounds: usize,
    storms: Storms,
    big_room: Option<BigRoom>,
}

impl SystemResults {
    /// Removes the values of a round that failed. Returns whether an earlier round completed.
    fn discard_unfinished(&mut self, room: usize) -> bool {
        // The memory of the empty system is measured last.
        let completed = self.emptied.get(&room).map_or(0, Vec::len);
        for of in [&mut self.median, &mut self.p99, &mut self.per_second, &mut self.cpu] {
            of.iter_mut().filter(|((_, other), _)| *other == room).for_each(|(_, rounds)| rounds.truncate(completed));
        }
        let by_room = [&mut self.connects, &mut self.connecting, &mut self.before, &mut self.filled];
        by_room.into_iter().filter_map(|of| of.get_mut(&room)).for_each(|rounds| rounds.truncate(completed));
        completed > 0
    }
}

impl Report {
    pub fn new(rooms: &[usize], rounds: usize) -> Self {
        Self { rooms: rooms.to_vec(), rounds, ..Self::default() }
    }

    pub fn missing(&mut self, kind: Kind, error: &anyhow::Error) {
        self.missing.push(format!("{kind} is missing: {error:#}"));
    }

    pub fn failed(&mut self, kind: Kind, attempt: &str, error: &anyhow::Error) {
        self.missing.push(format!("{kind} did not complete {attempt}: {error:#}"));
    }

    /// Removes the values of this round. Returns whether an earlier round completed.
    pub fn discard_round(&mut self, kind: Kind, room: usize, error: &anyhow::Error) -> bool {
        self.failed(kind, &format!("a room of {room} in every round"), error);
        self.measured.get_mut(&kind).is_some_and(|measured| measured.discard_unfinished(room))
    }

    pub fn latencies(&mut self, kind: Kind, room: usize, load: Load, mut took: Vec<Duration>) {
        took.sort_unstable();
        let measured = self.measured.entry(kind).or_default();
        measured.median.entry((load, room)).or_default().push(percentile(&took, 0.5));
        measured.p99.entry((load, room)).or_default().push(percentile(&took, 0.99));
    }

    /// `cpu`: CPU seconds for each request.
    pub fn throughput(&mut self, kind: Kind, room: usize, load: Load, per_second: f64, cpu: f64) {
        let measured = self.measured.entry(kind).or_default();
        measured.per_second.entry((load, room)).or_default().push(per_second);
        measured.cpu.entry((load, room)).or_default().push(cpu);
    }

    pub fn filled(&mut self, kind: Kind, room: usize, took: Duration, cpu: f64, before: u64, after: u64) {
        let measured = self.measured.entry(kind).or_default();
        measured.connects.entry(room).or_default().push(room as f64 / took.as_secs_f64());
        measured.connecting.entry(room).or_default().push(cpu / room as f64);
        measured.before.entry(room).or_default().push(before as f64);
        measured.filled.entry(room).or_default().push(after as f64);
    }

    pub fn emptied(&mut self, kind: Kind, room: usize, memory: u64) {
        self.measured.entry(kind).or_default().emptied.entry(room).or_default().push(memory as f64);
    }

    pub fn parts(&mut self, room: usize, parts: RollCallParts) {
        let rounds = self.parts.entry(room).or_default();
        for (all, mut took) in rounds.iter_mut().zip([parts.prepared, parts.directory, parts.lookup]) {
            took.sort_unstable();
            all.push(percentile(&took, 0.5));
        }
        rounds[3].push(parts.per_second);
    }

    pub fn storm(&mut self, kind: Kind, size: usize, storm: Storm) {
        self.storms.size = size;
        self.storms.by_kind.insert(kind, storm);
    }

    pub fn big_room(&mut self, big_room: BigRoom) {
        self.big_room = Some(big_room);
    }

    /// The lines of the figure: the median latency in quiet rooms.
    pub fn lines(&self) -> Vec<Line> {
        let point = |measured: &SystemResults, room: &usize| {
            Some((*room as f64, median(measured.median.get(&(Load::Quiet, *room))?)?))
        };
        let line = |(kind, measured): (&Kind, &SystemResults)| {
            (kind.to_string(), self.rooms.iter().filter_map(|room| point(measured, room)).collect())
        };
        self.measured.iter().map(line).collect()
    }

    /// Writes one table of a number by system and room, with the ratio to rollcall.
    fn table(
        &self,
        f: &mut fmt::Formatter<'_>,
        title: &str,
        of: impl Fn(&SystemResults) -> &ByRoom,
        load: Load,
        show: impl Fn(f64) -> String,
        less_is_better: bool,
    ) -> fmt::Result {
        writeln!(f, "\n**{title}**\n\n| system |{}\n|---|{}", self.room_headings(), "---|".repeat(self.rooms.len()))?;
        let value = |kind: Kind, room: usize| median(of(self.measured.get(&kind)?).get(&(load, room))?);
        for kind in self.measured.keys() {
            write!(f, "| {kind} |")?;
            for room in &self.rooms {
                let mut cell = value(*kind, *room).map_or_else(|| "–".to_owned(), &show);
                if let (Some(rollcall), Some(other)) = (value(Kind::Rollcall, *room), value(*kind, *room))
                    && *kind != Kind::Rollcall
                {
                    let ratio = if less_is_better { other / rollcall } else { rollcall / other };
                    // Writing to a string cannot fail.
                    let _ = write!(cell, " (rollcall {ratio:.2}×)");
                }
                write!(f, " {cell} |")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn room_headings(&self) -> String {
        self.rooms.iter().map(|room| format!(" room of {room} |")).collect()
    }

    fn write_rooms(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = |number: f64| format!("{number:.0}");
        for (load, name) in [(Load::Quiet, "quiet"), (Load::Churn, "churn of 1 % per second")] {
            let title = format!("Latency of sequential requests, median, ms; {name}");
            self.table(f, &title, |measured| &measured.median, load, format_ms, true)?;
            let p99 = format!("Latency of sequential requests, p99, ms; {name}");
            self.table(f, &p99, |measured| &measured.p99, load, format_ms, true)?;
            let many = format!("Answers per second on {CONNECTIONS} connections; {name}");
            self.table(f, &many, |measured| &measured.per_second, load, per_second, false)?;
            let cpu = format!("CPU seconds per 1,000 answers, {CONNECTIONS} connections; {name}");
            self.table(f, &cpu, |measured| &measured.cpu, load, |each| format!("{:.2}", each * 1e3), true)?;
        }
        self.write_parts(f)?;
        self.write_connections(f)
    }

    fn write_parts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n**Parts of a quiet roll call, ms**\n\n| part |{}", self.room_headings())?;
        writeln!(f, "|---|{}", "---|".repeat(self.rooms.len()))?;
        let part = |index: usize, room: usize| median(&self.parts.get(&room)?[index]);
        for (index, name) in ["prepared body", "owner set from Redis", "one lookup, unchanged"].into_iter().enumerate()
        {
            let cells =
                self.rooms.iter().map(|room| format!(" {} |", format_ms(part(index, *room).unwrap_or(f64::NAN))));
            writeln!(f, "| {name} |{}", cells.collect::<String>())?;
        }
        let rollcall = |room| median(self.measured.get(&Kind::Rollcall)?.median.get(&(Load::Quiet, room))?);
        let ratio = |room: &usize| {
            let sum = part(0, *room)? + part(1, *room)? + part(2, *room)?;
            Some(format!(" {} ({:.2}×) |", format_ms(sum), rollcall(*room)? / sum))
        };
        let cells = self.rooms.iter().map(|room| ratio(room).unwrap_or_else(|| " – |".to_owned()));
        writeln!(f, "| sum (ratio of rollcall to the sum) |{}", cells.collect::<String>())?;
        let cells = self.rooms.iter().map(|room| format!(" {:.0} |", part(3, *room).unwrap_or(f64::NAN)));
        writeln!(f, "| prepared bodies per second |{}", cells.collect::<String>())
    }

    fn write_connections(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(room) = self.rooms.iter().max() else { return Ok(()) };
        writeln!(f, "\n**{room} idle connections, sum of all processes**\n")?;
        writeln!(
            f,
            "| system | connects per second | CPU seconds per 1,000 | memory before | with them | per connection | \
             afterwards |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        let megabytes = |bytes: f64| format!("{:.0} MB", bytes / 1e6);
        let row = |kind: &Kind, measured: &SystemResults| {
            let of = |rounds: &BTreeMap<usize, Rounds>| median(rounds.get(room)?);
            // The first round only: an allocator may keep freed memory for the next one.
            let first = |rounds: &BTreeMap<usize, Rounds>| rounds.get(room)?.first().copied();
            let (before, with) = (first(&measured.before)?, first(&measured.filled)?);
            let each = (with - before) / *room as f64 / 1e3;
            let (connects, filled, emptied) = (of(&measured.connects)?, of(&measured.filled)?, of(&measured.emptied)?);
            let cpu = of(&measured.connecting)? * 1e3;
            let (before, filled, emptied) = (megabytes(before), megabytes(filled), megabytes(emptied));
            Some(format!("| {kind} | {connects:.0} | {cpu:.2} | {before} | {filled} | {each:.1} kB | {emptied} |"))
        };
        for row in self.measured.iter().filter_map(|(kind, measured)| row(kind, measured)) {
            writeln!(f, "{row}")?;
        }
        Ok(())
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        writeln!(
            f,
            "Four processes of each system on one machine with {cores} cores. Latencies, throughput and memory are medians \
             of {} rounds, or of the rounds that a system completed. The storm and the big room are measured once. In \
             brackets: how many times better rollcall is in this run.",
            self.rounds
        )?;
        for missing in self.missing.iter().collect::<BTreeSet<_>>() {
            writeln!(f, "\n{missing}")?;
        }
        if !self.measured.is_empty() {
            self.write_rooms(f)?;
        }
        write!(f, "{}", self.storms)?;
        self.big_room.as_ref().map_or(Ok(()), |big_room| write!(f, "{big_room}"))
    }
}

fn format_ms(number: f64) -> String {
    if number < 10.0 { format!("{number:.2}") } else { format!("{number:.0}") }
}

/// A percentile of sorted times, in milliseconds.
pub fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let index = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(index).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
}

fn median(rounds: &[f64]) -> Option<f64> {
    let mut sorted = rounds.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}
