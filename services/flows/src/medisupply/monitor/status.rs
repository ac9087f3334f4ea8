//! What the monitor says: over HTTP as JSON, and as metrics.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::health::Health;

/// The answer of `/health_status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HealthStatus {
    /// When it was asked, in milliseconds since 1970.
    pub timestamp: u64,
    /// The worst of the services; none before the first probe.
    pub overall: Option<Health>,
    /// Each service that was probed.
    pub services: BTreeMap<String, ServiceStatus>,
    /// The state of the worker's breaker, as it said last.
    pub breaker: Option<String>,
    /// How many orders wait, as the bus said last.
    pub backlog: Option<BacklogStatus>,
    /// The last change of any service.
    pub last_change: Option<Change>,
}

/// A service, as the monitor sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// How it is.
    pub status: Health,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// How long the last probe took, in seconds.
    pub response_time: f64,
    /// What the last probe met.
    pub detail: String,
    /// How many probes have ended.
    pub probes: u64,
    /// After how many of them it became as it is.
    pub changed_at_probe: u64,
}

/// How many orders wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BacklogStatus {
    /// To be asked about, those at work included.
    pub jobs: u64,
    /// For the external service to recover.
    pub parked: u64,
}

/// A service that became something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which.
    pub service: String,
    /// What it was; none before its first probe.
    pub from: Option<Health>,
    /// What it became.
    pub to: Health,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}
