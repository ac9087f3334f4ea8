//! Headers that other programs write: whatever Kafka allows is kept.

use bus::{Bus, ErrorKind, Message, Start};
use bytes::Bytes;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};

use super::reading::{raw, read};
use super::{PATIENCE, shared, stream, unique};

type Owned = Vec<(String, Option<Vec<u8>>)>;

/// Names and values that Kafka takes, and HTTP does not.
fn odd() -> Owned {
    let pairs: [(&str, Option<&[u8]>); 10] = [
        ("null", None),
        ("empty", Some(b"")),
        ("r", Some(b"1")),
        ("r", None),
        ("R", Some(b"3")),
        ("binary", Some(b"\xff\x00\xfe")),
        ("with space", Some(b" x ")),
        ("", Some(b"no name")),
        ("tr\u{e9}s:", Some("caf\u{e9}".as_bytes())),
        ("lines", Some(b"a\r\nb")),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).into()
}

fn owned(headers: &bus::Headers) -> Owned {
    let entries = headers.entries();
    entries.map(|(name, value)| (name.to_owned(), value.map(|value| value.to_vec()))).collect()
}

#[tokio::test]
async fn headers_of_other_programs_are_kept_by_every_call_and_by_a_copy() {
    let (broker, bus) = shared().await;
    let (from, to) = (stream(&bus, |_| {}).await, stream(&bus, |_| {}).await);
    let consumer = bus.consumer(from.name(), "c").open().await.unwrap();
    let mut headers = OwnedHeaders::new();
    for (name, value) in &odd() {
        headers = headers.insert(Header { key: name, value: value.as_deref() });
    }
    let producer: FutureProducer = raw(&broker.url()).create().unwrap();
    let name = from.name().to_string();
    let record = FutureRecord::<(), _>::to(&name).payload("x").headers(headers);
    producer.send(record, PATIENCE).await.unwrap();

    let mut reader = from.reader(&[], Start::Beginning).await.unwrap();
    let found = read(&mut reader, 1).await.remove(0);
    assert_eq!(owned(&found.headers), odd());
    assert_eq!(found.headers.values("null").collect::<Vec<_>>(), [&Bytes::new()], "reads as empty");
    assert_eq!(from.get(1).await.unwrap().unwrap().headers, found.headers);
    // The retry is a copy too.
    let delivery = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
    delivery.retry(std::time::Duration::ZERO).await.unwrap();
    let again = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
    assert_eq!((again.attempt(), owned(&again.message().headers)), (2, odd()));
    again.ack().await.unwrap();

    let mut copy = Message::new(format!("{}.a", to.name()), "x").unwrap();
    copy.headers = found.headers.clone();
    to.publish(copy).await.unwrap();
    let records: StreamConsumer =
        raw(&broker.url()).set("group.id", unique("raw")).create().unwrap();
    let mut places = TopicPartitionList::new();
    places.add_partition_offset(to.name().as_str(), 0, Offset::Beginning).unwrap();
    records.assign(&places).unwrap();
    let record = records.recv().await.unwrap();
    let stored = record.headers().unwrap().iter();
    let stored: Owned = stored.map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect();
    assert_eq!(stored, odd(), "another program sees the same");
}

/// What one backend takes is kept by another, or refused by name.
#[cfg(feature = "disk")]
#[tokio::test]
async fn headers_that_only_kafka_takes_go_through_the_embedded_log() {
    let (broker, bus) = shared().await;
    let from = stream(&bus, |_| {}).await;
    let mut headers = OwnedHeaders::new();
    for (name, value) in &odd() {
        headers = headers.insert(Header { key: name, value: value.as_deref() });
    }
    let producer: FutureProducer = raw(&broker.url()).create().unwrap();
    let name = from.name().to_string();
    let record = FutureRecord::<(), _>::to(&name).payload("x").headers(headers);
    producer.send(record, PATIENCE).await.unwrap();
    let found = from.get(1).await.unwrap().unwrap();

    let folder = tempfile::tempdir().unwrap();
    let url = format!("embedded://{}", folder.path().display());
    for _ in 0..2 {
        // The second time it is read from the disk.
        let local = Bus::connect(&url).await.unwrap();
        let config = bus::StreamConfig::parse("copies", &["copies.>"]).unwrap();
        let copies = local.ensure_stream(&config).await.unwrap();
        let mut copy = Message::new("copies.a", "x").unwrap();
        copy.headers = found.headers.clone();
        copies.publish(copy).await.unwrap();
        let kept = copies.get(1).await.unwrap().unwrap();
        let all = |headers: &bus::Headers| -> Vec<(String, Bytes)> {
            headers.iter().map(|(name, value)| (name.to_owned(), value.clone())).collect()
        };
        assert_eq!(all(&kept.headers), all(&found.headers));
        local.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_name_that_kafka_cannot_hold_is_refused_by_name() {
    let (_broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    let message = Message::new(format!("{}.a", stream.name()), "x").unwrap();
    let refused = stream.publish(message.header("lg-else", "x").unwrap()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("lg-else"), "{refused}");
}

#[tokio::test]
async fn a_header_that_is_not_text_stops_nobody() {
    let (broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    let producer: FutureProducer = raw(&broker.url()).create().unwrap();
    let subject = format!("{}.a", stream.name());
    // A value that is not text in place of the subject: the stream's name stands in.
    let headers = OwnedHeaders::new()
        .insert(Header { key: "Lg-Subject", value: Some(&b"\xff\xfe"[..]) })
        .insert(Header { key: "no value", value: None::<&[u8]> });
    let name = stream.name().to_string();
    let record = FutureRecord::<(), _>::to(&name).payload("x").headers(headers);
    producer.send(record, PATIENCE).await.unwrap();
    stream.publish(Message::new(&subject, "y").unwrap()).await.unwrap();
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    let read = read(&mut reader, 2).await;
    assert_eq!((read[0].subject.as_str(), read[0].headers.len()), (&*name, 1));
    assert_eq!(read[1].subject.as_str(), subject);
}
