//! What was bound or opened: each answers once the disk has what the answer tells of, and fails
//! where the disk did.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::Disk;
use crate::config::Entry;
use crate::driver::{
    ConsumerDriver, KvChange, KvDriver, LeaseToken, RawDelivery, ReaderDriver, Settlement,
    WatchDriver,
};
use crate::embedded::bucket::{OpenBucket, OpenWatch};
use crate::embedded::consumer::{BoundConsumer, OpenReader};
use crate::error::Result;
use crate::message::StoredMessage;
use crate::name::{Subject, SubjectFilter};

impl Disk {
    /// The same connection for a handle to hold: closing it closes the handle.
    pub(super) fn another_hold(&self) -> Self {
        Self { backend: self.backend.clone(), connection: self.connection.clone() }
    }

    /// What is waited for in memory, unless the disk fails meanwhile.
    async fn unless_failed<T>(&self, waiting: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! { biased;
            done = waiting => done,
            failure = self.backend.shared.failed() => Err(failure),
        }
    }
}

/// A bound consumer.
pub(super) struct DiskConsumer {
    disk: Disk,
    bound: BoundConsumer,
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
    pub(super) fn new(disk: Disk, bound: BoundConsumer) -> Self {
        Self { disk, bound }
    }
}

#[async_trait]
impl ConsumerDriver for DiskConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<RawDelivery>> {
        let Self { disk, bound } = self;
        disk.enter().await?;
        let deliveries = disk.unless_failed(bound.fetch(max, wait)).await?;
        let mut taken = Taken { bound, deliveries };
        disk.backend.told(Ok(())).await?;
        Ok(std::mem::take(&mut taken.deliveries))
    }

    fn ack_now(&self, token: &LeaseToken) -> Option<Result<()>> {
        if !self.disk.backend.shared.has_room() {
            return None;
        }
        // A refusal may tell of what is not written: `settle` finds it again, and waits.
        self.bound.ack_now(token).filter(Result::is_ok)
    }

    async fn settle(&self, token: &LeaseToken, how: &Settlement, confirm: bool) -> Result<()> {
        self.disk.enter().await?;
        let settled = self.bound.settle(token, how, confirm).await;
        if !confirm && settled.is_ok() {
            return settled;
        }
        self.disk.backend.kept(settled).await
    }
}

/// An open reader.
pub(super) struct DiskReader {
    disk: Disk,
    reader: OpenReader,
    /// Read, and not handed out yet.
    read: Vec<StoredMessage>,
}

impl DiskReader {
    pub(super) fn new(disk: Disk, reader: OpenReader) -> Self {
        Self { disk, reader, read: Vec::new() }
    }
}

#[async_trait]
impl ReaderDriver for DiskReader {
    async fn next(
        &mut self,
        max: usize,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<StoredMessage>> {
        self.disk.enter().await?;
        if self.read.is_empty() {
            self.read = self.disk.unless_failed(self.reader.next(max, max_bytes, wait)).await?;
        }
        self.disk.backend.told(Ok(())).await?;
        let later = self.read.split_off(max.min(self.read.len()));
        Ok(std::mem::replace(&mut self.read, later))
    }
}

/// An open bucket.
pub(super) struct DiskBucket {
    disk: Disk,
    bucket: OpenBucket,
}

impl DiskBucket {
    pub(super) fn new(disk: Disk, bucket: OpenBucket) -> Self {
        Self { disk, bucket }
    }
}

#[async_trait]
impl KvDriver for DiskBucket {
    async fn get(&self, key: &Subject) -> Result<Option<Entry>> {
        self.disk.enter().await?;
        let entry = self.bucket.get(key).await;
        self.disk.backend.told(entry).await
    }

    async fn put(&self, key: &Subject, value: Bytes) -> Result<u64> {
        self.disk.enter().await?;
        let revision = self.bucket.put(key, value).await;
        self.disk.backend.kept(revision).await
    }

    async fn update(&self, key: &Subject, value: Bytes, revision: u64) -> Result<u64> {
        self.disk.enter().await?;
        let revision = self.bucket.update(key, value, revision).await;
        self.disk.backend.kept(revision).await
    }

    async fn delete(&self, key: &Subject, revision: Option<u64>) -> Result<()> {
        self.disk.enter().await?;
        let deleted = self.bucket.delete(key, revision).await;
        self.disk.backend.kept(deleted).await
    }

    async fn entries(&self, filter: &SubjectFilter) -> Result<Vec<Entry>> {
        self.disk.enter().await?;
        let entries = self.bucket.entries(filter).await;
        self.disk.backend.told(entries).await
    }

    async fn page(&self, after: Option<&Subject>, max: usize) -> Result<Vec<Entry>> {
        self.disk.enter().await?;
        let entries = self.bucket.page(after, max).await;
        self.disk.backend.told(entries).await
    }

    async fn watch(&self, filter: &SubjectFilter) -> Result<Box<dyn WatchDriver>> {
        self.disk.enter().await?;
        let watch = self.bucket.open_watch(filter)?;
        Ok(Box::new(DiskWatch { disk: self.disk.another_hold(), watch, seen: None }))
    }
}

/// An open watch.
struct DiskWatch {
    disk: Disk,
    watch: OpenWatch,
    /// Seen, and not handed out yet.
    seen: Option<KvChange>,
}

#[async_trait]
impl WatchDriver for DiskWatch {
    async fn next(&mut self) -> Result<KvChange> {
        loop {
            self.disk.enter().await?;
            if self.seen.is_none() {
                self.seen = Some(self.disk.unless_failed(self.watch.next()).await?);
            }
            self.disk.backend.told(Ok(())).await?;
            if let Some(seen) = self.seen.take() {
                return Ok(seen);
            }
        }
    }
}
