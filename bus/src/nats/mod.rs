//! NATS JetStream.
//!
//! A stream is a JetStream stream, a consumer a durable pull consumer with explicit acks, a bucket
//! a JetStream key-value bucket that other NATS clients can use too. What the server does not know
//! travels in two headers, `Lg-Tombstone` and `Lg-Key`; they, and those that begin with `Nats-`,
//! are refused on a message and taken out of what arrives. What waits for its time lies in its
//! stream under `lg-delay.<stream>.`, hidden from readers; `messages` and `bytes` count it.

mod arena;
mod arrival;
mod commit;
mod connect;
mod consumers;
mod convert;
mod count;
mod create;
mod direct;
mod facts;
mod failure;
mod feed;
mod fence;
mod kv;
mod link;
mod made;
mod places;
mod publisher;
mod pull;
mod puller;
mod reader;
mod recover;
mod request;
mod schedule;
mod seek;
mod settle;
mod state;
mod streams;
mod subjects;
mod tickets;
mod watch;
mod window;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::capability::{Capability, Support};
use crate::config::{BucketConfig, ConsumerConfig, ConsumerInfo, Start, StreamConfig, StreamInfo};
use crate::creation::Creation;
use crate::driver::Committed;
use crate::driver::{ConsumerDriver, Driver, KvDriver, ReaderDriver, ResponderDriver, Tell, Unit};
use crate::error::{Error, Result};
use crate::message::{Message, StoredMessage};
use crate::name::{BucketName, ConsumerName, StreamName, Subject, SubjectFilter};
use crate::options::ConnectOptions;
use crate::publish::PendingReceipt;
pub use connect::{api_prefix, client_options};
use feed::Feed;
use link::{Link, REQUEST_LIMIT};
use publisher::Publisher;

/// The NATS backend: one connection, which reconnects for as long as this lives.
///
/// ```
/// use std::sync::Arc;
///
/// use bus::nats::Nats;
/// use bus::{Bus, ConnectOptions, ErrorKind, Result};
///
/// // As `Bus::connect("nats://...")` does; by hand to wrap it in something, for example.
/// async fn connect(url: &str) -> Result<Bus> {
///     Ok(Bus::with_driver(Arc::new(Nats::connect(url, &ConnectOptions::default()).await?)))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let refused = connect("nats://anna:secret@127.0.0.1:4222").await.err();
/// assert_eq!(refused.map(|error| error.kind()), Some(ErrorKind::Invalid), "no secrets in URLs");
/// # }
/// ```
pub struct Nats {
    link: Arc<Link>,
    publisher: Arc<Publisher>,
    last_end: state::LastEnd,
    janitor: Mutex<Option<JoinHandle<()>>>,
}

impl Nats {
    /// Connects to the first server that answers within five seconds, otherwise
    /// [`crate::ErrorKind::Unavailable`]. `url` is `nats://host:port[,host:port...]`, or `tls://`
    /// to insist on TLS; refused credentials are [`crate::ErrorKind::Invalid`].
    pub async fn connect(url: &str, options: &ConnectOptions) -> Result<Self> {
        let (link, leftovers) = Link::new(connect::connect(url, options).await?);
        let link = Arc::new(link);
        let publisher = Arc::new(Publisher::start(link.clone()).await?);
        let janitor = Mutex::new(Some(tokio::spawn(remove(link.clone(), leftovers))));
        Ok(Self { link, publisher, last_end: state::LastEnd::default(), janitor })
    }
}

/// Removes ephemeral consumers whose owner was dropped.
async fn remove(link: Arc<Link>, mut leftovers: mpsc::Receiver<String>) {
    while let Some(consumer) = leftovers.recv().await {
        let subject = link.api_subject(&format!("CONSUMER.DELETE.{consumer}"));
        // A failure is harmless: the server removes an inactive one by itself.
        let _ = link.client.publish(subject, bytes::Bytes::new()).await;
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        if let Some(janitor) = self.janitor.lock().unwrap_or_else(PoisonError::into_inner).take() {
            janitor.abort();
        }
    }
}

/// What JetStream gives: the table in the documentation is made of this.
pub(crate) fn support(capability: Capability) -> Support {
    match capability {
        Capability::KeyAffinity => Support::Unsupported,
        Capability::MessageSettle
        | Capability::RemoteSettle
        | Capability::AttemptCount
        | Capability::WorkQueue
        | Capability::ExactLimits
        | Capability::SelectivePurge
        | Capability::LeaseExtension
        | Capability::RetryDelay
        | Capability::Deduplication
        | Capability::ConditionalPublish
        | Capability::Rollup
        | Capability::AtomicPublish
        | Capability::SubjectFilter
        | Capability::StateAtSequence
        | Capability::Counting
        | Capability::DelayedDelivery
        | Capability::RequestReply
        | Capability::KvCompareAndSet
        | Capability::KvWatch => Support::Native,
    }
}

