//! One bucket: its entries, and the changes that its watches have not seen yet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

use super::clock::Now;
use super::connection::Connection;
use super::entered::{Entered, Journaled};
use super::journal::{Change, Journal};
use crate::config::{BucketConfig, Entry};
use crate::driver::{KvChange, KvDriver, WatchDriver};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{Subject, SubjectFilter};

/// So many changes wait for the slowest watch in full. Beyond that a change that a later one of
/// the same key replaced is dropped, so that a watch nobody reads costs one change per key.
const MAX_CHANGES: usize = 65_536;
/// The same for the bytes of the values that wait.
const MAX_CHANGED_BYTES: u64 = 16 << 20;

/// A bucket that handles may outlive.
#[derive(Debug)]
pub(super) struct BucketCell {
    state: Mutex<BucketState>,
}

#[derive(Debug)]
pub(super) struct BucketState {
    config: BucketConfig,
    entries: BTreeMap<Subject, Entry>,
    /// The key of each revision that stands, oldest first: what expires first.
    by_age: BTreeMap<u64, Subject>,
    bytes: u64,
    revision: u64,
    changes: VecDeque<Reported>,
    compact_at: usize,
    /// What the values among the changes take, and when they are compacted for it.
    changed_bytes: u64,
    compact_at_bytes: u64,
    /// The last revision that each open watch has seen.
    watches: BTreeMap<u64, u64>,
    next_watch: u64,
    changed: Arc<Notify>,
    journal: Journal,
    deleted: bool,
}

impl Journaled for BucketState {
    fn journal(&self) -> &Journal {
        &self.journal
    }
}

/// A bucket as it was kept.
#[cfg(feature = "disk")]
#[derive(Debug)]
pub(super) struct BucketParts {
    pub(super) config: BucketConfig,
    pub(super) entries: Vec<Entry>,
    pub(super) revision: u64,
    pub(super) journal: Journal,
}

#[derive(Debug, Clone)]
struct Reported {
    revision: u64,
    key: Subject,
    /// `None` for a deletion.
    entry: Option<Entry>,
}

impl Reported {
    fn bytes(&self) -> u64 {
        self.entry.as_ref().map_or(0, |entry| size(&entry.key, &entry.value))
    }
}

impl BucketCell {
    /// The bucket as it was kept.
    #[cfg(feature = "disk")]
    pub(super) fn restore(parts: BucketParts) -> Self {
        let BucketParts { config, entries, revision, journal } = parts;
        let cell = Self::holding(config, journal);
        let mut state = cell.lock();
        state.revision = revision;
        for entry in entries {
            state.bytes += size(&entry.key, &entry.value);
            state.by_age.insert(entry.revision, entry.key.clone());
            state.entries.insert(entry.key.clone(), entry);
        }
        drop(state);
        cell
    }

    /// A new bucket, whose changes are noted in `journal` from its declaration on.
    pub(super) fn new(config: BucketConfig, journal: Journal) -> Self {
        journal.note(|| Change::Bucket(&config));
        journal.flush();
        Self::holding(config, journal)
    }

    fn holding(config: BucketConfig, journal: Journal) -> Self {
        let state = BucketState {
            config,
            entries: BTreeMap::new(),
            by_age: BTreeMap::new(),
            bytes: 0,
            revision: 0,
            changes: VecDeque::new(),
            compact_at: MAX_CHANGES,
            changed_bytes: 0,
            compact_at_bytes: MAX_CHANGED_BYTES,
            watches: BTreeMap::new(),
            next_watch: 0,
            changed: Arc::new(Notify::new()),
            journal,
            deleted: false,
        };
        Self { state: Mutex::new(state) }
    }

    pub(super) fn enter(&self, now: Now) -> Result<Entered<'_, BucketState>> {
        let mut state = self.lock();
        if state.deleted {
            let name = &state.config.name;
            return Err(Error::not_found(format!("bucket {name} was deleted: open it anew")));
        }
        state.drop_aged(now);
        Ok(state)
    }

    fn lock(&self) -> Entered<'_, BucketState> {
        Entered::lock(&self.state)
    }
}

impl BucketState {
    #[cfg(test)]
    pub(super) fn changed_bytes(&self) -> u64 {
        self.changed_bytes
    }

    pub(super) fn config(&self) -> &BucketConfig {
        &self.config
    }

    pub(super) fn update_config(&mut self, wanted: &BucketConfig) -> Result<()> {
        if wanted.storage != self.config.storage {
            return Err(Error::new(
                ErrorKind::Mismatch,
                format!("bucket {} exists with another storage: delete it first", wanted.name),
            ));
        }
        self.config = wanted.clone();
        self.journal.note(|| Change::Bucket(&self.config));
        Ok(())
    }

