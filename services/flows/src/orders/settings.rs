//! What the roles need beside the bus, from the environment.

use std::env;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::flow::Failure;

/// Settings of the flow. Each has a default, so that it runs without any.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `LOCKGATE_ORDERS_ORDERING_PORT`: where ordering listens (8091).
    pub ordering_port: u16,
    /// `LOCKGATE_ORDERS_PAYMENT_PORT`: where payment listens (8092).
    pub payment_port: u16,
    /// `LOCKGATE_ORDERS_DELIVERY_PORT`: where delivery listens (8093).
    pub delivery_port: u16,
    /// `LOCKGATE_ORDERS_PAYMENT_URL`: how customers reach payment, the part before `/payments`;
    /// the address that it listens on without it.
    pub payment_url: Option<String>,
    /// `LOCKGATE_ORDERS_INSTANCES`: how many of ordering and of payment a process runs in their
    /// groups (2, the replicas of the document).
    pub instances: usize,
    /// `LOCKGATE_ORDERS_PARTITIONS`: of each topic, where the backend splits them (2: one for each
    /// instance).
    pub partitions: u32,
    /// `LOCKGATE_ORDERS_REPLICAS`: copies of each topic and bucket (1; the document's three
    /// brokers hold 3).
    pub replicas: u8,
    /// `LOCKGATE_ORDERS_ACK_WAIT`: how long a message may be at work before another instance gets
    /// it (30s).
    pub ack_wait: Duration,
    /// `LOCKGATE_ORDERS_SWEEP_AFTER`: how long a request that broke off stays unfinished (60s).
    /// Longer than a request may take, which is 30 s.
    pub sweep_after: Duration,
    /// `LOCKGATE_ORDERS_SMTP`: the mail server, `smtp://host:port`, `smtps://host`, or
    /// `smtp://host:587?tls=required`. Without it e-mails are lines in the log.
    pub smtp: Option<String>,
    /// `LOCKGATE_ORDERS_SMTP_CREDENTIALS`: a file of two lines, user and password.
    pub smtp_credentials: Option<PathBuf>,
    /// `LOCKGATE_ORDERS_FROM`: who sends the e-mails.
    pub from: String,
    /// `LOCKGATE_ORDERS_TEXTS`: a file that texts are appended to, JSON on a line each. Without it
    /// they are lines in the log.
    pub texts: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ordering_port: 8091,
            payment_port: 8092,
            delivery_port: 8093,
            payment_url: None,
            instances: 2,
            partitions: 2,
            replicas: 1,
            ack_wait: Duration::from_secs(30),
            sweep_after: Duration::from_secs(60),
            smtp: None,
            smtp_credentials: None,
            from: String::from("Orders <orders@lockgate.example>"),
            texts: None,
        }
    }
}

impl Settings {
    /// Reads the environment. A value that cannot be used is an error that names its variable.
    pub fn from_env() -> Result<Self, Failure> {
        Self::from_lookup(|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_lookup(look_up: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let get = |name: &str| look_up(&format!("LOCKGATE_ORDERS_{name}"));
        let default = Self::default();
        Ok(Self {
            ordering_port: parse("ORDERING_PORT", get, default.ordering_port)?,
            payment_port: parse("PAYMENT_PORT", get, default.payment_port)?,
            delivery_port: parse("DELIVERY_PORT", get, default.delivery_port)?,
            payment_url: get("PAYMENT_URL").map(|url| url.trim_end_matches('/').to_owned()),
            instances: parse("INSTANCES", get, default.instances)?.clamp(1, 64),
            partitions: parse("PARTITIONS", get, default.partitions)?,
            replicas: parse("REPLICAS", get, default.replicas)?,
            ack_wait: duration("ACK_WAIT", get, default.ack_wait)?,
            sweep_after: duration("SWEEP_AFTER", get, default.sweep_after)?,
            smtp: get("SMTP"),
            smtp_credentials: get("SMTP_CREDENTIALS").map(PathBuf::from),
            from: get("FROM").unwrap_or(default.from),
            texts: get("TEXTS").map(PathBuf::from),
        })
    }
}

fn parse<T: FromStr>(
    name: &str,
    get: impl Fn(&str) -> Option<String>,
    default: T,
) -> Result<T, Failure> {
    let Some(text) = get(name) else { return Ok(default) };
    text.parse().map_err(|_| format!("LOCKGATE_ORDERS_{name} is {text:?}: write a number").into())
}

fn duration(
    name: &str,
    get: impl Fn(&str) -> Option<String>,
    default: Duration,
) -> Result<Duration, Failure> {
    let Some(text) = get(name) else { return Ok(default) };
    humantime::parse_duration(&text)
        .map_err(|_| format!("LOCKGATE_ORDERS_{name} is {text:?}: write, for example, 30s").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_cannot_be_used_names_its_variable() {
        let only = |name: &'static str, value: &'static str| {
            Settings::from_lookup(move |asked| (asked == name).then(|| value.to_owned()))
        };
        let set = only("LOCKGATE_ORDERS_ACK_WAIT", "5s").unwrap();
        assert_eq!((set.ack_wait, set.ordering_port), (Duration::from_secs(5), 8091));
        for (name, value) in
            [("LOCKGATE_ORDERS_PAYMENT_PORT", "80920"), ("LOCKGATE_ORDERS_SWEEP_AFTER", "5")]
        {
            let error = only(name, value).unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }
}
