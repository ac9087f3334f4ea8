//! From a URL and options to the settings of librdkafka's clients.

use std::path::Path;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

use crate::error::{Error, ErrorKind, Result};
use crate::options::ConnectOptions;

/// The largest message that any stream takes: a broker's own request limit is 100 MiB.
pub(super) const LARGEST_MESSAGE: u32 = 64 << 20;
/// What a record needs beside what the caller put into it: its subject and Kafka's own fields.
pub(super) const RECORD_OVERHEAD: u32 = 64 << 10;
/// The client sends up to this much to a partition in one batch. A topic refuses a batch that is
/// larger than its `max.message.bytes`, so that no topic of ours may take less.
pub(super) const BATCH_BYTES: u32 = 1 << 20;
/// How long the client repeats a publish before its receipt fails, as the Java client does. Long,
/// because a failed receipt leaves open whether the message is stored, and repeating it here does
/// not store it twice.
const DELIVERY_LIMIT_MS: &str = "120000";
/// How long a record waits for others: without it a request leaves for every few records, and both
/// sides are busy with requests. Java's client and librdkafka wait 5 ms unless told otherwise, which
/// is what a lone publish would take longer.
const LINGER_MS: &str = "0.5";
/// What the producer holds at most, beside the window's bound on messages.
const QUEUE_KIB: &str = "131072";
/// What one reader fetches ahead at most.
const READ_AHEAD_KIB: &str = "16384";
/// How long a broker waits for something new before it answers. While a partition is read ahead as
/// far as it may be, only the others are asked for, and that question stands in the way of the
/// next one: the default, half a second, is longer than what was read ahead lasts.
const FETCH_WAIT_MS: &str = "50";

/// What every client of one connection shares.
pub(super) struct Settings {
    common: ClientConfig,
    url: String,
}

impl Settings {
    /// Reads `kafka://host:port[,host:port...]`.
    pub(super) fn new(url: &str, options: &ConnectOptions) -> Result<Self> {
        refuse_what_is_of_nats(options)?;
        let mut common = ClientConfig::new();
        common.set("bootstrap.servers", servers(url)?);
        common.set("client.id", options.client_name.as_deref().unwrap_or("lockgate"));
        // A broker that restarts is found again within a second.
        common.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "1000");
        common.set("socket.keepalive.enable", "true");
        // Only what is declared is created, whatever the broker's defaults are.
        common.set("allow.auto.create.topics", "false");
        secure(&mut common, options)?;
        Ok(Self { common, url: url.to_owned() })
    }

    /// The address, for messages.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// For administration.
    pub(super) fn admin(&self) -> ClientConfig {
        self.common.clone()
    }

    /// For an idempotent producer: what it retries is stored once and in order.
    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = self.common.clone();
        config.set("enable.idempotence", "true").set("acks", "all");
        // Partitions are chosen by this crate; whoever leaves one open gets Java's choice.
        config.set("partitioner", "murmur2_random");
        config.set("message.timeout.ms", DELIVERY_LIMIT_MS);
        config.set("linger.ms", LINGER_MS);
        config.set("batch.size", (BATCH_BYTES - RECORD_OVERHEAD).to_string());
        config.set("message.max.bytes", (LARGEST_MESSAGE + RECORD_OVERHEAD).to_string());
        config.set("queue.buffering.max.messages", "0");
        config.set("queue.buffering.max.kbytes", QUEUE_KIB);
        config
    }

    /// For looking into topics: a question must not wait behind the fetch of the one before it.
    pub(super) fn lookup(&self, group: &str) -> ClientConfig {
        let mut config = self.consumer(group);
        config.set("fetch.wait.max.ms", "5");
        config
    }

    /// For a consumer. `group` is needed even by one that never joins it.
    pub(super) fn consumer(&self, group: &str) -> ClientConfig {
        let mut config = self.common.clone();
        config.set("group.id", group);
        config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        config.set("isolation.level", "read_committed");
        config.set("enable.partition.eof", "true");
        // A position that is gone is an error, so that it is looked at and not jumped over.
        config.set("auto.offset.reset", "error");
        config.set("queued.max.messages.kbytes", READ_AHEAD_KIB);
        config.set("fetch.wait.max.ms", FETCH_WAIT_MS);
        // The default, a second, is how long a full queue would stop the fetching.
        config.set("fetch.queue.backoff.ms", "5");
        config.set("fetch.message.max.bytes", "1048576");
        config.set("receive.message.max.bytes", (2 * LARGEST_MESSAGE).to_string());
        config.set("fetch.error.backoff.ms", "100");
        config
    }
}

