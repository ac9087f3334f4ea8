//! One stream: its configuration, its log and its consumers, behind one lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::clock::Now;
#[cfg(feature = "disk")]
use super::cursor::CursorParts;
use super::cursor::{Cursor, Settled};
use super::delayed::Delayed;
use super::entered::{Entered, Journaled};
use super::ids::Ids;
use super::journal::{Change, Journal};
use super::log::Log;
use crate::config::{ConsumerConfig, ConsumerInfo, Retention, Start, StreamConfig, StreamInfo};
use crate::driver::{LeaseToken, Settlement};
use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "disk")]
use crate::message::Message;
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
    /// Unknown of one that was kept by a version that did not write it down.
    created: Option<SystemTime>,
    pub(super) log: Log,
    /// Woken when a message came or the stream is gone: for readers.
    pub(super) arrived: Arc<Notify>,
    pub(super) cursors: BTreeMap<ConsumerName, Cursor>,
    /// When the newest consumer was made, if this process made one.
    newest: Option<SystemTime>,
    pub(super) ids: Ids,
    pub(super) delayed: Delayed,
    pub(super) journal: Journal,
    deleted: bool,
}

/// A stream as it was kept.
#[cfg(feature = "disk")]
#[derive(Debug)]
pub(super) struct StreamParts {
    pub(super) config: StreamConfig,
    pub(super) created: Option<SystemTime>,
    pub(super) log: Log,
    /// The place, id, sequence and time of each that is remembered.
    pub(super) ids: Vec<(u64, Arc<str>, u64, SystemTime)>,
    pub(super) delayed: Vec<(Message, (SystemTime, u64))>,
    pub(super) consumers: Vec<CursorParts>,
    pub(super) journal: Journal,
    pub(super) now: Now,
}

impl Journaled for StreamState {
    fn journal(&self) -> &Journal {
        &self.journal
    }
}

impl StreamCell {
    /// A new stream, whose changes are noted in `journal` from its declaration on.
    pub(super) fn new(config: StreamConfig, created: SystemTime, journal: Journal) -> Self {
        let (config, created) = (StreamConfig { partitions: 1, ..config }, Some(created));
        journal.note(|| Change::Stream(&config, created));
        Self::holding(StreamState {
            config,
            created,
            log: Log::new(journal.clone()),
            arrived: Arc::new(Notify::new()),
            cursors: BTreeMap::new(),
            newest: None,
            ids: Ids::new(journal.clone()),
            delayed: Delayed::new(journal.clone()),
            journal,
            deleted: false,
        })
    }

    fn holding(state: StreamState) -> Self {
        Self { state: Mutex::new(state) }
    }

    /// The stream as it was kept.
    #[cfg(feature = "disk")]
    pub(super) fn restore(parts: StreamParts) -> Self {
        let StreamParts { config, created, log, ids, delayed, consumers, journal, now } = parts;
        let mut remembered = Ids::new(journal.clone());
        for (place, id, sequence, came) in ids {
            remembered.restore(place, id, sequence, now.instant_of(came));
        }
        let mut waiting = Delayed::new(journal.clone());
        for (message, place) in delayed {
            waiting.restore(message, place);
        }
        let restore = |parts: CursorParts| {
            (parts.config.name.clone(), Cursor::restore(parts, journal.clone(), now))
        };
        Self::holding(StreamState {
            config,
            created,
            log,
            arrived: Arc::new(Notify::new()),
            cursors: consumers.into_iter().map(restore).collect(),
            newest: None,
            ids: remembered,
            delayed: waiting,
            journal,
            deleted: false,
        })
    }

    /// The state with everything out of date dropped; `NotFound` when the stream was deleted.
    pub(super) fn enter(&self, now: Now) -> Result<Entered<'_, StreamState>> {
        let mut state = self.lock();
        if state.deleted {
            let name = &state.config.name;
            return Err(Error::not_found(format!("stream {name} was deleted: open it anew")));
        }
        state.let_in(now);
        state.drop_aged(now);
        Ok(state)
    }

    fn lock(&self) -> Entered<'_, StreamState> {
        Entered::lock(&self.state)
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
        if self.config.delayed && !wanted.delayed {
            fixed.push("delayed");
        }
        if !fixed.is_empty() {
            let (name, fields) = (&wanted.name, fixed.join(", "));
            return Err(Error::new(
                ErrorKind::Mismatch,
                format!("stream {name} exists with another {fields}: delete it or keep its own"),
            ));
        }
        self.config = StreamConfig { partitions: 1, ..wanted.clone() };
        self.journal.note(|| Change::Stream(&self.config, self.created));
        self.make_room(0, 0);
        Ok(())
    }

    pub(super) fn info(&self) -> StreamInfo {
        StreamInfo {
            config: self.config.clone(),
            created: self.created,
            first_sequence: self.log.first_sequence(),
            last_sequence: self.log.last_sequence(),
            messages: self.log.messages(),
            bytes: self.log.bytes(),
            consumers: self.cursors.len() as u64,
        }
    }

    /// Marks the stream as deleted and wakes everyone who waits on it.
    pub(super) fn delete(&mut self) {
        self.cursors.values_mut().for_each(Cursor::forget);
        self.journal.note(|| Change::StreamGone);
        self.deleted = true;
        self.wake_all();
    }

    pub(super) fn wake_all(&self) {
        self.arrived.notify_waiters();
        self.cursors.values().for_each(|cursor| cursor.woken.notify_waiters());
    }

    /// When the next delayed message is due.
    pub(super) fn next_delayed(&self, now: Now) -> Option<Instant> {
        self.delayed.next_at(now)
    }

    /// Removes what matches, and what is to come too where everything does. Returns how many.
    pub(super) fn purge(&mut self, filter: &SubjectFilter) -> u64 {
        let held = self.delayed.purge(filter);
        self.cursors.values_mut().for_each(Cursor::count_anew);
        held + self.log.purge(filter)
    }

    /// Takes the oldest message out of the log.
    pub(super) fn drop_oldest(&mut self) {
        let sequence = self.log.first_sequence();
        if let Some(oldest) = self.log.get(sequence) {
            let subject = oldest.subject();
            for cursor in self.cursors.values_mut() {
                cursor.removed(sequence, subject.as_str());
            }
        }
        self.log.remove_oldest();
    }

    fn drop_aged(&mut self, now: Now) {
        let Some(max_age) = self.config.max_age else { return };
        let cutoff = now.cutoff(max_age);
        while self.log.oldest().is_some_and(|oldest| oldest <= cutoff) {
            self.drop_oldest();
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
            cursor.declare(config.clone());
            return Ok(cursor.info(&self.log, now));
        }
        self.check_new_consumer(config)?;
        let created = self.moment(now.time);
        let mut cursor = Cursor::new(config.clone(), &self.log, created);
        let info = cursor.info(&self.log, now);
        self.cursors.insert(config.name.clone(), cursor);
        Ok(info)
    }

    /// When a consumer is made that is made now: no two are made at the same time, so that one is
    /// told from its successor even where the clock stands still.
    fn moment(&mut self, now: SystemTime) -> SystemTime {
        let kept = || self.cursors.values().map(Cursor::created).max();
        let newest = self.newest.or_else(kept);
        let after = newest.and_then(|newest| newest.checked_add(Duration::from_nanos(1)));
        let moment = after.map_or(now, |after| after.max(now));
        self.newest = Some(moment);
        moment
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
        let mut cursor =
            self.cursors.remove(name).ok_or_else(|| no_consumer(&self.config, name))?;
        cursor.forget();
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
