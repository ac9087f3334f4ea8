//! A watch on a bucket's table.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::watch;

use super::bucket::Bucket;
use super::table::Progress;
use super::threads::closed;
use crate::config::Entry;
use crate::driver::{KvChange, WatchDriver};
use crate::error::Result;
use crate::name::SubjectFilter;

/// See [`crate::driver::KvDriver::watch`]. The table goes on by itself when the broker was away,
/// and so does this.
pub(super) struct Watch {
    bucket: Arc<Bucket>,
    filter: SubjectFilter,
    /// What was there at the opening, and is still to be told.
    before: VecDeque<Entry>,
    synced: bool,
    /// How far this watch is; the table keeps deletions for it.
    seen: Arc<AtomicU64>,
    steps: watch::Receiver<Progress>,
    declared: watch::Receiver<Progress>,
}

impl Watch {
    pub(super) fn open(bucket: Arc<Bucket>, filter: &SubjectFilter) -> Self {
        let (before, seen) =
            bucket.table.change(|keys| (keys.entries(filter).into(), keys.watch()));
        let (steps, declared) = (bucket.table.subscribe(), bucket.catalog().watch());
        Self { filter: filter.clone(), before, synced: false, seen, steps, declared, bucket }
    }
}

#[async_trait]
impl WatchDriver for Watch {
    async fn next(&mut self) -> Result<KvChange> {
        loop {
            // Marked before looking, so that a step during the look is not slept through.
            self.steps.mark_unchanged();
            self.declared.mark_unchanged();
            self.bucket.check()?;
            if let Some(entry) = self.before.pop_front() {
                return Ok(KvChange::Put(entry));
            }
            if !std::mem::replace(&mut self.synced, true) {
                return Ok(KvChange::Synced);
            }
            let seen = self.seen.load(Ordering::Relaxed);
            let (at, change) = self.bucket.table.read(|keys| keys.next(seen, &self.filter));
            self.seen.store(at, Ordering::Relaxed);
            if let Some(change) = change {
                return Ok(change);
            }
            let changed = tokio::select! {
                biased;
                changed = self.declared.changed() => changed,
                changed = self.steps.changed() => changed,
            };
            changed.map_err(|_| closed())?;
        }
    }
}
