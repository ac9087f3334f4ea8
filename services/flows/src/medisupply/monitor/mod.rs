//! The monitor: probes the other services, and says how they are.

mod health;
mod metrics;
mod status;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use self::health::{Probe, Standing};
use self::metrics::Metrics;
use super::http::{client, now_ms, read_json};
use super::settings::MONITOR_PORT;
use super::store::Store;
use super::{Settings, Site};
use crate::flow::Failure;
use crate::http::{MAX_BODY, Problem};

pub use self::health::Health;
pub use self::status::{BacklogStatus, Change, HealthStatus, ServiceStatus};

/// Whose breaker is asked for, and towards whom it is.
const WORKER: &str = "validation_service";
const DEPENDENCY: &str = "external_service";

/// Probes and serves until the shutdown.
pub(super) async fn run(site: Site) -> Result<(), Failure> {
    let port = site.settings.monitor_port;
    let server = site.serve_at("monitor", port, &MONITOR_PORT).await?;
    let monitor = Arc::new(Monitor {
        client: client()?,
        store: Store::open(&site).await?,
        settings: site.settings.clone(),
        seen: Mutex::default(),
        metrics: Metrics::new(),
    });
    let router = Router::new()
        .route("/health", get(health))
        .route("/health_status", get(health_status))
        .route("/metrics", get(metrics))
        .with_state(monitor.clone());
    let Settings { gateway_port, order_port, validation_port, external_port, .. } = site.settings;
    let targets = [
        ("api_gateway", gateway_port),
        ("order_service", order_port),
        (WORKER, validation_port),
        (DEPENDENCY, external_port),
    ];
    let watching = async {
        let probes = targets.map(|(service, port)| monitor.watch(service, port));
        tokio::select! {
            () = site.shutdown.cancelled() => {}
            _ = join_all(probes) => {}
            () = monitor.count() => {}
        }
    };
    let ((), served) = tokio::join!(watching, server.serve(router, site.shutdown.clone()));
    served
}

struct Monitor {
    client: reqwest::Client,
    store: Store,
    settings: Settings,
    seen: Mutex<Seen>,
    metrics: Metrics,
}

#[derive(Default)]
struct Seen {
    status: HealthStatus,
    standing: std::collections::BTreeMap<&'static str, Standing>,
}

impl Monitor {
    async fn watch(&self, service: &'static str, port: u16) {
        let url = self.settings.url(port, "/health");
        let mut ticks = tokio::time::interval(self.settings.probe_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let begun = Instant::now();
            let within = self.settings.probe_within;
            let (probe, detail) =
                match tokio::time::timeout(within, self.probe(service, &url)).await {
                    Ok(Ok((status, detail))) => {
                        (Probe::Answer { status, took: begun.elapsed() }, detail)
                    }
                    Ok(Err(why)) => (Probe::Nothing, cause(&*why)),
                    Err(_) => (Probe::Nothing, format!("no answer within {within:?}")),
                };
            self.take(service, probe, detail, begun.elapsed());
        }
    }

    /// Asks once; of the worker also how its breaker is.
    async fn probe(&self, service: &'static str, url: &str) -> Result<(u16, String), Failure> {
        let answer = self.client.get(url).send().await?;
        let status = answer.status();
        if service == WORKER && status.is_success() {
            let body = read_json(answer, MAX_BODY).await?;
            let state = body.pointer("/breaker/state").and_then(Value::as_str);
            self.metrics.breaker(state);
            self.seen().status.breaker = state.map(str::to_owned);
        }
        Ok((status.as_u16(), format!("answered {}", status.as_u16())))
    }

    fn take(&self, service: &'static str, probe: Probe, detail: String, took: Duration) {
        let (objective, at_ms) = (self.settings.objective, now_ms());
        let mut seen = self.seen();
        let closed = seen.status.breaker.as_deref().is_none_or(|state| state == "closed");
        let health = probe.health(objective, service != DEPENDENCY || closed);
        self.metrics.probed(service, health, took.as_secs_f64());
        let standing = seen.standing.entry(service).or_default();
        let from = standing.shown();
        let changed = standing.take(health);
        let Some(status) = standing.shown() else { return };
        let before = seen.status.services.get(service);
        let probes = before.map_or(0, |before| before.probes) + 1;
        let (since_ms, changed_at_probe) = match before {
            Some(before) if !changed => (before.since_ms, before.changed_at_probe),
            _ => (at_ms, probes),
        };
        let response_time = took.as_secs_f64();
        let now =
            ServiceStatus { status, since_ms, response_time, detail, probes, changed_at_probe };
        seen.status.services.insert(service.to_owned(), now);
        if changed {
            self.metrics.became(service, status);
            tracing::info!(service, ?from, to = status.as_str(), "a service changed");
            let service = service.to_owned();
            seen.status.last_change = Some(Change { service, from, to: status, at_ms });
        }
    }

    /// Counts what waits, as often as it probes.
    async fn count(&self) {
        let mut ticks = tokio::time::interval(self.settings.probe_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let counted = self.store.backlog().await.ok();
            let counted = counted.map(|now| BacklogStatus { jobs: now.jobs, parked: now.parked });
            if let Some(backlog) = counted {
                self.metrics.backlog(backlog);
            }
            self.seen().status.backlog = counted;
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Nothing that is done under the lock can panic half-way.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What lies at the bottom: the layers above only say that a request was not sent.
fn cause(why: &(dyn std::error::Error + 'static)) -> String {
    let mut lowest = why;
    while let Some(source) = lowest.source() {
        lowest = source;
    }
    lowest.to_string()
}

async fn health() -> Json<Value> {
    Json(json!({ "service": "monitor_service", "status": "HEALTHY", "timestamp": now_ms() }))
}

async fn health_status(State(monitor): State<Arc<Monitor>>) -> Json<HealthStatus> {
    let mut status = monitor.seen().status.clone();
    status.timestamp = now_ms();
    status.overall = status.services.values().map(|service| service.status).max();
    Json(status)
}

async fn metrics(State(monitor): State<Arc<Monitor>>) -> Result<impl IntoResponse, Problem> {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let internal = |why: std::fmt::Error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", why.to_string())
    };
    let text = monitor.metrics.text().map_err(internal)?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text))
}
