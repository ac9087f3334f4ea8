//! What has been done since this process began, shown while the flow runs.

use super::order::Status;
use crate::counters::{Counter, Counters};

#[derive(Debug, Clone)]
pub(super) struct Figures {
    /// Orders that are kept and queued, each once.
    pub(super) taken: Counter,
    /// Requests that were sent to the external service, or could not reach it.
    pub(super) calls: Counter,
    pub(super) validated: Counter,
    pub(super) rejected: Counter,
    pub(super) failed: Counter,
    pub(super) parked: Counter,
}

impl Default for Figures {
    /// Figures that nobody is shown.
    fn default() -> Self {
        Self::of(&Counters::default())
    }
}

impl Figures {
    pub(super) fn of(counters: &Counters) -> Self {
        Self {
            taken: counters.counter("orders taken"),
            calls: counters.counter("calls"),
            validated: counters.counter("validated"),
            rejected: counters.counter("rejected"),
            failed: counters.counter("failed"),
            parked: counters.counter("parked"),
        }
    }

    /// An order is what it stays.
    pub(super) fn decided(&self, status: Status) {
        match status {
            Status::Validated => self.validated.add(1),
            Status::Rejected => self.rejected.add(1),
            Status::Failed => self.failed.add(1),
            Status::Processing => {}
        }
    }
}
