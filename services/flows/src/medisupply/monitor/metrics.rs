//! The monitor's metrics, in the format of OpenMetrics.

use std::fmt;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::status::BacklogStatus;
use crate::medisupply::Health;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    service: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct In {
    service: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Waiting {
    queue: &'static str,
}

const HEALTHS: [Health; 4] = [Health::Healthy, Health::Degraded, Health::Unhealthy, Health::Down];
const STATES: [&str; 3] = ["closed", "open", "half-open"];

/// The metrics, each also in the registry.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    health: Family<In, Gauge>,
    probes: Family<In, Counter>,
    changes: Family<Of, Counter>,
    seconds: Family<Of, Gauge<f64, std::sync::atomic::AtomicU64>>,
    breaker: Family<State, Gauge>,
    backlog: Family<Waiting, Gauge>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("medisupply");
        let health = Family::default();
        registry.register("health", "1 for what the service is", health.clone());
        let probes = Family::default();
        registry.register("probes", "Probes, by what they said", probes.clone());
        let changes = Family::default();
        registry.register("health_changes", "How often it became another", changes.clone());
        let seconds = Family::default();
        registry.register("probe_seconds", "How long the last probe took", seconds.clone());
        let breaker = Family::default();
        registry.register("breaker", "1 for the state of the worker's breaker", breaker.clone());
        let backlog = Family::default();
        registry.register("backlog_orders", "Orders that wait, by queue", backlog.clone());
        Self { registry, health, probes, changes, seconds, breaker, backlog }
    }

    pub(super) fn probed(&self, service: &'static str, said: Health, seconds: f64) {
        self.probes.get_or_create(&In { service, status: said.as_str() }).inc();
        self.seconds.get_or_create(&Of { service }).set(seconds);
    }

    pub(super) fn became(&self, service: &'static str, health: Health) {
        self.changes.get_or_create(&Of { service }).inc();
        for one in HEALTHS {
            let gauge = self.health.get_or_create(&In { service, status: one.as_str() }).clone();
            gauge.set(i64::from(one == health));
        }
    }

    pub(super) fn breaker(&self, state: Option<&str>) {
        for one in STATES {
            let gauge = self.breaker.get_or_create(&State { state: one }).clone();
            gauge.set(i64::from(state == Some(one)));
        }
    }

    pub(super) fn backlog(&self, backlog: BacklogStatus) {
        let set = |queue, orders: u64| {
            let orders = i64::try_from(orders).unwrap_or(i64::MAX);
            self.backlog.get_or_create(&Waiting { queue }).set(orders);
        };
        set("jobs", backlog.jobs);
        set("parked", backlog.parked);
    }

    /// All of them as text.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_is_is_one_of_four() {
        let metrics = Metrics::new();
        metrics.became("external_service", Health::Healthy);
        metrics.became("external_service", Health::Down);
        metrics.breaker(Some("open"));
        metrics.backlog(BacklogStatus { jobs: 3, parked: 4 });
        let text = metrics.text().unwrap();
        for line in [
            "medisupply_health{service=\"external_service\",status=\"DOWN\"} 1",
            "medisupply_health{service=\"external_service\",status=\"HEALTHY\"} 0",
            "medisupply_health_changes_total{service=\"external_service\"} 2",
            "medisupply_breaker{state=\"open\"} 1",
            "medisupply_breaker{state=\"closed\"} 0",
            "medisupply_backlog_orders{queue=\"parked\"} 4",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
