//! Publishing and declaring.

use std::time::Duration;

use bus::{Capability, ErrorKind, Retention, StreamConfig, SubjectFilter, WhenFull};

use super::{PATIENCE, alone, message, shared, stream, unique};

#[tokio::test]
async fn receipts_survive_a_crash_of_the_broker() {
    let (mut broker, bus) = alone().await;
    let stream = stream(&bus, |_| {}).await;
    let mut receipts = Vec::new();
    for n in 0..500 {
        receipts.push(stream.submit(message(&stream, "a", n)).await.unwrap());
    }
    broker.kill9();
    for n in 500..1000 {
        receipts.push(stream.submit(message(&stream, "a", n)).await.unwrap());
    }
    broker.restart().await.unwrap();
    for (n, receipt) in (1..).zip(receipts) {
        let receipt = tokio::time::timeout(PATIENCE, receipt).await.unwrap();
        assert_eq!(receipt.unwrap().sequence, n, "stored once, in the order of submission");
    }
    assert_eq!(stream.info().await.unwrap().messages, 1000);
}

#[tokio::test]
async fn a_declaration_can_grow_and_its_drift_is_named() {
    let (_broker, bus) = shared().await;
    let stream = stream(&bus, |config| config.partitions = 3).await;
    let declared = stream.info().await.unwrap().config;
    assert_eq!(declared.partitions, 3);
    let changed = StreamConfig {
        max_age: Some(Duration::from_secs(3600)),
        max_bytes: Some(30 << 20),
        when_full: WhenFull::DropOldest,
        max_message_bytes: 4096,
        ..declared.clone()
    };
    bus.ensure_stream(&changed).await.unwrap();
    assert_eq!(stream.info().await.unwrap().config, changed);
    let wider = StreamConfig { partitions: 4, ..changed.clone() };
    let error = bus.ensure_stream(&wider).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("partitions 3 and cannot get 4"), "{error}");
    assert_eq!(stream.info().await.unwrap().config, changed);

    let limited = StreamConfig { max_messages: Some(1), ..changed.clone() };
    let refused = |capability| ErrorKind::Unsupported { capability, backend: "kafka://" };
    let error = bus.ensure_stream(&limited).await.err().unwrap();
    assert_eq!(error.kind(), refused(Capability::ExactLimits));
    let name = unique("queue");
    let queue = StreamConfig {
        retention: Retention::WorkQueue,
        ..StreamConfig::parse(&name, &[&name]).unwrap()
    };
    let error = bus.ensure_stream(&queue).await.err().unwrap();
    assert_eq!(error.kind(), refused(Capability::WorkQueue));
    assert!(bus.stream(&name).await.err().unwrap().is_not_found());
}

