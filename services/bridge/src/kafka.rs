//! From a cluster's declaration to the settings of librdkafka's clients.

use std::path::Path;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel as Level;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::config::{KafkaCluster, SaslName};
use crate::failure::Failure;
use crate::mapping::{Place, Record};

/// How long a question to a broker may take.
pub(crate) const REQUEST: Duration = Duration::from_secs(15);
/// What a consumer fetches ahead at most, over all its partitions.
const READ_AHEAD_KIB: &str = "16384";
/// The largest message that a producer hands to a broker: a broker's own request limit is 100 MiB.
const LARGEST: &str = "67108864";

/// A client that nobody listens to beside its answers. Without it the library writes as an error
/// what is none, the end of a partition for example.
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: Level, fac: &str, line: &str) {
        note(level, fac, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        note_error(&error, reason);
    }
}

impl ConsumerContext for Quiet {}

/// Passes on what librdkafka says of itself.
pub(crate) fn note(level: Level, fac: &str, line: &str) {
    match level {
        Level::Emerg | Level::Alert | Level::Critical | Level::Error | Level::Warning => {
            tracing::warn!(target: "librdkafka", fac, "{line}");
        }
        _ => tracing::trace!(target: "librdkafka", fac, "{line}"),
    }
}

/// The same of its errors: what matters comes with an answer too.
pub(crate) fn note_error(error: &KafkaError, reason: &str) {
    tracing::debug!(target: "librdkafka", %error, "{reason}");
}

/// The settings that every client of a cluster has.
pub(crate) fn common(cluster: &KafkaCluster) -> Result<ClientConfig, Failure> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &cluster.brokers).set("client.id", "lockgate-bridge");
    config.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "2000");
    config.set("socket.keepalive.enable", "true").set("allow.auto.create.topics", "false");
    // Partitions that were added are read within this time.
    config.set("topic.metadata.refresh.interval.ms", "10000");
    let tls = cluster.tls || cluster.ca.is_some() || cluster.cert.is_some();
    let protocol = match (cluster.user.is_some(), tls) {
        (false, false) => "plaintext",
        (false, true) => "ssl",
        (true, false) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    if let (Some(user), Some(file)) = (&cluster.user, &cluster.password_file) {
        let text = std::fs::read_to_string(file).map_err(|error| {
            Failure::Again(format!("password file {} cannot be read: {error}", file.display()))
        })?;
        config.set("sasl.username", user).set("sasl.password", text.lines().next().unwrap_or(""));
        config.set(
            "sasl.mechanism",
            match cluster.sasl {
                SaslName::Plain => "PLAIN",
                SaslName::ScramSha256 => "SCRAM-SHA-256",
                SaslName::ScramSha512 => "SCRAM-SHA-512",
            },
        );
    }
    if tls {
        match &cluster.ca {
            Some(roots) => config.set("ssl.ca.location", text(roots)?),
            // OpenSSL is part of the build, and knows no place of this system's.
            None => config.set("ssl.ca.location", "probe"),
        };
        if let (Some(cert), Some(key)) = (&cluster.cert, &cluster.key) {
            config.set("ssl.certificate.location", text(cert)?);
            config.set("ssl.key.location", text(key)?);
        }
    }
    Ok(config)
}

fn text(path: &Path) -> Result<&str, Failure> {
    path.to_str()
        .ok_or_else(|| Failure::Again(format!("the path {} is not in UTF-8", path.display())))
}

/// A consumer that begins where it is told to, and nowhere else.
pub(crate) fn consumer(cluster: &KafkaCluster, group: &str) -> Result<ClientConfig, Failure> {
    let mut config = common(cluster)?;
    config.set("group.id", group);
    config.set("isolation.level", "read_committed");
    config.set("auto.offset.reset", "error");
    config.set("enable.auto.offset.store", "false");
    config.set("partition.assignment.strategy", "cooperative-sticky");
    config.set("session.timeout.ms", "10000").set("heartbeat.interval.ms", "1000");
    config.set("queued.max.messages.kbytes", READ_AHEAD_KIB);
    config.set("fetch.wait.max.ms", "50").set("fetch.queue.backoff.ms", "5");
    config.set("fetch.error.backoff.ms", "100");
    config.set("receive.message.max.bytes", "134217728");
    Ok(config)
}

