//! The rows of a bucket: the last value of each key, and what changed lately.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::table::Rows;
use crate::config::Entry;
use crate::driver::KvChange;
use crate::name::{Subject, SubjectFilter};

/// How many changes a watch may be behind and still get each of them; one that is further behind
/// gets the last of each key, in order.
const RECENT: usize = 1024;
/// Below this many, deleted keys are not looked through.
const FEW_DELETED: usize = 1024;

/// What stands under a key, or that it was deleted.
#[derive(Debug, Clone)]
struct Change {
    key: Subject,
    value: Option<Bytes>,
    revision: u64,
    at: SystemTime,
}

/// The keys of a bucket.
#[derive(Default)]
pub(super) struct Keys {
    /// Deleted keys too, for as long as a watch has to be told.
    last: BTreeMap<Subject, Change>,
    by_revision: BTreeMap<u64, Subject>,
    recent: VecDeque<Change>,
    /// The highest revision that is in `recent` no more.
    forgotten: u64,
    deleted: usize,
    /// How far each open watch is.
    watches: Vec<Weak<AtomicU64>>,
    max_age: Option<Duration>,
}

impl Keys {
    pub(super) fn get(&self, key: &Subject) -> Option<Entry> {
        self.entry(self.last.get(key)?, SystemTime::now())
    }

    /// Every entry that matches, sorted by key.
    pub(super) fn entries(&self, filter: &SubjectFilter) -> Vec<Entry> {
        let now = SystemTime::now();
        let matching = self.last.values().filter(|change| filter.matches(change.key.as_str()));
        matching.filter_map(|change| self.entry(change, now)).collect()
    }

    /// The first `max` entries behind `after`, sorted by key.
    pub(super) fn page(&self, after: Option<&Subject>, max: usize) -> Vec<Entry> {
        let (now, from) = (SystemTime::now(), after.map_or(Bound::Unbounded, Bound::Excluded));
        let behind = self.last.range::<Subject, _>((from, Bound::Unbounded));
        behind.filter_map(|(_, change)| self.entry(change, now)).take(max).collect()
    }

    pub(super) fn max_age(&self) -> Option<Duration> {
        self.max_age
    }

    pub(super) fn set_max_age(&mut self, max_age: Option<Duration>) {
        self.max_age = max_age;
    }

    /// Registers a watch that has seen everything up to now.
    pub(super) fn watch(&mut self) -> Arc<AtomicU64> {
        let newest = self.by_revision.last_key_value().map_or(0, |(revision, _)| *revision);
        let seen = Arc::new(AtomicU64::new(newest.max(self.forgotten)));
        self.watches.retain(|watch| watch.strong_count() > 0);
        self.watches.push(Arc::downgrade(&seen));
        seen
    }

    /// The next change after `seen` that matches, and how far was looked.
    pub(super) fn next(&self, seen: u64, filter: &SubjectFilter) -> (u64, Option<KvChange>) {
        let matches = |change: &&Change| filter.matches(change.key.as_str());
        let newest = self.by_revision.last_key_value().map_or(seen, |(revision, _)| *revision);
        let found = if seen >= self.forgotten {
            let from = self.recent.partition_point(|change| change.revision <= seen);
            self.recent.range(from..).find(matches)
        } else {
            let later = self.by_revision.range(seen + 1..);
            later.filter_map(|(_, key)| self.last.get(key)).find(matches)
        };
        match found {
            Some(change) => (change.revision, Some(change.report())),
            None => (newest.max(seen), None),
        }
    }

    fn entry(&self, change: &Change, now: SystemTime) -> Option<Entry> {
        let Change { key, value, revision, at } = change;
        if self.is_over(*at, now) {
            return None;
        }
        let (key, value) = (key.clone(), value.clone()?);
        Some(Entry { key, value, revision: *revision, created: *at })
    }

    fn is_over(&self, at: SystemTime, now: SystemTime) -> bool {
        let age = now.duration_since(at).unwrap_or_default();
        self.max_age.is_some_and(|max_age| age >= max_age)
    }

    /// Revisions come in the order of time, so that the oldest stand first.
    fn drop_old(&mut self, now: SystemTime) {
        while let Some((revision, key)) = self.by_revision.first_key_value() {
            let (revision, key) = (*revision, key.clone());
            if self.last.get(&key).is_some_and(|change| !self.is_over(change.at, now)) {
                return;
            }
            self.by_revision.remove(&revision);
            let gone = self.last.remove(&key);
            self.deleted -= usize::from(gone.is_some_and(|change| change.value.is_none()));
        }
    }

    /// Lets go of the deleted keys that every watch knows of.
    fn drop_deleted(&mut self) {
        if self.deleted <= FEW_DELETED {
            return;
        }
        let seen = self.watches.iter().filter_map(Weak::upgrade);
        let all_saw = seen.map(|seen| seen.load(Ordering::Relaxed)).min().unwrap_or(u64::MAX);
        let mut dropped = Vec::new();
        self.last.retain(|_, change| {
            let drops = change.value.is_none() && change.revision <= all_saw;
            if drops {
                dropped.push(change.revision);
            }
            !drops
        });
        for revision in &dropped {
            self.by_revision.remove(revision);
        }
        self.deleted -= dropped.len();
    }
}