#[tokio::test]
async fn what_kafka_cannot_keep_is_refused_and_not_stored() {
    let (_broker, bus) = shared().await;
    let stream = stream(&bus, |config| config.max_message_bytes = 100).await;
    let plain = || message(&stream, "a", "x");
    let elsewhere = bus::Message::new("elsewhere", "x").unwrap();
    let reserved = plain().header("lg-subject", "x").unwrap();
    let unsupported = |capability| ErrorKind::Unsupported { capability, backend: "kafka://" };
    let cases = [
        (plain().id("1"), unsupported(Capability::Deduplication)),
        (plain().expect_last(0), unsupported(Capability::ConditionalPublish)),
        (plain().rollup(), unsupported(Capability::Rollup)),
        (plain().not_before(std::time::SystemTime::now()), ErrorKind::Invalid),
        (elsewhere, ErrorKind::Invalid),
        (reserved, ErrorKind::Invalid),
        (message(&stream, "a", "x".repeat(101)), ErrorKind::TooLarge),
    ];
    for (refused, kind) in cases {
        let error = stream.publish(refused).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    let filter = SubjectFilter::new("a").unwrap();
    let error = stream.purge(&filter).await.unwrap_err();
    assert_eq!(error.kind(), unsupported(Capability::SelectivePurge));
    assert_eq!(stream.info().await.unwrap().last_sequence, 0);
}

#[tokio::test]
async fn purging_keeps_the_sequence_and_making_anew_does_not() {
    let (_broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    for n in 1..=5 {
        assert_eq!(stream.publish(message(&stream, "a", n)).await.unwrap().sequence, n);
    }
    assert_eq!(stream.purge(&SubjectFilter::all()).await.unwrap(), 5);
    let info = stream.info().await.unwrap();
    assert_eq!((info.first_sequence, info.last_sequence, info.messages), (6, 5, 0));
    assert_eq!(stream.publish(message(&stream, "a", 6)).await.unwrap().sequence, 6);

    let config = info.config;
    bus.delete_stream(stream.name()).await.unwrap();
    assert!(bus.delete_stream(stream.name()).await.unwrap_err().is_not_found());
    assert!(stream.publish(message(&stream, "a", 7)).await.unwrap_err().is_not_found());
    bus.ensure_stream(&config).await.unwrap();
    assert_eq!(stream.publish(message(&stream, "a", 1)).await.unwrap().sequence, 1);
}

#[tokio::test]
async fn many_who_declare_the_same_at_once_agree() {
    let (broker, _bus) = shared().await;
    let name = unique("same");
    let config = StreamConfig::parse(&name, &[&name]).unwrap();
    let declare = |_| {
        let (url, config) = (broker.url(), config.clone());
        tokio::spawn(async move {
            let bus = bus::Bus::connect(&url).await.unwrap();
            bus.ensure_stream(&config).await.unwrap().info().await.unwrap().config
        })
    };
    let declared: Vec<_> = (0..4).map(declare).collect();
    for one in declared {
        assert_eq!(one.await.unwrap(), config);
    }
}

#[tokio::test]
async fn the_window_is_bounded_while_the_broker_is_away() {
    let (mut broker, bus) = alone().await;
    let stream = stream(&bus, |_| {}).await;
    stream.publish(message(&stream, "a", "first")).await.unwrap();
    broker.freeze().unwrap();
    let (mut receipts, body) = (Vec::new(), "x".repeat(20));
    let stopped = async {
        loop {
            receipts.push(stream.submit(message(&stream, "a", &body)).await.unwrap());
        }
    };
    // Time in which many times as many could be submitted, if nothing stopped it.
    let _: Result<std::convert::Infallible, _> =
        tokio::time::timeout(Duration::from_secs(5), stopped).await;
    let submitted = receipts.len() as u64;
    assert!((1000..=10_000).contains(&submitted), "{submitted} submitted while nothing was stored");
    broker.thaw().unwrap();
    for (receipt, n) in receipts.into_iter().zip(2..) {
        let receipt = tokio::time::timeout(PATIENCE, receipt).await.unwrap();
        assert_eq!(receipt.unwrap().sequence, n);
    }
    let after = stream.publish(message(&stream, "a", "after")).await.unwrap();
    assert_eq!(after.sequence, submitted + 2);
}

#[tokio::test]
async fn large_messages_wait_for_room_and_all_get_there() {
    let (_broker, bus) = shared().await;
    let stream = stream(&bus, |config| config.max_message_bytes = 4 << 20).await;
    // Together more than the producer's queue takes.
    let body = bytes::Bytes::from(vec![b'x'; 4_000_000]);
    let subject = format!("{}.a", stream.name());
    let messages = (0..50).map(|_| bus::Message::new(&subject, body.clone()).unwrap());
    let receipts = stream.publish_all(messages).await;
    for (receipt, n) in receipts.into_iter().zip(1..) {
        assert_eq!(receipt.unwrap().sequence, n);
    }
    assert_eq!(stream.get(50).await.unwrap().unwrap().payload, Some(body));
}
