//! The entrance: a backend chosen by URL, and the nouns that hang on it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::capability::{Capability, Support};
use crate::config::{BucketConfig, ConsumerConfig, ConsumerInfo, Start, StreamConfig};
use crate::consumer::{Consumer, ConsumerBuilder};
use crate::driver::Driver;
use crate::engine::dead_letter::Origin;
use crate::error::{Error, Result, require};
use crate::handles::redrive::DeadLetters;
use crate::kv::KeyValue;
use crate::message::Message;
use crate::middleware::{Layers, Middleware};
use crate::name::{BucketName, ConsumerName, StreamName, SubjectFilter};
use crate::request::Responder;
use crate::stream::Stream;
use crate::unit::UnitBuilder;

/// A connection to a backend. Cheap to clone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// let bus = bus::Bus::connect("embedded:").await?;
/// bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// assert_eq!(bus.stream("orders").await?.name().as_str(), "orders");
/// assert!(bus.stream("bills").await.err().is_some_and(|error| error.is_not_found()));
/// bus.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Bus {
    driver: Arc<dyn Driver>,
    layers: Layers,
}

impl Bus {
    /// A bus on a backend made elsewhere: a third party's, or a wrapped one.
    pub fn with_driver(driver: Arc<dyn Driver>) -> Self {
        Self { driver, layers: Layers::default() }
    }

    /// The same bus with `middleware` around every publish through it and every handling of its
    /// consumers, inside of those it has. What was opened before stays as it is.
    #[must_use]
    pub fn with_middleware(self, middleware: impl Middleware) -> Self {
        let layers = self.layers.with(Arc::new(middleware));
        Self { layers, ..self }
    }

    /// The same bus, with its middlewares, on another backend.
    #[cfg(feature = "fault")]
    pub(crate) fn on_driver(self, driver: Arc<dyn Driver>) -> Self {
        Self { driver, ..self }
    }

    /// The backend underneath, for adapters that wrap one.
    pub fn driver(&self) -> Arc<dyn Driver> {
        self.driver.clone()
    }

