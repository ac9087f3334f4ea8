//! Counters and histograms by stream and consumer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::{AfterPublish, Disposition, Handling, Middleware, Publishing, Work};
use crate::error::Result;
use crate::message::{Message, Receipt};
use crate::name::{ConsumerName, StreamName};

/// The upper bounds of the histograms' buckets, in microseconds: from a publish into memory to a
/// handler that calls the other side of the world.
const BOUNDS_MICROS: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
    2_500_000, 10_000_000, 60_000_000,
];

/// Counts and times what a bus does. Cheap to clone; clones share the numbers, so one stays with
/// whoever serves [`Metrics::render`].
///
/// Recording takes a shared lock to find the stream's or consumer's numbers, and atomic additions
/// from there; the exclusive lock is taken once for each new stream or consumer.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// use bus::middleware::Metrics;
/// use bus::{Bus, Message, StreamConfig};
///
/// let metrics = Metrics::new(); // one clone goes to the bus, one to whoever is scraped
/// let bus = Bus::connect("embedded:").await?.with_middleware(metrics.clone());
/// let orders = bus.ensure_stream(&StreamConfig::parse("orders", &["orders.>"])?).await?;
/// orders.publish(Message::new("orders.created", "42")?).await?;
/// assert!(metrics.render().contains("bus_published_total{stream=\"orders\"} 1"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    series: Arc<Series>,
}

#[derive(Debug, Default)]
struct Series {
    streams: RwLock<BTreeMap<StreamName, Arc<OfStream>>>,
    consumers: RwLock<BTreeMap<StreamName, BTreeMap<ConsumerName, Arc<OfConsumer>>>>,
}

#[derive(Debug, Default)]
struct OfStream {
    published: AtomicU64,
    duplicates: AtomicU64,
    failed: AtomicU64,
    latency: Buckets,
}

#[derive(Debug, Default)]
struct OfConsumer {
    delivered: AtomicU64,
    redelivered: AtomicU64,
    acked: AtomicU64,
    retried: AtomicU64,
    rejected: AtomicU64,
    dead_lettered: AtomicU64,
    skipped: AtomicU64,
    left: AtomicU64,
    in_flight: AtomicI64,
    duration: Buckets,
}

#[derive(Debug, Default)]
struct Buckets {
    counts: [AtomicU64; BOUNDS_MICROS.len() + 1],
    nanos: AtomicU64,
}

/// All numbers at one moment. Each is exact; they are not taken at one instant between them.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let metrics = bus::middleware::Metrics::new();
/// # let bus = bus::Bus::connect("embedded:").await?.with_middleware(metrics.clone());
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// let now = metrics.snapshot();
/// assert_eq!(now.streams[orders.name()].published, 1);
/// assert!(now.consumers.is_empty(), "nobody has consumed yet");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetricsSnapshot {
    /// By stream.
    pub streams: BTreeMap<StreamName, StreamMetrics>,
    /// By stream and consumer.
    pub consumers: BTreeMap<(StreamName, ConsumerName), ConsumerMetrics>,
}

/// What was published to a stream.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let metrics = bus::middleware::Metrics::new();
/// # let bus = bus::Bus::connect("embedded:").await?.with_middleware(metrics.clone());
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// let order = bus::Message::new("orders.created", "42")?.id("order-42");
/// orders.publish(order.clone()).await?;
/// orders.publish(order).await?;
/// let of = &metrics.snapshot().streams[orders.name()];
/// assert_eq!((of.published, of.duplicates, of.failed), (2, 1, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StreamMetrics {
    /// Messages whose receipt came, duplicates included.
    pub published: u64,
    /// Of those, recognised by their id and not stored again.
    pub duplicates: u64,
    /// Messages whose publish failed.
    pub failed: u64,
    /// From handing over to the receipt, or the failure.
    pub latency: Histogram,
}

