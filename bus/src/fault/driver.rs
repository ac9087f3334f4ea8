//! The wrapped backend.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::faults::{CrashSide, Fate, Faults, unavailable};
use super::handles::{FaultyConsumer, FaultyKv, FaultyReader};
use crate::capability::{Capability, Support};
use crate::config::{BucketConfig, ConsumerConfig, ConsumerInfo, Start, StreamConfig, StreamInfo};
use crate::creation::Creation;
use crate::driver::Committed;
use crate::driver::{ConsumerDriver, Driver, KvDriver, ReaderDriver, ResponderDriver, Tell, Unit};
use crate::error::{Error, Result};
use crate::message::{Message, StoredMessage};
use crate::name::{BucketName, ConsumerName, StreamName, Subject, SubjectFilter};
use crate::publish::PendingReceipt;

/// A backend with faults on every operation, and on those of everything opened through it.
///
/// ```
/// use std::sync::Arc;
///
/// use bus::embedded::Embedded;
/// use bus::fault::{FaultDriver, FaultRates, Faults};
/// use bus::{Bus, StreamConfig};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// let faults = Faults::new(7).with_rates(FaultRates { fail_before: 1000, ..FaultRates::NONE });
/// let bus = Bus::with_driver(Arc::new(FaultDriver::new(Arc::new(Embedded::new()), faults.clone())));
/// let config = StreamConfig::parse("orders", &["orders.>"])?;
/// assert!(bus.ensure_stream(&config).await.err().is_some_and(|error| error.is_retryable()));
/// faults.set_rates(FaultRates::NONE);
/// bus.ensure_stream(&config).await?;
/// # Ok(())
/// # }
/// ```
pub struct FaultDriver {
    inner: Arc<dyn Driver>,
    faults: Faults,
}

impl FaultDriver {
    /// Wraps `inner`; `faults` decides.
    pub fn new(inner: Arc<dyn Driver>, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

/// A stream or bucket and what in it an operation is about, for the trace.
pub(super) struct At<'a>(
    pub(super) &'a (dyn fmt::Display + Sync),
    pub(super) &'a (dyn fmt::Display + Sync),
);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, self.1)
    }
}

#[async_trait]
impl Driver for FaultDriver {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn support(&self, capability: Capability) -> Support {
        self.inner.support(capability)
    }

    async fn create_stream(&self, config: &StreamConfig) -> Result<Creation<StreamInfo>> {
        self.faults.run("create_stream", &config.name, self.inner.create_stream(config)).await
    }

    async fn ensure_stream(&self, config: &StreamConfig) -> Result<StreamInfo> {
        self.faults.run("ensure_stream", &config.name, self.inner.ensure_stream(config)).await
    }

    async fn stream_info(&self, stream: &StreamName) -> Result<StreamInfo> {
        self.faults.run("stream_info", stream, self.inner.stream_info(stream)).await
    }

    async fn delete_stream(&self, stream: &StreamName) -> Result<()> {
        self.faults.run("delete_stream", stream, self.inner.delete_stream(stream)).await
    }

    async fn purge(&self, stream: &StreamName, filter: &SubjectFilter) -> Result<u64> {
        self.faults.run("purge", &At(stream, filter), self.inner.purge(stream, filter)).await
    }

    /// A publish is one operation. Its failure arrives with the receipt, when later messages may
    /// be stored already.
    async fn submit(&self, stream: &StreamName, message: Message) -> Result<PendingReceipt> {
        let plan = self.faults.begin("publish", &At(stream, &message.subject.clone())).await;
        if plan.fate == Fate::FailBefore {
            return Ok(PendingReceipt::ready(Err(unavailable())));
        }
        let submit = self.inner.submit(stream, message);
        if plan.fate == Fate::Crash(CrashSide::After) {
            // Durable first, then the crash: the caller never sees this return.
            let stored = self.faults.carry_out(plan, async { submit.await?.await }).await;
            return Ok(PendingReceipt::ready(stored));
        }
        let receipt = self.faults.unless_crashed(submit).await?;
        let faults = self.faults.clone();
        Ok(PendingReceipt::later(async move { faults.carry_out(plan, receipt).await }))
    }

    async fn get(&self, stream: &StreamName, sequence: u64) -> Result<Option<StoredMessage>> {
        self.faults.run("get", &At(stream, &sequence), self.inner.get(stream, sequence)).await
    }

    async fn subjects(&self, stream: &StreamName, filter: &SubjectFilter) -> Result<Vec<Subject>> {
        self.faults.run("subjects", &At(stream, filter), self.inner.subjects(stream, filter)).await
    }

