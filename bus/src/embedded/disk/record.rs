//! Changes of one stream or bucket as rows.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fjall::Slice;
use serde::Serialize;

use super::committer::read;
use super::declared::{BucketRow, ConsumerRow, StreamRow};
use super::keys::{self, Meta, Table};
use super::queue::Shared;
use super::rows;
use super::tables::{Write, corrupt};
use crate::embedded::journal::{Change, Record, Storage};
use crate::error::Result;
use crate::message::StoredMessage;

impl Storage for Arc<Shared> {
    fn record(&self) -> Arc<dyn Record> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        Arc::new(DiskRecord::new(self.clone(), number, 0))
    }

    fn as_one(&self) -> MutexGuard<'_, ()> {
        Shared::as_one(self)
    }
}

/// What keeps one stream or bucket on disk.
#[derive(Debug)]
pub(super) struct DiskRecord {
    shared: Arc<Shared>,
    number: u64,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    writes: Vec<Write>,
    /// The highest sequence among `writes`.
    stored: u64,
    /// Tickets and the highest sequence that is written with each.
    on_the_way: VecDeque<(u64, u64)>,
    readable: u64,
}

impl DiskRecord {
    /// Keeps the stream or bucket with this number, whose messages up to `readable` are on disk.
    pub(super) fn new(shared: Arc<Shared>, number: u64, readable: u64) -> Self {
        let noted = Noted { readable, ..Noted::default() };
        Self { shared, number, noted: Mutex::new(noted) }
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Noted {
    fn put(&mut self, table: Table, key: Slice, value: &[u8]) {
        self.writes.push(Write { table, key, value: Some(Slice::from(value)) });
    }

    fn remove(&mut self, table: Table, key: Slice) {
        self.writes.push(Write { table, key, value: None });
    }

    fn declare(&mut self, key: Slice, row: &impl Serialize) {
        // A struct of plain fields always has a JSON form.
        let json = serde_json::to_vec(row).unwrap_or_default();
        self.put(Table::Meta, key, &json);
    }

    fn drop_all(&mut self, number: u64, rows: &[Meta]) {
        for row in rows {
            self.remove(Table::Meta, row.key(number));
        }
        self.put(Table::Meta, Meta::Dropped.key(number), &[]);
    }

    fn store(&mut self, number: u64, message: &StoredMessage, bytes: u64) {
        let StoredMessage { sequence, key, headers, payload, .. } = message;
        let at = keys::pair(number, *sequence);
        let body = rows::body(key.as_ref(), headers, payload.as_ref());
        self.put(Table::Outlines, at.clone(), &rows::outline(message, bytes));
        self.put(Table::Bodies, at, &body);
        self.put(Table::Meta, Meta::LastSequence.key(number), &sequence.to_be_bytes());
        self.stored = *sequence;
    }

    fn take(&mut self, number: u64, change: Change<'_>) {
        match change {
            Change::Stream(config, created) => {
                self.declare(Meta::Stream.key(number), &StreamRow::new(config, created));
            }
            Change::StreamGone => self.drop_all(number, &[Meta::Stream, Meta::LastSequence]),
            Change::Stored(message, bytes) => self.store(number, message, bytes),
            Change::Removed(sequence) => {
                self.remove(Table::Outlines, keys::pair(number, sequence));
                self.remove(Table::Bodies, keys::pair(number, sequence));
            }
            Change::Remembered { place, id, sequence, came } => {
                self.put(Table::Ids, keys::pair(number, place), &rows::id(id, sequence, came));
            }
            Change::Forgotten(place) => self.remove(Table::Ids, keys::pair(number, place)),
            Change::Held(until, order, message) => {
                self.put(
                    Table::Delayed,
                    keys::delayed(number, until, order),
                    &rows::delayed(message),
                );
            }
            Change::LetGo(until, order) => {
                self.remove(Table::Delayed, keys::delayed(number, until, order));
            }
            Change::Bucket(config) => {
                self.declare(Meta::Bucket.key(number), &BucketRow::new(config));
            }
            Change::BucketGone => self.drop_all(number, &[Meta::Bucket, Meta::Revision]),
            Change::Put(entry) => {
                let key = keys::value(number, entry.key.as_str());
                self.put(Table::Values, key, &rows::value(entry));
            }
            Change::Deleted(key) => self.remove(Table::Values, keys::value(number, key.as_str())),
            Change::Revision(revision) => {
                self.put(Table::Meta, Meta::Revision.key(number), &revision.to_be_bytes());
            }
            of_consumer => self.take_consumers(number, of_consumer),
        }
    }

    fn take_consumers(&mut self, stream: u64, change: Change<'_>) {
        match change {
            Change::Consumer { number, config, created } => {
                self.declare(keys::consumer(stream, number), &ConsumerRow::new(config, created));
            }
            Change::Head(number, head) => {
                self.put(Table::Meta, Meta::Head.key(number), &rows::head(&head));
            }
            Change::First(number, first) => {
                self.put(Table::Meta, Meta::First.key(number), &rows::numbers(&first));
            }
            Change::Open(number, open) => {
                self.put(Table::Open, keys::pair(number, open.sequence), &rows::open(&open));
            }
            Change::Closed(number, sequence) => {
                self.remove(Table::Open, keys::pair(number, sequence));
            }
            Change::ConsumerGone(number) => {
                self.remove(Table::Meta, keys::consumer(stream, number));
                self.remove(Table::Meta, Meta::Head.key(number));
                self.remove(Table::Meta, Meta::First.key(number));
            }
            // `take` passes on what is about consumers, and nothing else.
            _ => {}
        }
    }
}

impl Record for DiskRecord {
    fn note(&self, change: Change<'_>) {
        self.noted().take(self.number, change);
    }

    fn flush(&self) {
        let mut noted = self.noted();
        if noted.writes.is_empty() {
            return;
        }
        let ticket = self.shared.push(&mut noted.writes);
        let stored = std::mem::take(&mut noted.stored);
        if stored > 0 {
            noted.on_the_way.push_back((ticket, stored));
        }
    }

    fn number(&self) -> u64 {
        self.shared.next_number.fetch_add(1, Ordering::Relaxed)
    }

    fn readable(&self) -> u64 {
        let (mut noted, written) = (self.noted(), self.shared.written());
        while let Some(&(ticket, sequence)) = noted.on_the_way.front()
            && ticket <= written
        {
            noted.readable = sequence;
            noted.on_the_way.pop_front();
        }
        noted.readable
    }

    fn read_back(&self, message: StoredMessage) -> Result<StoredMessage> {
        let at = keys::pair(self.number, message.sequence);
        let row = read(&self.shared, Table::Bodies, &at)?;
        let body = row.as_deref().and_then(rows::read_body);
        let (key, headers, payload) =
            body.ok_or_else(|| corrupt(&self.shared.path, Table::Bodies, &at))?;
        Ok(StoredMessage { key, headers, payload, ..message })
    }
}
