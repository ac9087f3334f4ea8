//! What this process counts and times, as Prometheus scrapes it (OpenMetrics 1.0).
//!
//! The numbers of a process are its own: they begin at nothing when it starts, and what several
//! replicas count adds up. Figures of subscriptions are read from the bus and not counted, so that
//! every registration role shows the same; there they are measured while somebody scrapes.

mod labels;
mod routes;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lockgate_bridge::RouteStatus;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

pub(crate) use labels::Mode;
pub(crate) use labels::OfHttp;
use labels::{OfDelivery, OfOutcome, OfRealm, OfReason, OfRoute, OfSubscription};

use routes::Routes;

use crate::model::{Realm, SubscriptionName};

/// Upper bounds in seconds, for answers and for prefills, which may take hours.
const ANSWERS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0];
const PREFILLS: [f64; 10] = [0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0];
/// Nobody scrapes any more if nobody has for this long.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// The numbers of this process. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    bus: bus::middleware::Metrics,
    published: Family<OfRealm, Counter>,
    duplicates: Family<OfRealm, Counter>,
    refused: Family<OfRealm, Counter>,
    deliveries: Family<OfDelivery, Counter>,
    redeliveries: Counter,
    acks: Family<OfOutcome, Counter>,
    dead_letters: Family<OfReason, Counter>,
    sessions: Gauge,
    streams: Gauge,
    rows: Counter,
    prefills: Family<OfOutcome, Counter>,
    prefill_durations: Histogram,
    lag: Family<OfSubscription, Gauge>,
    unsettled: Family<OfSubscription, Gauge>,
    oldest: Family<OfSubscription, Gauge<f64, std::sync::atomic::AtomicU64>>,
    unmeasured: Gauge,
    requests: Family<OfHttp, Counter>,
    request_durations: Family<OfRoute, Histogram, fn() -> Histogram>,
    routes: Routes,
    scraped: Mutex<Option<Instant>>,
}

/// How far a subscription's queue is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lag {
    /// Events that were not handed out yet.
    pub(crate) pending: u64,
    /// Events that were handed out and are not settled.
    pub(crate) unsettled: u64,
    /// How old the oldest event of both is.
    pub(crate) oldest: Duration,
}

impl Default for Metrics {
    fn default() -> Self {
        Self(Arc::new(Inner::new()))
    }
}

impl Metrics {
    /// What counts for a bus: to be put around it.
    pub fn of_bus(&self) -> bus::middleware::Metrics {
        self.0.bus.clone()
    }

    /// The page that Prometheus reads.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        encode(&mut page, &self.0.registry)?;
        Ok(page)
    }

    /// Somebody reads the page.
    pub(crate) fn scraped(&self) {
        let mut scraped = self.0.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        *scraped = Some(Instant::now());
    }

    /// True while somebody reads the page now and then: only then are figures worth their requests.
    pub(crate) fn is_scraped(&self) -> bool {
        let scraped = self.0.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        scraped.is_some_and(|at| at.elapsed() < FORGOTTEN)
    }

    pub(crate) fn published(&self, realm: &Realm, result: &Result<bus::Receipt, bus::Error>) {
        let of = OfRealm { realm: realm.to_string() };
        match result {
            Ok(receipt) if receipt.duplicate => self.0.duplicates.get_or_create(&of).inc(),
            Ok(_) => self.0.published.get_or_create(&of).inc(),
            Err(_) => self.0.refused.get_or_create(&of).inc(),
        };
    }

    /// Events given to a client, those for at least the second time among them.
    pub(crate) fn delivered(&self, mode: Mode, events: usize, again: usize) {
        if events > 0 {
            self.0.deliveries.get_or_create(&OfDelivery { mode }).inc_by(events as u64);
            self.0.redeliveries.inc_by(again as u64);
        }
    }

    pub(crate) fn settled(&self, outcome: &'static str) {
        self.0.acks.get_or_create(&OfOutcome { outcome }).inc();
    }

    /// An event was given up, and why: its attempts are used up, or a client rejected it.
    pub(crate) fn given_up(&self, reason: &str) {
        let spent = reason.starts_with("attempts-exhausted");
        let reason = if spent { "attempts-exhausted" } else { "rejected" };
        self.0.dead_letters.get_or_create(&OfReason { reason }).inc();
    }

    /// Counts a queue session for as long as what is returned lives.
    pub(crate) fn session(&self) -> Counted {
        Counted::begin(&self.0.sessions)
    }

    /// Counts a client's stream for as long as what is returned lives.
    pub(crate) fn stream(&self) -> Counted {
        Counted::begin(&self.0.streams)
    }

    pub(crate) fn prefill_rows(&self, rows: usize) {
        self.0.rows.inc_by(rows as u64);
    }

    pub(crate) fn prefill_ended(&self, outcome: &'static str) {
        self.0.prefills.get_or_create(&OfOutcome { outcome }).inc();
    }

    /// How long the worker that completed a prefill was at it.
    pub(crate) fn prefill_took(&self, took: Duration) {
        self.0.prefill_durations.observe(took.as_secs_f64());
    }

    /// Shows these figures of subscriptions and none of any other; `unmeasured` are too many to
    /// be shown one by one.
    pub(crate) fn show_lag(&self, figures: &[(SubscriptionName, Lag)], unmeasured: usize) {
        self.0.lag.clear();
        self.0.unsettled.clear();
        self.0.oldest.clear();
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for (name, lag) in figures {
            let of = OfSubscription { subscription: name.to_string() };
            self.0.lag.get_or_create(&of).set(signed(lag.pending));
            self.0.unsettled.get_or_create(&of).set(signed(lag.unsettled));
            self.0.oldest.get_or_create(&of).set(lag.oldest.as_secs_f64());
        }
        self.0.unmeasured.set(signed(unmeasured as u64));
    }

    /// Shows the routes of this process' bridge, as they are whenever somebody scrapes.
    pub(crate) fn show_routes(&self, read: impl Fn() -> Vec<RouteStatus> + Send + Sync + 'static) {
        self.0.routes.read(Box::new(read));
    }

    /// A request was answered.
    pub(crate) fn answered(&self, of: OfHttp, took: Duration) {
        let route = OfRoute { route: of.route.clone() };
        self.0.requests.get_or_create(&of).inc();
        self.0.request_durations.get_or_create(&route).observe(took.as_secs_f64());
    }
}

