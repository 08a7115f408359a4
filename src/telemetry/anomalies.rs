//! Oddities: what other programs and other nodes send or leave that cannot be right, ignored and counted.
//!
//! Owns one count per kind, for the whole process, and the log line at the first of each: whoever causes one mostly
//! causes many. What is done instead is decided where it is met.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;

/// What was met and ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// A member of a room's owner set, or of the registered nodes, that is no node's id.
    ForeignMember,
    /// A lease that no node wrote.
    ForeignEntry,
    /// A key with the prefix of this cluster that holds another kind of value.
    ForeignKey,
    /// A peer's row for a socket that it has named already.
    RepeatedRow,
    /// A peer's answer to something that was not asked.
    SenselessAnswer,
    /// A peer's changes of rows that do not fit the rows that it told before.
    MisfitChanges,
}

static COUNTS: [AtomicU64; Oddity::ALL.len()] = [const { AtomicU64::new(0) }; Oddity::ALL.len()];

impl Oddity {
    pub const ALL: [Self; 6] = [
        Self::ForeignMember,
        Self::ForeignEntry,
        Self::ForeignKey,
        Self::RepeatedRow,
        Self::SenselessAnswer,
        Self::MisfitChanges,
    ];

    /// What metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ForeignMember => "foreign_member",
            Self::ForeignEntry => "foreign_entry",
            Self::ForeignKey => "foreign_key",
            Self::RepeatedRow => "repeated_row",
            Self::SenselessAnswer => "senseless_answer",
            Self::MisfitChanges => "misfit_changes",
        }
    }

    /// Counts one more. `what` is logged if it is the first of its kind.
    pub fn note(self, what: impl fmt::Display) {
        if COUNTS[self as usize].fetch_add(1, Ordering::Relaxed) == 0 {
            warn!(kind = ?self, %what, "ignored, and from now on only counted");
        }
    }

    /// How many there were in this process.
    pub fn count(self) -> u64 {
        COUNTS[self as usize].load(Ordering::Relaxed)
    }
}
