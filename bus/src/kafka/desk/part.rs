//! A partition at the desk: what was taken from it, and what goes in and out.

use std::collections::VecDeque;
use std::time::Duration;

use crate::kafka::lease::Record;
use crate::kafka::token::Slot;
use crate::kafka::watermark::Watermark;
use crate::message::StoredMessage;

/// At most this many messages of a partition wait to be fetched.
pub(super) const WAITING: usize = 4096;
/// How much there is to be done before the thread is woken for it: waking it costs more than
/// settling a message does.
const WORTH_WAKING: usize = WAITING / 2;

/// A partition of the consumer: of its stream, or (`true`) of its retries.
pub(in crate::kafka) type Part = (bool, i32);

/// An offset taken from a partition, and the message there where the consumer wants it.
#[derive(Debug)]
pub(in crate::kafka) struct Polled {
    pub(in crate::kafka) slot: Slot,
    pub(in crate::kafka) record: Option<Record>,
}

/// What may be taken from an assigned partition.
#[derive(Debug, Clone, Copy)]
pub(in crate::kafka) struct Room {
    pub(in crate::kafka) part: Part,
    pub(in crate::kafka) assignment: u64,
    pub(in crate::kafka) messages: usize,
}

/// What is to be committed of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kafka) struct Position {
    pub(in crate::kafka) part: Part,
    pub(in crate::kafka) generation: u64,
    pub(in crate::kafka) offset: i64,
    pub(in crate::kafka) metadata: String,
}

/// What a settlement asks for.
#[derive(Debug)]
pub(in crate::kafka) enum Settled {
    /// The message is settled when this assignment of its partition is committed.
    Done(Part, u64),
    /// It was settled before.
    Already(Part, u64),
    /// Nothing: its lease goes on.
    Open,
    /// It is to be copied to the retry topic, and settled then with [`Desk::copied`].
    Copy(Copy),
}

/// A message on its way to the retry topic.
#[derive(Debug)]
pub(in crate::kafka) struct Copy {
    pub(in crate::kafka) slot: Slot,
    pub(in crate::kafka) generation: u64,
    pub(in crate::kafka) message: StoredMessage,
    pub(in crate::kafka) attempts: u32,
    pub(in crate::kafka) delay: Duration,
}

/// Where the member stands in one partition.
#[derive(Debug, Clone, Copy)]
pub(in crate::kafka) struct Standing {
    pub(in crate::kafka) part: Part,
    /// The first offset that is not settled.
    pub(in crate::kafka) settled: i64,
    /// The first offset that was not taken from the log.
    pub(in crate::kafka) next: i64,
    /// Messages that were taken, and wait.
    pub(in crate::kafka) waiting: u64,
}

#[derive(Debug)]
pub(super) struct Assigned {
    /// Which time it came to this member.
    pub(super) assignment: u64,
    /// The same, or a later one where its log has lost its end since. Fences tokens.
    pub(super) generation: u64,
    pub(super) watermark: Watermark,
    /// The offset that the log gives next, or one behind it.
    pub(super) log: i64,
    /// Not delivered yet.
    pub(super) waiting: VecDeque<Record>,
    /// Taken from the log before there was room for them in the watermark's span.
    pub(super) early: VecDeque<Polled>,
    /// Settled since the last commit.
    pub(super) dirty: bool,
    /// On its way to another member: nothing more is delivered.
    pub(super) leaving: bool,
    /// The thread left messages where they are, for want of room.
    pub(super) denied: bool,
}

impl Assigned {
    pub(super) fn room(&mut self, crowded: bool, taken: usize) -> usize {
        if self.leaving {
            return 0;
        }
        let free = WAITING.saturating_sub(self.waiting.len() + taken);
        self.denied = crowded || !self.early.is_empty() || free == 0;
        if self.denied { 0 } else { free }
    }

    /// Takes these offsets at once, where nothing about them is out of the ordinary.
    pub(super) fn take_run(&mut self, first: i64, last: i64) -> Option<&mut Self> {
        let new = !self.leaving && first >= self.log && self.early.is_empty();
        (new && self.watermark.take_run(first, last)).then_some(self)
    }

    /// True when there is so much that it is worth waking the thread.
    pub(super) fn has_much_room(&self) -> bool {
        let much = self.early.get(WORTH_WAKING).or_else(|| self.early.back());
        match much {
            Some(polled) => self.watermark.fits(polled.slot.offset),
            None => self.waiting.len() <= WAITING - WORTH_WAKING,
        }
    }
}

pub(super) fn position(part: Part, generation: u64, watermark: &Watermark) -> Position {
    Position { part, generation, offset: watermark.committed(), metadata: watermark.metadata() }
}

/// What a record counts against the bound on bytes.
pub(in crate::kafka) fn size(record: &Record) -> usize {
    const OVERHEAD: usize = 256;
    let message = &record.message;
    OVERHEAD
        + message.payload.as_ref().map_or(0, bytes::Bytes::len)
        + message.key.as_ref().map_or(0, bytes::Bytes::len)
        + message.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
}
