//! Units as transactions: all of it shows, or nothing.

use std::time::Duration;

use bus::{Consumer, ErrorKind, Guarantee, Start, Stream};

use super::{PATIENCE, message, shared, stream};

async fn fetch(consumer: &Consumer) -> bus::Delivery {
    consumer.fetch(1, PATIENCE).await.unwrap().remove(0)
}

/// Every body that a reader gets before one that is published now.
async fn bodies(stream: &Stream) -> Vec<String> {
    stream.publish(message(stream, "end", "end")).await.unwrap();
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    let mut bodies = Vec::new();
    loop {
        for message in reader.next(100, PATIENCE).await.unwrap() {
            let body = String::from_utf8(message.payload.unwrap().to_vec()).unwrap();
            if body == "end" {
                return bodies;
            }
            bodies.push(body);
        }
    }
}

#[tokio::test]
async fn a_unit_settles_and_publishes_exactly_once() {
    let (_broker, bus) = shared().await;
    let (input, output) = (stream(&bus, |c| c.partitions = 3).await, stream(&bus, |_| {}).await);
    for n in 0..6 {
        input.publish(message(&input, "a", n).key(n.to_string())).await.unwrap();
    }
    let consumer = bus.consumer(input.name(), "c").open().await.unwrap();
    for n in 0..3 {
        let (one, two) = (fetch(&consumer).await, fetch(&consumer).await);
        let unit = bus.unit().settle(one).settle(two);
        let done = unit.publish(&output, message(&output, "x", n)).commit().await.unwrap();
        assert_eq!((done.guarantee, done.receipts.len()), (Guarantee::Exactly, 1));
    }
    drop(consumer);
    let again = bus.bind(input.name(), "c").await.unwrap();
    let nothing = again.fetch(1, Duration::from_secs(3)).await.unwrap();
    assert!(nothing.is_empty(), "settled in a transaction, and delivered again");
    assert_eq!(bodies(&output).await, ["0", "1", "2"]);
    let alone = bus.unit().publish(&output, message(&output, "x", 3)).commit().await.unwrap();
    assert_eq!(alone.guarantee, Guarantee::Exactly, "a unit needs no inputs");
}

#[tokio::test]
async fn what_was_aborted_is_seen_by_nobody() {
    let (_broker, bus) = shared().await;
    let (input, output) = (stream(&bus, |_| {}).await, stream(&bus, |_| {}).await);
    input.publish(message(&input, "a", "x")).await.unwrap();
    let consumer = bus.consumer(input.name(), "c").open().await.unwrap();
    let delivery = fetch(&consumer).await;
    // The consumer is moved between fetch and commit: the lease is void.
    bus.seek(input.name(), "c", Start::Beginning).await.unwrap();
    let unit = bus.unit().settle(delivery).publish(&output, message(&output, "x", "void"));
    let failed = unit.commit().await.unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Stale, "{}", failed.error);
    assert_eq!(failed.deliveries.len(), 1);

    let delivery = fetch(&consumer).await;
    let with_id = message(&output, "x", "id").id("1");
    let unit = bus.unit().settle(delivery).publish(&output, message(&output, "x", "first"));
    let failed = unit.publish(&output, with_id).commit().await.unwrap_err();
    assert!(matches!(failed.error.kind(), ErrorKind::Unsupported { .. }), "{}", failed.error);
    let delivery = failed.deliveries.into_iter().next().unwrap();
    let unit = bus.unit().settle(delivery).publish(&output, message(&output, "x", "good"));
    unit.commit().await.expect("the input of a unit that failed is still its holder's");
    assert_eq!(bodies(&output).await, ["good"]);
}

#[tokio::test]
async fn a_topic_that_refuses_an_output_aborts_the_unit() {
    let (_broker, bus) = shared().await;
    let (input, output) = (stream(&bus, |_| {}).await, stream(&bus, |_| {}).await);
    let gone = stream(&bus, |_| {}).await;
    input.publish(message(&input, "a", "x")).await.unwrap();
    let consumer = bus.consumer(input.name(), "c").open().await.unwrap();
    let delivery = fetch(&consumer).await;
    bus.delete_stream(gone.name()).await.unwrap();
    let unit = bus.unit().settle(delivery).publish(&output, message(&output, "x", "never"));
    let failed = unit.publish(&gone, message(&gone, "x", "y")).commit().await.unwrap_err();
    assert!(failed.error.is_not_found(), "{}", failed.error);
    assert!(bodies(&output).await.is_empty(), "half of a unit shows");
    let delivery = failed.deliveries.into_iter().next().unwrap();
    delivery.ack_confirmed().await.unwrap();
}

#[tokio::test]
async fn many_units_of_one_consumer_wait_for_each_other() {
    let (_broker, bus) = shared().await;
    let (input, output) = (stream(&bus, |_| {}).await, stream(&bus, |_| {}).await);
    const UNITS: usize = 30;
    for n in 0..UNITS {
        input.publish(message(&input, "a", n)).await.unwrap();
    }
    let consumer = bus.consumer(input.name(), "c").open().await.unwrap();
    let mut units = tokio::task::JoinSet::new();
    for _ in 0..UNITS {
        let delivery = fetch(&consumer).await;
        let body = String::from_utf8(delivery.message().payload.clone().unwrap().to_vec()).unwrap();
        let unit = bus.unit().settle(delivery).publish(&output, message(&output, "x", body));
        units.spawn(unit.commit());
    }
    while let Some(done) = units.join_next().await {
        done.unwrap().unwrap();
    }
    let mut stored: Vec<usize> =
        bodies(&output).await.iter().map(|body| body.parse().unwrap()).collect();
    stored.sort_unstable();
    assert_eq!(stored, (0..UNITS).collect::<Vec<_>>());
    assert_eq!(bus.consumer_info(input.name(), "c").await.unwrap().unsettled, 0);
}