/// What a consumer's loop did.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let metrics = bus::middleware::Metrics::new();
/// # let bus = bus::Bus::connect("embedded:").await?.with_middleware(metrics.clone());
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// # let shutdown = tokio_util::sync::CancellationToken::new();
/// # let stop = shutdown.clone();
/// use std::time::Duration;
/// use bus::{ConsumerName, HandlerError, Outcome, Received};
///
/// bus.consumer("orders", "billing")
///     .run(shutdown, move |order: Received| {
///         if order.attempt == 2 {
///             stop.cancel();
///         }
///         let outcome = if order.attempt == 1 { Outcome::Retry(Duration::ZERO) } else { Outcome::Ack };
///         async { Ok::<_, HandlerError>(outcome) }
///     })
///     .await?;
///
/// let of = (orders.name().clone(), ConsumerName::new("billing")?);
/// let of = &metrics.snapshot().consumers[&of];
/// assert_eq!((of.delivered, of.redelivered), (2, 1));
/// assert_eq!((of.retried, of.acked, of.in_flight), (1, 1, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConsumerMetrics {
    /// Messages given to the handler.
    pub delivered: u64,
    /// Of those, with an attempt above 1.
    pub redelivered: u64,
    /// Done.
    pub acked: u64,
    /// To be tried again.
    pub retried: u64,
    /// Given up.
    pub rejected: u64,
    /// Given up, with a copy among the dead letters.
    pub dead_lettered: u64,
    /// Redriven for another consumer.
    pub skipped: u64,
    /// Not settled: they come again when their leases end.
    pub left: u64,
    /// Handlers at work now.
    pub in_flight: i64,
    /// How long handlers took, those that were cut off included.
    pub duration: Histogram,
}

/// How many took how long.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let metrics = bus::middleware::Metrics::new();
/// # let bus = bus::Bus::connect("embedded:").await?.with_middleware(metrics.clone());
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// let latency = &metrics.snapshot().streams[orders.name()].latency;
/// assert_eq!(latency.count, 1);
/// let within_a_minute = latency.buckets.last().expect("the bounds are fixed");
/// assert_eq!(*within_a_minute, (std::time::Duration::from_secs(60), 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// For each upper bound how many took at most that long, bounds ascending, counts cumulative.
    pub buckets: Vec<(Duration, u64)>,
    /// How many there are, those above the last bound included.
    pub count: u64,
    /// Their sum.
    pub sum: Duration,
}

impl Metrics {
    /// Without any numbers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The numbers now.
    pub fn snapshot(&self) -> MetricsSnapshot {
        let streams = self.series.streams.read().unwrap_or_else(PoisonError::into_inner);
        let consumers = self.series.consumers.read().unwrap_or_else(PoisonError::into_inner);
        let each = consumers.iter().flat_map(|(stream, of)| {
            of.iter().map(move |(name, of)| ((stream.clone(), name.clone()), of.snapshot()))
        });
        MetricsSnapshot {
            streams: streams.iter().map(|(name, of)| (name.clone(), of.snapshot())).collect(),
            consumers: each.collect(),
        }
    }

    /// The numbers in the text format that Prometheus scrapes (version 0.0.4).
    pub fn render(&self) -> String {
        super::exposition::render(&self.snapshot())
    }

    fn stream(&self, name: &StreamName) -> Arc<OfStream> {
        let known = self.series.streams.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(name) {
            return known.clone();
        }
        drop(known);
        let mut all = self.series.streams.write().unwrap_or_else(PoisonError::into_inner);
        all.entry(name.clone()).or_default().clone()
    }

    fn consumer(&self, work: &Work) -> Arc<OfConsumer> {
        let known = self.series.consumers.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&work.stream).and_then(|of| of.get(&work.consumer)) {
            return known.clone();
        }
        drop(known);
        let mut all = self.series.consumers.write().unwrap_or_else(PoisonError::into_inner);
        let of = all.entry(work.stream.clone()).or_default();
        of.entry(work.consumer.clone()).or_default().clone()
    }
}

impl Middleware for Metrics {
    fn publish(&self, to: Publishing<'_>, _message: &mut Message) -> Option<AfterPublish> {
        let (of, began) = (self.stream(to.stream), Instant::now());
        Some(Box::new(move |result: &Result<Receipt>| {
            match result {
                Ok(receipt) => {
                    count(&of.published);
                    of.duplicates.fetch_add(u64::from(receipt.duplicate), Ordering::Relaxed);
                }
                Err(_) => count(&of.failed),
            }
            of.latency.record(began.elapsed());
        }))
    }

    fn handle(&self, work: &Arc<Work>, next: Handling) -> Handling {
        let (of, again) = (self.consumer(work), work.received.attempt > 1);
        Box::pin(async move {
            count(&of.delivered);
            of.redelivered.fetch_add(u64::from(again), Ordering::Relaxed);
            let _at_work = AtWork::begin(&of);
            next.await
        })
    }

