//! Whether a Kafka cluster is fit for the routes of a file: what is looked at, how it is, and what to
//! change. Nothing is written and nobody is fenced.

mod brokers;
mod routes;
mod settings;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use serde::Serialize;

use crate::config::Bridges;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and may fail or lose something one day.
    Warn,
    /// It does not work.
    Fail,
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it is.
    pub level: Level,
    /// What was looked at, for example `kafka 127.0.0.1:9092`.
    pub what: String,
    /// How it was found.
    pub says: String,
    /// What to change, where something should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
}

impl Finding {
    /// It is as it should be.
    pub fn ok(what: impl Into<String>, says: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.into(), says: says.into(), change: None }
    }

    /// It works, and this should be changed.
    pub fn warn(
        what: impl Into<String>,
        says: impl Into<String>,
        change: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warn, change: Some(change.into()), ..Self::ok(what, says) }
    }

    /// It does not work before this is changed.
    pub fn fail(
        what: impl Into<String>,
        says: impl Into<String>,
        change: impl Into<String>,
    ) -> Self {
        Self { level: Level::Fail, change: Some(change.into()), ..Self::ok(what, says) }
    }
}

/// Looks at the cluster and at what each route needs of it, where the largest message of a log has
/// `largest` bytes. Takes some seconds, half a minute where brokers do not answer; writes nothing.
///
/// What Kafka tells nobody is not looked at: its clock, and whether a producer may write.
pub async fn examine(bridges: &Bridges, largest: u64) -> Vec<Finding> {
    let of = bridges.clone();
    let looked = tokio::task::spawn_blocking(move || brokers::look(&of.kafka)).await;
    let (mut found, cluster) = match looked {
        Ok(looked) => looked,
        Err(error) => return vec![ended(&error)],
    };
    let Some(cluster) = cluster else { return found };
    found.extend(settings::look(bridges, &cluster, largest).await);
    let of = bridges.clone();
    for route in &bridges.routes {
        let (of, route) = (of.kafka.clone(), route.clone());
        let looked = tokio::task::spawn_blocking(move || routes::look(&of, &route)).await;
        found.extend(looked.unwrap_or_else(|error| vec![ended(&error)]));
    }
    found.extend(settings::topics(bridges, &cluster, largest).await);
    found
}

fn ended(error: &tokio::task::JoinError) -> Finding {
    Finding::fail("kafka", format!("looking at it ended: {error}"), "run it again")
}

/// A client that keeps the reason why it does not connect.
#[derive(Default)]
struct Listening(Mutex<Option<String>>);

impl Listening {
    fn reason(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Listening {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
        // That all are down says less than why one is.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() {
            *kept = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Listening {}
