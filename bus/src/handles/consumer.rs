//! A durable consumer: built, bound, fetched from.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::capability::Capability;
use crate::config::{ConsumerConfig, ConsumerInfo, Start};
use crate::driver::{Driver, LeaseToken, Settlement};
use crate::engine::dead_letter::{ATTEMPTS_METADATA, Origin, Policy, TARGET_METADATA};
use crate::engine::delivery::{Bound, Delivery, Screened};
use crate::error::{Result, require};
use crate::handles::create::keeping_limits;
use crate::middleware::{Layers, Middleware};
use crate::name::{ConsumerName, StreamName, SubjectFilter};

/// Describes a durable consumer; [`ConsumerBuilder::open`] or [`ConsumerBuilder::run`] makes it
/// so. A name or filter that does not parse is reported there, once.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// use std::time::Duration;
///
/// let billing = bus
///     .consumer("orders", "billing")
///     .filter("orders.created")
///     .ack_wait(Duration::from_secs(60))
///     .max_unsettled(100)
///     .open()
///     .await?;
/// assert_eq!(billing.ack_wait(), Duration::from_secs(60));
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct ConsumerBuilder {
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) layers: Layers,
    pub(crate) stream: Result<StreamName>,
    pub(crate) config: Result<ConsumerConfig>,
    pub(crate) required: Vec<Capability>,
    pub(crate) prefetch: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) backoff: crate::backoff::Backoff,
    pub(crate) by_key: bool,
    pub(crate) drain: Duration,
}