    /// The backend's name, for example `nats://`.
    pub fn backend(&self) -> &'static str {
        self.driver.name()
    }

    /// How the backend provides a capability.
    pub fn support(&self, capability: Capability) -> Support {
        self.driver.support(capability)
    }

    /// A stream that exists; [`crate::ErrorKind::NotFound`] otherwise.
    pub async fn stream(&self, name: impl AsRef<str>) -> Result<Stream> {
        let name = StreamName::new(name)?;
        self.driver.stream_info(&name).await?;
        Ok(Stream::new(self.driver.clone(), self.layers.clone(), name))
    }

    /// Creates the stream or updates what may be updated, so that it is as `config` says: for
    /// whoever declares what a bus holds. A program that only needs the stream to be there uses
    /// [`Bus::create_stream_if_missing`]. Doing it twice changes nothing; an immutable difference
    /// is [`crate::ErrorKind::Mismatch`] and names it.
    pub async fn ensure_stream(&self, config: &StreamConfig) -> Result<Stream> {
        self.driver.ensure_stream(config).await?;
        Ok(Stream::new(self.driver.clone(), self.layers.clone(), config.name.clone()))
    }

    /// A stream that is known to be there.
    pub(crate) fn known_stream(&self, name: &StreamName) -> Stream {
        Stream::new(self.driver.clone(), self.layers.clone(), name.clone())
    }

    /// True where the backend splits streams: who keeps the messages of a key together does it so.
    pub(crate) fn splits(&self) -> bool {
        self.support(Capability::KeyAffinity) != Support::Unsupported
    }

    /// Removes a stream with its messages and consumers.
    pub async fn delete_stream(&self, name: impl AsRef<str>) -> Result<()> {
        self.driver.delete_stream(&StreamName::new(name)?).await
    }

    /// Describes a durable consumer of a stream, to open or to run.
    pub fn consumer(&self, stream: impl AsRef<str>, name: impl AsRef<str>) -> ConsumerBuilder {
        let (stream, name) = (StreamName::new(stream), ConsumerName::new(name));
        ConsumerBuilder::new(self.driver.clone(), self.layers.clone(), stream, name)
    }

    /// Creates a consumer, or checks it against the configuration, without binding it.
    pub async fn ensure_consumer(
        &self,
        stream: impl AsRef<str>,
        config: &ConsumerConfig,
    ) -> Result<ConsumerInfo> {
        self.driver.ensure_consumer(&StreamName::new(stream)?, config).await
    }

    /// Binds a consumer that exists; [`crate::ErrorKind::NotFound`] otherwise.
    pub async fn bind(&self, stream: impl AsRef<str>, name: impl AsRef<str>) -> Result<Consumer> {
        let origin = Origin::new(stream, name)?;
        Consumer::bind(self.driver.clone(), self.layers.clone(), origin, 0).await
    }

    /// A consumer as it is now; [`crate::ErrorKind::NotFound`] when there is none.
    pub async fn consumer_info(
        &self,
        stream: impl AsRef<str>,
        name: impl AsRef<str>,
    ) -> Result<ConsumerInfo> {
        self.driver.consumer_info(&StreamName::new(stream)?, &ConsumerName::new(name)?).await
    }

    /// Every consumer of a stream, sorted by name.
    pub async fn consumers(&self, stream: impl AsRef<str>) -> Result<Vec<ConsumerInfo>> {
        self.driver.consumers(&StreamName::new(stream)?).await
    }

    /// Removes a consumer and its position; a missing one is [`crate::ErrorKind::NotFound`].
    pub async fn delete_consumer(
        &self,
        stream: impl AsRef<str>,
        name: impl AsRef<str>,
    ) -> Result<()> {
        self.driver.delete_consumer(&StreamName::new(stream)?, &ConsumerName::new(name)?).await
    }

    /// Hands out nothing to the consumer before `until`, in any process. Deliveries that are out
    /// may still be settled. [`Bus::resume`] ends it sooner.
    pub async fn pause(
        &self,
        stream: impl AsRef<str>,
        consumer: impl AsRef<str>,
        until: SystemTime,
    ) -> Result<()> {
        let (stream, consumer) = (StreamName::new(stream)?, ConsumerName::new(consumer)?);
        self.driver.pause_consumer(&stream, &consumer, Some(until)).await
    }

    /// Ends a pause; without one nothing changes.
    pub async fn resume(&self, stream: impl AsRef<str>, consumer: impl AsRef<str>) -> Result<()> {
        let (stream, consumer) = (StreamName::new(stream)?, ConsumerName::new(consumer)?);
        self.driver.pause_consumer(&stream, &consumer, None).await
    }

    /// Moves the consumer back or forth: what it had settled or has out is forgotten, and it goes
    /// on at `to`. What is at work at this moment is done once more; settling it is
    /// [`crate::ErrorKind::Stale`] where the backend can tell.
    pub async fn seek(
        &self,
        stream: impl AsRef<str>,
        consumer: impl AsRef<str>,
        to: Start,
    ) -> Result<()> {
        let (stream, consumer) = (StreamName::new(stream)?, ConsumerName::new(consumer)?);
        self.driver.seek_consumer(&stream, &consumer, to).await
    }

    /// The dead letters on a stream that exists, to look through and to redrive;
    /// [`crate::ErrorKind::NotFound`] otherwise.
    pub async fn dead_letters(&self, stream: impl AsRef<str>) -> Result<DeadLetters> {
        let dead = StreamName::new(stream)?;
        self.driver.stream_info(&dead).await?;
        Ok(DeadLetters::new(self.driver.clone(), self.layers.clone(), dead))
    }

    /// Begins an atomic unit: deliveries to settle and messages to publish together.
    pub fn unit(&self) -> UnitBuilder {
        UnitBuilder::new(self.driver.clone(), self.layers.clone())
    }

    /// Asks whoever answers on the message's subject and waits for the first answer, at most
    /// `wait`; then [`crate::ErrorKind::Timeout`], and [`crate::ErrorKind::NotFound`] at once when
    /// nobody listens. Nothing is stored.
    pub async fn request(&self, question: Message, wait: Duration) -> Result<Message> {
        self.driver.request(question, wait).await
    }

    /// Answers questions on the subjects that match; those who give the same `group` share them.
    pub async fn responder(&self, filter: &str, group: impl AsRef<str>) -> Result<Responder> {
        let (filter, group) = (SubjectFilter::new(filter)?, ConsumerName::new(group)?);
        Ok(Responder(self.driver.responder(&filter, &group).await?))
    }

    /// A bucket that exists, with all that [`KeyValue`] can do; [`crate::ErrorKind::NotFound`]
    /// otherwise, and [`crate::ErrorKind::Unsupported`] where the backend has no compare-and-set
    /// or no watch.
    pub async fn kv(&self, name: impl AsRef<str>) -> Result<KeyValue> {
        self.kv_for(name, &[Capability::KvCompareAndSet, Capability::KvWatch]).await
    }

    /// The same for a program that needs no more than `required` beside get, put and delete.
    pub async fn kv_for(&self, name: impl AsRef<str>, required: &[Capability]) -> Result<KeyValue> {
        let name = BucketName::new(name)?;
        for &capability in required {
            let support = self.driver.support(capability);
            require(self.backend(), capability, support, format!("bucket {name}"))?;
        }
        let driver = self.driver.bucket(&name).await?;
        Ok(KeyValue::new(name, driver))
    }

    /// Creates the bucket or updates what may be updated, and opens it as [`Bus::kv`] does. A
    /// program that only needs the bucket to be there uses [`Bus::create_kv_if_missing`].
    pub async fn ensure_kv(&self, config: &BucketConfig) -> Result<KeyValue> {
        self.ensure_bucket(config).await?;
        self.kv(&config.name).await
    }

    /// Creates the bucket or updates what may be updated, without opening it.
    pub async fn ensure_bucket(&self, config: &BucketConfig) -> Result<()> {
        self.driver.ensure_bucket(config).await
    }

    /// A bucket's configuration; [`crate::ErrorKind::NotFound`] when there is none.
    pub async fn bucket_info(&self, name: impl AsRef<str>) -> Result<BucketConfig> {
        self.driver.bucket_info(&BucketName::new(name)?).await
    }

    /// Removes a bucket and its entries.
    pub async fn delete_kv(&self, name: impl AsRef<str>) -> Result<()> {
        self.driver.delete_bucket(&BucketName::new(name)?).await
    }

    /// Waits until the backend has failed for good, and says why: from then on every call is
    /// [`crate::ErrorKind::Failed`], and the program ends itself to be started anew. Only
    /// `embedded:///path` can, when its disk fails; elsewhere this never returns.
    ///
    /// ```
    /// # async fn serve() {}
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), bus::Error> {
    /// let bus = bus::Bus::connect("embedded:").await?;
    /// tokio::select! {
    ///     failure = bus.failed() => Err(failure), // a main that returns it ends the process
    ///     () = serve() => Ok(()),
    /// }
    /// # }
    /// ```
    pub async fn failed(&self) -> Error {
        self.driver.failed().await
    }

    /// Waits for what is on its way, then lets go of the backend. Later calls fail with
    /// [`crate::ErrorKind::Closed`].
    pub async fn close(&self) -> Result<()> {
        self.driver.close().await
    }
}