impl Inner {
    fn new() -> Self {
        let mut registry = Registry::default();
        let bus = bus::middleware::Metrics::register(&mut registry);
        let mut inner = Self {
            registry: Registry::default(),
            bus,
            published: Family::default(),
            duplicates: Family::default(),
            refused: Family::default(),
            deliveries: Family::default(),
            redeliveries: Counter::default(),
            acks: Family::default(),
            dead_letters: Family::default(),
            sessions: Gauge::default(),
            streams: Gauge::default(),
            rows: Counter::default(),
            prefills: Family::default(),
            prefill_durations: Histogram::new(PREFILLS),
            lag: Family::default(),
            unsettled: Family::default(),
            oldest: Family::default(),
            unmeasured: Gauge::default(),
            requests: Family::default(),
            request_durations: Family::new_with_constructor(|| Histogram::new(ANSWERS)),
            routes: Routes::default(),
            scraped: Mutex::default(),
        };
        inner.register_events(registry.sub_registry_with_prefix("lockgate"));
        inner.register_subscriptions(registry.sub_registry_with_prefix("lockgate"));
        let lockgate = registry.sub_registry_with_prefix("lockgate");
        lockgate.register_collector(Box::new(inner.routes.clone()));
        inner.registry = registry;
        inner
    }

    fn register_events(&self, at: &mut Registry) {
        at.register("events_published", "Events stored by HTTP", self.published.clone());
        at.register("events_duplicate", "Events recognised by id", self.duplicates.clone());
        at.register("events_failed", "Events that were not stored", self.refused.clone());
        at.register("deliveries", "Events given to a client", self.deliveries.clone());
        at.register("redeliveries", "Of those, not for the first time", self.redeliveries.clone());
        at.register("acks", "Settlements of queue mode by outcome", self.acks.clone());
        at.register("dead_letters", "Events that were given up", self.dead_letters.clone());
        at.register("queue_sessions", "Queues served here now", self.sessions.clone());
        at.register("stream_readers", "Streams open here now", self.streams.clone());
        at.register("http_requests", "Requests by route and status", self.requests.clone());
        let help = "How long answers took to begin";
        let durations = self.request_durations.clone();
        at.register_with_unit("http_request_duration", help, Unit::Seconds, durations);
    }

    fn register_subscriptions(&self, at: &mut Registry) {
        at.register("prefill_rows", "Rows written to prefill queues", self.rows.clone());
        at.register("prefills", "Prefills that ended, by outcome", self.prefills.clone());
        let help = "How long a worker was at a prefill";
        let durations = self.prefill_durations.clone();
        at.register_with_unit("prefill_duration", help, Unit::Seconds, durations);
        let help = "Events that queue mode has not handed out yet";
        at.register("subscription_lag_events", help, self.lag.clone());
        let help = "Events that queue mode has handed out and that are not settled";
        at.register("subscription_unsettled_events", help, self.unsettled.clone());
        let help = "Age of the oldest event that is not settled";
        at.register("subscription_oldest_unacked_seconds", help, self.oldest.clone());
        let help = "Subscriptions read as queues that are too many to be shown one by one";
        at.register("subscriptions_unmeasured", help, self.unmeasured.clone());
    }
}

/// Something that is open, until it is dropped.
pub(crate) struct Counted(Gauge);

impl Counted {
    fn begin(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
