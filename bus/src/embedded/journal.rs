//! Where changes are told that must outlive the process: to nobody, for a backend in memory.
//!
//! Whatever changes state notes the change here, in the same step and under the same lock. What
//! was noted since the lock was taken is handed on as one when the lock is let go, so that a store
//! holds all of a step or nothing of it.

use std::fmt;
use std::sync::{Arc, MutexGuard};
use std::time::SystemTime;

use crate::config::{BucketConfig, ConsumerConfig, Entry, StreamConfig};
use crate::error::Result;
use crate::message::{Message, StoredMessage};
use crate::name::Subject;

/// What keeps streams and buckets beyond the process.
pub(super) trait Storage: fmt::Debug + Send + Sync {
    /// A record for a new stream or bucket.
    fn record(&self) -> Arc<dyn Record>;

    /// While this is held, whatever is noted and handed on is kept as one, or not at all: for a
    /// change of several streams.
    fn as_one(&self) -> MutexGuard<'_, ()>;
}

/// What keeps one stream or bucket.
pub(super) trait Record: fmt::Debug + Send + Sync {
    /// Takes a change; it is not handed on before [`Record::flush`].
    fn note(&self, change: Change<'_>);

    /// Hands on what was noted, as one.
    fn flush(&self);

    /// A number for a new consumer, never given before.
    fn number(&self) -> u64;

    /// The highest sequence whose message can be read back.
    fn readable(&self) -> u64;

    /// Puts key, headers and payload into a message that was noted as stored.
    fn read_back(&self, message: StoredMessage) -> Result<StoredMessage>;
}

/// A change of one stream or bucket.
#[derive(Debug)]
pub(super) enum Change<'a> {
    /// The stream is declared like this, and was made then.
    Stream(&'a StreamConfig, Option<SystemTime>),
    /// The stream is gone with all it had.
    StreamGone,
    /// A message was stored; it counts so many bytes.
    Stored(&'a StoredMessage, u64),
    /// The message at this sequence was taken out.
    Removed(u64),
    /// The id at this place of the window belongs to a message that came at this time.
    Remembered { place: u64, id: &'a str, sequence: u64, came: SystemTime },
    /// The id at this place was forgotten.
    Forgotten(u64),
    /// A message is to be stored at this time; the number orders those of one time.
    Held(SystemTime, u64, &'a Message),
    /// It no longer waits.
    LetGo(SystemTime, u64),
    /// A consumer is declared like this.
    Consumer { number: u64, config: &'a ConsumerConfig, created: SystemTime },
    /// The consumer stands here.
    Head(u64, Head),
    /// The sequences that a consumer gets before it goes on in order.
    First(u64, Vec<u64>),
    /// A message is out, or waits to come again.
    Open(u64, Open),
    /// The message at this sequence is no longer out.
    Closed(u64, u64),
    /// The consumer is gone. What it had open was closed before.
    ConsumerGone(u64),
    /// The bucket is declared like this.
    Bucket(&'a BucketConfig),
    /// The bucket is gone with all it had.
    BucketGone,
    /// A key has this value.
    Put(&'a Entry),
    /// A key has none any more.
    Deleted(&'a Subject),
    /// The last revision that was given.
    Revision(u64),
}

/// Where a consumer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) next: u64,
    /// How many of [`Change::First`] are left, counted from their end.
    pub(super) first_left: u64,
    pub(super) delivered: u64,
    pub(super) started_after: u64,
    pub(super) epoch: u32,
    pub(super) paused_until: Option<SystemTime>,
}

/// A message that is out, or waits to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) sequence: u64,
    pub(super) attempt: u32,
    /// When it comes again.
    pub(super) due: SystemTime,
    /// True when nobody works on it.
    pub(super) resting: bool,
}

/// The record that changes are noted in, if there is one.
#[derive(Debug, Clone, Default)]
pub(super) struct Journal(Option<Arc<dyn Record>>);

impl Journal {
    /// Changes are noted in `record`.
    pub(super) fn new(record: Arc<dyn Record>) -> Self {
        Self(Some(record))
    }

    /// Notes a change, which is made only where someone keeps it.
    pub(super) fn note<'a>(&self, change: impl FnOnce() -> Change<'a>) {
        if let Some(record) = &self.0 {
            record.note(change());
        }
    }

    pub(super) fn flush(&self) {
        if let Some(record) = &self.0 {
            record.flush();
        }
    }

    /// A number for a new consumer; 0 where nobody keeps it.
    pub(super) fn number(&self) -> u64 {
        self.0.as_ref().map_or(0, |record| record.number())
    }

    pub(super) fn record(&self) -> Option<&dyn Record> {
        self.0.as_deref()
    }
}