impl ConsumerBuilder {
    pub(crate) fn new(
        driver: Arc<dyn Driver>,
        layers: Layers,
        stream: Result<StreamName>,
        name: Result<ConsumerName>,
    ) -> Self {
        Self {
            driver,
            layers,
            stream,
            config: name.map(ConsumerConfig::new),
            required: Vec::new(),
            prefetch: 0,
            max_in_flight: 64,
            backoff: crate::backoff::Backoff::default(),
            by_key: false,
            drain: Duration::from_secs(30),
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

    /// At most this many unsettled deliveries over all processes (default 1000); on Kafka, over
    /// all that consume through one connection.
    pub fn max_unsettled(self, max: u32) -> Self {
        self.change(|config| config.max_unsettled = max)
    }

    /// At most this many deliveries of one message (default: no limit). Then it is given up: with
    /// [`ConsumerBuilder::dead_letters`] a copy is kept, without it is lost.
    pub fn max_attempts(self, max: u32) -> Self {
        self.change(|config| config.max_attempts = Some(max))
    }

    /// Keeps a copy of every message that is given up on this stream: one that was rejected, that
    /// cannot be read as the handler's argument, or whose attempts are used up.
    ///
    /// The copy is durable before the message is settled; while it cannot be published the message
    /// is not given up, and is tried again after the backoff. It goes to
    /// `<dead letters>.<stream>.<consumer>` with the original key, body and headers, and with
    /// `Dead-Letter-` headers that say where it died and of what: see [`crate::DeadLetter`]. A
    /// stream made with [`StreamConfig::dead_letters`](crate::StreamConfig::dead_letters) takes
    /// it; one that does not exist or does not capture that subject is refused when the consumer
    /// is opened.
    ///
    /// The backend is told of no limit on attempts then, because it would end deliveries in
    /// silence: the loop and [`Consumer::fetch`] keep it. A message that arrives with its attempts
    /// used up, because its handlers crashed, becomes a dead letter and is not handed out.
    pub fn dead_letters(mut self, stream: impl AsRef<str>) -> Self {
        self.config = self.config.and_then(|mut config| {
            let dead = StreamName::new(stream)?;
            config.metadata.insert(String::from(TARGET_METADATA), dead.to_string());
            Ok(config)
        });
        self
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

    /// Keeps order per key ([`StoredMessage::order_key`](crate::StoredMessage::order_key)) in
    /// [`ConsumerBuilder::run`], while different keys are handled at the same time.
    ///
    /// At most one message of a key is at work, and the next one begins when it is settled for
    /// good: acked, rejected or a dead letter. A message that fails is tried again in this process
    /// after the backoff, its attempts counted up, and holds its key meanwhile; others go on.
    /// Messages that wait for their turn are held under extended leases, at most
    /// [`ConsumerBuilder::max_unsettled`] of them. [`ConsumerBuilder::prefetch`] is not used. An
    /// attempt is a delivery or a local retry, so that a message which waited in line when its
    /// process died shows a higher one; what only ever stood behind another is not given up for
    /// it.
    ///
    /// It holds over crashes and with any number of processes. Where the backend gives each key to
    /// one process ([`Capability::KeyAffinity`]) they share the work. Elsewhere one of them works,
    /// and the others wait to take over: it owns the consumer by a lease in a bucket
    /// (`bus-owners`, made when it is missing), as long as the ack wait and at most 30 s, and a new
    /// owner begins when what the one before had out has come again. Everybody who consumes under
    /// this name must do so by key: who fetches besides breaks the order.
    pub fn ordered_by_key(mut self) -> Self {
        self.by_key = true;
        self
    }

    /// How long [`ConsumerBuilder::run`] lets handlers finish on shutdown (default 30 s). Those
    /// that take longer are aborted, and their messages come again when their leases end.
    pub fn drain_within(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Puts a middleware around the handler of [`ConsumerBuilder::run`], inside of those of the
    /// bus.
    pub fn layer(mut self, middleware: impl Middleware) -> Self {
        self.layers = self.layers.with(Arc::new(middleware));
        self
    }

    /// Creates the consumer if it is missing, checks it against this description if it exists,
    /// and binds it. An immutable difference is [`crate::ErrorKind::Mismatch`], an unmet
    /// requirement [`crate::ErrorKind::Unsupported`]; nothing is silently downgraded.
    ///
    /// One that exists keeps its ack wait and its limit on unsettled deliveries, with a warning
    /// where they are others: an operator may have declared them, and [`crate::Bus::ensure_consumer`] or a
    /// topology file changes them.
    pub async fn open(self) -> Result<Consumer> {
        self.validate()?.open().await
    }

    /// What can be checked without the backend.
    pub(crate) fn validate(self) -> Result<Opening> {
        let Self { driver, layers, prefetch, .. } = self;
        let (stream, mut config) = (self.stream?, self.config?);
        let origin = Origin { stream, consumer: config.name.clone() };
        for capability in self.required {
            let who = format!("consumer {} on stream {}", origin.consumer, origin.stream);
            require(driver.name(), capability, driver.support(capability), who)?;
        }
        if config.metadata.contains_key(TARGET_METADATA)
            && let Some(max) = config.max_attempts.take()
        {
            config.metadata.insert(String::from(ATTEMPTS_METADATA), max.to_string());
        }
        let prefetch = if self.by_key { 0 } else { prefetch };
        Ok(Opening { driver, layers, origin, config, prefetch })
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
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) layers: Layers,
    pub(crate) origin: Origin,
    pub(crate) config: ConsumerConfig,
    prefetch: usize,
}

impl Opening {
    pub(crate) async fn open(&self) -> Result<Consumer> {
        self.ensure().await?;
        self.bind().await
    }

    /// Creates the consumer if it is missing, or checks it.
    pub(crate) async fn ensure(&self) -> Result<()> {
        if let Some(policy) = Policy::read(&self.config.metadata) {
            policy.check(self.driver.as_ref(), &self.origin).await?;
        }
        let Origin { stream, consumer } = &self.origin;
        let wanted = match self.driver.consumer_info(stream, consumer).await {
            Ok(info) => keeping_limits(&info.config, &self.config, &self.origin),
            Err(error) if error.is_not_found() => self.config.clone(),
            Err(error) => return Err(error),
        };
        self.driver.ensure_consumer(stream, &wanted).await?;
        Ok(())
    }

    pub(crate) async fn bind(&self) -> Result<Consumer> {
        let (driver, layers) = (self.driver.clone(), self.layers.clone());
        Consumer::bind(driver, layers, self.origin.clone(), self.prefetch).await
    }
}

/// A bound durable consumer. Cheap to clone; clones compete for the same messages.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// use std::time::Duration;
///
/// orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// let billing = bus.consumer("orders", "billing").open().await?;
/// for delivery in billing.fetch(10, Duration::from_secs(1)).await? {
///     delivery.ack_confirmed().await?;
/// }
/// assert_eq!(billing.info().await?.settled_sequence, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Consumer {
    bound: Arc<Bound>,
}

impl Consumer {
    pub(crate) async fn bind(
        driver: Arc<dyn Driver>,
        layers: Layers,
        origin: Origin,
        prefetch: usize,
    ) -> Result<Self> {
        let config = driver.consumer_info(&origin.stream, &origin.consumer).await?.config;
        let via = driver.bind(&origin.stream, &origin.consumer, prefetch).await?;
        let (ack_wait, policy) = (config.ack_wait, Policy::read(&config.metadata));
        Ok(Self { bound: Arc::new(Bound { driver, layers, via, origin, ack_wait, policy }) })
    }

    /// The consumer's name.
    pub fn name(&self) -> &ConsumerName {
        &self.bound.origin.consumer
    }

    /// The stream it reads.
    pub fn stream(&self) -> &StreamName {
        &self.bound.origin.stream
    }

    /// How long a lease lasts.
    pub fn ack_wait(&self) -> Duration {
        self.bound.ack_wait
    }

    /// The consumer as it is now. Costs a request: not for a tight loop.
    pub async fn info(&self) -> Result<ConsumerInfo> {
        self.bound.driver.consumer_info(self.stream(), self.name()).await
    }

    /// Up to `max` deliveries, waiting up to `wait` for the first and not for more; empty when
    /// none came. Redeliveries come before new messages. Dropping the future may leave fetched
    /// deliveries to their leases: they come again.
    ///
    /// What was redriven for a consumer of another name is acked and passed over, and so, of a
    /// consumer with dead letters, is a message whose attempts are used up, once it is one.
    pub async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let deadline = Instant::now().checked_add(wait);
        let mut left = wait;
        loop {
            let fetched = self.fetch_unscreened(max, left).await?;
            let arrived = fetched.len();
            let deliveries = screened(fetched).await;
            left = deadline.map_or(wait, |until| until.saturating_duration_since(Instant::now()));
            if arrived == 0 || !deliveries.is_empty() || left.is_zero() {
                return Ok(deliveries);
            }
        }
    }

    /// As [`Consumer::fetch`], with what is not to be handed out.
    pub(crate) async fn fetch_unscreened(
        &self,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>> {
        let fetched = self.bound.via.fetch(max, wait).await?;
        let deliver = |raw| Delivery::new(raw, self.bound.clone());
        Ok(fetched.into_iter().map(deliver).collect())
    }

    /// Settles a delivery by its token, which may come from another process where the backend has
    /// [`Capability::RemoteSettle`]; recorded by the backend when this returns. The caller answers
    /// for the lease being still its own.
    pub async fn settle(&self, token: &LeaseToken, how: Settlement) -> Result<()> {
        self.bound.via.settle(token, &how, true).await
    }
}

/// Takes out what is not to be handed out. What cannot be settled now comes again.
async fn screened(deliveries: Vec<Delivery>) -> Vec<Delivery> {
    if deliveries.iter().all(|delivery| matches!(delivery.screen(), Screened::Handle)) {
        return deliveries;
    }
    let mut kept = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        let sequence = delivery.message().sequence;
        let settled = match delivery.screen() {
            Screened::Handle => {
                kept.push(delivery);
                continue;
            }
            Screened::Skip => delivery.ack_confirmed().await,
            Screened::GiveUp(reason) => delivery.dead_letter(reason).await,
        };
        if let Err(failed) = settled {
            tracing::warn!(sequence, error = %failed.error, "not given up, it comes again");
        }
    }
    kept
}
