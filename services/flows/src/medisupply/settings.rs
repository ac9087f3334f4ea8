//! What can be set: ports, addresses, names and times.

use std::time::Duration;

use lockgate_resilience::{BreakerConfig, RetryConfig};

use super::figures::Figures;
use crate::flow::Failure;
use crate::settings::{Settings as Given, settings};

settings! { "MEDISUPPLY_";
    PREFIX, "prefix", "PREFIX", Text, "medisupply", "What the names of its streams and its bucket begin with";
    HOST, "host", "HOST", Text, "127.0.0.1", "The host that the services find each other at";
    GATEWAY_PORT, "gateway-port", "GATEWAY_PORT", Count, "8080", "The gateway's port";
    ORDER_PORT, "order-port", "ORDER_PORT", Count, "5001", "The order service's port";
    VALIDATION_PORT, "validation-port", "VALIDATION_PORT", Count, "5002", "The validation worker's port";
    EXTERNAL_PORT, "external-port", "EXTERNAL_PORT", Count, "5003",
        "The external service's port, on which nobody listens while it is down";
    CONTROL_PORT, "control-port", "CONTROL_PORT", Count, "5013",
        "Where the external service takes its mode, also while it is down";
    MONITOR_PORT, "monitor-port", "MONITOR_PORT", Count, "5004", "The monitor's port";
    SLOW_FOR, "slow-for", "SLOW_FOR", Time, "3s", "How late the external service answers in mode slow";
    FLAP_EVERY, "flap-every", "FLAP_EVERY", Time, "5s",
        "How often the external service turns in mode flapping";
    ATTEMPT, "attempt", "ATTEMPT", Time, "2s",
        "How long one attempt to ask the external service may take";
    BREAKER_WAIT, "breaker-wait", "BREAKER_WAIT", Time, "10s",
        "How long the breaker stays open before it tries again";
    CALM, "calm", "CALM", Time, "15s",
        "How long nothing must have failed before parked orders are taken up";
    PROBE_EVERY, "probe-every", "PROBE_EVERY", Time, "30s", "How often the monitor asks each service";
    OBJECTIVE, "objective", "OBJECTIVE", Time, "1s",
        "A probe that takes longer is a sign of a service that is degraded";
}

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
    pub(super) figures: Figures,
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
            figures: Figures::default(),
        }
    }
}

impl Settings {
    /// The document's, with what was given otherwise. A value that cannot be used is an error that
    /// names its setting.
    pub fn of(given: &Given) -> Result<Self, Failure> {
        let text = |setting| given.text(setting).unwrap_or_default().to_owned();
        let default = Self::default();
        let wait = given.some_time(&BREAKER_WAIT)?;
        Ok(Self {
            prefix: text(&PREFIX),
            host: text(&HOST),
            gateway_port: given.number(&GATEWAY_PORT)?,
            order_port: given.number(&ORDER_PORT)?,
            validation_port: given.number(&VALIDATION_PORT)?,
            external_port: given.number(&EXTERNAL_PORT)?,
            control_port: given.number(&CONTROL_PORT)?,
            monitor_port: given.number(&MONITOR_PORT)?,
            slow_for: given.some_time(&SLOW_FOR)?,
            flap_every: given.some_time(&FLAP_EVERY)?,
            attempt: given.some_time(&ATTEMPT)?,
            breaker: default.breaker.map(|breaker| BreakerConfig { wait, ..breaker }),
            calm: given.some_time(&CALM)?,
            probe_every: given.some_time(&PROBE_EVERY)?,
            objective: given.some_time(&OBJECTIVE)?,
            ..Self::default()
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Setting;

    #[test]
    fn what_can_be_set_has_the_documents_defaults() {
        let (read, default) = (Settings::of(&Given::default()).unwrap(), Settings::default());
        assert_eq!(format!("{read:?}"), format!("{default:?}"));
    }

    #[test]
    fn a_value_that_cannot_be_used_names_its_setting() {
        let refused = |setting: &'static Setting, value: &str| {
            let mut given = Given::default();
            let set = given.set(setting, value);
            set.and_then(|()| Settings::of(&given).map(drop)).unwrap_err().to_string()
        };
        assert!(refused(&GATEWAY_PORT, "70000").starts_with("--gateway-port"));
        assert_eq!(refused(&CALM, "0s"), "--calm \"0s\": it has to be longer");
        assert!(refused(&SLOW_FOR, "long").starts_with("--slow-for"));
    }
}