#[async_trait]
impl Driver for Nats {
    fn name(&self) -> &'static str {
        "nats://"
    }

    fn support(&self, capability: Capability) -> Support {
        support(capability)
    }

    async fn create_stream(&self, config: &StreamConfig) -> Result<Creation<StreamInfo>> {
        create::create(&self.link, config).await
    }

    async fn ensure_stream(&self, config: &StreamConfig) -> Result<StreamInfo> {
        streams::ensure(&self.link, config).await
    }

    async fn stream_info(&self, stream: &StreamName) -> Result<StreamInfo> {
        streams::info(&self.link, stream).await
    }

    async fn delete_stream(&self, stream: &StreamName) -> Result<()> {
        streams::delete(&self.link, stream).await
    }

    async fn purge(&self, stream: &StreamName, filter: &SubjectFilter) -> Result<u64> {
        streams::purge(&self.link, stream, filter).await
    }

    async fn submit(&self, stream: &StreamName, message: Message) -> Result<PendingReceipt> {
        self.publisher.submit(stream, message).await
    }

    async fn get(&self, stream: &StreamName, sequence: u64) -> Result<Option<StoredMessage>> {
        let found = direct::get(&self.link, stream, &json!({ "seq": sequence.max(1) })).await?;
        // The server reads 0 as "none given", and has what waits for its time at a sequence too.
        let there = |raw: &direct::Raw| {
            raw.sequence == sequence && !schedule::is_waiting(stream, &raw.subject)
        };
        Ok(found.filter(there).map(direct::Raw::into_stored))
    }

    async fn subjects(&self, stream: &StreamName, filter: &SubjectFilter) -> Result<Vec<Subject>> {
        subjects::list(&self.link, stream, filter).await
    }

    async fn last_at(
        &self,
        stream: &StreamName,
        subjects: &[Subject],
        up_to: u64,
    ) -> Result<Vec<StoredMessage>> {
        state::last_at(&self.link, &self.last_end, stream, subjects, up_to).await
    }

    async fn count(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        after: u64,
    ) -> Result<u64> {
        count::count(&self.link, stream, filters, after).await
    }

    async fn state(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        up_to: u64,
        tell: &mut Tell<'_>,
    ) -> Result<()> {
        places::state(&self.link, &self.last_end, stream, filters, up_to, tell).await
    }

    async fn reader(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        start: Start,
    ) -> Result<Box<dyn ReaderDriver>> {
        let feed = Feed::open(self.link.clone(), stream, filters, start).await?;
        Ok(Box::new(reader::Reader(feed)))
    }

    async fn ensure_consumer(
        &self,
        stream: &StreamName,
        config: &ConsumerConfig,
    ) -> Result<ConsumerInfo> {
        consumers::ensure(&self.link, stream, config).await
    }

    async fn consumer_info(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
    ) -> Result<ConsumerInfo> {
        consumers::info(&self.link, stream, consumer).await
    }

    async fn consumers(&self, stream: &StreamName) -> Result<Vec<ConsumerInfo>> {
        consumers::list(&self.link, stream).await
    }

    async fn delete_consumer(&self, stream: &StreamName, consumer: &ConsumerName) -> Result<()> {
        consumers::delete(&self.link, stream, consumer).await
    }

    async fn bind(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        prefetch: usize,
    ) -> Result<Arc<dyn ConsumerDriver>> {
        Ok(Arc::new(pull::Pull::bind(self.link.clone(), stream, consumer, prefetch).await?))
    }

    async fn pause_consumer(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        until: Option<SystemTime>,
    ) -> Result<()> {
        consumers::pause(&self.link, stream, consumer, until).await
    }

    async fn seek_consumer(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        to: Start,
    ) -> Result<()> {
        seek::seek(&self.link, stream, consumer, to).await
    }

    async fn commit(&self, unit: &Unit) -> Result<Committed> {
        commit::commit(self, unit).await
    }

    async fn request(&self, question: Message, wait: Duration) -> Result<Message> {
        request::request(&self.link, question, wait).await
    }

    async fn responder(
        &self,
        filter: &SubjectFilter,
        group: &ConsumerName,
    ) -> Result<Box<dyn ResponderDriver>> {
        Ok(Box::new(request::Responder::open(self.link.clone(), filter, group).await?))
    }

    async fn create_bucket(&self, config: &BucketConfig) -> Result<Creation<BucketConfig>> {
        kv::create(&self.link, config).await
    }

    async fn ensure_bucket(&self, config: &BucketConfig) -> Result<()> {
        kv::ensure(&self.link, config).await
    }

    async fn bucket_info(&self, bucket: &BucketName) -> Result<BucketConfig> {
        kv::info(&self.link, bucket).await
    }

    async fn bucket(&self, bucket: &BucketName) -> Result<Arc<dyn KvDriver>> {
        let (link, publisher) = (self.link.clone(), self.publisher.clone());
        Ok(Arc::new(kv::Bucket::open(link, publisher, bucket).await?))
    }

    async fn delete_bucket(&self, bucket: &BucketName) -> Result<()> {
        kv::delete(&self.link, bucket).await
    }

    /// Never: the servers are elsewhere, and are connected to again.
    async fn failed(&self) -> Error {
        std::future::pending().await
    }

    async fn close(&self) -> Result<()> {
        self.publisher.close().await;
        self.link.close();
        let janitor = self.janitor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(janitor) = janitor {
            janitor.abort();
            let _ = janitor.await;
        }
        // Acks that were sent without a confirmation are still in the client's buffer.
        let _ = tokio::time::timeout(REQUEST_LIMIT, self.link.client.flush()).await;
        let _ = tokio::time::timeout(REQUEST_LIMIT, self.link.client.drain()).await;
        Ok(())
    }
}
