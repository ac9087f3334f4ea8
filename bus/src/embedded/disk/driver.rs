//! The driver: does each step in memory, then waits until the disk has what the answer tells of.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::Disk;
use super::handles::{DiskBucket, DiskConsumer, DiskReader};
use crate::capability::{Capability, Support};
use crate::config::{BucketConfig, ConsumerConfig, ConsumerInfo, Start, StreamConfig, StreamInfo};
use crate::creation::Creation;
use crate::driver::Committed;
use crate::driver::{ConsumerDriver, Driver, KvDriver, ReaderDriver, ResponderDriver, Tell, Unit};
use crate::embedded::Embedded;
use crate::error::{Error, Result};
use crate::message::{Message, StoredMessage};
use crate::name::{BucketName, ConsumerName, StreamName, Subject, SubjectFilter};
use crate::publish::PendingReceipt;

impl Disk {
    /// The backend as this connection sees it in memory, once there is room for more; an error
    /// where the connection is closed, or the folder.
    pub(super) async fn enter(&self) -> Result<Embedded> {
        self.connection.enter()?;
        self.backend.shared.room().await?;
        Ok(self.backend.seen_through(&self.connection))
    }
}

#[async_trait]
impl Driver for Disk {
    fn name(&self) -> &'static str {
        "embedded:///"
    }

    fn support(&self, capability: Capability) -> Support {
        self.backend.seen_through(&self.connection).support(capability)
    }

    async fn create_stream(&self, config: &StreamConfig) -> Result<Creation<StreamInfo>> {
        let memory = self.enter().await?;
        let creation = memory.create_stream(config).await;
        self.backend.kept(creation).await
    }

    async fn ensure_stream(&self, config: &StreamConfig) -> Result<StreamInfo> {
        let memory = self.enter().await?;
        let info = memory.ensure_stream(config).await;
        self.backend.kept(info).await
    }

    async fn stream_info(&self, stream: &StreamName) -> Result<StreamInfo> {
        let memory = self.enter().await?;
        let info = memory.stream_info(stream).await;
        self.backend.told(info).await
    }

    async fn delete_stream(&self, stream: &StreamName) -> Result<()> {
        let memory = self.enter().await?;
        let deleted = memory.delete_stream(stream).await;
        self.backend.kept(deleted).await
    }

    async fn purge(&self, stream: &StreamName, filter: &SubjectFilter) -> Result<u64> {
        let memory = self.enter().await?;
        let purged = memory.purge(stream, filter).await;
        self.backend.kept(purged).await
    }

    async fn submit(&self, stream: &StreamName, message: Message) -> Result<PendingReceipt> {
        let memory = self.enter().await?;
        // Ready at once, because what is in memory is done.
        let receipt = memory.submit(stream, message).await?.await;
        let shared = self.backend.shared.clone();
        let ticket = shared.ticket();
        shared.want_kept(ticket);
        Ok(PendingReceipt::later(async move {
            shared.until_kept(ticket).await?;
            receipt
        }))
    }

    async fn get(&self, stream: &StreamName, sequence: u64) -> Result<Option<StoredMessage>> {
        let memory = self.enter().await?;
        let message = memory.get(stream, sequence).await;
        self.backend.told(message).await
    }

    async fn subjects(&self, stream: &StreamName, filter: &SubjectFilter) -> Result<Vec<Subject>> {
        let memory = self.enter().await?;
        let subjects = memory.subjects(stream, filter).await;
        self.backend.told(subjects).await
    }

    async fn last_at(
        &self,
        stream: &StreamName,
        subjects: &[Subject],
        up_to: u64,
    ) -> Result<Vec<StoredMessage>> {
        let memory = self.enter().await?;
        let messages = memory.last_at(stream, subjects, up_to).await;
        self.backend.told(messages).await
    }

    async fn count(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        after: u64,
    ) -> Result<u64> {
        let memory = self.enter().await?;
        let count = memory.count(stream, filters, after).await;
        self.backend.told(count).await
    }

    async fn state(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        up_to: u64,
        tell: &mut Tell<'_>,
    ) -> Result<()> {
        let memory = self.enter().await?;
        let told = memory.state(stream, filters, up_to, tell).await;
        self.backend.told(told).await
    }

    async fn reader(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        start: Start,
    ) -> Result<Box<dyn ReaderDriver>> {
        let memory = self.enter().await?;
        let reader = memory.open_reader(stream, filters, start);
        let reader = self.backend.told(reader).await?;
        Ok(Box::new(DiskReader::new(self.another_hold(), reader)))
    }

    async fn ensure_consumer(
        &self,
        stream: &StreamName,
        config: &ConsumerConfig,
    ) -> Result<ConsumerInfo> {
        let memory = self.enter().await?;
        let info = memory.ensure_consumer(stream, config).await;
        self.backend.kept(info).await
    }

    async fn consumer_info(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
    ) -> Result<ConsumerInfo> {
        let memory = self.enter().await?;
        let info = memory.consumer_info(stream, consumer).await;
        self.backend.told(info).await
    }

    async fn consumers(&self, stream: &StreamName) -> Result<Vec<ConsumerInfo>> {
        let memory = self.enter().await?;
        let infos = memory.consumers(stream).await;
        self.backend.told(infos).await
    }

    async fn delete_consumer(&self, stream: &StreamName, consumer: &ConsumerName) -> Result<()> {
        let memory = self.enter().await?;
        let deleted = memory.delete_consumer(stream, consumer).await;
        self.backend.kept(deleted).await
    }

    async fn bind(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        _prefetch: usize,
    ) -> Result<Arc<dyn ConsumerDriver>> {
        let memory = self.enter().await?;
        let bound = memory.bind_consumer(stream, consumer);
        let bound = self.backend.told(bound).await?;
        Ok(Arc::new(DiskConsumer::new(self.another_hold(), bound)))
    }

    async fn pause_consumer(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        until: Option<SystemTime>,
    ) -> Result<()> {
        let memory = self.enter().await?;
        let paused = memory.pause_consumer(stream, consumer, until).await;
        self.backend.kept(paused).await
    }

    async fn seek_consumer(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        to: Start,
    ) -> Result<()> {
        let memory = self.enter().await?;
        let moved = memory.seek_consumer(stream, consumer, to).await;
        self.backend.kept(moved).await
    }

    async fn commit(&self, unit: &Unit) -> Result<Committed> {
        let memory = self.enter().await?;
        let committed = memory.commit(unit).await;
        self.backend.kept(committed).await
    }

    async fn request(&self, question: Message, wait: Duration) -> Result<Message> {
        let memory = self.enter().await?;
        memory.request(question, wait).await
    }

    async fn responder(
        &self,
        filter: &SubjectFilter,
        group: &ConsumerName,
    ) -> Result<Box<dyn ResponderDriver>> {
        let memory = self.enter().await?;
        memory.responder(filter, group).await
    }

    async fn create_bucket(&self, config: &BucketConfig) -> Result<Creation<BucketConfig>> {
        let memory = self.enter().await?;
        let creation = memory.create_bucket(config).await;
        self.backend.kept(creation).await
    }

    async fn ensure_bucket(&self, config: &BucketConfig) -> Result<()> {
        let memory = self.enter().await?;
        let ensured = memory.ensure_bucket(config).await;
        self.backend.kept(ensured).await
    }

    async fn bucket_info(&self, bucket: &BucketName) -> Result<BucketConfig> {
        let memory = self.enter().await?;
        let config = memory.bucket_info(bucket).await;
        self.backend.told(config).await
    }

    async fn bucket(&self, bucket: &BucketName) -> Result<Arc<dyn KvDriver>> {
        let memory = self.enter().await?;
        let opened = memory.open_bucket(bucket);
        let opened = self.backend.told(opened).await?;
        Ok(Arc::new(DiskBucket::new(self.another_hold(), opened)))
    }

    async fn delete_bucket(&self, bucket: &BucketName) -> Result<()> {
        let memory = self.enter().await?;
        let deleted = memory.delete_bucket(bucket).await;
        self.backend.kept(deleted).await
    }

    async fn close(&self) -> Result<()> {
        let shared = &self.backend.shared;
        let resolved = shared.until_kept(shared.ticket()).await;
        self.connection.close();
        resolved
    }

    async fn failed(&self) -> Error {
        self.backend.shared.failed().await
    }
}
