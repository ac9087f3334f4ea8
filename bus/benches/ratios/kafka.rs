//! Kafka: the bus against rdkafka with the same guarantees (idempotent, all replicas).

use std::collections::VecDeque;

use bus::{Bus, StreamConfig};
use futures_util::StreamExt;
use rdkafka::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::measure::{Comparison, sample};
use crate::work::{self, PAYLOAD};

const MESSAGES: u64 = 400_000;
const WINDOW: usize = 1000;

/// Publish, then consume what was published. The first round warms the broker's compiler and is
/// not counted; joining a group takes the brokers' time and not the clients', and is done before
/// the clock starts.
pub(crate) async fn publish_and_consume(url: &str, rounds: u32) -> [Comparison; 3] {
    let bus = Bus::connect(url).await.expect("bus");
    let servers = url.trim_start_matches("kafka://");
    let producer: FutureProducer = client(servers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "0")
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .expect("producer");
    let mut publish = Comparison::new("Kafka publish 128 B, window 1000", 0.95);
    let mut consume = Comparison::new("Kafka consume and ack", 0.95);
    let mut stored = Comparison::new("Kafka, raw stores each offset", 0.95);
    for round in 0..=rounds {
        match round {
            0 => eprintln!("kafka: warming up"),
            _ => eprintln!("kafka: round {round} of {rounds}"),
        }
        let ours_first = round % 2 == 0;
        let (ours, raw) = (format!("ours-{round}"), format!("raw-{round}"));
        let stream = work::stream(&bus, &ours).await;
        // Made by the bus too, so that both topics are alike.
        let config = StreamConfig::parse(&raw, &[&format!("{raw}.>")]).expect("a stream");
        bus.ensure_stream(&config).await.expect("stream");
        let raw_publish = publish_raw(&producer, &raw);
        publish
            .round(ours_first, MESSAGES, work::publish(&stream, MESSAGES, WINDOW), raw_publish)
            .await;
        let ours = async {
            let joined = work::Reading::open(&bus, &ours).await;
            sample(MESSAGES, joined.take(MESSAGES)).await
        };
        let raw = async {
            let joined = join_raw(servers, &raw, true).await;
            sample(MESSAGES, consume_raw(joined, true)).await
        };
        consume.sampled(ours_first, ours, raw).await;
        let raw = format!("raw-{round}");
        let joined = join_raw(servers, &raw, false).await;
        stored.raw.push(sample(MESSAGES, consume_raw(joined, false)).await);
        if round == 0 {
            [&mut publish, &mut consume, &mut stored].into_iter().for_each(Comparison::forget);
        }
    }
    stored.ours.clone_from(&consume.ours);
    bus.close().await.expect("close");
    [publish, consume, stored]
}

fn client(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers);
    config
}

async fn publish_raw(producer: &FutureProducer, topic: &str) {
    let mut receipts = VecDeque::with_capacity(WINDOW);
    for _ in 0..MESSAGES {
        if receipts.len() == WINDOW
            && let Some(receipt) = receipts.pop_front()
        {
            settle(receipt).await;
        }
        let record = FutureRecord::to(topic).payload(PAYLOAD).key("subject");
        receipts.push_back(producer.send_result(record).map_err(|(e, _)| e).expect("send"));
    }
    while let Some(receipt) = receipts.pop_front() {
        settle(receipt).await;
    }
}

async fn settle(receipt: rdkafka::producer::DeliveryFuture) {
    receipt.await.expect("not cancelled").map_err(|(error, _)| error).expect("delivered");
}

/// A group of one. Returns when the first record is here, as a client that has joined.
///
/// With `behind`, offsets are committed behind its back, of records that nobody has worked on yet:
/// less than the bus promises. Without, each is stored when its record is done, as a client does
/// that must not lose one.
async fn join_raw(servers: &str, topic: &str, behind: bool) -> StreamConsumer {
    let consumer: StreamConsumer = client(servers)
        .set("group.id", format!("{topic}-group-{behind}"))
        .set("enable.auto.offset.store", behind.to_string())
        .set("group.protocol", "consumer")
        .set("auto.offset.reset", "earliest")
        .set("fetch.queue.backoff.ms", "5")
        .create()
        .expect("consumer");
    consumer.subscribe(&[topic]).expect("subscribe");
    consumer.recv().await.expect("the first record");
    consumer
}

async fn consume_raw(consumer: StreamConsumer, behind: bool) {
    let mut records = consumer.stream();
    for _ in 1..MESSAGES {
        let record = records.next().await.expect("a record").expect("no error");
        if !behind {
            consumer.store_offset_from_message(&record).expect("stored");
        }
    }
}
