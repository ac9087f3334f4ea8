//! What is counted, in the text format of Prometheus.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Of which queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfQueue {
    /// `prefill`, or the queue's name.
    pub queue: String,
}

/// Of which queue, and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfResult {
    /// `prefill`, or the queue's name.
    pub queue: String,
    /// `done` or `failed`.
    pub result: String,
}

type Count = Counter<u64, AtomicU64>;
type Level = Gauge<i64, AtomicI64>;

/// The operator's figures. All of a queue are there from its first look on.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Jobs created.
    pub created: Family<OfQueue, Count>,
    /// Jobs released.
    pub released: Family<OfQueue, Count>,
    /// Jobs concluded: reported and settled.
    pub concluded: Family<OfResult, Count>,
    /// Looks that failed: nothing was done.
    pub failed_looks: Family<OfQueue, Count>,
    /// Tasks held.
    pub held: Level,
    /// Jobs that have not ended and may have a pod.
    pub at_work: Family<OfQueue, Level>,
    /// Messages that are not settled.
    pub backlog: Family<OfQueue, Level>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("lockgate_operator");
        let [created, released, failed_looks] = [(); 3].map(|()| Family::default());
        let [at_work, backlog] = [(); 2].map(|()| Family::default());
        let (concluded, held) = (Family::default(), Level::default());
        registry.register("jobs_created", "Jobs created", Family::clone(&created));
        registry.register("jobs_released", "Jobs released", Family::clone(&released));
        registry.register(
            "jobs_concluded",
            "Prefill Jobs reported and settled",
            Family::clone(&concluded),
        );
        registry.register(
            "failed_looks",
            "Looks that failed: nothing was done",
            Family::clone(&failed_looks),
        );
        registry.register("tasks_held", "Prefill tasks held", held.clone());
        registry.register("jobs_at_work", "Jobs that may have a pod", Family::clone(&at_work));
        registry.register(
            "backlog_messages",
            "Messages of a queue not settled",
            Family::clone(&backlog),
        );
        Self { registry, created, released, concluded, failed_looks, held, at_work, backlog }
    }
}

impl Metrics {
    /// All figures as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            // A String takes whatever is written to it.
            Err(error) => format!("# {error}\n"),
        }
    }
}

/// The label of a queue.
pub fn of(queue: &str) -> OfQueue {
    OfQueue { queue: queue.to_owned() }
}

/// A number as a gauge takes it.
pub fn level(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_told() {
        let metrics = Metrics::default();
        metrics.created.get_or_create(&of("prefill")).inc();
        metrics.held.set(level(3usize));
        let text = metrics.text();
        assert!(
            text.contains("lockgate_operator_jobs_created_total{queue=\"prefill\"} 1"),
            "{text}"
        );
        assert!(text.contains("lockgate_operator_tasks_held 3"), "{text}");
    }
}
