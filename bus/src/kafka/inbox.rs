//! Between the thread that polls and those who fetch: what was polled and nobody has brought to
//! the desk yet. The thread puts a batch here without waiting for the desk, which is busy for as
//! long as a fetch or a settlement takes, and whoever fetches next brings it there.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::desk::{Part, Polled, size};
use super::lease::Record;

/// From here on the thread brings them to the desk itself, as it does when it has nothing to do.
const MANY: usize = 2048;
const MANY_BYTES: usize = 1 << 20;
/// How many emptied lists are kept to be filled again.
const SPARE: usize = 4;

/// Messages of one assignment of a partition, in their order.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) part: Part,
    pub(super) assignment: u64,
    /// The first ones, as long as each follows on the one before and is wanted now: nearly always
    /// all of them. They come to the desk as one.
    pub(super) run: VecDeque<Record>,
    /// The others.
    pub(super) rest: Vec<Polled>,
    /// What the run counts against the desk's bound.
    pub(super) run_bytes: usize,
    bytes: usize,
}

impl Batch {
    pub(super) fn push(&mut self, polled: Polled) {
        self.bytes += polled.record.as_ref().map_or(0, size);
        let follows = self.run.back().is_none_or(|last| last.slot.offset + 1 == polled.slot.offset);
        match polled.record {
            Some(record) if self.rest.is_empty() && follows && record.due.is_none() => {
                self.run.push_back(record);
                self.run_bytes = self.bytes;
            }
            record => self.rest.push(Polled { record, ..polled }),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.run.len() + self.rest.len()
    }
}

/// Filled by the thread, emptied by whoever has the desk.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<Batches>);

#[derive(Debug, Default)]
struct Batches {
    waiting: Vec<Batch>,
    messages: usize,
    bytes: usize,
    spare: Vec<VecDeque<Record>>,
}

impl Inbox {
    pub(super) fn put(&self, batch: Batch) {
        let mut batches = self.batches();
        batches.messages += batch.len();
        batches.bytes += batch.bytes;
        batches.waiting.push(batch);
    }

    /// All of them, in their order. Only with the desk: two who take at once mix the order up.
    pub(super) fn take(&self) -> Vec<Batch> {
        let mut batches = self.batches();
        (batches.messages, batches.bytes) = (0, 0);
        std::mem::take(&mut batches.waiting)
    }

    pub(super) fn len(&self) -> usize {
        self.batches().messages
    }

    /// True when they are not to wait for somebody to fetch.
    pub(super) fn is_full(&self) -> bool {
        let batches = self.batches();
        batches.messages >= MANY || batches.bytes >= MANY_BYTES
    }

    /// An empty batch to fill.
    pub(super) fn begin(&self, part: Part, assignment: u64) -> Batch {
        let run = self.batches().spare.pop().unwrap_or_default();
        Batch { part, assignment, run, rest: Vec::new(), run_bytes: 0, bytes: 0 }
    }

    /// Takes an emptied list back.
    pub(super) fn give_back(&self, emptied: VecDeque<Record>) {
        let mut batches = self.batches();
        if batches.spare.len() < SPARE {
            batches.spare.push(emptied);
        }
    }

    fn batches(&self) -> MutexGuard<'_, Batches> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::lease::tests::record;

    #[test]
    fn a_run_ends_where_something_is_missing_or_has_to_wait() {
        let polled = |offset, wanted: bool| {
            let record = record(offset);
            Polled { slot: record.slot, record: wanted.then_some(record) }
        };
        let inbox = Inbox::default();
        let mut batch = inbox.begin((false, 0), 1);
        for offset in [5, 6, 8, 9] {
            batch.push(polled(offset, true));
        }
        assert_eq!((batch.run.len(), batch.rest.len(), batch.len()), (2, 2, 4));
        assert_eq!(batch.bytes, 2 * batch.run_bytes);
        inbox.put(batch);
        let mut batch = inbox.begin((false, 0), 1);
        for (offset, wanted) in [(10, true), (11, false), (12, true)] {
            batch.push(polled(offset, wanted));
        }
        assert_eq!((batch.run.len(), batch.rest.len()), (1, 2));
        inbox.put(batch);
        assert_eq!((inbox.len(), inbox.is_full()), (7, false));
        assert_eq!(inbox.take().len(), 2);
        assert_eq!(inbox.len(), 0);
    }
}
