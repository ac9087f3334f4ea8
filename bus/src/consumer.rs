//! A durable consumer: built, bound, fetched from.

use std::sync::Arc;
use std::time::Duration;

use crate::capability::{Capability, require};
use crate::config::{ConsumerConfig, ConsumerInfo, Start};
use crate::delivery::{Delivery, Origin};
use crate::driver::{ConsumerDriver, Driver, LeaseToken, Settlement};
use crate::error::Result;
use crate::name::{ConsumerName, StreamName, SubjectFilter};

/// Describes a durable consumer; [`ConsumerBuilder::open`] or [`ConsumerBuilder::run`] makes it
/// so. A name or filter that does not parse is reported there, once.
#[must_use]
pub struct ConsumerBuilder {
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) stream: Result<StreamName>,
    pub(crate) config: Result<ConsumerConfig>,
    pub(crate) required: Vec<Capability>,
    pub(crate) prefetch: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) backoff: crate::backoff::Backoff,
}

impl ConsumerBuilder {
    pub(crate) fn new(
        driver: Arc<dyn Driver>,
        stream: Result<StreamName>,
        name: Result<ConsumerName>,
    ) -> Self {
        Self {
            driver,
            stream,
            config: name.map(ConsumerConfig::new),
            required: Vec::new(),
            prefetch: 0,
            max_in_flight: 64,
            backoff: crate::backoff::Backoff::default(),
        }
    }

    /// Gets only what matches; call it again for a further filter. Filters must not overlap.
    pub fn filter(mut self, filter: &str) -> Self {
        self.config = self.config.and_then(|mut config| {
            config.filters.push(SubjectFilter::new(filter)?);
            Ok(config)
        });
        self
    }

    /// Where a new consumer begins (default: at the beginning). Fixed at creation.
    pub fn start(self, start: Start) -> Self {
        self.change(|config| config.start = start)
    }

    /// How long a lease lasts (default 30 s).
    pub fn ack_wait(self, ack_wait: Duration) -> Self {
        self.change(|config| config.ack_wait = ack_wait)
    }

    /// At most this many unsettled deliveries over all processes (default 1000).
    pub fn max_unsettled(self, max: u32) -> Self {
        self.change(|config| config.max_unsettled = max)
    }

    /// At most this many deliveries of one message (default: no limit).
    pub fn max_attempts(self, max: u32) -> Self {
        self.change(|config| config.max_attempts = Some(max))
    }

    /// Free text that the backend keeps with the consumer.
    pub fn metadata(self, name: &str, value: &str) -> Self {
        self.change(|config| {
            config.metadata.insert(name.to_owned(), value.to_owned());
        })
    }

    /// Refuses to open on a backend that cannot do this.
    pub fn requires(mut self, capability: Capability) -> Self {
        self.required.push(capability);
        self
    }

    /// How many deliveries may wait in this process, their leases running (default 0: fetch asks
    /// for what it was asked for). A few hundred make a busy consumer fast.
    pub fn prefetch(mut self, deliveries: usize) -> Self {
        self.prefetch = deliveries;
        self
    }

    /// How many handlers [`ConsumerBuilder::run`] has at work at once (default 64).
    pub fn max_in_flight(mut self, handlers: usize) -> Self {
        self.max_in_flight = handlers.max(1);
        self
    }

    /// How long [`ConsumerBuilder::run`] waits before a failed message is delivered again.
    pub fn retry(mut self, backoff: crate::backoff::Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Creates the consumer if it is missing, checks it against this description if it exists,
    /// and binds it. An immutable difference is [`crate::ErrorKind::Mismatch`], an unmet
    /// requirement [`crate::ErrorKind::Unsupported`]; nothing is silently downgraded.
    pub async fn open(self) -> Result<Consumer> {
        self.validate()?.open().await
    }

    /// What can be checked without the backend.
    pub(crate) fn validate(self) -> Result<Opening> {
        let Self { driver, prefetch, .. } = self;
        let (stream, config) = (self.stream?, self.config?);
        for capability in self.required {
            let who = format!("consumer {} on stream {stream}", config.name);
            require(driver.name(), capability, driver.support(capability), who)?;
        }
        Ok(Opening { driver, stream, config, prefetch })
    }

    fn change(mut self, change: impl FnOnce(&mut ConsumerConfig)) -> Self {
        if let Ok(config) = &mut self.config {
            change(config);
        }
        self
    }
}

/// A description that holds; opening it may be tried again.
pub(crate) struct Opening {
    driver: Arc<dyn Driver>,
    stream: StreamName,
    config: ConsumerConfig,
    prefetch: usize,
}

impl Opening {
    pub(crate) async fn open(&self) -> Result<Consumer> {
        self.driver.ensure_consumer(&self.stream, &self.config).await?;
        let (driver, stream) = (self.driver.clone(), self.stream.clone());
        Consumer::bind(driver, stream, &self.config.name, self.prefetch).await
    }
}

/// A bound durable consumer. Cheap to clone; clones compete for the same messages.
#[derive(Clone)]
pub struct Consumer {
    driver: Arc<dyn Driver>,
    bound: Arc<dyn ConsumerDriver>,
    origin: Arc<Origin>,
    ack_wait: Duration,
}

impl Consumer {
    pub(crate) async fn bind(
        driver: Arc<dyn Driver>,
        stream: StreamName,
        name: &ConsumerName,
        prefetch: usize,
    ) -> Result<Self> {
        let ack_wait = driver.consumer_info(&stream, name).await?.config.ack_wait;
        let bound = driver.bind(&stream, name, prefetch).await?;
        let origin = Arc::new(Origin { stream, consumer: name.clone() });
        Ok(Self { driver, bound, origin, ack_wait })
    }

    /// The consumer's name.
    pub fn name(&self) -> &ConsumerName {
        &self.origin.consumer
    }

    /// The stream it reads.
    pub fn stream(&self) -> &StreamName {
        &self.origin.stream
    }

    /// How long a lease lasts.
    pub fn ack_wait(&self) -> Duration {
        self.ack_wait
    }

    /// The consumer as it is now. Costs a request: not for a tight loop.
    pub async fn info(&self) -> Result<ConsumerInfo> {
        self.driver.consumer_info(self.stream(), self.name()).await
    }

    /// Up to `max` deliveries, waiting up to `wait` for the first and not for more; empty when
    /// none came. Redeliveries come before new messages. Dropping the future may leave fetched
    /// deliveries to their leases: they come again.
    pub async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let fetched = self.bound.fetch(max, wait).await?;
        let deliver =
            |raw| Delivery::new(raw, self.ack_wait, self.bound.clone(), self.origin.clone());
        Ok(fetched.into_iter().map(deliver).collect())
    }

    /// Settles a delivery by its token, which may come from another process; recorded by the
    /// backend when this returns. The caller answers for the lease being still its own.
    pub async fn settle(&self, token: &LeaseToken, how: Settlement) -> Result<()> {
        self.bound.settle(token, &how, true).await
    }
}