    pub(super) fn delete_bucket(&mut self) {
        self.journal.note(|| Change::BucketGone);
        self.deleted = true;
        self.changed.notify_waiters();
    }

    fn drop_aged(&mut self, now: Now) {
        let Some(max_age) = self.config.max_age else { return };
        let cutoff = now.cutoff(max_age);
        while let Some((_, key)) = self.by_age.first_key_value()
            && self.entries.get(key).is_none_or(|entry| entry.created <= cutoff)
        {
            let key = key.clone();
            self.take_out(&key);
        }
    }

    /// True for a value that vanished because of its age: no change tells of that.
    fn has_aged(&self, change: &KvChange, now: Now) -> bool {
        match (change, self.config.max_age) {
            (KvChange::Put(entry), Some(max_age)) => entry.created <= now.cutoff(max_age),
            _ => false,
        }
    }

    fn take_out(&mut self, key: &Subject) -> bool {
        let Some(entry) = self.entries.remove(key) else { return false };
        self.by_age.remove(&entry.revision);
        self.bytes -= size(key, &entry.value);
        self.journal.note(|| Change::Deleted(key));
        true
    }

    fn current(&self, key: &Subject) -> u64 {
        self.entries.get(key).map_or(0, |entry| entry.revision)
    }

    fn expect(&self, key: &Subject, revision: u64) -> Result<()> {
        let current = self.current(key);
        if current == revision { Ok(()) } else { Err(conflict(key, current, revision)) }
    }

    fn write(&mut self, key: &Subject, value: Bytes, now: Now) -> Result<u64> {
        let replaced = self.entries.get(key).map_or(0, |entry| size(key, &entry.value));
        let bytes = self.bytes - replaced + size(key, &value);
        if self.config.max_bytes.is_some_and(|max| bytes > max) {
            return Err(Error::new(
                ErrorKind::Full,
                format!("bucket {} is full: delete keys or raise its limit", self.config.name),
            ));
        }
        self.take_out(key);
        self.next_revision();
        let entry = Entry { key: key.clone(), value, revision: self.revision, created: now.time };
        self.journal.note(|| Change::Put(&entry));
        self.bytes = bytes;
        self.by_age.insert(self.revision, key.clone());
        self.entries.insert(key.clone(), entry.clone());
        self.report(key, Some(entry));
        Ok(self.revision)
    }

    fn remove(&mut self, key: &Subject) {
        if self.take_out(key) {
            self.next_revision();
            self.report(key, None);
        }
    }

    fn next_revision(&mut self) {
        self.revision += 1;
        self.journal.note(|| Change::Revision(self.revision));
    }

    fn report(&mut self, key: &Subject, entry: Option<Entry>) {
        let Some(slowest) = self.watches.values().min().copied() else {
            self.changes.clear();
            self.changed_bytes = 0;
            return;
        };
        while let Some(seen) = self.changes.pop_front_if(|change| change.revision <= slowest) {
            self.changed_bytes -= seen.bytes();
        }
        let change = Reported { revision: self.revision, key: key.clone(), entry };
        self.changed_bytes += change.bytes();
        self.changes.push_back(change);
        if self.changes.len() > self.compact_at || self.changed_bytes > self.compact_at_bytes {
            self.compact();
        }
        self.changed.notify_waiters();
    }

    fn compact(&mut self) {
        let mut seen = BTreeSet::new();
        let mut last: Vec<Reported> =
            self.changes.drain(..).rev().filter(|change| seen.insert(change.key.clone())).collect();
        last.reverse();
        self.changes = last.into();
        self.changed_bytes = self.changes.iter().map(Reported::bytes).sum();
        // Twice what is left, so that the work is paid for by as many writes.
        self.compact_at = MAX_CHANGES.max(2 * self.changes.len());
        self.compact_at_bytes = MAX_CHANGED_BYTES.max(2 * self.changed_bytes);
    }

    fn matching(&self, filter: &SubjectFilter) -> Vec<Entry> {
        let entries = self.entries.values();
        entries.filter(|entry| filter.matches(entry.key.as_str())).cloned().collect()
    }

