//! What happened when.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};

use crate::flow::Failure;
use crate::http::MAX_BODY;
use crate::medisupply::http::{client, read_json};
use crate::medisupply::monitor::{HealthStatus, ServiceStatus};
use crate::medisupply::{Health, Settings};

const EVERY: Duration = Duration::from_millis(50);
const WITHIN: Duration = Duration::from_secs(1);

/// One order that was sent.
#[derive(Debug, Clone, Copy)]
pub struct Shot {
    /// Its number.
    pub number: u32,
    /// When it was due, from the beginning.
    pub at: Duration,
    /// How long it took from then to its answer.
    pub took: Duration,
    /// True when the answer was 200.
    pub accepted: bool,
}

/// What was seen at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When, from the beginning.
    pub at: Duration,
    /// What the monitor said of the external service.
    pub health: Option<Health>,
    /// The breaker's state, from the worker itself.
    pub breaker: Option<String>,
    /// Orders that waited: to be asked about, and parked.
    pub waiting: Option<(u64, u64)>,
}

/// A stretch of time in which something was one way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// What it was.
    pub what: String,
    /// From when.
    pub from: Duration,
    /// Until when.
    pub to: Duration,
}

/// The run, in time.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    /// Each order, in the order in which they were due.
    pub shots: Vec<Shot>,
    /// What was seen, every 50 ms.
    pub samples: Vec<Sample>,
    /// What the breaker was, by its own book; empty where it has none, or was lost with a worker.
    pub breaker: Vec<Stretch>,
    /// From when to when the external service misbehaved.
    pub fault: (Duration, Duration),
    /// When all was over.
    pub end: Duration,
}

impl Timeline {
    /// The stretches of one thing, those that nobody could tell left out.
    pub fn stretches(&self, what: impl Fn(&Sample) -> Option<String>) -> Vec<Stretch> {
        let mut stretches: Vec<Stretch> = Vec::new();
        let mut open = false;
        for sample in &self.samples {
            let Some(now) = what(sample) else {
                open = false;
                continue;
            };
            if let Some(last) = stretches.last_mut().filter(|last| open && last.to <= sample.at) {
                last.to = sample.at;
                if last.what == now {
                    continue;
                }
            }
            stretches.push(Stretch { what: now, from: sample.at, to: sample.at });
            open = true;
        }
        if let Some(last) = stretches.last_mut().filter(|_| open) {
            last.to = last.to.max(self.end);
        }
        stretches
    }
}

/// Looks at the services as anybody could, over HTTP.
pub(super) struct Observer {
    client: reqwest::Client,
    monitor: String,
    worker: String,
    samples: Mutex<Vec<Sample>>,
}

impl Observer {
    pub(super) fn new(settings: &Settings) -> Result<Self, Failure> {
        Ok(Self {
            client: client()?,
            monitor: settings.url(settings.monitor_port, "/health_status"),
            worker: settings.url(settings.validation_port, "/health"),
            samples: Mutex::default(),
        })
    }

    /// Looks until it is dropped.
    pub(super) async fn run(&self, begin: Instant) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let (status, worker) = tokio::join!(self.status(), self.get(&self.worker));
            let breaker = worker.as_ref().and_then(|body| body.pointer("/breaker/state"));
            let sample = Sample {
                at: begin.elapsed(),
                health: status.as_ref().and_then(external).map(|external| external.status),
                breaker: breaker.and_then(Value::as_str).map(str::to_owned),
                waiting: status.and_then(|status| status.backlog).map(|now| (now.jobs, now.parked)),
            };
            self.samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
        }
    }

    /// What the monitor says now.
    pub(super) async fn status(&self) -> Option<HealthStatus> {
        serde_json::from_value(self.get(&self.monitor).await?).ok()
    }

    async fn get(&self, url: &str) -> Option<Value> {
        let answer = self.client.get(url).timeout(WITHIN).send().await.ok()?;
        read_json(answer, MAX_BODY).await.ok()
    }

    pub(super) fn take(&self) -> Vec<Sample> {
        std::mem::take(&mut self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The external service in what the monitor says.
pub(super) fn external(status: &HealthStatus) -> Option<&ServiceStatus> {
    status.services.get("external_service")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_join_what_is_alike_and_leave_gaps_out() {
        let ms = Duration::from_millis;
        let sample = |at: u64, breaker: &str| Sample {
            at: ms(at),
            health: None,
            breaker: (!breaker.is_empty()).then(|| breaker.to_owned()),
            waiting: None,
        };
        let samples = [(0, "a"), (1, "a"), (2, "b"), (3, ""), (4, "b")];
        let samples = samples.map(|(at, breaker)| sample(at, breaker)).to_vec();
        let timeline = Timeline { samples, end: ms(6), ..Timeline::default() };
        let found = timeline.stretches(|sample| sample.breaker.clone());
        let found: Vec<_> = found
            .iter()
            .map(|one| (one.what.as_str(), one.from.as_millis(), one.to.as_millis()))
            .collect();
        assert_eq!(found, [("a", 0, 2), ("b", 2, 2), ("b", 4, 6)]);
    }
}
