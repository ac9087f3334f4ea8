//! Kafka.
//!
//! A stream is a topic of the same name, a message a record, its key the record's key; what others
//! write to the topic is read too. How streams, consumers and buckets were declared stands in a
//! compacted topic, `lockgate.catalog`. What Kafka has no field for travels in headers that begin
//! with `Lg-`; they are refused on a message and taken out of what arrives. In a topic that was
//! made for a stream, the subject of a message without a key is the record's key: what others
//! write there with such a key is a message on that subject.
//!
//! Order is kept per partition: per key, or per subject where a message has no key, chosen as the
//! Java client does. A sequence is unique in its stream and grows within a partition; with one
//! partition it is the offset + 1. So it is counted with the number of partitions: a topic that
//! somebody gives more of them is refused with [`crate::ErrorKind::Mismatch`], which names both
//! numbers, within ten seconds by every call that reads, writes or settles there. Nobody has written
//! down how many partitions a topic had that others made and nothing was declared of: a process that
//! is started after such a topic grew, and has no consumer there, counts with the new number.
//!
//! # What other programs do
//!
//! - A transaction that is open, of another program or of a unit, hides what is stored behind it, also
//!   when that was acknowledged. It counts all the same: the log's end is the high watermark. A call
//!   that needs what is hidden waits up to five seconds and is [`crate::ErrorKind::Unavailable`] then;
//!   a bucket is [`crate::ErrorKind::Timeout`] after twenty. Readers and consumers go on when the
//!   transaction has ended. `Start::New` begins behind what was stored, hidden or not.
//! - A record that cannot be read, because its batch does not decompress, is
//!   [`crate::ErrorKind::Corrupt`] in every call that comes to it, and nothing behind it in its
//!   partition is given. A fetch says so, with how often it was seen, when it has nothing else. Move
//!   the consumer past it.
//! - A broker refuses a batch as a whole where the topic takes less (`max.message.bytes`). Topics of
//!   others get batches that fit, and what was refused all the same is sent again one by one: only
//!   what is too large by itself is [`crate::ErrorKind::TooLarge`]. Who lowers the limit of a topic
//!   while it is written to may see what was on its way at that moment stored out of its order.
//! - Headers are kept as Kafka has them: any text as a name, any bytes or null as a value. One whose
//!   name is not UTF-8, which Kafka does not allow, is left out with a warning.
//!
//! The client repeats a publish by itself and stores it once, for two minutes. A receipt that
//! fails with [`crate::ErrorKind::Timeout`] leaves open whether the message is stored, and without ids a
//! repetition may store it twice: consumers tell by what the message says.
//!
//! # Consumers
//!
//! A consumer is a group, named `<stream>.<consumer>` (with a number behind it once it was moved or
//! made anew), a topic for its retries, and an entry of the catalog that says where it begins. All
//! who bind it through one connection share one member of the group. A partition belongs to one
//! member at a time, so that a consumer that several processes are to share needs a stream of
//! several partitions.
//!
//! - Each message settles on its own: the group's commits carry what is settled beyond the
//!   committed offset. At most 16,384 offsets lie between a delivery that is out and the newest
//!   that is taken from its partition.
//! - Leases, attempts and `max_unsettled` are kept by the member. When it dies, what it had out
//!   comes again as soon as the group notices, and its attempts count from the last retry.
//! - A retry is copied to the topic of retries before its source is settled; a crash between the
//!   two delivers both. Its delay is a floor by the clocks of the processes that wrote and read it.
//! - A partition that moves gives those at work two seconds to settle; then their leases are over,
//!   and settling is [`crate::ErrorKind::Stale`].
//! - Brokers that have the group protocol of KIP-848 switched off are used with the classic one;
//!   brokers before Kafka 3.7, which never heard of it, serve no consumers.
//! - A consumer whose stream's topic others removed fails with [`crate::ErrorKind::NotFound`], some
//!   ten seconds later. The stream that is declared next by the name has none of its consumers.
//! - A group may lose its positions: somebody deletes it, or no process has the consumer bound for
//!   longer than the brokers keep them (`offsets.retention.minutes`, a week unless it was changed: raise
//!   it above the longest time a consumer may be off). Then declaring, binding and observing the
//!   consumer, and fetching, are [`crate::ErrorKind::Corrupt`], and nothing is delivered, because all
//!   of it could come again. Whoever knows where it was moves it there ([`crate::Bus::seek`]) and binds
//!   it anew. A consumer that is bound commits every half minute, also when nothing happens. One that
//!   an earlier version made begins anew without a word, until it is moved or made anew.
//! - Retries that are settled are removed from their topic once a minute, or a thousand at a time.
//! - Beginning with the last message per subject is possible where those messages are no further
//!   apart than the span above.
//! - A commit that the broker took for some partitions and refused for others is reported to the
//!   client library only as a success; the broker must take 4096 bytes beside an offset
//!   (`offset.metadata.max.bytes`), which is its default.
//! - A unit is a transaction. It leaves a marker in each stream, which takes an offset: counts of
//!   messages and pending ones include it.
//!
//! What Kafka cannot do is refused with a typed error: de-duplication by id, conditional
//! publishing, exact limits, work queues, purging by subject, compare-and-set, requests.

