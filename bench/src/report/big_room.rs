//! The table of the big room.

use std::fmt;

use super::{at, milliseconds};
use crate::big_room::{Beside, BigRoom, Busy, SMALL};

impl fmt::Display for BigRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: f64| format!("{:.1} MB", bytes / 1e6);
        let json = self.json as f64;
        writeln!(
            f,
            "\n**A room of {} rows in four rosters; one node is asked for it, and for small rooms**\n",
            self.rows
        )?;
        writeln!(
            f,
            "In brackets: how many times as long as beside nothing, and as beside as many bytes from elsewhere.\n"
        )?;
        write!(f, "| meanwhile |")?;
        for room in SMALL {
            write!(f, " room of {room}, median | 99 % |")?;
        }
        writeln!(f, " answers of the big room | median | the longest | incomplete | resident at most | Redis |")?;
        writeln!(f, "|---|{}---|---|---|---|---|---|", "---|---|".repeat(SMALL.len()))?;
        for (beside, measured) in &self.measured {
            write!(f, "| {beside} |")?;
            for room in SMALL {
                let p99 = |beside| at(&self.measured[&beside].small[&room], 0.99);
                let (median, ours) = (milliseconds(at(&measured.small[&room], 0.5)), p99(*beside));
                let (alone, elsewhere) = (ours / p99(Beside::Nothing), ours / p99(Beside::ReadyMade));
                write!(f, " {median} ms | {} ms ({alone:.2}×, {elsewhere:.2}×) |", milliseconds(ours))?;
            }
            match measured.read {
                None => write!(f, " – | – | – | – |")?,
                Some(read) => {
                    let (median, longest) = (milliseconds(read.median), milliseconds(read.longest));
                    write!(f, " {} | {median} ms | {longest} ms | {} |", read.answers, read.incomplete)?;
                }
            }
            let grown = (measured.most.saturating_sub(self.before)) as f64 / json;
            writeln!(f, " {} (+{grown:.1} JSON) | {} |", megabytes(measured.most as f64), measured.redis)?;
        }
        writeln!(
            f,
            "\nEvery node listed exactly the {} rows. Their JSON is {}; before it was asked, the node had {} resident with \
             its own rows. Writing the rows into Redis: {}.",
            self.rows,
            megabytes(json),
            megabytes(self.before as f64),
            self.writing
        )
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mean = self.took as f64 / self.commands.max(1) as f64;
        let (longest, command) = &self.longest;
        write!(f, "{} commands, {mean:.1} µs each, ", self.commands)?;
        write!(f, "{} over 1 ms, the longest {longest} µs {command}", self.over_a_millisecond)
    }
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::ReadyMade => "as many bytes are read, ready-made, elsewhere",
            Self::Quiet => "the big room is read, quiet",
            Self::Full => "the same, `/rollcall`",
            Self::Churn => "the big room is read, 1 % of it come and go each second",
        })
    }
}
