//! The bus against the raw client, on the same server, in the same run, interleaved.
//!
//! `make bench`, or `cargo bench -p lockgate-bus --all-features --bench ratios [-- ROUNDS]`. Who goes
//! first changes from round to round.

#![allow(missing_docs, clippy::expect_used)]

mod measure;
mod raw;

use std::collections::VecDeque;
use std::time::Duration;

use bus::testkit::NatsServer;
use bus::{BucketConfig, BucketName, Bus, Message, Stream, StreamConfig};
use bytes::Bytes;

use measure::{Comparison, Sample, sample};
use raw::Raw;

const MESSAGES: u64 = 100_000;
const EMBEDDED_MESSAGES: u64 = 500_000;
const KEYS: u64 = 5_000;
const PAYLOAD: &[u8] = &[b'x'; 128];

#[tokio::main]
async fn main() {
    let rounds = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(5);
    let server = NatsServer::start().await.expect("a NATS server");
    let bus = Bus::connect(&server.url()).await.expect("bus");
    let raw = Raw::connect(&server.url()).await;
    let mut publish_100 = Comparison::new("publish 128 B, window 100", 1.2);
    let mut publish = Comparison::new("publish 128 B, window 1000", 1.2);
    let mut consume = Comparison::new("consume and ack, 500 ahead", 0.95);
    let mut put = Comparison::new("KV put, one at a time, p50", 1.0 / 1.15);
    let mut get = Comparison::new("KV get, one at a time, p50", 1.0 / 1.15);
    let mut embedded = Comparison::new("embedded publish, consume, ack", 1.0);
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        let ours_first = round % 2 == 0;
        for (window, comparison) in [(100, &mut publish_100), (1000, &mut publish)] {
            let ours = stream(&bus, "ours").await;
            raw.stream("raw").await;
            let (ours, raw) = (publish_ours(&ours, MESSAGES, window), publish_raw(&raw, window));
            comparison.round(ours_first, MESSAGES, ours, raw).await;
        }
        let ours = consume_ours(&bus, "ours", MESSAGES);
        consume.round(ours_first, MESSAGES, ours, raw.consume("raw", "reader", MESSAGES)).await;
        key_value(&bus, &raw, &mut put, &mut get).await;
        embedded.ours.push(in_process().await);
        embedded.raw.push(one_million_a_second());
    }
    measure::print(&[publish_100, publish, consume, put, get, embedded]);
    println!("embedded is held against one million messages a second, not against a raw client");
}

async fn stream(bus: &Bus, name: &str) -> Stream {
    let _ = bus.delete_stream(name).await;
    let config = StreamConfig::parse(name, &[&format!("{name}.>")]).expect("a stream");
    bus.ensure_stream(&config).await.expect("stream")
}

async fn publish_ours(stream: &Stream, count: u64, window: usize) {
    let template = Message::new(format!("{}.subject", stream.name()), PAYLOAD).expect("a message");
    let mut receipts = VecDeque::with_capacity(window);
    for _ in 0..count {
        if receipts.len() == window
            && let Some(receipt) = receipts.pop_front()
        {
            settle(receipt).await;
        }
        receipts.push_back(stream.submit(template.clone()).await.expect("submit"));
    }
    while let Some(receipt) = receipts.pop_front() {
        settle(receipt).await;
    }
}

async fn settle(receipt: bus::PendingReceipt) {
    receipt.await.expect("a receipt");
}

async fn publish_raw(raw: &Raw, window: usize) {
    raw.publish(String::from("raw.subject"), MESSAGES, window, Bytes::from_static(PAYLOAD)).await;
}

async fn consume_ours(bus: &Bus, stream: &str, count: u64) {
    let builder = bus.consumer(stream, "reader").max_unsettled(10_000).prefetch(500);
    let consumer = builder.open().await.expect("consumer");
    let mut taken = 0;
    while taken < count {
        for delivery in consumer.fetch(500, Duration::from_secs(5)).await.expect("fetch") {
            delivery.ack().await.expect("ack");
            taken += 1;
        }
    }
}

async fn key_value(bus: &Bus, raw: &Raw, put: &mut Comparison, get: &mut Comparison) {
    let _ = bus.delete_kv("ours").await;
    let config = BucketConfig::new(BucketName::new("ours").expect("a name"));
    let ours = bus.ensure_kv(&config).await.expect("bucket");
    let theirs = raw.bucket("raw").await;
    let key = |at: u64| format!("key.{}", at % 500);
    let put_ours = async |at| {
        ours.put(key(at), PAYLOAD).await.expect("put");
    };
    let put_raw = async |at| {
        theirs.put(key(at), Bytes::from_static(PAYLOAD)).await.expect("put");
    };
    let get_ours = async |at| {
        ours.get(key(at)).await.expect("get").expect("a value");
    };
    let get_raw = async |at| {
        theirs.get(key(at)).await.expect("get").expect("a value");
    };
    put.turns(KEYS, put_ours, put_raw).await;
    get.turns(KEYS, get_ours, get_raw).await;
}

async fn in_process() -> Sample {
    let bus = Bus::connect("embedded:").await.expect("bus");
    let ours = stream(&bus, "ours").await;
    sample(EMBEDDED_MESSAGES, async {
        publish_ours(&ours, EMBEDDED_MESSAGES, 256).await;
        consume_ours(&bus, "ours", EMBEDDED_MESSAGES).await;
    })
    .await
}

fn one_million_a_second() -> Sample {
    let elapsed = Duration::from_secs_f64(EMBEDDED_MESSAGES as f64 / 1e6);
    Sample { elapsed, cpu: elapsed, operations: EMBEDDED_MESSAGES }
}