mod batches;
mod bell;
mod bucket;
mod catalog;
mod consumers;
mod desk;
mod entry;
mod failure;
mod group;
mod groups;
mod inbox;
mod keys;
mod lease;
mod link;
mod lookup;
mod member;
mod partition;
mod poller;
mod publisher;
mod reader;
mod record;
mod retry;
mod scan;
mod sequence;
mod settings;
mod shape;
mod shared;
mod standing;
mod start;
mod streams;
mod submit;
mod table;
mod tail;
mod threads;
mod token;
mod topics;
mod trouble;
mod units;
mod upkeep;
mod watch;
mod watermark;
mod window;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::capability::{Capability, Support};
use crate::config::{BucketConfig, ConsumerConfig, ConsumerInfo, Start, StreamConfig, StreamInfo};
use crate::creation::Creation;
use crate::driver::Committed;
use crate::driver::{ConsumerDriver, Driver, KvDriver, ReaderDriver, ResponderDriver, Tell, Unit};
use crate::error::unsupported;
use crate::error::{Error, Result};
use crate::message::{Message, StoredMessage};
use crate::name::{BucketName, ConsumerName, StreamName, Subject, SubjectFilter};
use crate::options::ConnectOptions;
use crate::publish::PendingReceipt;
use catalog::Catalog;
use consumers::Consumers;
use entry::StreamEntry;
use link::Link;
use publisher::Publisher;

/// The backend's name.
const NAME: &str = "kafka://";

/// The Kafka backend: one producer, one client for administration, and a thread for each reader,
/// bucket and consumer that is open.
///
/// ```
/// use std::sync::Arc;
///
/// use bus::kafka::Kafka;
/// use bus::{Bus, ConnectOptions, ErrorKind, Result};
///
/// // As `Bus::connect("kafka://...")` does; by hand to wrap it in something, for example.
/// async fn connect(url: &str) -> Result<Bus> {
///     Ok(Bus::with_driver(Arc::new(Kafka::connect(url, &ConnectOptions::default()).await?)))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let refused = connect("kafka://anna:secret@127.0.0.1:9092").await.err();
/// assert_eq!(refused.map(|error| error.kind()), Some(ErrorKind::Invalid), "no secrets in URLs");
/// # }
/// ```
pub struct Kafka {
    link: Arc<Link>,
    publisher: Arc<Publisher>,
    catalog: Arc<Catalog>,
    consumers: Consumers,
    units: Arc<units::Units>,
    foreign: submit::Foreign,
    buckets: bucket::Buckets,
}

impl Kafka {
    /// Connects to the cluster that `url` names, `kafka://host:port[,host:port...]`; any of its
    /// brokers is enough. [`crate::ErrorKind::Unavailable`] when none answers within five seconds,
    /// which is also how brokers that ask for a user treat those who give none;
    /// [`crate::ErrorKind::Invalid`] when they refuse the user or password.
    ///
    /// A cluster that this crate has not used before gets the topic `lockgate.catalog`. A user and
    /// password are sent as SASL PLAIN, without encryption.
    pub async fn connect(url: &str, options: &ConnectOptions) -> Result<Self> {
        let link = Link::connect(url, options).await?;
        let publisher = Arc::new(Publisher::start(&link)?);
        let catalog = Arc::new(Catalog::open(&link, publisher.clone()).await?);
        let (foreign, buckets) = (submit::Foreign::default(), bucket::Buckets::default());
        let consumers = Consumers::new(&link, &publisher, &catalog);
        let units = Arc::default();
        Ok(Self { link, publisher, catalog, consumers, units, foreign, buckets })
    }

