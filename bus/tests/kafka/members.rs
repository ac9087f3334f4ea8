//! Members of a group that come and go, and what a commit holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus::{Bus, Consumer, ConsumerInfo, ErrorKind, Message, Settlement, Stream, StreamName};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{PATIENCE, alone, message, shared, stream};

const KEYS: usize = 20;
const PER_KEY: usize = 100;

/// What the members of a group have done together.
#[derive(Default)]
struct Done {
    /// The sequences of which an ack was confirmed.
    settled: BTreeSet<u64>,
    /// The same by key, in the order of the confirmations.
    by_key: BTreeMap<String, Vec<u64>>,
    bodies: BTreeSet<String>,
}

/// A member on a connection of its own, until it is cancelled.
async fn member(url: &str, stream: &Stream, done: &Arc<Mutex<Done>>) -> Working {
    let bus = Bus::connect(url).await.unwrap();
    let consumer = bus.bind(stream.name(), "c").await.unwrap();
    let (stop, done) = (CancellationToken::new(), done.clone());
    let working = tokio::spawn(work(consumer, stop.clone(), done));
    Working { stop, working }
}

struct Working {
    stop: CancellationToken,
    working: JoinHandle<()>,
}

impl Working {
    async fn leave(self) {
        self.stop.cancel();
        self.working.await.unwrap();
    }
}