fn refuse_what_is_of_nats(options: &ConnectOptions) -> Result<()> {
    let ConnectOptions { credentials, nkey_seed, token, inbox_prefix, jetstream, .. } = options;
    let of_nats = [
        (credentials.is_some(), "a NATS credentials file"),
        (nkey_seed.is_some(), "an nkey seed"),
        (token.is_some(), "a token"),
        (inbox_prefix.is_some(), "an inbox prefix"),
        (jetstream.is_some(), "a place of JetStream"),
    ];
    match of_nats.iter().find(|(given, _)| *given) {
        None => Ok(()),
        Some((_, what)) => Err(Error::invalid(format!(
            "{what} is of no use to kafka://: give a user and password, or a client certificate"
        ))),
    }
}

/// Who is there, and TLS.
fn secure(common: &mut ClientConfig, options: &ConnectOptions) -> Result<()> {
    let ConnectOptions { user, sasl, tls, .. } = options;
    let protocol = match (user.is_some(), tls.is_wanted()) {
        (false, false) => "plaintext",
        (false, true) => "ssl",
        (true, false) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    };
    common.set("security.protocol", protocol);
    if let Some((user, password)) = user {
        common.set("sasl.mechanism", sasl.to_string());
        common.set("sasl.username", user).set("sasl.password", password);
    }
    if !tls.is_wanted() {
        return Ok(());
    }
    if tls.certificate.is_some() != tls.key.is_some() {
        let what = "a client certificate needs its key, and a key its certificate";
        return Err(Error::invalid(what));
    }
    match &tls.roots {
        Some(roots) => common.set("ssl.ca.location", readable(roots, "roots")?),
        // OpenSSL is part of the build, and knows no place of this system's.
        None => common.set("ssl.ca.location", "probe"),
    };
    if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
        common.set("ssl.certificate.location", readable(certificate, "certificate")?);
        common.set("ssl.key.location", readable(key, "key")?);
    }
    Ok(())
}

/// The path of a PEM file that can be read.
fn readable<'a>(path: &'a Path, what: &str) -> Result<&'a str> {
    let text = std::fs::read_to_string(path).map_err(|source| {
        let what = format!("the {what} file {} cannot be read", path.display());
        Error::with_source(ErrorKind::Invalid, what, source)
    })?;
    if !text.contains("-----BEGIN ") {
        return Err(Error::invalid(format!("{} is no PEM file", path.display())));
    }
    path.to_str()
        .ok_or_else(|| Error::invalid(format!("the path {} is not in UTF-8", path.display())))
}

fn servers(url: &str) -> Result<String> {
    let shape = || Error::invalid(format!("{url:?} is not kafka://host:port[,host:port...]"));
    let hosts = url.strip_prefix("kafka://").ok_or_else(shape)?;
    if hosts.contains('@') {
        return Err(Error::invalid("credentials never stand in the URL: give a user"));
    }
    for host in hosts.split(',') {
        let (name, port) = host.rsplit_once(':').ok_or_else(shape)?;
        if name.is_empty() || name.contains('/') || port.parse::<u16>().is_err() {
            return Err(shape());
        }
    }
    Ok(hosts.to_owned())
}

/// Takes librdkafka's log lines to where this crate's go.
#[derive(Clone, Copy, Default)]
pub(super) struct Logged;

impl ClientContext for Logged {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => {
                tracing::warn!(target: "librdkafka", fac, "{log_message}")
            }
            _ => tracing::debug!(target: "librdkafka", fac, "{log_message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ConsumerContext for Logged {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_list_of_hosts() {
        assert_eq!(servers("kafka://a:1").unwrap(), "a:1");
        assert_eq!(servers("kafka://a:1,[::1]:9092").unwrap(), "a:1,[::1]:9092");
        for bad in ["kafka:", "kafka://", "kafka://a", "kafka://a:x", "kafka://a:1,", "nats://a:1"]
        {
            assert!(servers(bad).is_err(), "{bad}");
        }
        let secret = servers("kafka://me:secret@a:1").unwrap_err();
        assert!(!secret.to_string().contains("secret"));
    }
}