    /// What is declared of a stream, or read off a foreign topic; `NotFound` without either.
    async fn entry(&self, stream: &StreamName) -> Result<Arc<StreamEntry>> {
        self.link.check_open()?;
        let entry = self.foreign.entry(&self.link, &self.catalog, stream).await?;
        self.link.shapes.check(&self.link, &entry).await?;
        Ok(entry)
    }
}

/// What Kafka gives: the table in the documentation is made of this.
pub(crate) fn support(capability: Capability) -> Support {
    match capability {
        Capability::KeyAffinity | Capability::AtomicPublish => Support::Native,
        Capability::MessageSettle
        | Capability::LeaseExtension
        | Capability::AttemptCount
        | Capability::RetryDelay
        | Capability::DelayedDelivery
        | Capability::SubjectFilter
        | Capability::StateAtSequence
        | Capability::KvWatch => Support::Emulated,
        Capability::RemoteSettle
        | Capability::Deduplication
        | Capability::ConditionalPublish
        | Capability::Rollup
        | Capability::WorkQueue
        | Capability::ExactLimits
        | Capability::SelectivePurge
        | Capability::RequestReply
        | Capability::Counting
        | Capability::KvCompareAndSet => Support::Unsupported,
    }
}

#[async_trait]
impl Driver for Kafka {
    fn name(&self) -> &'static str {
        NAME
    }

    fn support(&self, capability: Capability) -> Support {
        support(capability)
    }

    async fn create_stream(&self, config: &StreamConfig) -> Result<Creation<StreamInfo>> {
        self.link.check_open()?;
        streams::create(&self.link, &self.catalog, &self.consumers, config).await
    }

    async fn ensure_stream(&self, config: &StreamConfig) -> Result<StreamInfo> {
        self.link.check_open()?;
        streams::ensure(&self.link, &self.catalog, &self.consumers, config).await
    }

    async fn stream_info(&self, stream: &StreamName) -> Result<StreamInfo> {
        self.link.check_open()?;
        streams::info(&self.link, &self.catalog, stream).await
    }

    async fn delete_stream(&self, stream: &StreamName) -> Result<()> {
        self.link.check_open()?;
        self.consumers.delete_all(stream).await?;
        streams::delete(&self.link, &self.catalog, stream).await
    }

    async fn purge(&self, stream: &StreamName, filter: &SubjectFilter) -> Result<u64> {
        self.link.check_open()?;
        streams::purge(&self.link, &self.catalog, stream, filter).await
    }

    async fn submit(&self, stream: &StreamName, message: Message) -> Result<PendingReceipt> {
        self.link.check_open()?;
        let known = self.catalog.stream(stream).filter(|entry| self.link.shapes.is_known(entry));
        let entry = match known {
            Some(entry) => entry,
            // Boxed, so that the future of the common case stays small.
            None => Box::pin(self.entry(stream)).await?,
        };
        submit::submit(&self.publisher, &entry, &message).await
    }

    async fn get(&self, stream: &StreamName, sequence: u64) -> Result<Option<StoredMessage>> {
        lookup::get(&self.link, &*self.entry(stream).await?, sequence).await
    }

    async fn subjects(&self, stream: &StreamName, filter: &SubjectFilter) -> Result<Vec<Subject>> {
        lookup::subjects(&self.link, &*self.entry(stream).await?, filter).await
    }

    async fn last_at(
        &self,
        stream: &StreamName,
        subjects: &[Subject],
        up_to: u64,
    ) -> Result<Vec<StoredMessage>> {
        lookup::last_at(&self.link, &*self.entry(stream).await?, subjects, up_to).await
    }

    async fn count(
        &self,
        stream: &StreamName,
        _filters: &[SubjectFilter],
        _after: u64,
    ) -> Result<u64> {
        let asked = format!("a count on stream {stream}");
        Err(unsupported(NAME, Capability::Counting, asked))
    }

    async fn state(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        up_to: u64,
        tell: &mut Tell<'_>,
    ) -> Result<()> {
        lookup::state(&self.link, &*self.entry(stream).await?, filters, up_to, tell).await
    }

    async fn reader(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        start: Start,
    ) -> Result<Box<dyn ReaderDriver>> {
        let entry = self.entry(stream).await?;
        let reader = reader::Reader::open(&self.link, &self.catalog, entry, filters, start);
        Ok(Box::new(reader.await?))
    }

    async fn ensure_consumer(
        &self,
        stream: &StreamName,
        config: &ConsumerConfig,
    ) -> Result<ConsumerInfo> {
        self.link.check_open()?;
        self.consumers.ensure(stream, config).await
    }

    async fn consumer_info(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
    ) -> Result<ConsumerInfo> {
        self.link.check_open()?;
        self.consumers.info(stream, consumer).await
    }

    async fn consumers(&self, stream: &StreamName) -> Result<Vec<ConsumerInfo>> {
        self.link.check_open()?;
        self.consumers.list(stream).await
    }

    async fn delete_consumer(&self, stream: &StreamName, consumer: &ConsumerName) -> Result<()> {
        self.link.check_open()?;
        self.consumers.delete(stream, consumer).await
    }

    async fn pause_consumer(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        until: Option<SystemTime>,
    ) -> Result<()> {
        self.link.check_open()?;
        self.consumers.pause(stream, consumer, until).await
    }

    async fn seek_consumer(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        to: Start,
    ) -> Result<()> {
        self.link.check_open()?;
        self.consumers.seek(stream, consumer, to).await
    }

    async fn bind(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        _prefetch: usize,
    ) -> Result<Arc<dyn ConsumerDriver>> {
        self.link.check_open()?;
        Ok(self.consumers.bind(stream, consumer).await?)
    }

    async fn create_bucket(&self, config: &BucketConfig) -> Result<Creation<BucketConfig>> {
        self.link.check_open()?;
        bucket::create(&self.link, &self.catalog, config).await
    }

    async fn ensure_bucket(&self, config: &BucketConfig) -> Result<()> {
        self.link.check_open()?;
        bucket::ensure(&self.link, &self.catalog, config).await
    }

    async fn bucket(&self, bucket: &BucketName) -> Result<Arc<dyn KvDriver>> {
        self.link.check_open()?;
        let opened = self.buckets.open(&self.link, &self.catalog, &self.publisher, bucket).await?;
        Ok(Arc::new(opened))
    }

    async fn bucket_info(&self, bucket: &BucketName) -> Result<BucketConfig> {
        self.link.check_open()?;
        bucket::info(&self.catalog, bucket).await
    }

    async fn delete_bucket(&self, bucket: &BucketName) -> Result<()> {
        self.link.check_open()?;
        bucket::delete(&self.link, &self.catalog, bucket).await
    }

    async fn commit(&self, unit: &Unit) -> Result<Committed> {
        self.link.check_open()?;
        let mut streams = Vec::with_capacity(unit.outputs.len());
        for (stream, _) in &unit.outputs {
            streams.push(self.entry(stream).await?);
        }
        units::commit(&self.units, &self.consumers, &streams, unit).await
    }

    async fn request(&self, question: Message, _wait: Duration) -> Result<Message> {
        let asked = format!("a question on {}", question.subject);
        Err(unsupported(NAME, Capability::RequestReply, asked))
    }

    async fn responder(
        &self,
        filter: &SubjectFilter,
        _group: &ConsumerName,
    ) -> Result<Box<dyn ResponderDriver>> {
        let asked = format!("answering on {filter}");
        Err(unsupported(NAME, Capability::RequestReply, asked))
    }

    /// Never: the servers are elsewhere, and are connected to again.
    async fn failed(&self) -> Error {
        std::future::pending().await
    }

    async fn close(&self) -> Result<()> {
        self.publisher.close().await;
        let units = self.units.clone();
        let closed = self.link.apart(move || {
            units.close();
            Ok(())
        });
        // Closed before: there is nothing left to close.
        let _ = closed.await;
        self.link.close().await;
        self.consumers.close().await;
        Ok(())
    }
}
