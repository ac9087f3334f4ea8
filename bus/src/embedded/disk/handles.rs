//! What was bound or opened: each finds its place again when the folder was opened anew.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::Disk;
use super::backend::Life;
use crate::config::Entry;
use crate::driver::{
    ConsumerDriver, KvChange, KvDriver, LeaseToken, RawDelivery, ReaderDriver, Settlement,
    WatchDriver,
};
use crate::embedded::bucket::{OpenBucket, OpenWatch, is_within};
use crate::embedded::consumer::{BoundConsumer, OpenReader};
use crate::error::Result;
use crate::message::StoredMessage;
use crate::name::{BucketName, ConsumerName, StreamName, Subject, SubjectFilter};

impl Disk {
    /// The same connection for a handle to hold: closing it closes the handle.
    pub(super) fn another_hold(&self) -> Self {
        Self { backend: self.backend.clone(), connection: self.connection.clone() }
    }
}

/// Something found in one life of the backend, to be found again in the next.
#[derive(Debug)]
struct Found<T>(Mutex<(u64, Arc<T>)>);

impl<T> Found<T> {
    fn new(life: &Life, found: T) -> Self {
        Self(Mutex::new((life.count, Arc::new(found))))
    }

    /// What was found in this life before.
    fn already_in(&self, life: &Life) -> Option<Arc<T>> {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (found.0 == life.count).then(|| found.1.clone())
    }

    fn in_life(&self, life: &Life, find: impl FnOnce(&T) -> Result<Option<T>>) -> Result<Arc<T>> {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if found.0 != life.count {
            if let Some(again) = find(&found.1)? {
                found.1 = Arc::new(again);
            }
            found.0 = life.count;
        }
        Ok(found.1.clone())
    }
}

/// A bound consumer.
pub(super) struct DiskConsumer {
    disk: Disk,
    stream: StreamName,
    name: ConsumerName,
    bound: Found<BoundConsumer>,
}

/// Deliveries that were taken and not handed out: they go back unless they are taken from here.
struct Taken<'a> {
    bound: &'a BoundConsumer,
    deliveries: Vec<RawDelivery>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.deliveries.is_empty() {
            self.bound.take_back(&self.deliveries);
        }
    }
}

impl DiskConsumer {
    pub(super) fn new(disk: Disk, life: &Life, stream: &StreamName, bound: BoundConsumer) -> Self {
        let (stream, name) = (stream.clone(), bound.name.clone());
        Self { disk, stream, name, bound: Found::new(life, bound) }
    }

    async fn enter(&self) -> Result<(Arc<Life>, Arc<BoundConsumer>)> {
        let (life, memory) = self.disk.enter().await?;
        let bound = self.bound.in_life(&life, |bound| {
            if bound.cell.is_deleted() {
                return Ok(None);
            }
            memory.bind_consumer(&self.stream, &self.name).map(Some)
        })?;
        Ok((life, bound))
    }
}

#[async_trait]
impl ConsumerDriver for DiskConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<RawDelivery>> {
        let (life, bound) = self.enter().await?;
        let deliveries = bound.fetch(max, wait).await?;
        let mut taken = Taken { bound: &bound, deliveries };
        life.told(Ok(())).await?;
        Ok(std::mem::take(&mut taken.deliveries))
    }

    fn ack_now(&self, token: &LeaseToken) -> Option<Result<()>> {
        let life = self.disk.backend.current();
        if !life.shared.has_room() {
            return None;
        }
        // A refusal may tell of what is not written: `settle` finds it again, and waits.
        self.bound.already_in(&life)?.ack_now(token).filter(Result::is_ok)
    }

    async fn settle(&self, token: &LeaseToken, how: &Settlement, confirm: bool) -> Result<()> {
        let (life, bound) = self.enter().await?;
        let settled = bound.settle(token, how, confirm).await;
        if !confirm && settled.is_ok() {
            return settled;
        }
        life.kept(settled).await
    }
}

/// An open reader.
pub(super) struct DiskReader {
    disk: Disk,
    stream: StreamName,
    life: u64,
    reader: OpenReader,
    /// Read, and not handed out yet.
    read: Vec<StoredMessage>,
}

impl DiskReader {
    pub(super) fn new(disk: Disk, life: &Life, stream: &StreamName, reader: OpenReader) -> Self {
        Self { disk, stream: stream.clone(), life: life.count, reader, read: Vec::new() }
    }

