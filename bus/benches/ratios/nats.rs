//! NATS JetStream: the bus against async-nats.

use bus::{BucketConfig, BucketName, Bus};
use bytes::Bytes;

use crate::measure::Comparison;
use crate::raw::Raw;
use crate::work::{self, PAYLOAD};

const MESSAGES: u64 = 100_000;
const READERS: u64 = 10;
const READ: u64 = 30_000;
const KEYS: u64 = 5_000;

/// Both clients on one server.
pub(crate) struct Sides {
    bus: Bus,
    raw: Raw,
}

impl Sides {
    pub(crate) async fn connect(url: &str) -> Self {
        Self { bus: Bus::connect(url).await.expect("bus"), raw: Raw::connect(url).await }
    }

    pub(crate) async fn publish_and_consume(&self, rounds: u32) -> [Comparison; 3] {
        let mut narrow = Comparison::new("publish 128 B, window 100", 1.2);
        let mut wide = Comparison::new("publish 128 B, window 1000", 1.2);
        let mut consume = Comparison::new("consume and ack, 500 ahead", 0.95);
        for round in 0..rounds {
            eprintln!("nats: round {} of {rounds}", round + 1);
            let ours_first = round % 2 == 0;
            for (window, comparison) in [(100, &mut narrow), (1000, &mut wide)] {
                let ours = work::stream(&self.bus, "ours").await;
                self.raw.stream("raw").await;
                let ours = work::publish(&ours, MESSAGES, window);
                comparison.round(ours_first, MESSAGES, ours, self.publish_raw(window)).await;
            }
            let ours = work::consume(&self.bus, "ours", MESSAGES);
            let raw = self.raw.consume("raw", "reader", MESSAGES);
            consume.round(ours_first, MESSAGES, ours, raw).await;
        }
        [narrow, wide, consume]
    }

    async fn publish_raw(&self, window: usize) {
        let (subject, payload) = (String::from("raw.subject"), Bytes::from_static(PAYLOAD));
        self.raw.publish(subject, MESSAGES, window, payload).await;
    }

    /// One stream read whole by many at once.
    pub(crate) async fn fan_out(&self, rounds: u32) -> Comparison {
        let mut fan_out = Comparison::new("fan-out to 10 readers", 0.95);
        let stream = work::stream(&self.bus, "fan").await;
        work::publish(&stream, READ, 1000).await;
        for round in 0..rounds {
            eprintln!("fan-out: round {} of {rounds}", round + 1);
            let ours = work::fan_out(&stream, READERS, READ);
            let raw = self.raw.fan_out("fan", READERS, READ);
            fan_out.round(round % 2 == 0, READERS * READ, ours, raw).await;
        }
        fan_out
    }

    pub(crate) async fn key_value(&self, rounds: u32) -> [Comparison; 2] {
        let mut put = Comparison::new("KV put, one at a time, p50", 1.0 / 1.15);
        let mut get = Comparison::new("KV get, one at a time, p50", 1.0 / 1.15);
        let _ = self.bus.delete_kv("ours").await;
        let config = BucketConfig::new(BucketName::new("ours").expect("a name"));
        let ours = self.bus.ensure_kv(&config).await.expect("bucket");
        let theirs = self.raw.bucket("raw").await;
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
        for round in 0..rounds {
            eprintln!("kv: round {} of {rounds}", round + 1);
            put.turns(KEYS, put_ours, put_raw).await;
            get.turns(KEYS, get_ours, get_raw).await;
        }
        [put, get]
    }
}