    fn page(&self, after: Option<&Subject>, max: usize) -> Vec<Entry> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.entries.range::<Subject, _>((from, Bound::Unbounded));
        behind.take(max).map(|(_, entry)| entry.clone()).collect()
    }

    /// The first change after `seen` that matches, and the revision up to which all were looked at.
    fn change_after(&self, seen: u64, filter: &SubjectFilter) -> (u64, Option<KvChange>) {
        let from = self.changes.partition_point(|change| change.revision <= seen);
        let mut later = self.changes.range(from..);
        match later.find(|change| filter.matches(change.key.as_str())) {
            None => (self.revision, None),
            Some(Reported { revision, key, entry }) => {
                let change = match entry {
                    Some(entry) => KvChange::Put(entry.clone()),
                    None => KvChange::Delete { key: key.clone(), revision: *revision },
                };
                (*revision, Some(change))
            }
        }
    }
}

fn conflict(key: &Subject, current: u64, wanted: u64) -> Error {
    Error::new(
        ErrorKind::Conflict { current: Some(current) },
        format!("key {key} is at revision {current}, not {wanted}: read it and try again"),
    )
}

fn size(key: &Subject, value: &Bytes) -> u64 {
    (key.as_str().len() + value.len()) as u64
}

/// A bucket opened through one connection.
pub(super) struct OpenBucket {
    pub(super) connection: Connection,
    pub(super) cell: Arc<BucketCell>,
}

impl OpenBucket {
    fn enter(&self) -> Result<(Now, Entered<'_, BucketState>)> {
        let now = self.connection.enter()?;
        Ok((now, self.cell.enter(now)?))
    }

    pub(super) fn open_watch(&self, filter: &SubjectFilter) -> Result<OpenWatch> {
        let (_, mut state) = self.enter()?;
        let mut snapshot = state.matching(filter);
        snapshot.sort_unstable_by_key(|entry| entry.revision);
        let puts = snapshot.into_iter().map(KvChange::Put);
        let (id, seen) = (state.next_watch, state.revision);
        state.next_watch += 1;
        state.watches.insert(id, seen);
        Ok(OpenWatch {
            connection: self.connection.clone(),
            cell: self.cell.clone(),
            filter: filter.clone(),
            id,
            seen,
            snapshot: puts.chain([KvChange::Synced]).collect(),
        })
    }
}

#[async_trait]
impl KvDriver for OpenBucket {
    async fn get(&self, key: &Subject) -> Result<Option<Entry>> {
        let (_, state) = self.enter()?;
        Ok(state.entries.get(key).cloned())
    }

    async fn put(&self, key: &Subject, value: Bytes) -> Result<u64> {
        let (now, mut state) = self.enter()?;
        state.write(key, value, now)
    }

    async fn update(&self, key: &Subject, value: Bytes, revision: u64) -> Result<u64> {
        let (now, mut state) = self.enter()?;
        state.expect(key, revision)?;
        state.write(key, value, now)
    }

    async fn delete(&self, key: &Subject, revision: Option<u64>) -> Result<()> {
        let (_, mut state) = self.enter()?;
        match revision {
            Some(0) => return Err(conflict(key, state.current(key), 0)),
            Some(revision) => state.expect(key, revision)?,
            None => {}
        }
        state.remove(key);
        Ok(())
    }

    async fn entries(&self, filter: &SubjectFilter) -> Result<Vec<Entry>> {
        let (_, state) = self.enter()?;
        Ok(state.matching(filter))
    }

    async fn page(&self, after: Option<&Subject>, max: usize) -> Result<Vec<Entry>> {
        let (_, state) = self.enter()?;
        Ok(state.page(after, max))
    }

    async fn watch(&self, filter: &SubjectFilter) -> Result<Box<dyn WatchDriver>> {
        Ok(Box::new(self.open_watch(filter)?))
    }
}

/// An open watch: what is left of the snapshot, then a place in the changes.
#[derive(Debug)]
pub(super) struct OpenWatch {
    connection: Connection,
    cell: Arc<BucketCell>,
    filter: SubjectFilter,
    id: u64,
    seen: u64,
    snapshot: VecDeque<KvChange>,
}

#[async_trait]
impl WatchDriver for OpenWatch {
    async fn next(&mut self) -> Result<KvChange> {
        loop {
            let changed = {
                let now = self.connection.enter()?;
                let mut state = self.cell.enter(now)?;
                while let Some(first) = self.snapshot.pop_front() {
                    if !state.has_aged(&first, now) {
                        return Ok(first);
                    }
                }
                let (seen, change) = state.change_after(self.seen, &self.filter);
                self.seen = seen;
                state.watches.insert(self.id, seen);
                if let Some(change) = change {
                    return Ok(change);
                }
                state.changed.clone().notified_owned()
            };
            tokio::select! { biased;
                () = self.connection.closed() => {}
                () = changed => {}
            }
        }
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.cell.lock().watches.remove(&self.id);
    }
}