/// A producer that stores what it repeats once and in order, and chooses Java's partitions.
pub(crate) fn producer(cluster: &KafkaCluster) -> Result<ClientConfig, Failure> {
    let mut config = common(cluster)?;
    config.set("enable.idempotence", "true").set("acks", "all");
    config.set("partitioner", "murmur2_random").set("linger.ms", "2");
    config.set("message.max.bytes", LARGEST);
    config.set("queue.buffering.max.kbytes", "131072");
    Ok(config)
}

/// Makes a compacted topic of one partition where it is missing.
pub(crate) async fn ensure_compacted(cluster: &KafkaCluster, name: &str) -> Result<(), Failure> {
    let doing = || format!("make topic {name}");
    let admin: AdminClient<Quiet> =
        common(cluster)?.create_with_context(Quiet).map_err(Failure::kafka(doing()))?;
    // The broker's own number of copies.
    let topic = NewTopic::new(name, 1, TopicReplication::Fixed(-1))
        .set("cleanup.policy", "compact")
        .set("segment.bytes", "1048576")
        .set("min.cleanable.dirty.ratio", "0.1");
    let options = AdminOptions::new().request_timeout(Some(REQUEST));
    let made = admin.create_topics([&topic], &options).await.map_err(Failure::kafka(doing()))?;
    match made.into_iter().next() {
        None | Some(Ok(_) | Err((_, Code::TopicAlreadyExists))) => Ok(()),
        Some(Err((_, code))) => Err(Failure::Again(format!("kafka: {}: {code}", doing()))),
    }
}

/// The id that a cluster gave itself; blocks.
fn ask_cluster_id(cluster: &KafkaCluster) -> Result<String, Failure> {
    let doing = "look at the cluster";
    let consumer: BaseConsumer<Quiet> = consumer(cluster, "lockgate-bridge")?
        .create_with_context(Quiet)
        .map_err(Failure::kafka(doing))?;
    // Known only from an answer.
    consumer.fetch_metadata(None, REQUEST).map_err(Failure::kafka(doing))?;
    consumer
        .client()
        .fetch_cluster_id(REQUEST)
        .ok_or_else(|| Failure::Again("kafka: the cluster does not tell its id".into()))
}

/// The id that a cluster gave itself.
pub(crate) async fn cluster_id(cluster: &KafkaCluster) -> Result<String, Failure> {
    let cluster = cluster.clone();
    let asked = tokio::task::spawn_blocking(move || ask_cluster_id(&cluster)).await;
    asked.map_err(|error| Failure::Again(format!("looking at the cluster ended: {error}")))?
}

/// Reads one record by its place; blocks.
pub(crate) fn read_one(
    cluster: &KafkaCluster,
    group: &str,
    place: &Place,
) -> Result<Record, Failure> {
    let doing = || format!("read {} {} {}", place.topic, place.partition, place.offset);
    let gone = || Failure::Again(format!("kafka: {}: it is not there any more", doing()));
    let consumer: BaseConsumer<Quiet> =
        consumer(cluster, group)?.create_with_context(Quiet).map_err(Failure::kafka(doing()))?;
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(&place.topic, place.partition, Offset::Offset(place.offset))
        .map_err(Failure::kafka(doing()))?;
    consumer.assign(&from).map_err(Failure::kafka(doing()))?;
    match consumer.poll(REQUEST) {
        Some(Ok(message)) if message.offset() == place.offset => Ok(Record::of(&message)),
        Some(Err(source)) => Err(Failure::Kafka { doing: doing(), source }),
        Some(Ok(_)) | None => Err(gone()),
    }
}