    async fn enter(&mut self) -> Result<Arc<Life>> {
        let (life, memory) = self.disk.enter().await?;
        if self.life != life.count && !self.reader.cell.is_deleted() {
            let (now, cell) = memory.stream(&self.stream)?;
            let state = cell.enter(now)?;
            let last = state.log.last_sequence();
            self.reader.position.keep_within(&state.log);
            self.read.retain(|message| message.sequence <= last);
            drop(state);
            self.reader.cell = cell;
            self.life = life.count;
        }
        Ok(life)
    }
}

#[async_trait]
impl ReaderDriver for DiskReader {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<StoredMessage>> {
        let life = self.enter().await?;
        if self.read.is_empty() {
            self.read = self.reader.next(max, wait).await?;
        }
        life.told(Ok(())).await?;
        let later = self.read.split_off(max.min(self.read.len()));
        Ok(std::mem::replace(&mut self.read, later))
    }
}

/// An open bucket.
pub(super) struct DiskBucket {
    disk: Disk,
    name: BucketName,
    bucket: Found<OpenBucket>,
}

impl DiskBucket {
    pub(super) fn new(disk: Disk, life: &Life, name: &BucketName, bucket: OpenBucket) -> Self {
        Self { disk, name: name.clone(), bucket: Found::new(life, bucket) }
    }

    async fn enter(&self) -> Result<(Arc<Life>, Arc<OpenBucket>)> {
        let (life, memory) = self.disk.enter().await?;
        let bucket = self.bucket.in_life(&life, |bucket| {
            if bucket.cell.is_deleted() {
                return Ok(None);
            }
            memory.open_bucket(&self.name).map(Some)
        })?;
        Ok((life, bucket))
    }
}

#[async_trait]
impl KvDriver for DiskBucket {
    async fn get(&self, key: &Subject) -> Result<Option<Entry>> {
        let (life, bucket) = self.enter().await?;
        let entry = bucket.get(key).await;
        life.told(entry).await
    }

    async fn put(&self, key: &Subject, value: Bytes) -> Result<u64> {
        let (life, bucket) = self.enter().await?;
        let revision = bucket.put(key, value).await;
        life.kept(revision).await
    }

    async fn update(&self, key: &Subject, value: Bytes, revision: u64) -> Result<u64> {
        let (life, bucket) = self.enter().await?;
        let revision = bucket.update(key, value, revision).await;
        life.kept(revision).await
    }

    async fn delete(&self, key: &Subject, revision: Option<u64>) -> Result<()> {
        let (life, bucket) = self.enter().await?;
        let deleted = bucket.delete(key, revision).await;
        life.kept(deleted).await
    }

    async fn entries(&self, filter: &SubjectFilter) -> Result<Vec<Entry>> {
        let (life, bucket) = self.enter().await?;
        let entries = bucket.entries(filter).await;
        life.told(entries).await
    }

    async fn page(&self, after: Option<&Subject>, max: usize) -> Result<Vec<Entry>> {
        let (life, bucket) = self.enter().await?;
        let entries = bucket.page(after, max).await;
        life.told(entries).await
    }

    async fn watch(&self, filter: &SubjectFilter) -> Result<Box<dyn WatchDriver>> {
        let (life, bucket) = self.enter().await?;
        let watch = bucket.open_watch(filter)?;
        let (disk, name) = (self.disk.another_hold(), self.name.clone());
        Ok(Box::new(DiskWatch { disk, name, life: life.count, watch, seen: None }))
    }
}

/// An open watch.
struct DiskWatch {
    disk: Disk,
    name: BucketName,
    life: u64,
    watch: OpenWatch,
    /// Seen, and not handed out yet.
    seen: Option<KvChange>,
}

impl DiskWatch {
    fn move_to(&mut self, life: &Life) -> Result<()> {
        if self.life != life.count && !self.watch.cell.is_deleted() {
            let memory = life.seen_through(&self.disk.connection);
            let revision = self.watch.move_to(memory.open_bucket(&self.name)?.cell);
            self.seen = self.seen.take().filter(|seen| is_within(seen, revision));
            self.life = life.count;
        }
        Ok(())
    }
}

#[async_trait]
impl WatchDriver for DiskWatch {
    async fn next(&mut self) -> Result<KvChange> {
        loop {
            let (life, _) = self.disk.enter().await?;
            self.move_to(&life)?;
            if self.seen.is_none() {
                self.seen = Some(self.watch.next().await?);
            }
            life.told(Ok(())).await?;
            if let Some(seen) = self.seen.take() {
                return Ok(seen);
            }
        }
    }
}

impl Drop for DiskWatch {
    fn drop(&mut self) {
        // The bucket that is open now counts this watch: it has to go from there. When that one is
        // gone so is the count.
        let life = self.disk.backend.current();
        let _ = self.move_to(&life);
    }
}
