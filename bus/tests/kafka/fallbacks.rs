//! What a cluster may lack or lose under a consumer: the new protocol of groups, its topic.

use std::collections::BTreeSet;
use std::time::Duration;

use bus::{Consumer, Guarantee, Message, Stream};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;
use tokio::time::Instant;

use super::child::{Other, Work};
use super::reading::raw;
use super::{PATIENCE, alone_with, message, shared, stream};

const BATCH: usize = 200;

async fn publish(stream: &Stream, from: usize) {
    let messages = (from..from + BATCH).map(|n| message(stream, "a", n).key(n.to_string()));
    for receipt in stream.publish_all(messages.collect::<Vec<Message>>()).await {
        receipt.unwrap();
    }
}

/// What a member did, by sequence.
#[derive(Default)]
struct Done {
    /// Of these an ack was sent.
    asked: BTreeSet<u64>,
    /// Of these the ack was confirmed.
    acked: BTreeSet<u64>,
}

impl Done {
    /// Acks what one fetch brings.
    async fn work(&mut self, consumer: &Consumer) {
        for delivery in consumer.fetch(10, Duration::from_millis(200)).await.unwrap() {
            let sequence = delivery.message().sequence;
            let acked = self.acked.contains(&sequence);
            assert!(!acked, "{sequence} came after its ack was confirmed");
            self.asked.insert(sequence);
            if delivery.ack_confirmed().await.is_ok() {
                self.acked.insert(sequence);
            }
        }
    }

    /// Acks what comes until there is one more.
    async fn one_more(&mut self, consumer: &Consumer) {
        let (before, deadline) = (self.acked.len(), Instant::now() + PATIENCE);
        while self.acked.len() == before {
            assert!(Instant::now() < deadline, "nothing comes after {before}");
            self.work(consumer).await;
        }
    }

    /// Acks what comes until nothing is left, with nobody else at work.
    async fn drain(&mut self, consumer: &Consumer) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.work(consumer).await;
            let info = consumer.info().await.unwrap();
            if (info.pending, info.unsettled) == (0, 0) {
                return;
            }
            assert!(Instant::now() < deadline, "{} done, and {info:?}", self.acked.len());
        }
    }
}

