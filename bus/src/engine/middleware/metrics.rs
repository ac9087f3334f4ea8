//! Counters and histograms by stream and consumer, for `prometheus-client`.

use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use super::{AfterPublish, Disposition, Handling, Middleware, Publishing, Work};
use crate::error::Result;
use crate::message::{Message, Receipt};
use crate::name::{ConsumerName, StreamName};

/// The upper bounds of the histograms' buckets, in seconds: from a publish into memory to a
/// handler that calls the other side of the world.
const BOUNDS: [f64; 15] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0,
    60.0,
];

/// Counts and times what a bus does, in a registry of `prometheus-client`. Cheap to clone; clones
/// share the numbers.
///
/// Recording takes a shared lock to find the series of a stream or consumer; the exclusive lock is
/// taken once for each new one. There are as many series as the process uses streams and consumers.
///
/// | Series | Type | What |
/// |---|---|---|
/// | `bus_published_total` | counter | messages whose receipt came, duplicates included |
/// | `bus_duplicates_total` | counter | of those, recognised by their id and not stored again |
/// | `bus_publish_failures_total` | counter | messages whose publish failed |
/// | `bus_publish_duration_seconds` | histogram | from handing over to the receipt, or the failure |
/// | `bus_delivered_total` | counter | messages given to a handler |
/// | `bus_redelivered_total` | counter | of those, with an attempt above 1 |
/// | `bus_settled_total` | counter | by `how`: acked, retried, rejected, dead_lettered, skipped, left |
/// | `bus_in_flight` | gauge | handlers at work now |
/// | `bus_handler_duration_seconds` | histogram | how long handlers took, cut off ones included |
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use bus::middleware::{Metrics, prometheus_client};
/// use bus::{Bus, Message, StreamConfig};
/// use prometheus_client::encoding::text::encode;
/// use prometheus_client::registry::Registry;
///
/// let mut registry = Registry::default();
/// let metrics = Metrics::register(&mut registry);
/// let bus = Bus::connect("embedded:").await?.with_middleware(metrics);
/// let orders = bus.ensure_stream(&StreamConfig::parse("orders", &["orders.>"])?).await?;
/// orders.publish(Message::new("orders.created", "42")?).await?;
///
/// let mut page = String::new(); // what Prometheus scrapes
/// encode(&mut page, &registry)?;
/// assert!(page.contains("bus_published_total{stream=\"orders\"} 1"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Series>);

#[derive(Debug)]
struct Series {
    published: Family<OfStream, Counter>,
    duplicates: Family<OfStream, Counter>,
    failures: Family<OfStream, Counter>,
    publishing: Family<OfStream, Histogram, fn() -> Histogram>,
    delivered: Family<OfConsumer, Counter>,
    redelivered: Family<OfConsumer, Counter>,
    settled: Family<Settled, Counter>,
    in_flight: Family<OfConsumer, Gauge>,
    handling: Family<OfConsumer, Histogram, fn() -> Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStream {
    stream: StreamName,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfConsumer {
    stream: StreamName,
    consumer: ConsumerName,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Settled {
    stream: StreamName,
    consumer: ConsumerName,
    how: &'static str,
}

impl EncodeLabelValue for StreamName {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        self.as_str().encode(encoder)
    }
}

impl EncodeLabelValue for ConsumerName {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        self.as_str().encode(encoder)
    }
}

impl Metrics {
    /// Registers the series, each without any value yet. A registry takes them once: a second call
    /// on the same one would render every series twice.
    pub fn register(registry: &mut Registry) -> Self {
        let durations = || Family::new_with_constructor((|| Histogram::new(BOUNDS)) as fn() -> _);
        let series = Series {
            published: Family::default(),
            duplicates: Family::default(),
            failures: Family::default(),
            publishing: durations(),
            delivered: Family::default(),
            redelivered: Family::default(),
            settled: Family::default(),
            in_flight: Family::default(),
            handling: Family::new_with_constructor(|| Histogram::new(BOUNDS)),
        };
        let bus = registry.sub_registry_with_prefix("bus");
        let of = &series;
        bus.register("published", "Messages whose receipt came", of.published.clone());
        bus.register("duplicates", "Of those, not stored again", of.duplicates.clone());
        bus.register("publish_failures", "Messages whose publish failed", of.failures.clone());
        let help = "From handing over to the receipt, or the failure";
        bus.register_with_unit("publish_duration", help, Unit::Seconds, of.publishing.clone());
        bus.register("delivered", "Messages given to a handler", of.delivered.clone());
        bus.register("redelivered", "Of those, not for the first time", of.redelivered.clone());
        bus.register("settled", "What became of deliveries", of.settled.clone());
        bus.register("in_flight", "Handlers at work now", of.in_flight.clone());
        let help = "How long handlers took";
        bus.register_with_unit("handler_duration", help, Unit::Seconds, of.handling.clone());
        Self(Arc::new(series))
    }
}

impl Middleware for Metrics {
    fn publish(&self, to: Publishing<'_>, _message: &mut Message) -> Option<AfterPublish> {
        let (of, began) = (OfStream { stream: to.stream.clone() }, Instant::now());
        let series = self.0.clone();
        Some(Box::new(move |result: &Result<Receipt>| {
            match result {
                Ok(receipt) => {
                    series.published.get_or_create(&of).inc();
                    if receipt.duplicate {
                        series.duplicates.get_or_create(&of).inc();
                    }
                }
                Err(_) => {
                    series.failures.get_or_create(&of).inc();
                }
            }
            series.publishing.get_or_create(&of).observe(began.elapsed().as_secs_f64());
        }))
    }

