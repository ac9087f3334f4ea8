//! What can be set of the flow, and what its roles read of it.

use std::path::PathBuf;
use std::time::Duration;

use crate::flow::Failure;
use crate::settings::{Settings as Given, settings};

settings! { "LOCKGATE_ORDERS_";
    ORDERING_PORT, "ordering-port", "ORDERING_PORT", Count, "8091", "Where ordering listens";
    PAYMENT_PORT, "payment-port", "PAYMENT_PORT", Count, "8092", "Where payment listens";
    DELIVERY_PORT, "delivery-port", "DELIVERY_PORT", Count, "8093", "Where delivery listens";
    PAYMENT_URL, "payment-url", "PAYMENT_URL", Text, "",
        "How customers reach payment, the part before /payments; without it where payment listens";
    INSTANCES, "instances", "INSTANCES", Count, "2",
        "How many of ordering and of payment this process runs in their groups, 1 to 64";
    PARTITIONS, "partitions", "PARTITIONS", Count, "2", "Partitions of each topic, on Kafka";
    REPLICAS, "replicas", "REPLICAS", Count, "1", "Copies of each topic and bucket";
    ACK_WAIT, "ack-wait", "ACK_WAIT", Time, "30s",
        "How long a message may be at work before another instance gets it";
    SWEEP_AFTER, "sweep-after", "SWEEP_AFTER", Time, "60s",
        "How long a request that broke off stays unfinished: longer than one may take, which is 30s";
    SMTP, "smtp", "SMTP", Text, "",
        "The mail server: smtp://host:port, smtps://host or smtp://host:587?tls=required; without it \
         e-mails are lines in the log";
    SMTP_CREDENTIALS, "smtp-credentials", "SMTP_CREDENTIALS", Text, "",
        "A file of two lines, user and password of the mail server";
    FROM, "from", "FROM", Text, "Orders <orders@lockgate.example>", "Who sends the e-mails";
    TEXTS, "texts", "TEXTS", Text, "",
        "A file that texts are appended to, JSON on a line each; without it they are lines in the log";
}

/// The settings as the roles read them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `--ordering-port`
    pub ordering_port: u16,
    /// `--payment-port`
    pub payment_port: u16,
    /// `--delivery-port`
    pub delivery_port: u16,
    /// `--payment-url`
    pub payment_url: Option<String>,
    /// `--instances`
    pub instances: usize,
    /// `--partitions`
    pub partitions: u32,
    /// `--replicas`
    pub replicas: u8,
    /// `--ack-wait`
    pub ack_wait: Duration,
    /// `--sweep-after`
    pub sweep_after: Duration,
    /// `--smtp`
    pub smtp: Option<String>,
    /// `--smtp-credentials`
    pub smtp_credentials: Option<PathBuf>,
    /// `--from`
    pub from: String,
    /// `--texts`
    pub texts: Option<PathBuf>,
}

impl Default for Settings {
    #[allow(clippy::expect_used, reason = "the defaults are literals, and a test reads them")]
    fn default() -> Self {
        Self::of(&Given::default()).expect("defaults")
    }
}

impl Settings {
    /// Reads what was given. A value that cannot be used is an error that names its setting.
    pub fn of(given: &Given) -> Result<Self, Failure> {
        let text = |setting| given.text(setting).map(str::to_owned);
        let url = text(&PAYMENT_URL).map(|url| url.trim_end_matches('/').to_owned());
        Ok(Self {
            ordering_port: given.number(&ORDERING_PORT)?,
            payment_port: given.number(&PAYMENT_PORT)?,
            delivery_port: given.number(&DELIVERY_PORT)?,
            payment_url: url,
            instances: given.number::<usize>(&INSTANCES)?.clamp(1, 64),
            partitions: given.number(&PARTITIONS)?,
            replicas: given.number(&REPLICAS)?,
            ack_wait: given.some_time(&ACK_WAIT)?,
            sweep_after: given.some_time(&SWEEP_AFTER)?,
            smtp: text(&SMTP),
            smtp_credentials: text(&SMTP_CREDENTIALS).map(PathBuf::from),
            from: text(&FROM).unwrap_or_default(),
            texts: text(&TEXTS).map(PathBuf::from),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_cannot_be_used_names_its_setting() {
        let default = Settings::default();
        assert_eq!((default.ordering_port, default.sweep_after.as_secs()), (8091, 60));
        assert!(default.smtp.is_none() && default.from.contains('@'));
        let mut given = Given::default();
        given.set(&ACK_WAIT, "5s").unwrap();
        given.set(&PAYMENT_URL, "https://pay.example/").unwrap();
        let set = Settings::of(&given).unwrap();
        assert_eq!(set.ack_wait, Duration::from_secs(5));
        assert_eq!(set.payment_url.as_deref(), Some("https://pay.example"));
        given.set(&PAYMENT_PORT, "80920").unwrap();
        let error = Settings::of(&given).unwrap_err().to_string();
        assert_eq!(error, "--payment-port \"80920\": it is too large");
        assert!(given.set(&SWEEP_AFTER, "soon").is_err());
    }
}
