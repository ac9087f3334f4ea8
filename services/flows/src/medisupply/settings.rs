//! What can be set: ports, addresses, names and times.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use lockgate_resilience::{BreakerConfig, RetryConfig};

use super::http::ms;
use super::validation::Figures;
use crate::flow::Failure;

/// Ports, addresses, names and times of the flow. [`Settings::default`] is the document's.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the names of its streams and its bucket begin with.
    pub prefix: String,
    /// The gateway's port.
    pub gateway_port: u16,
    /// The order service's port.
    pub order_port: u16,
    /// The validation worker's port.
    pub validation_port: u16,
    /// The external service's port, on which nobody listens while it is down.
    pub external_port: u16,
    /// The port on which the external service takes its mode, also while it is down.
    pub control_port: u16,
    /// The monitor's port.
    pub monitor_port: u16,
    /// The host that the services find each other at.
    pub host: String,
    /// How late the external service answers in mode `slow`.
    pub slow_for: Duration,
    /// How often the external service turns in mode `flapping`.
    pub flap_every: Duration,
    /// How many orders the worker asks about at once; so many it holds while it cannot.
    pub at_once: usize,
    /// How long a job is leased to a worker: after a crash it comes again that much later.
    pub lease: Duration,
    /// How long one attempt to ask the external service may take.
    pub attempt: Duration,
    /// How long all attempts of a call may take.
    pub deadline: Duration,
    /// When the worker stops asking; `None` never does, and only shows what a breaker is for.
    pub breaker: Option<BreakerConfig>,
    /// How often it asks again.
    pub retry: RetryConfig,
    /// The share of calls that may be retries, and how many may be saved up; `None` lets every
    /// call use all its attempts, and only shows what a budget is for.
    pub retry_budget: Option<(f64, u32)>,
    /// How long nothing must have failed before parked orders are taken up; without a breaker, how
    /// long each of them waits.
    pub calm: Duration,
    /// How often the monitor asks each service.
    pub probe_every: Duration,
    /// How long a probe may take.
    pub probe_within: Duration,
    /// A probe that takes longer is a sign of a service that is degraded.
    pub objective: Duration,
    pub(super) figures: Arc<Figures>,
}

impl Default for Settings {
    fn default() -> Self {
        let slow_after = Duration::from_secs(1);
        Self {
            prefix: String::from("medisupply"),
            gateway_port: 8080,
            order_port: 5001,
            validation_port: 5002,
            external_port: 5003,
            control_port: 5013,
            monitor_port: 5004,
            host: String::from("127.0.0.1"),
            slow_for: Duration::from_secs(3),
            flap_every: Duration::from_secs(5),
            at_once: 8,
            lease: Duration::from_secs(30),
            attempt: Duration::from_secs(2),
            deadline: Duration::from_secs(10),
            breaker: Some(BreakerConfig { slow_after, ..BreakerConfig::default() }),
            retry: RetryConfig::default(),
            retry_budget: Some((0.1, 2)),
            calm: Duration::from_secs(15),
            probe_every: Duration::from_secs(30),
            probe_within: Duration::from_secs(5),
            objective: Duration::from_secs(1),
            figures: Arc::default(),
        }
    }
}

impl Settings {
    /// The document's, with what the environment says otherwise: `MEDISUPPLY_PREFIX`,
    /// `MEDISUPPLY_HOST`, `MEDISUPPLY_<SERVICE>_PORT` (gateway, order, validation, external,
    /// control, monitor), and in milliseconds `MEDISUPPLY_SLOW_MS`, `MEDISUPPLY_FLAP_MS`,
    /// `MEDISUPPLY_ATTEMPT_MS`, `MEDISUPPLY_BREAKER_WAIT_MS`, `MEDISUPPLY_CALM_MS`,
    /// `MEDISUPPLY_PROBE_MS`, `MEDISUPPLY_OBJECTIVE_MS`. A value that cannot be read is an error
    /// that names it.
    pub fn from_env() -> Result<Self, Failure> {
        let mut settings = Self::default();
        set(&mut settings.prefix, "PREFIX")?;
        set(&mut settings.host, "HOST")?;
        set(&mut settings.gateway_port, "GATEWAY_PORT")?;
        set(&mut settings.order_port, "ORDER_PORT")?;
        set(&mut settings.validation_port, "VALIDATION_PORT")?;
        set(&mut settings.external_port, "EXTERNAL_PORT")?;
        set(&mut settings.control_port, "CONTROL_PORT")?;
        set(&mut settings.monitor_port, "MONITOR_PORT")?;
        set_ms(&mut settings.slow_for, "SLOW_MS")?;
        set_ms(&mut settings.flap_every, "FLAP_MS")?;
        set_ms(&mut settings.attempt, "ATTEMPT_MS")?;
        set_ms(&mut settings.calm, "CALM_MS")?;
        set_ms(&mut settings.probe_every, "PROBE_MS")?;
        set_ms(&mut settings.objective, "OBJECTIVE_MS")?;
        if let Some(breaker) = &mut settings.breaker {
            set_ms(&mut breaker.wait, "BREAKER_WAIT_MS")?;
        }
        Ok(settings)
    }

    /// Times for an experiment that takes seconds: as the document's, about ten times as fast.
    pub fn brisk() -> Self {
        let ms = Duration::from_millis;
        let breaker = BreakerConfig {
            window: 10,
            minimum_calls: 5,
            failure_rate: 0.5,
            slow_after: ms(500),
            slow_rate: 1.0,
            wait: ms(400),
            half_open_calls: 2,
        };
        let retry = RetryConfig { pause: ms(20), longest_pause: ms(200), ..Default::default() };
        Self {
            slow_for: ms(900),
            flap_every: ms(500),
            lease: Duration::from_secs(3),
            attempt: ms(700),
            deadline: Duration::from_secs(3),
            breaker: Some(breaker),
            retry,
            retry_budget: Some((0.08, 1)),
            calm: ms(1200),
            probe_every: ms(200),
            probe_within: Duration::from_secs(2),
            objective: ms(600),
            ..Self::default()
        }
    }

    /// Where something of a service is.
    pub fn url(&self, port: u16, path: &str) -> String {
        format!("http://{}:{port}{path}", self.host)
    }
}

fn set<T: FromStr>(value: &mut T, name: &str) -> Result<(), Failure>
where
    T::Err: std::fmt::Display,
{
    let name = format!("MEDISUPPLY_{name}");
    match std::env::var(&name) {
        Ok(text) if text.is_empty() => Ok(()),
        Ok(text) => {
            *value = text.parse().map_err(|why| format!("{name} is {text:?}: {why}"))?;
            Ok(())
        }
        Err(std::env::VarError::NotPresent) => Ok(()),
        Err(why) => Err(format!("{name}: {why}").into()),
    }
}

fn set_ms(value: &mut Duration, name: &str) -> Result<(), Failure> {
    let mut given = ms(*value);
    set(&mut given, name)?;
    match given {
        0 => Err(format!("MEDISUPPLY_{name} is 0: give it a millisecond at least").into()),
        _ => {
            *value = Duration::from_millis(given);
            Ok(())
        }
    }
}
