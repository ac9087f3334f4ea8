//! Positions of a group that are lost, and how they are kept from it.

use std::time::Duration;

use bus::driver::Driver as _;
use bus::kafka::Kafka;
use bus::{Bus, ConnectOptions, ConsumerName, ErrorKind, Start, StreamName};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::reading::raw;
use super::{PATIENCE, message, shared, stream, unique};

async fn delete_group(url: &str, group: &str) {
    let admin: AdminClient<DefaultClientContext> = raw(url).create().unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let deleted = admin.delete_groups(&[group], &AdminOptions::new()).await.unwrap();
        if deleted[0].is_ok() {
            return;
        }
        // Its members are still leaving it.
        assert!(Instant::now() < deadline, "{group} is not deleted: {deleted:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_position_that_is_lost_is_an_error_and_nothing_is_repeated_unasked() {
    let (broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    let name = stream.name().to_string();
    for n in 1..=5 {
        stream.publish(message(&stream, "a", n)).await.unwrap();
    }
    let first = Bus::connect(&broker.url()).await.unwrap();
    let consumer = first.consumer(&name, "c").open().await.unwrap();
    let mut settled = 0;
    while settled < 5 {
        for delivery in consumer.fetch(10, PATIENCE).await.unwrap() {
            delivery.ack_confirmed().await.unwrap();
            settled += 1;
        }
    }
    drop(consumer);
    first.close().await.unwrap();
    delete_group(&broker.url(), &format!("{name}.c")).await;
    stream.publish(message(&stream, "a", 6)).await.unwrap();

    let later = Bus::connect(&broker.url()).await.unwrap();
    let told = |error: &bus::Error| {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let text = error.to_string();
        assert!(["c", &name, "seek"].iter().all(|part| text.contains(*part)), "{text}");
    };
    told(&later.consumer_info(&name, "c").await.unwrap_err());
    assert_eq!(later.consumers(&name).await.unwrap().len(), 1, "it is listed");
    told(&later.bind(&name, "c").await.err().unwrap());
    // One that was bound a moment before it was lost.
    let kafka = Kafka::connect(&broker.url(), &ConnectOptions::default()).await.unwrap();
    let (of, named) = (StreamName::new(&name).unwrap(), ConsumerName::new("c").unwrap());
    let member = kafka.bind(&of, &named, 1).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        assert!(Instant::now() < deadline, "the loss is not told");
        match member.fetch(10, Duration::from_secs(1)).await {
            Ok(fetched) => assert!(fetched.is_empty(), "what was settled comes again"),
            Err(error) => break error,
        }
    };
    told(&refused);
    told(&member.fetch(10, Duration::from_secs(1)).await.err().unwrap());

    // Who knows where it was moves it there, and binds it again.
    later.seek(&name, "c", Start::Sequence(6)).await.unwrap();
    let consumer = later.bind(&name, "c").await.unwrap();
    let delivery = consumer.fetch(10, PATIENCE).await.unwrap().remove(0);
    assert_eq!((delivery.message().sequence, delivery.attempt()), (6, 1));
    delivery.ack_confirmed().await.unwrap();
    assert_eq!(later.consumer_info(&name, "c").await.unwrap().pending, 0);
}

/// Brokers forget the position of a group of theirs that has members and commits nothing.
#[tokio::test]
async fn a_consumer_with_nothing_to_do_commits_its_positions_again() {
    const OFFSETS: &str = "__consumer_offsets";
    let (broker, bus) = shared().await;
    let stream = stream(&bus, |config| config.partitions = 2).await;
    let group = format!("{}.idle", stream.name());
    let consumer = bus.consumer(stream.name(), "idle").open().await.unwrap();
    stream.publish(message(&stream, "a", 1)).await.unwrap();
    let delivery = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
    delivery.ack_confirmed().await.unwrap();

    let records: StreamConsumer =
        raw(&broker.url()).set("group.id", unique("raw")).create().unwrap();
    let mut ends = TopicPartitionList::new();
    for partition in 0..4 {
        let (_, end) = records.fetch_watermarks(OFFSETS, partition, PATIENCE).unwrap();
        ends.add_partition_offset(OFFSETS, partition, Offset::Offset(end)).unwrap();
    }
    records.assign(&ends).unwrap();
    // The key of a commit: its version, group, topic and partition.
    let is_commit = |key: &[u8]| {
        let holds = |text: &str| key.windows(text.len()).any(|part| part == text.as_bytes());
        matches!(key[..2], [0, 0 | 1]) && holds(&group)
    };
    let mut partitions = std::collections::BTreeSet::new();
    let again = async {
        while partitions.len() < 2 {
            let record = records.recv().await.unwrap();
            let key = record.key().unwrap();
            if is_commit(key) && record.payload().is_some() {
                partitions.insert(key[key.len() - 1]);
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
}
