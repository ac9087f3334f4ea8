//! Records that cannot be read: said by every call, and never jumped over.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use bus::testkit::KafkaBroker;
use bus::{Bus, ErrorKind, Start, SubjectFilter};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::time::Instant;

use super::reading::raw;
use super::{PATIENCE, message, shared, stream};

/// Where the records of a batch begin, behind its header.
const RECORDS: usize = 61;
const ATTRIBUTES: usize = 22;
/// What gzip begins with.
const GZIP_HEADER: usize = 10;

/// Spoils each batch of the topic that is compressed, on the disk of the broker.
fn spoil(broker: &KafkaBroker, topic: &str) -> usize {
    let path = broker.store().join(format!("{topic}-0")).join("00000000000000000000.log");
    let log = std::fs::read(&path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let (mut at, mut spoilt) = (0, 0);
    while at + RECORDS <= log.len() {
        let length = i32::from_be_bytes(log[at + 8..at + 12].try_into().unwrap());
        if length <= 0 {
            break;
        }
        let end = at + 12 + length as usize;
        if log[at + ATTRIBUTES] & 7 != 0 {
            let from = at + RECORDS + GZIP_HEADER;
            file.write_all_at(&vec![0xff; end - from], from as u64).unwrap();
            spoilt += 1;
        }
        at = end;
    }
    spoilt
}

fn body(message: &bus::StoredMessage) -> &str {
    std::str::from_utf8(message.payload.as_deref().unwrap()).unwrap()
}

#[tokio::test]
async fn a_batch_that_cannot_be_read_is_an_error_of_every_call() {
    let (broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    let name = stream.name().to_string();
    stream.publish(message(&stream, "a", "before")).await.unwrap();
    let mut config = raw(&broker.url());
    let producer: FutureProducer = config.set("compression.type", "gzip").create().unwrap();
    let (key, payload) = (format!("{name}.theirs"), "the same again ".repeat(100));
    producer.send(FutureRecord::to(&name).key(&key).payload(&payload), PATIENCE).await.unwrap();
    stream.publish(message(&stream, "b", "after")).await.unwrap();
    assert_eq!(spoil(&broker, &name), 1, "one batch is compressed");

    let other = Bus::connect(&broker.url()).await.unwrap();
    let there = other.stream(&name).await.unwrap();
    let consumer = other.consumer(&name, "c").open().await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let (mut fetched, mut refused) = (Vec::new(), Vec::new());
    while refused.len() < 2 {
        assert!(Instant::now() < deadline, "the consumer is silent");
        match consumer.fetch(10, Duration::from_secs(1)).await {
            Ok(deliveries) => {
                for delivery in deliveries {
                    fetched.push(body(delivery.message()).to_owned());
                    delivery.ack().await.unwrap();
                }
            }
            Err(error) => refused.push(("fetch", error)),
        }
    }
    assert_eq!(fetched, ["before"], "nothing jumps over the batch");
    let mut reader = there.reader(&[], Start::Beginning).await.unwrap();
    let first = reader.next(10, PATIENCE).await.unwrap();
    assert_eq!(first.iter().map(body).collect::<Vec<_>>(), ["before"]);
    for _ in 0..2 {
        refused.push(("next", reader.next(10, PATIENCE).await.unwrap_err()));
    }
    refused.push(("get", there.get(2).await.unwrap_err()));
    refused.push(("subjects", there.subjects(&SubjectFilter::all()).await.unwrap_err()));
    for (what, error) in &refused {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        assert!(error.to_string().contains(&name), "{what}: {error}");
    }
    assert_eq!(body(&there.get(1).await.unwrap().unwrap()), "before");
    assert_eq!(body(&there.get(3).await.unwrap().unwrap()), "after");

    // The way on that the error names.
    other.seek(&name, "c", Start::Sequence(3)).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let after = loop {
        assert!(Instant::now() < deadline, "the consumer is stuck");
        let mut fetched = consumer.fetch(1, Duration::from_secs(1)).await.unwrap_or_default();
        if let Some(delivery) = fetched.pop() {
            break delivery;
        }
    };
    assert_eq!(body(after.message()), "after");
}