    fn settled(&self, work: &Work, how: Disposition) {
        let of = self.consumer(work);
        count(match how {
            Disposition::Acked => &of.acked,
            Disposition::Retried => &of.retried,
            Disposition::Rejected => &of.rejected,
            Disposition::DeadLettered => &of.dead_lettered,
            Disposition::Skipped => &of.skipped,
            Disposition::Left => &of.left,
        });
    }
}

/// A handler at work, until it is dropped: one that panics or is aborted has ended too.
struct AtWork<'a> {
    of: &'a OfConsumer,
    began: Instant,
}

impl<'a> AtWork<'a> {
    fn begin(of: &'a OfConsumer) -> Self {
        of.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { of, began: Instant::now() }
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.of.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.of.duration.record(self.began.elapsed());
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Buckets {
    fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.counts.get(at) {
            count(bucket);
        }
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    fn snapshot(&self) -> Histogram {
        let mut total = 0;
        let mut add = |bucket: &AtomicU64| {
            total += read(bucket);
            total
        };
        let counts: Vec<u64> = self.counts.iter().map(&mut add).collect();
        let bounds = BOUNDS_MICROS.iter().copied().map(Duration::from_micros);
        let sum = Duration::from_nanos(read(&self.nanos));
        Histogram { buckets: bounds.zip(counts).collect(), count: total, sum }
    }
}

impl OfStream {
    fn snapshot(&self) -> StreamMetrics {
        StreamMetrics {
            published: read(&self.published),
            duplicates: read(&self.duplicates),
            failed: read(&self.failed),
            latency: self.latency.snapshot(),
        }
    }
}

impl OfConsumer {
    fn snapshot(&self) -> ConsumerMetrics {
        ConsumerMetrics {
            delivered: read(&self.delivered),
            redelivered: read(&self.redelivered),
            acked: read(&self.acked),
            retried: read(&self.retried),
            rejected: read(&self.rejected),
            dead_lettered: read(&self.dead_lettered),
            skipped: read(&self.skipped),
            left: read(&self.left),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            duration: self.duration.snapshot(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bus, StreamConfig};

    #[tokio::test(start_paused = true)]
    async fn what_is_recorded_is_rendered() {
        let metrics = Metrics::new();
        let bus = Bus::connect("embedded:").await.unwrap().with_middleware(metrics.clone());
        let config =
            StreamConfig { max_message_bytes: 10, ..StreamConfig::parse("s", &["s.>"]).unwrap() };
        let stream = bus.ensure_stream(&config).await.unwrap();
        let message = |body: &str| Message::new("s.a", body.to_owned()).unwrap().id("one");
        assert!(!stream.publish(message("x")).await.unwrap().duplicate);
        assert!(stream.publish(message("x")).await.unwrap().duplicate);
        stream.publish(message("much too long")).await.unwrap_err();
        let of = &metrics.snapshot().streams[stream.name()];
        assert_eq!((of.published, of.duplicates, of.failed, of.latency.count), (2, 1, 1, 3));
        let text = metrics.render();
        for line in [
            "# TYPE bus_publish_duration_seconds histogram",
            "bus_publish_failures_total{stream=\"s\"} 1",
            "bus_publish_duration_seconds_bucket{stream=\"s\",le=\"0.0001\"} 3",
            "bus_publish_duration_seconds_bucket{stream=\"s\",le=\"+Inf\"} 3",
            "bus_publish_duration_seconds_count{stream=\"s\"} 3",
        ] {
            assert!(text.lines().any(|rendered| rendered == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_histogram_counts_up_to_its_bounds() {
        let buckets = Buckets::default();
        for micros in [50, 100, 101, 70_000_000] {
            buckets.record(Duration::from_micros(micros));
        }
        let of = buckets.snapshot();
        assert_eq!(of.buckets[0], (Duration::from_micros(100), 2));
        assert_eq!(of.buckets[1], (Duration::from_micros(250), 3));
        assert_eq!(of.buckets.last().map(|(_, count)| *count), Some(3));
        assert_eq!((of.count, of.sum), (4, Duration::from_micros(70_000_251)));
    }
}