    fn handle(&self, work: &Arc<Work>, next: Handling) -> Handling {
        let of = OfConsumer { stream: work.stream.clone(), consumer: work.consumer.clone() };
        let (series, again) = (self.0.clone(), work.received.attempt > 1);
        Box::pin(async move {
            series.delivered.get_or_create(&of).inc();
            if again {
                series.redelivered.get_or_create(&of).inc();
            }
            let _at_work = AtWork::begin(&series, &of);
            next.await
        })
    }

    fn settled(&self, work: &Work, how: Disposition) {
        let how = match how {
            Disposition::Acked => "acked",
            Disposition::Retried => "retried",
            Disposition::Rejected => "rejected",
            Disposition::DeadLettered => "dead_lettered",
            Disposition::Skipped => "skipped",
            Disposition::Left => "left",
        };
        let (stream, consumer) = (work.stream.clone(), work.consumer.clone());
        self.0.settled.get_or_create(&Settled { stream, consumer, how }).inc();
    }
}

/// A handler at work, until it is dropped: one that panics or is aborted has ended too.
struct AtWork<'a> {
    series: &'a Series,
    of: &'a OfConsumer,
    began: Instant,
}

impl<'a> AtWork<'a> {
    fn begin(series: &'a Series, of: &'a OfConsumer) -> Self {
        series.in_flight.get_or_create(of).inc();
        Self { series, of, began: Instant::now() }
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.series.in_flight.get_or_create(self.of).dec();
        let took = self.began.elapsed().as_secs_f64();
        self.series.handling.get_or_create(self.of).observe(took);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::{Bus, StreamConfig};

    #[tokio::test(start_paused = true)]
    async fn what_is_recorded_is_scraped() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let bus = Bus::connect("embedded:").await.unwrap().with_middleware(metrics);
        let config =
            StreamConfig { max_message_bytes: 10, ..StreamConfig::parse("s", &["s.>"]).unwrap() };
        let stream = bus.ensure_stream(&config).await.unwrap();
        let message = |body: &str| Message::new("s.a", body.to_owned()).unwrap().id("one");
        assert!(!stream.publish(message("x")).await.unwrap().duplicate);
        assert!(stream.publish(message("x")).await.unwrap().duplicate);
        stream.publish(message("much too long")).await.unwrap_err();
        let mut page = String::new();
        encode(&mut page, &registry).unwrap();
        for line in [
            "# TYPE bus_publish_duration_seconds histogram",
            "bus_published_total{stream=\"s\"} 2",
            "bus_duplicates_total{stream=\"s\"} 1",
            "bus_publish_failures_total{stream=\"s\"} 1",
            "bus_publish_duration_seconds_bucket{le=\"0.0001\",stream=\"s\"} 3",
            "bus_publish_duration_seconds_bucket{le=\"+Inf\",stream=\"s\"} 3",
            "bus_publish_duration_seconds_count{stream=\"s\"} 3",
        ] {
            assert!(page.lines().any(|scraped| scraped == line), "{line} is not in\n{page}");
        }
    }
}
