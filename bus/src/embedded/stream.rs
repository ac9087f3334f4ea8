//! One stream: its configuration, its log and its consumers, behind one lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::clock::Now;
use super::cursor::{Cursor, Settled};
use super::ids::Ids;
use super::log::{Log, content_bytes, message_bytes};
use crate::config::{
    ConsumerConfig, ConsumerInfo, Retention, Start, StreamConfig, StreamInfo, WhenFull,
};
use crate::driver::{LeaseToken, Settlement};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Expect, Message, Receipt};
use crate::name::{ConsumerName, SubjectFilter};

/// A stream that handles may outlive.
#[derive(Debug)]
pub(super) struct StreamCell {
    state: Mutex<StreamState>,
}

/// What the lock protects.
#[derive(Debug)]
pub(super) struct StreamState {
    pub(super) config: StreamConfig,
    pub(super) log: Log,
    /// Woken when a message came or the stream is gone: for readers.
    pub(super) arrived: Arc<Notify>,
    cursors: BTreeMap<ConsumerName, Cursor>,
    ids: Ids,
    gone: bool,
}

impl StreamCell {
    pub(super) fn new(config: StreamConfig) -> Self {
        let state = StreamState {
            config,
            log: Log::new(),
            arrived: Arc::new(Notify::new()),
            cursors: BTreeMap::new(),
            ids: Ids::default(),
            gone: false,
        };
        Self { state: Mutex::new(state) }
    }

    /// The state with everything out of date dropped; `NotFound` when the stream was deleted.
    pub(super) fn enter(&self, now: Now) -> Result<MutexGuard<'_, StreamState>> {
        // No section below can panic half way through a change, so a poisoned lock is sound.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.gone {
            let name = &state.config.name;
            return Err(Error::not_found(format!("stream {name} was deleted: open it anew")));
        }
        state.drop_aged(now);
        Ok(state)
    }
}

impl StreamState {
    /// Changes what may be changed, or says what may not.
    pub(super) fn update(&mut self, wanted: &StreamConfig) -> Result<()> {
        let mut fixed = Vec::new();
        if wanted.retention != self.config.retention {
            fixed.push("retention");
        }
        if wanted.storage != self.config.storage {
            fixed.push("storage");
        }
        if wanted.max_consumers != self.config.max_consumers {
            fixed.push("max_consumers");
        }
        if !fixed.is_empty() {
            let (name, fields) = (&wanted.name, fixed.join(", "));
            return Err(Error::new(
                ErrorKind::Mismatch,
                format!("stream {name} exists with another {fields}: delete it or keep its own"),
            ));
        }
        self.config = wanted.clone();
        if self.config.when_full == WhenFull::DropOldest {
            self.make_room(0, 0);
        }
        Ok(())
    }

    pub(super) fn info(&self) -> StreamInfo {
        StreamInfo {
            config: self.config.clone(),
            first_sequence: self.log.first_sequence(),
            last_sequence: self.log.last_sequence(),
            messages: self.log.messages(),
            bytes: self.log.bytes(),
            consumers: self.cursors.len() as u64,
        }
    }

    /// Marks the stream as deleted and wakes everyone who waits on it.
    pub(super) fn delete(&mut self) {
        self.gone = true;
        self.arrived.notify_waiters();
        self.cursors.values().for_each(|cursor| cursor.woken.notify_waiters());
    }