    async fn last_at(
        &self,
        stream: &StreamName,
        subjects: &[Subject],
        up_to: u64,
    ) -> Result<Vec<StoredMessage>> {
        let effect = self.inner.last_at(stream, subjects, up_to);
        self.faults.run("last_at", &At(stream, &up_to), effect).await
    }

    async fn count(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        after: u64,
    ) -> Result<u64> {
        let effect = self.inner.count(stream, filters, after);
        self.faults.run("count", &At(stream, &after), effect).await
    }

    async fn state(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        up_to: u64,
        tell: &mut Tell<'_>,
    ) -> Result<()> {
        let effect = self.inner.state(stream, filters, up_to, tell);
        self.faults.run("state", &At(stream, &up_to), effect).await
    }

    async fn reader(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        start: Start,
    ) -> Result<Box<dyn ReaderDriver>> {
        let open = self.inner.reader(stream, filters, start);
        let reader = self.faults.run("reader", stream, open).await?;
        Ok(Box::new(FaultyReader::new(reader, self.faults.clone(), stream.to_string())))
    }

    async fn ensure_consumer(
        &self,
        stream: &StreamName,
        config: &ConsumerConfig,
    ) -> Result<ConsumerInfo> {
        let effect = self.inner.ensure_consumer(stream, config);
        self.faults.run("ensure_consumer", &At(stream, &config.name), effect).await
    }

    async fn consumer_info(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
    ) -> Result<ConsumerInfo> {
        let effect = self.inner.consumer_info(stream, consumer);
        self.faults.run("consumer_info", &At(stream, consumer), effect).await
    }

    async fn consumers(&self, stream: &StreamName) -> Result<Vec<ConsumerInfo>> {
        self.faults.run("consumers", stream, self.inner.consumers(stream)).await
    }

    async fn delete_consumer(&self, stream: &StreamName, consumer: &ConsumerName) -> Result<()> {
        let effect = self.inner.delete_consumer(stream, consumer);
        self.faults.run("delete_consumer", &At(stream, consumer), effect).await
    }

    async fn bind(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        prefetch: usize,
    ) -> Result<Arc<dyn ConsumerDriver>> {
        let at = At(stream, consumer);
        let bound =
            self.faults.run("bind", &at, self.inner.bind(stream, consumer, prefetch)).await?;
        Ok(Arc::new(FaultyConsumer::new(bound, self.faults.clone(), at.to_string())))
    }

    async fn pause_consumer(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        until: Option<SystemTime>,
    ) -> Result<()> {
        let effect = self.inner.pause_consumer(stream, consumer, until);
        self.faults.run("pause_consumer", &At(stream, consumer), effect).await
    }

    async fn seek_consumer(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        to: Start,
    ) -> Result<()> {
        let effect = self.inner.seek_consumer(stream, consumer, to);
        self.faults.run("seek_consumer", &At(stream, consumer), effect).await
    }

    async fn commit(&self, unit: &Unit) -> Result<Committed> {
        self.faults.run("commit", &self.inner.name(), self.inner.commit(unit)).await
    }

    async fn request(&self, question: Message, wait: Duration) -> Result<Message> {
        let subject = question.subject.clone();
        self.faults.run("request", &subject, self.inner.request(question, wait)).await
    }

    /// The responder itself has no faults: whoever asks sees those of the request.
    async fn responder(
        &self,
        filter: &SubjectFilter,
        group: &ConsumerName,
    ) -> Result<Box<dyn ResponderDriver>> {
        self.faults.run("responder", filter, self.inner.responder(filter, group)).await
    }

    async fn create_bucket(&self, config: &BucketConfig) -> Result<Creation<BucketConfig>> {
        self.faults.run("create_bucket", &config.name, self.inner.create_bucket(config)).await
    }

    async fn ensure_bucket(&self, config: &BucketConfig) -> Result<()> {
        self.faults.run("ensure_bucket", &config.name, self.inner.ensure_bucket(config)).await
    }

    async fn bucket_info(&self, bucket: &BucketName) -> Result<BucketConfig> {
        self.faults.run("bucket_info", bucket, self.inner.bucket_info(bucket)).await
    }

    async fn bucket(&self, bucket: &BucketName) -> Result<Arc<dyn KvDriver>> {
        let opened = self.faults.run("bucket", bucket, self.inner.bucket(bucket)).await?;
        Ok(Arc::new(FaultyKv::new(opened, self.faults.clone(), bucket.to_string())))
    }

    async fn delete_bucket(&self, bucket: &BucketName) -> Result<()> {
        self.faults.run("delete_bucket", bucket, self.inner.delete_bucket(bucket)).await
    }

    async fn failed(&self) -> Error {
        self.inner.failed().await
    }

    async fn close(&self) -> Result<()> {
        self.faults.run("close", &self.inner.name(), self.inner.close()).await
    }
}
