//! Between the thread that polls and those who fetch: what was polled and nobody has brought to
//! the desk yet. The thread puts a batch here without waiting for the desk, which is busy for as
//! long as a fetch or a settlement takes, and whoever fetches next brings it there.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::desk::{Part, Polled};

/// From here on the thread brings them to the desk itself, as it does when it has nothing to do.
const MANY: usize = 1024;
const MANY_BYTES: usize = 1 << 20;
/// How many emptied batches are kept to be filled again.
const SPARE: usize = 4;

/// Messages of one assignment of a partition, in their order.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) part: Part,
    pub(super) assignment: u64,
    pub(super) polled: Vec<Polled>,
    pub(super) bytes: usize,
}

/// Filled by the thread, emptied by whoever has the desk.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<Batches>);

#[derive(Debug, Default)]
struct Batches {
    waiting: Vec<Batch>,
    messages: usize,
    bytes: usize,
    spare: Vec<Vec<Polled>>,
}

impl Inbox {
    pub(super) fn put(&self, batch: Batch) {
        let mut batches = self.batches();
        batches.messages += batch.polled.len();
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

    /// An empty list to fill.
    pub(super) fn spare(&self) -> Vec<Polled> {
        self.batches().spare.pop().unwrap_or_default()
    }

    /// Takes an emptied list back.
    pub(super) fn give_back(&self, emptied: Vec<Polled>) {
        let mut batches = self.batches();
        if batches.spare.len() < SPARE {
            batches.spare.push(emptied);
        }
    }

    fn batches(&self) -> MutexGuard<'_, Batches> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
