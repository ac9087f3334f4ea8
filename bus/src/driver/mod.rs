//! What a backend implements. Users hold [`crate::Bus`] and its nouns instead.
//!
//! The traits are object-safe, batch-first and have no default methods: a backend answers every
//! question itself, and what is the same for all of them is written once in the concrete types.
//! Names, filters and limits are validated before a driver sees them. Every method may be called
//! from many tasks at once, and dropping its future at any point leaves the backend consistent:
//! the operation happened or it did not.

mod consumer;
mod keys;
pub(crate) mod life;
mod reader;
mod request;
mod token;
pub(crate) mod unit;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::capability::{Capability, Support};
use crate::config::{BucketConfig, ConsumerConfig, ConsumerInfo, Start, StreamConfig, StreamInfo};
use crate::creation::Creation;
use crate::error::{Error, Result};
use crate::message::{Message, StoredMessage};
use crate::name::{BucketName, ConsumerName, StreamName, Subject, SubjectFilter};
use crate::publish::PendingReceipt;

pub use consumer::{ConsumerDriver, RawDelivery, Settlement};
pub use keys::{KvChange, KvDriver, WatchDriver};
pub(crate) use reader::READ_BYTES;
pub use reader::{ReaderDriver, Tell};
pub use request::{AnswerDriver, RawRequest, ResponderDriver};
pub use token::LeaseToken;
pub use unit::{Committed, Guarantee, Unit, UnitInput, by_ids};