impl Rows for Keys {
    fn apply(&mut self, offset: i64, key: &[u8], value: Option<&[u8]>, at: SystemTime) {
        let Ok(key) = std::str::from_utf8(key) else { return };
        let key = Subject::received(key);
        let before = self.last.get(&key).map(|change| (change.revision, change.value.is_none()));
        if value.is_none() && before.is_none_or(|(_, deleted)| deleted) {
            return;
        }
        if let Some((revision, deleted)) = before {
            self.by_revision.remove(&revision);
            self.deleted -= usize::from(deleted);
        }
        let (revision, value) = (revision(offset), value.map(Bytes::copy_from_slice));
        self.deleted += usize::from(value.is_none());
        let change = Change { key: key.clone(), value, revision, at };
        self.by_revision.insert(revision, key.clone());
        self.recent.push_back(change.clone());
        self.last.insert(key, change);
        while self.recent.len() > RECENT {
            self.forgotten = self.recent.pop_front().map_or(0, |change| change.revision);
        }
        self.drop_old(SystemTime::now());
        self.drop_deleted();
    }
}

impl Change {
    fn report(&self) -> KvChange {
        let Self { key, value, revision, at } = self;
        let (key, revision) = (key.clone(), *revision);
        match value.clone() {
            Some(value) => KvChange::Put(Entry { key, value, revision, created: *at }),
            None => KvChange::Delete { key, revision },
        }
    }
}

/// A bucket's topic has one partition: a revision is its offset + 1.
pub(super) fn revision(offset: i64) -> u64 {
    offset.max(0).unsigned_abs() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(keys: &mut Keys, offset: i64, key: &str, value: Option<&str>) {
        keys.apply(offset, key.as_bytes(), value.map(str::as_bytes), SystemTime::now());
    }

    /// Everything that a watch which has seen `seen` is told.
    fn told(keys: &Keys, mut seen: u64) -> Vec<(String, u64, bool)> {
        let mut told = Vec::new();
        while let (at, Some(change)) = keys.next(seen, &SubjectFilter::all()) {
            told.push(match change {
                KvChange::Put(entry) => (entry.key.to_string(), entry.revision, true),
                KvChange::Delete { key, revision } => (key.to_string(), revision, false),
                KvChange::Synced => unreachable!("rows know of no watch's start"),
            });
            seen = at;
        }
        told
    }

    #[test]
    fn a_watch_gets_each_change_while_it_keeps_up() {
        let mut keys = Keys::default();
        put(&mut keys, 0, "a", Some("1"));
        put(&mut keys, 1, "a", Some("2"));
        put(&mut keys, 2, "never", None);
        put(&mut keys, 3, "a", None);
        let all = [("a".into(), 1, true), ("a".into(), 2, true), ("a".into(), 4, false)];
        assert_eq!(told(&keys, 0), all);
        assert_eq!(told(&keys, 2), all[2..]);
        assert!(keys.get(&Subject::new("a").unwrap()).is_none());
    }

    #[test]
    fn a_watch_that_is_far_behind_gets_the_last_of_each_key_deletions_too() {
        let mut keys = Keys::default();
        let seen = keys.watch();
        put(&mut keys, 0, "gone", Some("x"));
        put(&mut keys, 1, "gone", None);
        let many = 2 * RECENT as i64;
        for offset in 2..many {
            put(&mut keys, offset, "busy", Some("x"));
        }
        let expected = [("gone".into(), 2, false), ("busy".into(), revision(many - 1), true)];
        assert_eq!(told(&keys, seen.load(Ordering::Relaxed)), expected);
    }

    #[test]
    fn deleted_keys_are_forgotten_when_every_watch_was_told() {
        let mut keys = Keys::default();
        let seen = keys.watch();
        let fill = |keys: &mut Keys, from: i64| {
            for n in 0..2 * FEW_DELETED as i64 {
                put(keys, from + 2 * n, &format!("k{n}"), Some("x"));
                put(keys, from + 2 * n + 1, &format!("k{n}"), None);
            }
        };
        fill(&mut keys, 0);
        assert_eq!(keys.last.len(), 2 * FEW_DELETED, "one watch has still to be told");
        drop(seen);
        fill(&mut keys, 100_000);
        assert!(keys.last.len() <= FEW_DELETED + 1 && keys.by_revision.len() == keys.last.len());
    }

    #[test]
    fn entries_vanish_with_their_age() {
        let mut keys = Keys::default();
        keys.set_max_age(Some(Duration::from_secs(60)));
        let old = SystemTime::now() - Duration::from_secs(61);
        keys.apply(0, b"old", Some(b"x"), old);
        put(&mut keys, 1, "new", Some("x"));
        let left = keys.entries(&SubjectFilter::all());
        assert_eq!(left.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["new"]);
        assert_eq!(keys.last.len(), 1);
    }
}