    /// Checks and stores a message in one step.
    pub(super) fn publish(&mut self, message: Message, now: Now) -> Result<Receipt> {
        let (name, subject) = (&self.config.name, &message.subject);
        if !self.config.subjects.iter().any(|filter| filter.matches(subject.as_str())) {
            return Err(Error::invalid(format!(
                "stream {name} does not capture {subject}: publish to a subject it declares"
            )));
        }
        let content = content_bytes(&message);
        if content > u64::from(self.config.max_message_bytes) {
            let limit = self.config.max_message_bytes;
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "the message on {subject} has {content} bytes, stream {name} takes {limit}"
                ),
            ));
        }
        let window = self.config.duplicate_window;
        if let Some(id) = &message.id
            && let Some(sequence) = self.ids.find(id, now.instant, window)
        {
            return Ok(Receipt { sequence, duplicate: true });
        }
        if let Some(Expect::LastSubjectSequence(expected)) = message.expect {
            let last = self.log.last_of(subject);
            if last != expected {
                return Err(Error::new(
                    ErrorKind::Conflict { current: Some(last) },
                    format!(
                        "{subject} has last sequence {last}, not {expected}: read it and try again"
                    ),
                ));
            }
        }
        self.fit(&message)?;
        Ok(self.store(message, now))
    }

    fn store(&mut self, mut message: Message, now: Now) -> Receipt {
        let (id, subject) = (message.id.take(), message.subject.clone());
        let sequence = self.log.append(message, now.time);
        if let Some(id) = id {
            self.ids.remember(&id, sequence, now.instant);
        }
        self.arrived.notify_waiters();
        for cursor in self.cursors.values().filter(|cursor| cursor.matches(subject.as_str())) {
            cursor.woken.notify_waiters();
        }
        Receipt { sequence, duplicate: false }
    }

    /// Makes room for a message where the stream drops its oldest; otherwise `Full`.
    fn fit(&mut self, message: &Message) -> Result<()> {
        let bytes = message_bytes(message);
        let fits = |messages: u64, held: u64, config: &StreamConfig| {
            config.max_messages.is_none_or(|max| messages < max)
                && config.max_bytes.is_none_or(|max| held + bytes <= max)
        };
        if fits(self.log.messages(), self.log.bytes(), &self.config) {
            return Ok(());
        }
        if self.config.when_full == WhenFull::DropOldest && fits(0, 0, &self.config) {
            self.make_room(1, bytes);
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Full,
            format!(
                "stream {} is full: settle or purge messages, or raise its limit",
                self.config.name
            ),
        ))
    }

    fn make_room(&mut self, messages: u64, bytes: u64) {
        let (max_messages, max_bytes) = (self.config.max_messages, self.config.max_bytes);
        while (max_messages.is_some_and(|max| self.log.messages() + messages > max)
            || max_bytes.is_some_and(|max| self.log.bytes() + bytes > max))
            && let Some(oldest) = self.log.oldest().map(|message| message.sequence)
        {
            self.log.remove(oldest);
        }
    }

    fn drop_aged(&mut self, now: Now) {
        let Some(max_age) = self.config.max_age else { return };
        let cutoff = now.cutoff(max_age);
        while let Some(oldest) = self.log.oldest()
            && oldest.timestamp <= cutoff
        {
            let sequence = oldest.sequence;
            self.log.remove(sequence);
        }
    }

    /// Creates the consumer, or changes what may be changed.
    pub(super) fn ensure_consumer(
        &mut self,
        config: &ConsumerConfig,
        now: Now,
    ) -> Result<ConsumerInfo> {
        if let Some(cursor) = self.cursors.get_mut(&config.name) {
            check_fixed(&self.config, &cursor.config, config)?;
            cursor.config = config.clone();
            cursor.woken.notify_waiters();
            return Ok(cursor.info(&self.log, now));
        }
        self.check_new_consumer(config)?;
        let mut cursor = Cursor::new(config.clone(), &self.log, now);
        let info = cursor.info(&self.log, now);
        self.cursors.insert(config.name.clone(), cursor);
        Ok(info)
    }

    fn check_new_consumer(&self, wanted: &ConsumerConfig) -> Result<()> {
        let (stream, name) = (&self.config.name, &wanted.name);
        if let Some((one, other)) = overlapping(&wanted.filters) {
            return Err(Error::invalid(format!(
                "filters {one} and {other} of consumer {name} overlap: keep the wider one"
            )));
        }
        if self.cursors.len() >= self.config.max_consumers as usize {
            let limit = self.config.max_consumers;
            return Err(Error::new(
                ErrorKind::Full,
                format!("stream {stream} has its {limit} consumers: delete one or raise the limit"),
            ));
        }
        if self.config.retention != Retention::WorkQueue {
            return Ok(());
        }
        if wanted.start != Start::Beginning {
            return Err(Error::invalid(format!(
                "consumer {name} of work queue {stream} must start at the beginning"
            )));
        }
        let shares = |cursor: &&Cursor| filters_overlap(&cursor.config.filters, &wanted.filters);
        match self.cursors.values().find(shares) {
            None => Ok(()),
            Some(other) => Err(Error::invalid(format!(
                "consumer {name} overlaps with {} on work queue {stream}: a message there has one \
                 consumer, so bind that one or narrow the filters",
                other.config.name
            ))),
        }
    }

    pub(super) fn cursor(&mut self, name: &ConsumerName) -> Result<(&mut Cursor, &Log)> {
        match self.cursors.get_mut(name) {
            Some(cursor) => Ok((cursor, &self.log)),
            None => Err(no_consumer(&self.config, name)),
        }
    }

    pub(super) fn consumers(&mut self, now: Now) -> Vec<ConsumerInfo> {
        self.cursors.values_mut().map(|cursor| cursor.info(&self.log, now)).collect()
    }

    pub(super) fn delete_consumer(&mut self, name: &ConsumerName) -> Result<()> {
        let cursor = self.cursors.remove(name).ok_or_else(|| no_consumer(&self.config, name))?;
        cursor.woken.notify_waiters();
        Ok(())
    }

    pub(super) fn settle(
        &mut self,
        consumer: &ConsumerName,
        token: &LeaseToken,
        how: &Settlement,
        now: Now,
    ) -> Result<()> {
        let (cursor, _) = self.cursor(consumer)?;
        let (sequence, settled) = cursor.settle(token, how, now)?;
        if self.config.retention != Retention::WorkQueue {
            return Ok(());
        }
        match settled {
            Settled::Open => Ok(()),
            Settled::Done => {
                self.log.remove(sequence);
                Ok(())
            }
            // Still held although it is not out: its attempts are used up.
            Settled::Already if self.log.get(sequence).is_some() => Err(Error::new(
                ErrorKind::Stale,
                format!("message {sequence} has used up its attempts: it stays unsettled"),
            )),
            Settled::Already => Ok(()),
        }
    }
}

