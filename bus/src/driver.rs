//! What a backend implements. Users hold [`crate::Bus`] and its nouns instead.
//!
//! The traits are object-safe, batch-first and have no default methods: a backend answers every
//! question itself, and what is the same for all of them is written once in the concrete types.
//! Names, filters and limits are validated before a driver sees them. Every method may be called
//! from many tasks at once, and dropping its future at any point leaves the backend consistent:
//! the operation happened or it did not.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytestring::ByteString;
use tokio::time::Instant;

use crate::capability::{Capability, Support};
use crate::config::{
    BucketConfig, ConsumerConfig, ConsumerInfo, Entry, Start, StreamConfig, StreamInfo,
};
use crate::error::Result;
use crate::message::{Message, StoredMessage};
use crate::name::{BucketName, ConsumerName, StreamName, Subject, SubjectFilter};
use crate::publish::PendingReceipt;
use crate::text::Text;
use crate::unit::Committed;

/// A backend: streams, their consumers and readers, and buckets.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// The backend's name as people write it, for example `nats://`.
    fn name(&self) -> &'static str;

    /// How a capability is provided; never changes during the life of the driver.
    fn support(&self, capability: Capability) -> Support;

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
    /// another are stored in that order unless one of them fails.
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
    /// the guarantee is [`crate::Guarantee::Exactly`]. [`crate::unit::by_ids`] does it for a backend that
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

    /// Waits until what was submitted is resolved, then lets go of the backend. Every later call
    /// fails with [`crate::ErrorKind::Closed`].
    async fn close(&self) -> Result<()>;
}

/// Inputs to settle and outputs to publish, together.
#[derive(Clone, Default)]
pub struct Unit {
    /// Deliveries to ack.
    pub inputs: Vec<UnitInput>,
    /// Where to publish what, in order.
    pub outputs: Vec<(StreamName, Message)>,
}

/// A delivery that a [`Unit`] acks.
#[derive(Clone)]
pub struct UnitInput {
    /// The stream it came from.
    pub stream: StreamName,
    /// The consumer it was handed to.
    pub consumer: ConsumerName,
    /// Which message it is.
    pub sequence: u64,
    /// Its lease.
    pub token: LeaseToken,
    /// What it was fetched through.
    pub via: Arc<dyn ConsumerDriver>,
}

/// A question as it reached a responder.
pub struct RawRequest {
    /// The question.
    pub message: Message,
    /// Takes the answer.
    pub answer: Box<dyn AnswerDriver>,
}

/// An open responder.
#[async_trait]
pub trait ResponderDriver: Send {
    /// The next question; waits for as long as it takes.
    async fn next(&mut self) -> Result<RawRequest>;
}

/// The way back to who asked.
#[async_trait]
pub trait AnswerDriver: Send {
    /// Sends the answer. `Ok` means that it was sent: who asked may have stopped waiting. The
    /// answer's subject is of no meaning.
    async fn send(self: Box<Self>, answer: Message) -> Result<()>;
}

/// A message that was handed to a consumer, with the lease to settle it by.
#[derive(Debug, Clone)]
pub struct RawDelivery {
    /// The message.
    pub message: StoredMessage,
    /// 1 for the first delivery, and one more for each that follows.
    pub attempt: u32,
    /// When the lease ends, by this process' clock.
    pub expires: Instant,
    /// What [`ConsumerDriver::settle`] takes; plain text that may travel to another process.
    pub token: LeaseToken,
}

/// Names one delivery of one message to one consumer, in the backend's own words. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LeaseToken(Text);

impl LeaseToken {
    /// The token as text, which [`LeaseToken::from`] takes back.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A token that a backend received; kept without a copy.
    pub fn received(token: ByteString) -> Self {
        Self(Text::from(token))
    }
}

impl From<&str> for LeaseToken {
    fn from(token: &str) -> Self {
        Self(Text::from(token))
    }
}

impl From<String> for LeaseToken {
    fn from(token: String) -> Self {
        Self(Text::from(token))
    }
}

/// What becomes of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Done: never delivered again. Twice is as good as once.
    Ack,
    /// Deliver again, not before this long from now.
    Retry(Duration),
    /// Never deliver again, for this reason.
    Reject(String),
    /// The work goes on: start the lease anew.
    Extend,
}

/// A bound consumer.
#[async_trait]
pub trait ConsumerDriver: Send + Sync {
    /// Up to `max` deliveries in stream order (redeliveries first), waiting up to `wait` for the
    /// first and not for more. Empty after `wait` is normal. Survives a restart of the backend by
    /// itself: [`crate::ErrorKind::Unavailable`] says it is away, the next call tries again.
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<RawDelivery>>;

    /// Acks without a confirmation and without waiting. `None` when that cannot be done at this
    /// moment: [`ConsumerDriver::settle`] it then.
    fn ack_now(&self, token: &LeaseToken) -> Option<Result<()>>;

    /// Settles a delivery. With `confirm`, `Ok` means that the backend has recorded it and has a
    /// consumer to record it on; without, that it was sent. A token of an earlier delivery of the
    /// same message is [`crate::ErrorKind::Stale`] where the backend can tell.
    async fn settle(&self, token: &LeaseToken, how: &Settlement, confirm: bool) -> Result<()>;
}

/// An open reader.
#[async_trait]
pub trait ReaderDriver: Send {
    /// Up to `max` messages in stream order, waiting up to `wait` for the first. Goes on by
    /// itself where it stopped when the backend was away. [`crate::ErrorKind::NotFound`] when the
    /// stream is gone.
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<StoredMessage>>;
}

/// What a watch reports.
#[derive(Debug, Clone, PartialEq)]
pub enum KvChange {
    /// The key has this value.
    Put(Entry),
    /// The key was deleted.
    Delete {
        /// The key.
        key: Subject,
        /// The revision of the deletion.
        revision: u64,
    },
    /// Everything that was there when the watch began has been reported. Comes once.
    Synced,
}

/// An open bucket.
#[async_trait]
pub trait KvDriver: Send + Sync {
    /// The entry, if the key has one.
    async fn get(&self, key: &Subject) -> Result<Option<Entry>>;

    /// Writes whatever stands there. Returns the new revision.
    async fn put(&self, key: &Subject, value: bytes::Bytes) -> Result<u64>;

    /// Writes if the key has no value (`revision` 0) or has exactly `revision`; otherwise
    /// [`crate::ErrorKind::Conflict`].
    async fn update(&self, key: &Subject, value: bytes::Bytes, revision: u64) -> Result<u64>;

    /// Deletes the key, if it still has `revision` where one is given. A missing key is `Ok`
    /// without a revision and a conflict with one.
    async fn delete(&self, key: &Subject, revision: Option<u64>) -> Result<()>;

    /// Every entry that matches, sorted by key: complete, or an error.
    async fn entries(&self, filter: &SubjectFilter) -> Result<Vec<Entry>>;

    /// Opens a watch on the keys that match: current entries, then [`KvChange::Synced`], then
    /// every change in order. It resumes by itself and repeats no revision.
    async fn watch(&self, filter: &SubjectFilter) -> Result<Box<dyn WatchDriver>>;
}

/// An open watch.
#[async_trait]
pub trait WatchDriver: Send {
    /// The next change; waits for as long as it takes. [`crate::ErrorKind::NotFound`] when the
    /// bucket is gone.
    async fn next(&mut self) -> Result<KvChange>;
}
