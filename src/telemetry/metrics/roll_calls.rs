//! What is counted of roll calls, without an end and in the last minutes ([`super::recent`]).
//!
//! A flight that many callers share is one roll call here: the work is done once. Who shared one is counted apart.

use prometheus::{Histogram, IntCounter};

use super::recent::Recent;
use super::{DURATIONS, Definitions};
use crate::roll_call::answer::{Answer, Source};

const USERS: [f64; 6] = [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0];

/// Cheap to clone.
#[derive(Clone)]
pub struct RollCalls {
    duration: Histogram,
    users: Histogram,
    /// By source, and then by whether they were complete.
    outcomes: [[IntCounter; 2]; 2],
    shared: IntCounter,
    strict_refused: IntCounter,
    recent: Recent,
}

impl RollCalls {
    pub(super) fn define(definitions: &Definitions) -> Self {
        let outcomes = definitions.counters(
            "rollcall_roll_calls_total",
            "Roll calls, by outcome (complete, incomplete) and by what the choice of whom to ask rested on \
             (directory, peers).",
            &["source", "outcome"],
        );
        let of = |source| ["incomplete", "complete"].map(|outcome| outcomes.with_label_values(&[source, outcome]));
        Self {
            duration: definitions.histogram(
                "rollcall_roll_call_duration_seconds",
                "How long a roll call took, from its beginning to its answer.",
                &DURATIONS,
            ),
            users: definitions.histogram("rollcall_roll_call_users", "How many sockets a roll call listed.", &USERS),
            outcomes: ["directory", "peers"].map(of),
            shared: definitions.counter(
                "rollcall_roll_calls_shared_total",
                "Callers who were given the answer of a roll call that another caller had begun.",
            ),
            strict_refused: definitions.counter(
                "rollcall_roll_calls_strict_refused_total",
                "Callers with strict=true who were refused an incomplete answer.",
            ),
            recent: Recent::default(),
        }
    }

    /// A roll call ended with this answer.
    pub fn called(&self, answer: &Answer) {
        self.duration.observe(answer.took.as_secs_f64());
        self.users.observe(answer.len() as f64);
        let source = match answer.source {
            Source::Directory => 0,
            Source::Peers => 1,
        };
        self.outcomes[source][usize::from(answer.complete)].inc();
        self.recent.note(answer.took, answer.complete);
    }

    /// Those of the last minutes.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// A caller joined a roll call that another one has begun.
    pub fn shared(&self) {
        self.shared.inc();
    }

    /// A caller wanted a complete answer or none, and got none.
    pub fn strict_refused(&self) {
        self.strict_refused.inc();
    }
}
