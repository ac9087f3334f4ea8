//! Consumers and readers: acks that lie, limits, redelivery, servers that die.

use std::collections::BTreeSet;
use std::time::Duration;

use bus::{ConsumerConfig, ConsumerName, ErrorKind, LeaseToken, Settlement, Start, SubjectFilter};

use super::{PATIENCE, message, raw, server, stream};

#[tokio::test]
async fn a_confirmation_from_a_deleted_consumer_is_an_error() {
    let (_server, bus) = server().await;
    stream(&bus, "S", "s.>").await.publish(message("s.a", 1)).await.unwrap();
    let consumer = bus.consumer("S", "c").open().await.unwrap();
    let delivery = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
    bus.delete_consumer("S", "c").await.unwrap();
    let failed = delivery.ack_confirmed().await.unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::NotFound, "{}", failed.error);
    let error = consumer.fetch(1, Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn fetch_returns_what_is_there_and_does_not_wait_for_more() {
    let (_server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    for prefetch in [0, 100] {
        let name = format!("c{prefetch}");
        let consumer = bus.consumer("S", &name).start(Start::New).prefetch(prefetch).open().await;
        let consumer = consumer.unwrap();
        let none = consumer.fetch(10, Duration::from_millis(50)).await.unwrap();
        assert!(none.is_empty());
        assert!(consumer.fetch(10, Duration::ZERO).await.unwrap().is_empty());
        for n in 0..3 {
            stream.publish(message("s.a", n)).await.unwrap();
        }
        let started = tokio::time::Instant::now();
        let mut got = 0;
        while got < 3 {
            let fetched = consumer.fetch(10, PATIENCE).await.unwrap();
            assert!(!fetched.is_empty());
            got += fetched.len();
            for delivery in fetched {
                assert_eq!(delivery.attempt(), 1);
                delivery.ack_confirmed().await.unwrap();
            }
        }
        assert!(started.elapsed() < PATIENCE / 2, "it waited for more than the first");
        // A waiting fetch wakes up for the first message, though it asked for ten.
        let waiting = consumer.clone();
        let waiting = tokio::spawn(async move { waiting.fetch(10, PATIENCE).await.unwrap().len() });
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.publish(message("s.a", 4)).await.unwrap();
        assert_eq!(waiting.await.unwrap(), 1);
        assert!(started.elapsed() < PATIENCE / 2, "it waited for more than the first");
        bus.delete_consumer("S", &name).await.unwrap();
    }
}

#[tokio::test]
async fn every_way_of_settling_does_what_it_says() {
    let (_server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    for n in 0..4 {
        stream.publish(message("s.a", n)).await.unwrap();
    }
    let consumer = bus.consumer("S", "c").ack_wait(Duration::from_secs(2)).open().await.unwrap();
    let mut all = consumer.fetch(4, PATIENCE).await.unwrap();
    assert_eq!(all.len(), 4);
    all.remove(0).ack().await.unwrap();
    all.remove(0).reject("bad day").await.unwrap();
    let retried = tokio::time::Instant::now();
    all.remove(0).retry(Duration::from_millis(300)).await.unwrap();
    let mut slow = all.remove(0);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(900)).await;
        slow.extend().await.unwrap();
    }
    let again = consumer.fetch(10, PATIENCE).await.unwrap().remove(0);
    assert!(retried.elapsed() >= Duration::from_millis(300));
    assert_eq!((again.message().sequence, again.attempt()), (3, 2));
    again.ack_confirmed().await.unwrap();
    slow.ack_confirmed().await.unwrap();
    let info = consumer.info().await.unwrap();
    assert_eq!((info.pending, info.unsettled, info.settled_sequence), (0, 0, 4));
}

#[tokio::test]
async fn a_token_settles_from_elsewhere_and_a_foreign_one_does_not() {
    let (_server, bus) = server().await;
    stream(&bus, "S", "s.>").await.publish(message("s.a", 1)).await.unwrap();
    let consumer = bus.consumer("S", "c").open().await.unwrap();
    let other = bus.consumer("S", "other").open().await.unwrap();
    let token = consumer.fetch(1, PATIENCE).await.unwrap().remove(0).token().clone();
    let foreign = other.settle(&token, Settlement::Ack).await.unwrap_err();
    assert_eq!(foreign.kind(), ErrorKind::Invalid);
    let evil = LeaseToken::from("$JS.API.STREAM.DELETE.S");
    assert_eq!(
        consumer.settle(&evil, Settlement::Ack).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    consumer.settle(&token, Settlement::Ack).await.unwrap();
    assert_eq!(consumer.info().await.unwrap().unsettled, 0);
}

#[tokio::test]
async fn a_stream_holds_more_consumers_than_the_servers_default() {
    let (_server, bus) = server().await;
    stream(&bus, "S", "s.>").await;
    for n in 0..1100 {
        let mut config = ConsumerConfig::new(ConsumerName::new(format!("c{n:04}")).unwrap());
        config.filters.push(SubjectFilter::new(format!("s.{n}")).unwrap());
        bus.ensure_consumer("S", &config).await.unwrap();
    }
    let all = bus.consumers("S").await.unwrap();
    assert_eq!(all.len(), 1100);
    assert!(all.is_sorted_by(|a, b| a.config.name < b.config.name));
}

#[tokio::test]
async fn ensuring_a_consumer_twice_changes_nothing_and_drift_is_named() {
    let (_server, bus) = server().await;
    stream(&bus, "S", "s.>").await;
    let mut config = ConsumerConfig::new(ConsumerName::new("c").unwrap());
    config.start = Start::LastPerSubject;
    config.metadata.insert("owner".into(), "anna".into());
    let made = bus.ensure_consumer("S", &config).await.unwrap();
    assert_eq!(made.config, config);
    assert_eq!(bus.ensure_consumer("S", &config).await.unwrap().created, made.created);
    config.ack_wait = Duration::from_secs(7);
    config.max_attempts = Some(3);
    config.metadata = [("owner".to_owned(), "bert".to_owned())].into();
    assert_eq!(bus.ensure_consumer("S", &config).await.unwrap().config, config);
    config.start = Start::Beginning;
    config.filters.push(SubjectFilter::new("s.a").unwrap());
    let error = bus.ensure_consumer("S", &config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("start") && error.to_string().contains("filters"));
    let error = bus.ensure_consumer("GONE", &config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn consuming_over_a_restart_misses_nothing() {
    const MESSAGES: u64 = 2000;
    for prefetch in [0, 200] {
        let (mut server, bus) = server().await;
        let stream = stream(&bus, "S", "s.>").await;
        for result in stream.publish_all((0..MESSAGES).map(|n| message("s.a", n))).await {
            result.unwrap();
        }
        let consumer = bus.consumer("S", "c").ack_wait(Duration::from_secs(2)).prefetch(prefetch);
        let consumer = consumer.open().await.unwrap();
        let mut seen = BTreeSet::new();
        let mut restarted = false;
        while (seen.len() as u64) < MESSAGES {
            match consumer.fetch(100, Duration::from_secs(5)).await {
                Ok(deliveries) => {
                    for delivery in deliveries {
                        seen.insert(delivery.message().sequence);
                        // A lost ack brings the message back: that is at least once.
                        let _ = delivery.ack().await;
                    }
                }
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            if !restarted && seen.len() as u64 > MESSAGES / 2 {
                server.kill9();
                server.restart().await.unwrap();
                restarted = true;
            }
        }
        assert!(restarted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_goes_on_after_a_restart_without_gap_or_repeat() {
    let (mut server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    let filters = ["s.a", "s.b.>"].map(|filter| SubjectFilter::new(filter).unwrap());
    let mut reader = stream.reader(&filters, Start::New).await.unwrap();
    // Nothing was read when the server dies: new still means new since the opening.
    server.kill9();
    server.restart().await.unwrap();
    let mut expected = Vec::new();
    let mut read = Vec::new();
    for round in 0..3 {
        for n in 0..500 {
            let subject = ["s.a", "s.b.c", "s.other"][n % 3];
            let id = format!("{round}-{n}");
            let receipt = stream.publish(message(subject, n).id(id)).await.unwrap();
            if n % 3 != 2 {
                expected.push(receipt.sequence);
            }
        }
        // In the middle of what was fetched ahead.
        read.extend(reader.next(100, PATIENCE).await.unwrap());
        server.kill9();
        server.restart().await.unwrap();
        while read.len() < expected.len() {
            read.extend(reader.next(64, PATIENCE).await.unwrap());
        }
    }
    let read: Vec<_> = read.into_iter().map(|message| message.sequence).collect();
    assert_eq!(read, expected);
    assert!(reader.next(1, Duration::from_millis(50)).await.unwrap().is_empty());
    bus.delete_stream("S").await.unwrap();
    let error = loop {
        if let Err(error) = reader.next(1, PATIENCE).await {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_dropped_reader_leaves_no_consumer_behind() {
    let (server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    let reader = stream.reader(&[], Start::Beginning).await.unwrap();
    assert_eq!(stream.info().await.unwrap().consumers, 1);
    drop(reader);
    let gone = async {
        while stream.info().await.unwrap().consumers > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE / 3, gone).await.unwrap();
    drop(server);
}

/// What came while nobody looked had its lease from then on.
#[tokio::test]
async fn a_lease_begins_when_the_message_arrives_and_not_when_it_is_read() {
    let (server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    let lease = Duration::from_millis(400);
    let consumer = bus.consumer("S", "c").ack_wait(lease).open().await.unwrap();
    let mut fetch = std::pin::pin!(consumer.fetch(1, PATIENCE));
    // It has asked, and is busy elsewhere when the message comes.
    let raw = raw(&server).await;
    let asks = async || {
        let stream = raw.get_stream("S").await.unwrap();
        stream.consumer_info("c").await.unwrap().num_waiting
    };
    while asks().await == 0 {
        assert!(futures_util::poll!(fetch.as_mut()).is_pending());
    }
    stream.publish(message("s.a", 1)).await.unwrap();
    while bus.consumer_info("S", "c").await.unwrap().delivered_sequence == 0 {}
    tokio::time::sleep(lease).await;
    let delivery = fetch.await.unwrap().remove(0);
    assert!(delivery.expires() <= tokio::time::Instant::now(), "its lease is over");
    let late = delivery.ack_confirmed().await.unwrap_err();
    assert_eq!(late.error.kind(), ErrorKind::Stale, "{}", late.error);
}

/// What is fetched ahead is bounded in bytes too.
#[tokio::test]
async fn what_is_fetched_ahead_takes_a_bounded_number_of_bytes() {
    const MESSAGES: usize = 100;
    let (_server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    for _ in 0..MESSAGES {
        stream.publish(message("s.a", "x".repeat(1_000_000))).await.unwrap();
    }
    let consumer = bus.consumer("S", "c").prefetch(1000).open().await.unwrap();
    let mut got = consumer.fetch(1, PATIENCE).await.unwrap().len();
    for _ in 0..20 {
        let out = bus.consumer_info("S", "c").await.unwrap().unsettled;
        assert!(out <= 50, "{out} MB were sent ahead");
    }
    while got < MESSAGES {
        for delivery in consumer.fetch(10, PATIENCE).await.unwrap() {
            got += 1;
            delivery.ack_confirmed().await.unwrap();
        }
    }
}