async fn work(consumer: Consumer, stop: CancellationToken, done: Arc<Mutex<Done>>) {
    while !stop.is_cancelled() {
        let fetched = match consumer.fetch(20, Duration::from_millis(100)).await {
            Ok(fetched) => fetched,
            Err(error) => {
                assert!(error.is_retryable(), "fetch: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        for delivery in fetched {
            let got = delivery.message().clone();
            let settled = done.lock().unwrap().settled.contains(&got.sequence);
            assert!(!settled, "{} came after its ack was confirmed", got.sequence);
            match delivery.ack_confirmed().await {
                Ok(()) => {
                    let mut done = done.lock().unwrap();
                    done.settled.insert(got.sequence);
                    let key = String::from_utf8(got.key.unwrap().to_vec()).unwrap();
                    done.by_key.entry(key).or_default().push(got.sequence);
                    let body = String::from_utf8(got.payload.unwrap().to_vec()).unwrap();
                    done.bodies.insert(body);
                }
                Err(failed) => {
                    let kind = failed.error.kind();
                    assert!(kind == ErrorKind::Stale || failed.error.is_retryable(), "{kind:?}");
                }
            }
        }
    }
}

/// Publishes all of them, again what got no receipt.
async fn publish_all(stream: Stream) {
    for n in 0..PER_KEY {
        let mut open: Vec<String> = (0..KEYS).map(|key| key.to_string()).collect();
        while !open.is_empty() {
            let messages: Vec<Message> = open
                .iter()
                .map(|key| message(&stream, "a", format!("{key}/{n}")).key(key))
                .collect();
            let results = stream.publish_all(messages).await;
            let failed = open.into_iter().zip(results).filter(|(_, result)| result.is_err());
            open = failed.map(|(key, _)| key).collect();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_come_and_go_lose_nothing_and_repeat_nothing_settled() {
    let (mut broker, bus) = alone().await;
    let stream = stream(&bus, |config| config.partitions = 4).await;
    let declared = bus.consumer(stream.name(), "c").open().await.unwrap();
    drop(declared);
    let (url, done) = (broker.url(), Arc::new(Mutex::new(Done::default())));
    let publishing = tokio::spawn(publish_all(stream.clone()));
    let some = |share: usize| {
        let done = done.clone();
        async move {
            let deadline = Instant::now() + 2 * PATIENCE;
            while done.lock().unwrap().bodies.len() < KEYS * PER_KEY * share / 10 {
                assert!(Instant::now() < deadline, "no progress at {share} tenths");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let first = member(&url, &stream, &done).await;
    some(1).await;
    let second = member(&url, &stream, &done).await;
    some(3).await;
    let third = member(&url, &stream, &done).await;
    first.leave().await;
    some(4).await;
    broker.kill9();
    broker.restart().await.unwrap();
    some(6).await;
    let fourth = member(&url, &stream, &done).await;
    second.leave().await;
    some(10).await;
    publishing.await.unwrap();
    third.leave().await;
    fourth.leave().await;
    let done = done.lock().unwrap();
    assert_eq!(done.bodies.len(), KEYS * PER_KEY, "a message is lost");
    for (key, sequences) in &done.by_key {
        assert!(sequences.is_sorted(), "the order of key {key} is not kept: {sequences:?}");
    }
}

/// What the group has committed of the topic's first partition.
pub(super) fn committed(url: &str, group: &str, topic: &str) -> (Offset, String) {
    let servers = url.replace("kafka://", "");
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", group)
        .create()
        .unwrap();
    let mut asked = TopicPartitionList::new();
    asked.add_partition(topic, 0);
    let found = client.committed_offsets(asked, PATIENCE).unwrap();
    let found = found.find_partition(topic, 0).unwrap();
    (found.offset(), found.metadata().to_owned())
}

/// Waits until the consumer `c` is as `wanted` says.
async fn until(bus: &Bus, stream: &StreamName, wanted: impl Fn(&ConsumerInfo) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let info = bus.consumer_info(stream, "c").await.unwrap();
        if wanted(&info) {
            return;
        }
        assert!(Instant::now() < deadline, "{info:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_confirmed_ack_is_on_the_broker_when_it_returns() {
    let (broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    for n in 0..10 {
        stream.publish(message(&stream, "a", n)).await.unwrap();
    }
    let consumer = bus.consumer(stream.name(), "c").open().await.unwrap();
    let mut out = Vec::new();
    while out.len() < 10 {
        out.extend(consumer.fetch(10 - out.len(), PATIENCE).await.unwrap());
    }
    let (group, topic) = (format!("{}.c", stream.name()), stream.name().to_string());
    let look = || {
        let (url, group, topic) = (broker.url(), group.clone(), topic.clone());
        tokio::task::spawn_blocking(move || committed(&url, &group, &topic))
    };
    out.remove(9).ack_confirmed().await.unwrap();
    let (offset, metadata) = look().await.unwrap();
    assert_eq!(offset, Offset::Offset(0));
    assert!(metadata.starts_with("lg1:"), "{metadata:?} does not tell what is settled");
    for delivery in out {
        delivery.ack_confirmed().await.unwrap();
    }
    assert_eq!(look().await.unwrap(), (Offset::Offset(10), String::new()));
}

#[tokio::test]
async fn a_retry_is_the_message_that_it_was() {
    let (_broker, bus) = shared().await;
    let stream = stream(&bus, |config| config.partitions = 4).await;
    let sent = message(&stream, "a", "x").key("anna").header("trace", "1").unwrap();
    let receipt = stream.publish(sent.clone()).await.unwrap();
    let consumer = bus.consumer(stream.name(), "c").open().await.unwrap();
    let mut first = None;
    for attempt in 1..=3 {
        let delivery = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
        assert_eq!((delivery.message().sequence, delivery.attempt()), (receipt.sequence, attempt));
        let before = first.get_or_insert_with(|| delivery.message().clone());
        assert_eq!(delivery.message(), before, "a retry is another message");
        assert_eq!(delivery.message().headers, sent.headers);
        if attempt < 3 {
            delivery.retry(Duration::from_millis(10)).await.unwrap();
        } else {
            delivery.ack_confirmed().await.unwrap();
        }
    }
    assert_eq!(bus.consumer_info(stream.name(), "c").await.unwrap().unsettled, 0);
}

#[tokio::test]
async fn what_a_filter_leaves_out_is_settled_though_nobody_fetches() {
    let (_broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    let wanted = format!("{}.wanted", stream.name());
    let _consumer = bus.consumer(stream.name(), "c").filter(&wanted).open().await.unwrap();
    for n in 0..5 {
        stream.publish(message(&stream, "other", n)).await.unwrap();
    }
    until(&bus, stream.name(), |info| (info.settled_sequence, info.pending) == (5, 0)).await;
}

#[tokio::test]
async fn a_retry_that_nobody_waits_for_is_not_lost() {
    let (mut broker, bus) = alone().await;
    let stream = stream(&bus, |_| {}).await;
    stream.publish(message(&stream, "a", "x")).await.unwrap();
    let consumer = bus.consumer(stream.name(), "c").open().await.unwrap();
    let delivery = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
    // The copy is on its way when its caller goes.
    broker.freeze().unwrap();
    let retry = tokio::time::timeout(Duration::from_millis(300), delivery.retry(Duration::ZERO));
    assert!(retry.await.is_err(), "a broker that is frozen confirms nothing");
    broker.thaw().unwrap();
    let again = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
    assert_eq!((again.message().sequence, again.attempt()), (1, 2));
    again.ack_confirmed().await.unwrap();
    // The copy can be read before its own writer hears of it, who settles the source then.
    until(&bus, stream.name(), |info| (info.unsettled, info.settled_sequence) == (0, 1)).await;
}

#[tokio::test]
async fn retries_of_an_earlier_life_do_not_come() {
    let (_broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    stream.publish(message(&stream, "a", "x")).await.unwrap();
    let open = || bus.consumer(stream.name(), "c").start(bus::Start::New).open();
    let consumer = bus.consumer(stream.name(), "c").open().await.unwrap();
    let delivery = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
    delivery.retry(Duration::from_millis(500)).await.unwrap();
    bus.delete_consumer(stream.name(), "c").await.unwrap();
    let gone = consumer.fetch(1, PATIENCE).await.unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
    let consumer = open().await.unwrap();
    stream.publish(message(&stream, "a", "y")).await.unwrap();
    let delivery = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
    assert_eq!((delivery.message().sequence, delivery.attempt()), (2, 1));
    delivery.ack_confirmed().await.unwrap();
    assert!(consumer.fetch(1, Duration::from_secs(2)).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_token_of_another_member_is_stale() {
    let (broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    stream.publish(message(&stream, "a", "x")).await.unwrap();
    let consumer = bus.consumer(stream.name(), "c").open().await.unwrap();
    let delivery = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
    let other = Bus::connect(&broker.url()).await.unwrap();
    let other = other.bind(stream.name(), "c").await.unwrap();
    let refused = other.settle(delivery.token(), Settlement::Ack).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Stale);
    // The group may have given the partition to the other by now: then it says so.
    if let Err(moved) = delivery.ack_confirmed().await {
        assert_eq!(moved.error.kind(), ErrorKind::Stale, "{}", moved.error);
    }
}
