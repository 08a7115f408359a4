//! The numbers of the statuses of this node.
//!
//! Owns the last announced content and its number: a status that differs from the last one gets the next number, so that
//! acknowledgements name the content that a member knows. Pure; the tests of [`super::table`] cover it.

use super::state::DrainState;
use crate::names::NodeId;
use crate::roster::IndexState;

/// Numbers the statuses of this process.
#[derive(Default)]
pub struct StatusNumbering {
    last_announced: Option<(IndexState, DrainState)>,
    /// The number of the last status; 0 before the first.
    last: u64,
    /// The number of the first status of the current incarnation; 0 before the first.
    hello: u64,
}

impl StatusNumbering {
    /// The number of the status with this content. A status that differs from the last one gets the next number.
    pub fn number(&mut self, index: &IndexState, drain_state: DrainState) -> u64 {
        let announced = (index.clone(), drain_state);
        if self.last_announced.as_ref() != Some(&announced) {
            self.last += 1;
            let is_new = self.incarnation() != Some(&index.incarnation);
            self.last_announced = Some(announced);
            if is_new {
                self.hello = self.last;
            }
        }
        self.last
    }

    /// The number of the first status of the current incarnation; `None` before the first.
    pub fn hello(&self) -> Option<u64> {
        Some(self.hello).filter(|hello| *hello > 0)
    }

    /// Whether the last status says "fully indexed".
    pub fn is_fully_indexed(&self) -> bool {
        self.last_announced.as_ref().is_some_and(|(index, _)| index.fully_indexed_in.is_some())
    }

    fn incarnation(&self) -> Option<&NodeId> {
        self.last_announced.as_ref().map(|(index, _)| &index.incarnation)
    }
}
