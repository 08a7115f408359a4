//! The table of the big room.

use std::fmt;

use super::{format_ms, percentile};
use crate::big_room::{BigRoom, CommandStats, ConcurrentLoad, SMALL};

impl fmt::Display for BigRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: f64| format!("{:.1} MB", bytes / 1e6);
        let json = self.json as f64;
        writeln!(
            f,
            "\n**A room of {} rows on four nodes; one node answers requests for it, and for small rooms**\n",
            self.rows
        )?;
        writeln!(
            f,
            "In brackets: the ratio to an idle machine, and the ratio to a machine on which a plain server sends as many bytes.\n"
        )?;
        write!(f, "| concurrent load |")?;
        for room in SMALL {
            write!(f, " room of {room}, median | p99 |")?;
        }
        writeln!(f, " answers of the big room | median | maximum | incomplete | maximum resident memory | Redis |")?;
        writeln!(f, "|---|{}---|---|---|---|---|---|", "---|---|".repeat(SMALL.len()))?;
        for (load, measured) in &self.measured {
            write!(f, "| {load} |")?;
            for room in SMALL {
                let p99 = |load: &ConcurrentLoad| percentile(&self.measured[load].small[&room], 0.99);
                let (median, value) = (format_ms(percentile(&measured.small[&room], 0.5)), p99(load));
                let (alone, plain) =
                    (value / p99(&ConcurrentLoad::Nothing), value / p99(&ConcurrentLoad::PreparedBody));
                write!(f, " {median} ms | {} ms ({alone:.2}×, {plain:.2}×) |", format_ms(value))?;
            }
            match measured.read {
                None => write!(f, " – | – | – | – |")?,
                Some(read) => {
                    let (median, longest) = (format_ms(read.median), format_ms(read.longest));
                    write!(f, " {} | {median} ms | {longest} ms | {} |", read.answers, read.incomplete)?;
                }
            }
            let grown = (measured.peak.saturating_sub(self.before)) as f64 / json;
            writeln!(f, " {} (+{grown:.1} JSON) | {} |", megabytes(measured.peak as f64), measured.redis)?;
        }
        writeln!(
            f,
            "\nEvery node listed exactly the {} rows. Their JSON is {}; before the requests, the node had {} of resident \
             memory with its own rows. Writing the rows to Redis: {}.",
            self.rows,
            megabytes(json),
            megabytes(self.before as f64),
            self.writing
        )
    }
}

impl fmt::Display for CommandStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mean = self.took as f64 / self.commands.max(1) as f64;
        let (longest, command) = &self.longest;
        write!(f, "{} commands, {mean:.1} µs each, ", self.commands)?;
        write!(f, "{} over 1 ms, maximum {longest} µs {command}", self.over_a_millisecond)
    }
}

impl fmt::Display for ConcurrentLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "none",
            Self::PreparedBody => "reads of as many bytes from a plain server",
            Self::Quiet => "reads of the big room, quiet",
            Self::Full => "the same, `/rollcall`",
            Self::Churn => "reads of the big room, churn of 1 % per second",
        })
    }
}