fn check_fixed(stream: &StreamConfig, has: &ConsumerConfig, wants: &ConsumerConfig) -> Result<()> {
    let sorted = |filters: &[SubjectFilter]| {
        let mut filters = filters.to_vec();
        filters.sort();
        filters
    };
    let mut fixed = Vec::new();
    if has.start != wants.start {
        fixed.push("start");
    }
    if sorted(&has.filters) != sorted(&wants.filters) {
        fixed.push("filters");
    }
    if fixed.is_empty() {
        return Ok(());
    }
    let (name, stream, fields) = (&wants.name, &stream.name, fixed.join(", "));
    Err(Error::new(
        ErrorKind::Mismatch,
        format!("consumer {name} of {stream} exists with another {fields}: use another name"),
    ))
}

fn no_consumer(stream: &StreamConfig, name: &ConsumerName) -> Error {
    Error::not_found(format!("stream {} has no consumer {name}: create it first", stream.name))
}

/// Two of the filters that some subject matches both, if there are such.
pub(super) fn overlapping(filters: &[SubjectFilter]) -> Option<(&SubjectFilter, &SubjectFilter)> {
    filters.iter().enumerate().find_map(|(at, one)| {
        let other = filters.iter().skip(at + 1).find(|other| one.overlaps(other))?;
        Some((one, other))
    })
}

fn filters_overlap(left: &[SubjectFilter], right: &[SubjectFilter]) -> bool {
    left.is_empty()
        || right.is_empty()
        || left.iter().any(|one| right.iter().any(|other| one.overlaps(other)))
}