/// Waits until the group has so many members, and a protocol that its members chose: only the
/// classic one has.
async fn classic_members(url: &str, group: &str, count: usize) {
    let client: BaseConsumer = raw(url).create().unwrap();
    let group = group.to_owned();
    let look = move || {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let groups = client.fetch_group_list(Some(&group), PATIENCE).unwrap();
            let found =
                groups.groups().iter().map(|g| (g.state(), g.protocol(), g.members().len()));
            let found: Vec<_> = found.collect();
            if found == [("Stable", "range", count)] {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{group} is {found:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    tokio::task::spawn_blocking(look).await.unwrap();
}

/// What the broker says to a member that comes with the new protocol.
async fn answer_to_the_new_protocol(url: &str, topic: &str) -> Code {
    let mut config = raw(url);
    config.set("group.id", "premise").set("group.protocol", "consumer");
    let client: BaseConsumer = config.create().unwrap();
    client.subscribe(&[topic]).unwrap();
    let ask = move || {
        let deadline = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < deadline {
            let _ = client.poll(Duration::from_millis(100));
            if let Some((code, _)) = client.client().fatal_error() {
                return code;
            }
        }
        panic!("the broker takes members of the new protocol");
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

#[tokio::test]
async fn a_broker_without_the_new_group_protocol_is_used_with_the_classic_one() {
    let (broker, bus) = alone_with("group.coordinator.rebalance.protocols=classic").await;
    let stream = stream(&bus, |config| config.partitions = 4).await;
    let answer = answer_to_the_new_protocol(&broker.url(), stream.name().as_str()).await;
    assert_eq!(answer, Code::UnsupportedVersion);

    let consumer = bus.consumer(stream.name(), "c").open().await.unwrap();
    let group = format!("{}.c", stream.name());
    publish(&stream, 0).await;
    let mut ours = Done::default();
    ours.drain(&consumer).await;
    assert_eq!(ours.acked.len(), BATCH);

    // Two share, and one of them dies with messages in its hands.
    let mut other = Other::start(&broker.url(), &stream, Work::Share);
    classic_members(&broker.url(), &group, 2).await;
    publish(&stream, BATCH).await;
    other.says("acked").await;
    ours.one_more(&consumer).await;
    other.kill9();
    let killed = Done { asked: other.said_of("acking"), acked: other.said_of("acked") };
    ours.drain(&consumer).await;
    classic_members(&broker.url(), &group, 1).await;
    let all: BTreeSet<_> = ours.asked.union(&killed.asked).collect();
    assert_eq!(all.len(), 2 * BATCH, "a message is lost");
    let repeated: Vec<_> = ours.asked.intersection(&killed.acked).collect();
    assert!(repeated.is_empty(), "{repeated:?} came after their ack was confirmed");

    // One comes, and leaves as it should.
    let other = bus::Bus::connect(&broker.url()).await.unwrap();
    let second = other.bind(stream.name(), "c").await.unwrap();
    classic_members(&broker.url(), &group, 2).await;
    let before = std::mem::take(&mut ours);
    publish(&stream, 2 * BATCH).await;
    let mut theirs = Done::default();
    theirs.one_more(&second).await;
    drop(second);
    other.close().await.unwrap();
    ours.drain(&consumer).await;
    let all: BTreeSet<_> = ours.asked.union(&theirs.asked).collect();
    assert_eq!(all.len(), BATCH, "a message is lost");
    assert!(ours.asked.is_disjoint(&theirs.acked), "one came after its ack was confirmed");
    assert!(ours.asked.is_disjoint(&before.acked), "one came after its ack was confirmed");

    // What a unit settles is committed in the name of a member of the classic protocol, too.
    stream.publish(message(&stream, "a", "in")).await.unwrap();
    let delivery = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
    let output = super::stream(&bus, |_| {}).await;
    let unit = bus.unit().settle(delivery).publish(&output, message(&output, "a", "out"));
    assert_eq!(unit.commit().await.unwrap().guarantee, Guarantee::Exactly);
    let mut after = Done::default();
    after.drain(&consumer).await;
    assert!(after.asked.is_empty(), "what a unit settled came again");
}

async fn remove_topic(url: &str, topic: &str) {
    let admin: AdminClient<DefaultClientContext> = raw(url).create().unwrap();
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let removed = admin.delete_topics(&[topic], &options).await.unwrap();
    assert_eq!(removed, [Ok(topic.to_owned())]);
}

/// Fetches until that says that the stream is gone.
async fn until_gone(consumer: &Consumer) {
    let fetch = async {
        loop {
            match consumer.fetch(10, Duration::from_millis(200)).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => return,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, fetch).await;
    assert!(ended.is_ok(), "the consumer waits for a stream that is gone");
}

/// A consumer with a retry that is due soon, a message in its hands, and one that waits.
async fn busy(bus: &bus::Bus, stream: &Stream) -> (Consumer, bus::Delivery) {
    for n in 0..3 {
        stream.publish(message(stream, "a", format!("old {n}"))).await.unwrap();
    }
    let consumer = bus.consumer(stream.name(), "c").open().await.unwrap();
    let retried = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
    let held = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
    retried.retry(Duration::from_millis(500)).await.unwrap();
    (consumer, held)
}

/// A consumer of the name on the stream that was made anew gets what is new, and nothing else.
async fn begins_anew(bus: &bus::Bus, stream: &Stream) {
    let consumer = bus.consumer(stream.name(), "c").open().await.unwrap();
    assert_eq!(stream.publish(message(stream, "a", "new")).await.unwrap().sequence, 1);
    let delivery = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
    assert_eq!(delivery.message().payload.as_deref(), Some(&b"new"[..]));
    assert_eq!((delivery.message().sequence, delivery.attempt()), (1, 1));
    delivery.ack_confirmed().await.unwrap();
    let more = consumer.fetch(1, Duration::from_secs(2)).await.unwrap();
    assert!(more.is_empty(), "{more:?} is of the stream that was removed");
    let info = consumer.info().await.unwrap();
    assert_eq!((info.pending, info.unsettled, info.settled_sequence), (0, 0, 1));
}

#[tokio::test]
async fn a_consumer_of_a_topic_that_others_removed_ends() {
    let (broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    let config = stream.info().await.unwrap().config;
    let (consumer, held) = busy(&bus, &stream).await;
    remove_topic(&broker.url(), stream.name().as_str()).await;
    until_gone(&consumer).await;
    let refused = held.ack_confirmed().await.unwrap_err();
    assert!(refused.error.is_not_found(), "{}", refused.error);
    let stream = bus.ensure_stream(&config).await.unwrap();
    begins_anew(&bus, &stream).await;
}

#[tokio::test]
async fn a_stream_that_is_made_anew_at_once_has_nothing_of_the_old_one() {
    let (broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    let config = stream.info().await.unwrap().config;
    let (consumer, _held) = busy(&bus, &stream).await;
    remove_topic(&broker.url(), stream.name().as_str()).await;
    let stream = bus.ensure_stream(&config).await.unwrap();
    until_gone(&consumer).await;
    begins_anew(&bus, &stream).await;
}
