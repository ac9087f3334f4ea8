//! Programs on the other side: plain clients of Kafka.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::world::PATIENCE;

/// A record as a program writes or reads it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sent {
    pub(super) key: Option<Bytes>,
    pub(super) value: Option<Bytes>,
    pub(super) headers: Vec<(String, Option<Bytes>)>,
    pub(super) timestamp: Option<i64>,
    pub(super) partition: Option<i32>,
}

impl Sent {
    pub(super) fn new(key: &str, value: impl ToString) -> Self {
        let (key, value) = (Some(key.to_owned().into()), Some(value.to_string().into()));
        Self { key, value, ..Self::default() }
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.value.clone().unwrap_or_default().to_vec()).unwrap()
    }

    pub(super) fn header(&self, name: &str) -> Option<Bytes> {
        self.headers.iter().find(|(n, _)| n == name).and_then(|(_, value)| value.clone())
    }
}

pub(super) fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("message.timeout.ms", "60000");
    config
}

pub(super) async fn make_topic(brokers: &str, name: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> = config(brokers).create().unwrap();
    // Records of some tests are from years ago, which a broker removes otherwise.
    let topic =
        NewTopic::new(name, partitions, TopicReplication::Fixed(1)).set("retention.ms", "-1");
    let deadline = Instant::now() + PATIENCE;
    // A name is free again a moment after its topic was deleted.
    loop {
        let made = admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
        match &made[0] {
            Ok(_) => return,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

pub(super) async fn delete_topic(brokers: &str, name: &str) {
    let admin: AdminClient<DefaultClientContext> = config(brokers).create().unwrap();
    admin.delete_topics(&[name], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
}

pub(super) async fn add_partitions(brokers: &str, name: &str, count: usize) {
    let admin: AdminClient<DefaultClientContext> = config(brokers).create().unwrap();
    let wanted = NewPartitions::new(name, count);
    admin.create_partitions([&wanted], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
}

/// Sends records and waits until the broker has them.
pub(super) fn send(brokers: &str, topic: &str, records: &[Sent]) {
    send_with(&config(brokers).create().unwrap(), topic, records);
}

/// The same, compressed.
pub(super) fn send_as(brokers: &str, topic: &str, codec: &str, records: &[Sent]) {
    send_with(&config(brokers).set("compression.type", codec).create().unwrap(), topic, records);
}

pub(super) fn send_with(producer: &BaseProducer, topic: &str, records: &[Sent]) {
    for sent in records {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic);
        record.key = sent.key.as_deref();
        record.payload = sent.value.as_deref();
        record.timestamp = sent.timestamp;
        record.partition = sent.partition;
        if !sent.headers.is_empty() {
            let headers = sent.headers.iter().fold(OwnedHeaders::new(), |all, (name, value)| {
                all.insert(Header { key: name, value: value.as_deref() })
            });
            record = record.headers(headers);
        }
        while let Err((KafkaError::MessageProduction(_), again)) = producer.send(record) {
            record = again;
            producer.poll(Duration::from_millis(10));
        }
    }
    producer.flush(PATIENCE).unwrap();
}

/// Reads from the beginning of a topic until `count` records came that are not aborted, and then for
/// as long as it takes to be sure that no more follow: to the end of every partition.
pub(super) fn read(brokers: &str, topic: &str, count: usize) -> Vec<Sent> {
    let mut all = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        all.clear();
        read_to_end(brokers, topic, &mut all);
        if all.len() >= count {
            return all;
        }
        assert!(Instant::now() < deadline, "{} of {count} records in {topic}", all.len());
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn read_to_end(brokers: &str, topic: &str, all: &mut Vec<Sent>) {
    let mut settings = config(brokers);
    settings.set("group.id", "foreign").set("enable.auto.commit", "false");
    settings.set("isolation.level", "read_committed").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = settings.create().unwrap();
    let found = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let mut open: BTreeMap<i32, ()> = BTreeMap::new();
    let mut from = TopicPartitionList::new();
    for partition in found.topics()[0].partitions() {
        open.insert(partition.id(), ());
        from.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&from).unwrap();
    while !open.is_empty() {
        match consumer.poll(PATIENCE).expect("the end of each partition") {
            Ok(message) => all.push(Sent {
                key: message.key().map(Bytes::copy_from_slice),
                value: message.payload().map(Bytes::copy_from_slice),
                headers: message.headers().map_or_else(Vec::new, |headers| {
                    let owned = |value: Option<&[u8]>| value.map(Bytes::copy_from_slice);
                    headers.iter().map(|h| (h.key.to_owned(), owned(h.value))).collect()
                }),
                timestamp: message.timestamp().to_millis(),
                partition: Some(message.partition()),
            }),
            Err(KafkaError::PartitionEOF(partition)) => drop(open.remove(&partition)),
            Err(error) => panic!("{error}"),
        }
    }
}
