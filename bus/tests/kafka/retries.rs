//! Retries: a member that dies at each point of one, and what is left of those that are settled.

use std::time::Duration;

use bus::{Bus, Consumer, Stream};
use futures_util::future::join_all;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::Offset;
use tokio::time::Instant;

use super::child::{Other, Work};
use super::members::committed;
use super::reading::raw;
use super::{PATIENCE, alone_with, message, shared, stream};

/// A member that is killed is missed after three seconds, where 45 are usual; and a commit that
/// says more than how far the group has come is refused.
const PROPERTIES: &str = "\
group.consumer.min.session.timeout.ms=3000
group.consumer.session.timeout.ms=3000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms=500
offset.metadata.max.bytes=0
";

/// The first offset that the topic's first partition holds, and the one after its last.
async fn watermarks(url: &str, topic: &str) -> (i64, i64) {
    let (client, topic): (BaseConsumer, _) = (raw(url).create().unwrap(), topic.to_owned());
    let look = move || client.fetch_watermarks(&topic, 0, PATIENCE).unwrap();
    tokio::task::spawn_blocking(look).await.unwrap()
}

/// Waits until `holds` of the watermarks.
async fn until(url: &str, topic: &str, holds: impl Fn((i64, i64)) -> bool) -> (i64, i64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let marks = watermarks(url, topic).await;
        if holds(marks) {
            return marks;
        }
        assert!(Instant::now() < deadline, "{topic} holds {marks:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Bench {
    url: String,
    stream: Stream,
    consumer: Consumer,
}

impl Bench {
    fn retries(&self) -> String {
        format!("{}.c.retry", self.stream.name())
    }

    /// Offsets that are settled, and those that are there: of the stream, and of its retries.
    async fn standing(&self) -> [(Offset, i64); 2] {
        let (url, group) = (self.url.clone(), format!("{}.c", self.stream.name()));
        let topics = [self.stream.name().to_string(), self.retries()];
        let ends = [watermarks(&url, &topics[0]).await.1, watermarks(&url, &topics[1]).await.1];
        let look = move || topics.map(|topic| committed(&url, &group, &topic).0);
        let settled = tokio::task::spawn_blocking(look).await.unwrap();
        [(settled[0], ends[0]), (settled[1], ends[1])]
    }

    /// Acks what comes until all of both topics is settled; returns sequences with attempts, as
    /// they came.
    async fn drain(&self) -> Vec<(u64, u32)> {
        let (mut came, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        loop {
            let standing = self.standing().await;
            let open =
                |(settled, end): &(Offset, i64)| *end > 0 && *settled != Offset::Offset(*end);
            if !standing.iter().any(open) {
                return came;
            }
            assert!(Instant::now() < deadline, "{came:?} came, and it stands at {standing:?}");
            for delivery in self.consumer.fetch(10, Duration::from_millis(200)).await.unwrap() {
                came.push((delivery.message().sequence, delivery.attempt()));
                delivery.ack_confirmed().await.unwrap();
            }
        }
    }
}

/// A stream of so many messages, with a consumer `c` that another process is a member of.
async fn with_other(bus: &Bus, url: &str, count: usize) -> (Stream, Other) {
    let stream = stream(bus, |_| {}).await;
    for n in 0..count {
        stream.publish(message(&stream, "a", n)).await.unwrap();
    }
    // Nobody is a member of it here as long as the other process lives.
    drop(bus.consumer(stream.name(), "c").open().await.unwrap());
    let other = Other::start(url, &stream, Work::Retry(count));
    (stream, other)
}

async fn take_over(bus: &Bus, url: &str, stream: Stream) -> Bench {
    let consumer = bus.bind(stream.name(), "c").await.unwrap();
    Bench { url: url.to_owned(), stream, consumer }
}

#[tokio::test]
async fn a_member_that_dies_before_a_retry_is_copied_loses_nothing() {
    let (mut broker, bus) = alone_with(PROPERTIES).await;
    let (stream, mut other) = with_other(&bus, &broker.url(), 1).await;
    other.says("fetched").await;
    broker.freeze().unwrap();
    other.go_on();
    other.says("retrying").await;
    other.kill9();
    assert!(other.said_of("retried").is_empty(), "a broker that is frozen confirms nothing");
    broker.thaw().unwrap();
    let bench = take_over(&bus, &broker.url(), stream).await;
    let mut came = bench.drain().await;
    came.sort_unstable();
    // The copy may have been on its way.
    assert!(came == [(1, 1)] || came == [(1, 1), (1, 2)], "{came:?}");
}

#[tokio::test]
async fn a_member_that_dies_between_copy_and_settlement_repeats_that_message_once() {
    let (broker, bus) = alone_with(PROPERTIES).await;
    let (stream, mut other) = with_other(&bus, &broker.url(), 2).await;
    other.says("fetched").await;
    other.go_on();
    // The second message is copied. It cannot be settled before the first: the broker refuses a
    // commit that says so.
    until(&broker.url(), &format!("{}.c.retry", stream.name()), |(_, end)| end == 1).await;
    other.kill9();
    assert!(other.said_of("retried").is_empty(), "the retry is not settled");
    let bench = take_over(&bus, &broker.url(), stream).await;
    let mut came = bench.drain().await;
    came.sort_unstable();
    assert_eq!(came, [(1, 1), (2, 1), (2, 2)]);
}

#[tokio::test]
async fn a_member_that_dies_after_a_retry_repeats_nothing() {
    let (broker, bus) = alone_with(PROPERTIES).await;
    let (stream, mut other) = with_other(&bus, &broker.url(), 1).await;
    other.says("fetched").await;
    other.go_on();
    other.says("retried").await;
    other.kill9();
    let bench = take_over(&bus, &broker.url(), stream).await;
    assert_eq!(bench.drain().await, [(1, 2)]);
}

async fn fetch_all(consumer: &Consumer, count: usize) -> Vec<bus::Delivery> {
    let (mut all, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    while all.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} came", all.len());
        all.extend(consumer.fetch(count - all.len(), Duration::from_secs(1)).await.unwrap());
    }
    all
}

#[tokio::test]
async fn retries_that_are_settled_are_removed_and_no_others() {
    const SETTLED: usize = 1100;
    const HELD: usize = 10;
    let (broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    let messages = (0..SETTLED + HELD).map(|n| message(&stream, "a", n)).collect::<Vec<_>>();
    assert!(stream.publish_all(messages).await.iter().all(Result::is_ok));
    let consumer = bus.consumer(stream.name(), "c").max_unsettled(10_000).ack_wait(PATIENCE);
    let consumer = consumer.open().await.unwrap();
    let retry = |delivery: bus::Delivery| delivery.retry(Duration::ZERO);
    for done in join_all(fetch_all(&consumer, SETTLED + HELD).await.into_iter().map(retry)).await {
        done.unwrap();
    }
    let topic = format!("{}.c.retry", stream.name());
    let count = i64::try_from(SETTLED + HELD).unwrap();
    assert_eq!(watermarks(&broker.url(), &topic).await, (0, count));

    // They come in the order of their offsets: the last ones are held.
    let mut retried = fetch_all(&consumer, SETTLED + HELD).await;
    let held = retried.split_off(SETTLED);
    for done in join_all(retried.into_iter().map(|delivery| delivery.ack_confirmed())).await {
        done.unwrap();
    }
    let (first, end) = until(&broker.url(), &topic, |(first, _)| first > 0).await;
    assert!((1000..=1100).contains(&first) && end == count, "{first} to {end} are left");
    let sequences = |of: &[bus::Delivery]| -> Vec<u64> {
        of.iter().map(|delivery| delivery.message().sequence).collect()
    };
    let expected = sequences(&held);
    // Whoever takes over gets those, and no more.
    drop((held, consumer));
    let consumer = bus.bind(stream.name(), "c").await.unwrap();
    let again = fetch_all(&consumer, HELD).await;
    assert_eq!(sequences(&again), expected);
    assert!(again.iter().all(|delivery| delivery.attempt() == 2));
    for delivery in again {
        delivery.ack_confirmed().await.unwrap();
    }
    assert!(consumer.fetch(1, Duration::from_secs(1)).await.unwrap().is_empty());
}