/// A backend: streams, their consumers and readers, and buckets.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// # use std::time::{Duration, SystemTime};
///
/// use async_trait::async_trait;
/// use bus::driver::{Driver, Unit};
/// # use bus::driver::{ConsumerDriver, KvDriver, ReaderDriver, ResponderDriver, Tell};
/// use bus::embedded::Embedded;
/// use bus::{Bus, Committed, Message, PendingReceipt, Result, StreamConfig, StreamName};
/// # use bus::{BucketConfig, BucketName, Capability, ConsumerConfig, ConsumerInfo, ConsumerName, Creation, Start};
/// # use bus::{StoredMessage, StreamInfo, Subject, SubjectFilter, Support};
///
/// /// A backend around a backend: counts what is published through it.
/// struct Counting {
///     inner: Arc<dyn Driver>,
///     published: AtomicU64,
/// }
///
/// #[async_trait]
/// impl Driver for Counting {
///     async fn submit(&self, stream: &StreamName, message: Message) -> Result<PendingReceipt> {
///         self.published.fetch_add(1, Ordering::Relaxed);
///         self.inner.submit(stream, message).await
///     }
///
///     async fn commit(&self, unit: &Unit) -> Result<Committed> {
///         self.published.fetch_add(unit.outputs.len() as u64, Ordering::Relaxed);
///         self.inner.commit(unit).await
///     }
///
///     // and so on: every other method passes the call on
/// #     fn name(&self) -> &'static str { self.inner.name() }
/// #     fn support(&self, c: Capability) -> Support { self.inner.support(c) }
/// #     async fn create_stream(&self, c: &StreamConfig) -> Result<Creation<StreamInfo>> { self.inner.create_stream(c).await }
/// #     async fn ensure_stream(&self, c: &StreamConfig) -> Result<StreamInfo> { self.inner.ensure_stream(c).await }
/// #     async fn stream_info(&self, s: &StreamName) -> Result<StreamInfo> { self.inner.stream_info(s).await }
/// #     async fn delete_stream(&self, s: &StreamName) -> Result<()> { self.inner.delete_stream(s).await }
/// #     async fn purge(&self, s: &StreamName, f: &SubjectFilter) -> Result<u64> { self.inner.purge(s, f).await }
/// #     async fn get(&self, s: &StreamName, n: u64) -> Result<Option<StoredMessage>> { self.inner.get(s, n).await }
/// #     async fn subjects(&self, s: &StreamName, f: &SubjectFilter) -> Result<Vec<Subject>> { self.inner.subjects(s, f).await }
/// #     async fn last_at(&self, s: &StreamName, of: &[Subject], n: u64) -> Result<Vec<StoredMessage>> { self.inner.last_at(s, of, n).await }
/// #     async fn count(&self, s: &StreamName, f: &[SubjectFilter], n: u64) -> Result<u64> { self.inner.count(s, f, n).await }
/// #     async fn state(&self, s: &StreamName, f: &[SubjectFilter], n: u64, tell: &mut Tell<'_>) -> Result<()> { self.inner.state(s, f, n, tell).await }
/// #     async fn reader(&self, s: &StreamName, f: &[SubjectFilter], at: Start) -> Result<Box<dyn ReaderDriver>> { self.inner.reader(s, f, at).await }
/// #     async fn ensure_consumer(&self, s: &StreamName, c: &ConsumerConfig) -> Result<ConsumerInfo> { self.inner.ensure_consumer(s, c).await }
/// #     async fn consumer_info(&self, s: &StreamName, c: &ConsumerName) -> Result<ConsumerInfo> { self.inner.consumer_info(s, c).await }
/// #     async fn consumers(&self, s: &StreamName) -> Result<Vec<ConsumerInfo>> { self.inner.consumers(s).await }
/// #     async fn delete_consumer(&self, s: &StreamName, c: &ConsumerName) -> Result<()> { self.inner.delete_consumer(s, c).await }
/// #     async fn pause_consumer(&self, s: &StreamName, c: &ConsumerName, until: Option<SystemTime>) -> Result<()> { self.inner.pause_consumer(s, c, until).await }
/// #     async fn seek_consumer(&self, s: &StreamName, c: &ConsumerName, to: Start) -> Result<()> { self.inner.seek_consumer(s, c, to).await }
/// #     async fn bind(&self, s: &StreamName, c: &ConsumerName, ahead: usize) -> Result<Arc<dyn ConsumerDriver>> { self.inner.bind(s, c, ahead).await }
/// #     async fn create_bucket(&self, c: &BucketConfig) -> Result<Creation<BucketConfig>> { self.inner.create_bucket(c).await }
/// #     async fn ensure_bucket(&self, c: &BucketConfig) -> Result<()> { self.inner.ensure_bucket(c).await }
/// #     async fn bucket_info(&self, b: &BucketName) -> Result<BucketConfig> { self.inner.bucket_info(b).await }
/// #     async fn bucket(&self, b: &BucketName) -> Result<Arc<dyn KvDriver>> { self.inner.bucket(b).await }
/// #     async fn delete_bucket(&self, b: &BucketName) -> Result<()> { self.inner.delete_bucket(b).await }
/// #     async fn request(&self, q: Message, wait: Duration) -> Result<Message> { self.inner.request(q, wait).await }
/// #     async fn responder(&self, f: &SubjectFilter, g: &ConsumerName) -> Result<Box<dyn ResponderDriver>> { self.inner.responder(f, g).await }
/// #     async fn failed(&self) -> bus::Error { self.inner.failed().await }
/// #     async fn close(&self) -> Result<()> { self.inner.close().await }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let counting = Arc::new(Counting { inner: Arc::new(Embedded::new()), published: AtomicU64::new(0) });
/// let bus = Bus::with_driver(counting.clone());
/// let orders = bus.ensure_stream(&StreamConfig::parse("orders", &["orders.>"])?).await?;
/// orders.publish(Message::new("orders.created", "41")?).await?;
/// bus.unit().publish(&orders, Message::new("orders.created", "42")?).commit().await?;
/// assert_eq!(counting.published.load(Ordering::Relaxed), 2);
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// The backend's name as people write it, for example `nats://`.
    fn name(&self) -> &'static str;

    /// How a capability is provided; never changes during the life of the driver.
    fn support(&self, capability: Capability) -> Support;

    /// Creates the stream if there is none of its name; one that is there is returned and not
    /// altered in any field. One that this crate cannot work with at all, such as a mirror, is
    /// [`crate::ErrorKind::Mismatch`] and says why.
    async fn create_stream(&self, config: &StreamConfig) -> Result<Creation<StreamInfo>>;

    /// Creates the stream, or updates what may be updated. An immutable difference is
    /// [`crate::ErrorKind::Mismatch`] and names it.
    async fn ensure_stream(&self, config: &StreamConfig) -> Result<StreamInfo>;

    /// The stream as it is now.
    async fn stream_info(&self, stream: &StreamName) -> Result<StreamInfo>;

    /// Removes the stream, its messages and its consumers. A missing one is `NotFound`.
    async fn delete_stream(&self, stream: &StreamName) -> Result<()>;

    /// Removes the messages that match, keeping the stream and its sequence. Returns how many.
    async fn purge(&self, stream: &StreamName, filter: &SubjectFilter) -> Result<u64>;

    /// Hands a message to the backend and returns once it has a place in the bounded publish
    /// window. The receipt resolves when the message is durable. Messages submitted one after
    /// another are stored in that order unless one of them fails, or is sent again because the
    /// leader of its stream changed or its connection was lost before it was written: those that
    /// are sent again keep their order, and none that is submitted later passes them.
    async fn submit(&self, stream: &StreamName, message: Message) -> Result<PendingReceipt>;

    /// The message at `sequence`, if it is still held.
    async fn get(&self, stream: &StreamName, sequence: u64) -> Result<Option<StoredMessage>>;

    /// The subjects that hold a message now and match, sorted by byte value, each once.
    async fn subjects(&self, stream: &StreamName, filter: &SubjectFilter) -> Result<Vec<Subject>>;

    /// For each of at most 1000 subjects, the last message held **at or before** `up_to`; newer
    /// ones do not hide it. Subjects without one are left out. Order is not promised.
    async fn last_at(
        &self,
        stream: &StreamName,
        subjects: &[Subject],
        up_to: u64,
    ) -> Result<Vec<StoredMessage>>;

    /// How many messages held **after** sequence `after` match one of `filters`, none of which
    /// overlap; an empty list means everything. A replica that answers may be a moment behind.
    async fn count(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        after: u64,
    ) -> Result<u64>;

    /// Tells the subject and the sequence of the last message held **at or before** `up_to` of
    /// every subject that matches (no filter: of all): complete, or an error. In no promised
    /// order, and one may be told more than once.
    async fn state(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        up_to: u64,
        tell: &mut Tell<'_>,
    ) -> Result<()>;

    /// Opens a reader: no acks, nothing kept in the backend when it is dropped. An empty list of
    /// filters means everything.
    async fn reader(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        start: Start,
    ) -> Result<Box<dyn ReaderDriver>>;

    /// Creates the consumer, or updates what may be updated (limits, ack wait, metadata). A
    /// different start or filter is [`crate::ErrorKind::Mismatch`].
    async fn ensure_consumer(
        &self,
        stream: &StreamName,
        config: &ConsumerConfig,
    ) -> Result<ConsumerInfo>;

    /// The consumer as it is now.
    async fn consumer_info(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
    ) -> Result<ConsumerInfo>;

    /// Every consumer of the stream, sorted by name.
    async fn consumers(&self, stream: &StreamName) -> Result<Vec<ConsumerInfo>>;

    /// Removes the consumer and its position. A missing one is `NotFound`.
    async fn delete_consumer(&self, stream: &StreamName, consumer: &ConsumerName) -> Result<()>;

    /// Hands out nothing to the consumer before `until`, in any process; `None` resumes at once.
    /// Deliveries that are out may still be settled, and their leases run.
    async fn pause_consumer(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        until: Option<SystemTime>,
    ) -> Result<()>;

    /// Moves the consumer: what it had settled or has out is forgotten, and it goes on at `to`.
    /// Settling a delivery from before is [`crate::ErrorKind::Stale`] where the backend can tell.
    /// Its filters and limits stay, and so does the start it reports.
    async fn seek_consumer(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        to: Start,
    ) -> Result<()>;

    /// Binds an existing consumer for fetching and settling. With `prefetch` above 0 the backend
    /// may hold that many deliveries ahead of [`ConsumerDriver::fetch`]; their leases run.
    async fn bind(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        prefetch: usize,
    ) -> Result<Arc<dyn ConsumerDriver>>;

    /// Creates the bucket if there is none of its name; one that is there is returned and not
    /// altered in any field, as for [`Driver::create_stream`].
    async fn create_bucket(&self, config: &BucketConfig) -> Result<Creation<BucketConfig>>;

    /// Creates the bucket, or updates what may be updated.
    async fn ensure_bucket(&self, config: &BucketConfig) -> Result<()>;

    /// The bucket's configuration as the backend has it. A missing one is `NotFound`.
    async fn bucket_info(&self, bucket: &BucketName) -> Result<BucketConfig>;

    /// Opens an existing bucket. A missing one is `NotFound`.
    async fn bucket(&self, bucket: &BucketName) -> Result<Arc<dyn KvDriver>>;

    /// Removes the bucket and its entries. A missing one is `NotFound`.
    async fn delete_bucket(&self, bucket: &BucketName) -> Result<()>;

    /// Settles the inputs and publishes the outputs, in their order, and says how surely that
    /// happens once. An error means that the inputs are not settled; outputs may be stored unless
    /// the guarantee is [`crate::Guarantee::Exactly`]. [`by_ids`] does it for a backend that
    /// has nothing better.
    async fn commit(&self, unit: &Unit) -> Result<Committed>;

    /// Sends a question to whoever answers on its subject and waits for the first answer, at most
    /// `wait`. [`crate::ErrorKind::NotFound`] when nobody listens there.
    async fn request(&self, question: Message, wait: Duration) -> Result<Message>;

    /// Opens a responder: of those with the same `group` one gets each question.
    async fn responder(
        &self,
        filter: &SubjectFilter,
        group: &ConsumerName,
    ) -> Result<Box<dyn ResponderDriver>>;

    /// Waits until the backend has failed for good, which is [`crate::ErrorKind::Failed`] from then
    /// on, and says why. Where a backend recovers by itself, this never returns.
    async fn failed(&self) -> Error;

    /// Waits until what was submitted is resolved, then lets go of the backend. Every later call
    /// fails with [`crate::ErrorKind::Closed`].
    async fn close(&self) -> Result<()>;
}
