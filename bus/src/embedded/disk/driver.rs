//! The driver: does each step in memory, then waits until the disk has what the answer tells of.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::Disk;
use super::backend::Life;
use super::handles::{DiskBucket, DiskConsumer, DiskReader};
use crate::capability::{Capability, Support};
use crate::config::{BucketConfig, ConsumerConfig, ConsumerInfo, Start, StreamConfig, StreamInfo};
use crate::creation::Creation;
use crate::driver::{ConsumerDriver, Driver, KvDriver, ReaderDriver, ResponderDriver, Unit};
use crate::embedded::Embedded;
use crate::error::Result;
use crate::message::{Message, StoredMessage};
use crate::name::{BucketName, ConsumerName, StreamName, Subject, SubjectFilter};
use crate::publish::PendingReceipt;
use crate::unit::Committed;

impl Disk {
    /// The backend as it is now, and as this connection sees it in memory.
    pub(super) async fn enter(&self) -> Result<(Arc<Life>, Embedded)> {
        self.connection.enter()?;
        let life = self.backend.ready().await?;
        let memory = life.seen_through(&self.connection);
        Ok((life, memory))
    }
}

#[async_trait]
impl Driver for Disk {
    fn name(&self) -> &'static str {
        "embedded:///"
    }

    fn support(&self, capability: Capability) -> Support {
        self.backend.current().seen_through(&self.connection).support(capability)
    }

    async fn create_stream(&self, config: &StreamConfig) -> Result<Creation<StreamInfo>> {
        let (life, memory) = self.enter().await?;
        let creation = memory.create_stream(config).await;
        life.kept(creation).await
    }

    async fn ensure_stream(&self, config: &StreamConfig) -> Result<StreamInfo> {
        let (life, memory) = self.enter().await?;
        let info = memory.ensure_stream(config).await;
        life.kept(info).await
    }

    async fn stream_info(&self, stream: &StreamName) -> Result<StreamInfo> {
        let (life, memory) = self.enter().await?;
        let info = memory.stream_info(stream).await;
        life.told(info).await
    }

    async fn delete_stream(&self, stream: &StreamName) -> Result<()> {
        let (life, memory) = self.enter().await?;
        let deleted = memory.delete_stream(stream).await;
        life.kept(deleted).await
    }

    async fn purge(&self, stream: &StreamName, filter: &SubjectFilter) -> Result<u64> {
        let (life, memory) = self.enter().await?;
        let purged = memory.purge(stream, filter).await;
        life.kept(purged).await
    }

    async fn submit(&self, stream: &StreamName, message: Message) -> Result<PendingReceipt> {
        let (life, memory) = self.enter().await?;
        // Ready at once, because what is in memory is done.
        let receipt = memory.submit(stream, message).await?.await;
        let ticket = life.shared.ticket();
        life.shared.want_kept(ticket);
        let shared = life.shared.clone();
        Ok(PendingReceipt::later(async move {
            shared.until_kept(ticket).await?;
            receipt
        }))
    }

    async fn get(&self, stream: &StreamName, sequence: u64) -> Result<Option<StoredMessage>> {
        let (life, memory) = self.enter().await?;
        let message = memory.get(stream, sequence).await;
        life.told(message).await
    }

    async fn subjects(&self, stream: &StreamName, filter: &SubjectFilter) -> Result<Vec<Subject>> {
        let (life, memory) = self.enter().await?;
        let subjects = memory.subjects(stream, filter).await;
        life.told(subjects).await
    }

    async fn last_at(
        &self,
        stream: &StreamName,
        subjects: &[Subject],
        up_to: u64,
    ) -> Result<Vec<StoredMessage>> {
        let (life, memory) = self.enter().await?;
        let messages = memory.last_at(stream, subjects, up_to).await;
        life.told(messages).await
    }

    async fn count(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        after: u64,
    ) -> Result<u64> {
        let (life, memory) = self.enter().await?;
        let count = memory.count(stream, filters, after).await;
        life.told(count).await
    }

    async fn reader(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        start: Start,
    ) -> Result<Box<dyn ReaderDriver>> {
        let (life, memory) = self.enter().await?;
        let reader = memory.open_reader(stream, filters, start);
        let reader = life.told(reader).await?;
        Ok(Box::new(DiskReader::new(self.another_hold(), &life, stream, reader)))
    }

    async fn ensure_consumer(
        &self,
        stream: &StreamName,
        config: &ConsumerConfig,
    ) -> Result<ConsumerInfo> {
        let (life, memory) = self.enter().await?;
        let info = memory.ensure_consumer(stream, config).await;
        life.kept(info).await
    }

    async fn consumer_info(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
    ) -> Result<ConsumerInfo> {
        let (life, memory) = self.enter().await?;
        let info = memory.consumer_info(stream, consumer).await;
        life.told(info).await
    }

    async fn consumers(&self, stream: &StreamName) -> Result<Vec<ConsumerInfo>> {
        let (life, memory) = self.enter().await?;
        let infos = memory.consumers(stream).await;
        life.told(infos).await
    }

    async fn delete_consumer(&self, stream: &StreamName, consumer: &ConsumerName) -> Result<()> {
        let (life, memory) = self.enter().await?;
        let deleted = memory.delete_consumer(stream, consumer).await;
        life.kept(deleted).await
    }

    async fn bind(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        _prefetch: usize,
    ) -> Result<Arc<dyn ConsumerDriver>> {
        let (life, memory) = self.enter().await?;
        let bound = memory.bind_consumer(stream, consumer);
        let bound = life.told(bound).await?;
        Ok(Arc::new(DiskConsumer::new(self.another_hold(), &life, stream, bound)))
    }

    async fn pause_consumer(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        until: Option<SystemTime>,
    ) -> Result<()> {
        let (life, memory) = self.enter().await?;
        let paused = memory.pause_consumer(stream, consumer, until).await;
        life.kept(paused).await
    }

    async fn seek_consumer(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        to: Start,
    ) -> Result<()> {
        let (life, memory) = self.enter().await?;
        let moved = memory.seek_consumer(stream, consumer, to).await;
        life.kept(moved).await
    }

    async fn commit(&self, unit: &Unit) -> Result<Committed> {
        let (life, memory) = self.enter().await?;
        let committed = memory.commit(unit).await;
        life.kept(committed).await
    }

    async fn request(&self, question: Message, wait: Duration) -> Result<Message> {
        let (_, memory) = self.enter().await?;
        memory.request(question, wait).await
    }

    async fn responder(
        &self,
        filter: &SubjectFilter,
        group: &ConsumerName,
    ) -> Result<Box<dyn ResponderDriver>> {
        let (_, memory) = self.enter().await?;
        memory.responder(filter, group).await
    }

    async fn create_bucket(&self, config: &BucketConfig) -> Result<Creation<BucketConfig>> {
        let (life, memory) = self.enter().await?;
        let creation = memory.create_bucket(config).await;
        life.kept(creation).await
    }

    async fn ensure_bucket(&self, config: &BucketConfig) -> Result<()> {
        let (life, memory) = self.enter().await?;
        let ensured = memory.ensure_bucket(config).await;
        life.kept(ensured).await
    }

    async fn bucket_info(&self, bucket: &BucketName) -> Result<BucketConfig> {
        let (life, memory) = self.enter().await?;
        let config = memory.bucket_info(bucket).await;
        life.told(config).await
    }

    async fn bucket(&self, bucket: &BucketName) -> Result<Arc<dyn KvDriver>> {
        let (life, memory) = self.enter().await?;
        let opened = memory.open_bucket(bucket);
        let opened = life.told(opened).await?;
        Ok(Arc::new(DiskBucket::new(self.another_hold(), &life, bucket, opened)))
    }

    async fn delete_bucket(&self, bucket: &BucketName) -> Result<()> {
        let (life, memory) = self.enter().await?;
        let deleted = memory.delete_bucket(bucket).await;
        life.kept(deleted).await
    }

    async fn close(&self) -> Result<()> {
        let life = self.backend.current();
        let resolved = life.shared.until_kept(life.shared.ticket()).await;
        self.connection.close();
        resolved
    }
}
