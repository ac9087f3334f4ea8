//! Publishers, a consumer and counters that go on through faults, and what must hold in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bus::{
    BucketConfig, Bus, Delivery, ErrorKind, KeyValue, Message, Result, Start, StoredMessage,
    Stream, StreamConfig,
};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::PATIENCE;

/// Publishers that wait for each receipt before the next message: their order is kept.
const ONE_BY_ONE: usize = 6;
/// How many messages of the publisher with a window are on their way at once.
const WINDOW: usize = 256;
const COUNTING: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);
/// Longer than an election takes: an ack that is late all the same is for a delivery that holds.
const ACK_WAIT: Duration = Duration::from_secs(12);
/// A delivery that was sent before the ack of its twin was recorded is here within this long; one
/// that was sent because the ack was lost comes no sooner than the ack wait says.
const CROSSING: Duration = Duration::from_secs(4);

/// Everything that runs, each on a connection of its own.
pub(crate) struct Load {
    stop: CancellationToken,
    published: Arc<AtomicU64>,
    acked: Arc<AtomicU64>,
    publishers: JoinSet<Receipts>,
    counting: JoinSet<Counted>,
    consuming: JoinHandle<BTreeSet<u64>>,
    total: Arc<AtomicU64>,
    stream: Stream,
    counters: KeyValue,
}

/// The sequence that each message's receipt told, by its body.
type Receipts = BTreeMap<String, u64>;

/// What one counter's clerk did.
#[derive(Default)]
struct Counted {
    /// The values it wrote for certain.
    written: Vec<u64>,
    /// Those of which it cannot tell.
    unsure: u64,
}

impl Load {
    pub(crate) async fn start(bus: &Bus, url: &str) -> Self {
        let config = StreamConfig { replicas: 3, ..StreamConfig::parse("S", &["s.>"]).unwrap() };
        let stream = bus.ensure_stream(&config).await.unwrap();
        let bucket = bus::BucketName::new("counters").unwrap();
        let bucket = BucketConfig { replicas: 3, ..BucketConfig::new(bucket) };
        let counters = bus.ensure_kv(&bucket).await.unwrap();
        counters.create("n", "0").await.unwrap();
        let mut load = Self {
            stop: CancellationToken::new(),
            published: Arc::default(),
            acked: Arc::default(),
            publishers: JoinSet::new(),
            counting: JoinSet::new(),
            consuming: tokio::spawn(async { BTreeSet::new() }),
            total: Arc::new(AtomicU64::new(u64::MAX)),
            stream,
            counters,
        };
        let connect = || async { Bus::connect(url).await.unwrap() };
        for n in 0..ONE_BY_ONE {
            let stream = connect().await.stream("S").await.unwrap();
            let (stop, published) = (load.stop.clone(), load.published.clone());
            load.publishers.spawn(publish_one_by_one(stream, n, stop, published));
        }
        let stream = connect().await.stream("S").await.unwrap();
        let (stop, published) = (load.stop.clone(), load.published.clone());
        load.publishers.spawn(publish_through_a_window(stream, stop, published));
        for _ in 0..COUNTING {
            let counters = connect().await.kv("counters").await.unwrap();
            load.counting.spawn(count(counters, load.stop.clone()));
        }
        let (acked, total) = (load.acked.clone(), load.total.clone());
        load.consuming = tokio::spawn(consume(connect().await, acked, total));
        load
    }

    /// How many receipts and confirmed acks there were so far.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.published.load(Ordering::Relaxed), self.acked.load(Ordering::Relaxed))
    }

    /// Waits until there were more of both.
    pub(crate) async fn moves_on(&self, before: (u64, u64)) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.progress();
            if now.0 > before.0 + WINDOW as u64 && now.1 > before.1 + WINDOW as u64 {
                return;
            }
            assert!(Instant::now() < deadline, "stuck at {now:?} receipts and acks");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Stops, and holds what is stored against what was promised.
    pub(crate) async fn finish(mut self) {
        self.stop.cancel();
        let mut receipts = Receipts::new();
        while let Some(publisher) = self.publishers.join_next().await {
            receipts.extend(publisher.unwrap());
        }
        let stored = read_all(&self.stream).await;
        self.check_stored(&receipts, &stored).await;
        self.total.store(stored.len() as u64, Ordering::Relaxed);
        let consuming = tokio::time::timeout(PATIENCE, self.consuming).await;
        let acked = consuming.expect("everything is consumed").unwrap();
        assert!(acked.iter().eq(stored.keys()), "what is stored is what was consumed");
        check_counters(self.counting, &self.counters).await;
    }

    async fn check_stored(&self, receipts: &Receipts, stored: &BTreeMap<u64, StoredMessage>) {
        let mut places = BTreeMap::new();
        let mut last = BTreeMap::<String, u64>::new();
        for (sequence, message) in stored {
            let body = body(message);
            let (publisher, number) = body.split_once('/').unwrap();
            let number: u64 = number.parse().unwrap();
            let before = last.insert(publisher.to_owned(), number);
            if publisher != "window" {
                assert_eq!(number, before.map_or(0, |n| n + 1), "{publisher} is out of order");
            }
            let twin = places.insert(body.clone(), *sequence);
            assert!(twin.is_none(), "{body} is stored at {twin:?} and at {sequence}");
        }
        assert!(
            *receipts == places,
            "receipts and places differ: {}",
            difference(receipts, &places)
        );
    }
}

fn difference(receipts: &Receipts, places: &Receipts) -> String {
    let only = |a: &Receipts, b: &Receipts| {
        let only = a.iter().filter(|(body, at)| b.get(*body) != Some(at));
        only.take(5).map(|(body, at)| format!("{body} at {at}")).collect::<Vec<_>>()
    };
    format!("receipts {:?}, stored {:?}", only(receipts, places), only(places, receipts))
}

fn body(message: &StoredMessage) -> String {
    String::from_utf8(message.payload.clone().unwrap().to_vec()).unwrap()
}

fn message(publisher: &str, number: u64) -> Message {
    let body = format!("{publisher}/{number}");
    Message::new(format!("s.{publisher}"), body.clone()).unwrap().key(publisher).id(body)
}

/// Repeats what failed in a way that allows it, with the same id.
async fn insist<T, F: Future<Output = Result<T>>>(mut operation: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match operation().await {
            Ok(done) => return done,
            Err(error) if error.is_retryable() => {
                assert!(Instant::now() < deadline, "{error}");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => panic!("{:?}: {error}", error.kind()),
        }
    }
}

async fn publish_one_by_one(
    stream: Stream,
    number: usize,
    stop: CancellationToken,
    published: Arc<AtomicU64>,
) -> Receipts {
    let (name, mut receipts) = (format!("p{number}"), Receipts::new());
    for n in 0.. {
        if stop.is_cancelled() {
            break;
        }
        let receipt = insist(|| stream.publish(message(&name, n))).await;
        receipts.insert(format!("{name}/{n}"), receipt.sequence);
        published.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE / 10).await;
    }
    receipts
}

async fn publish_through_a_window(
    stream: Stream,
    stop: CancellationToken,
    published: Arc<AtomicU64>,
) -> Receipts {
    let (mut receipts, mut next) = (Receipts::new(), 0);
    while !stop.is_cancelled() {
        let numbers: Vec<u64> = (next..next + WINDOW as u64).collect();
        next += WINDOW as u64;
        let results =
            stream.publish_all(numbers.clone().into_iter().map(|n| message("window", n))).await;
        for (n, result) in numbers.into_iter().zip(results) {
            let receipt = match result {
                Ok(receipt) => receipt,
                Err(error) => {
                    assert!(error.is_retryable(), "{:?}: {error}", error.kind());
                    insist(|| stream.publish(message("window", n))).await
                }
            };
            receipts.insert(format!("window/{n}"), receipt.sequence);
            published.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(5 * PAUSE).await;
    }
    receipts
}

/// Consumes until as many messages are acked as `total` says; none comes because its confirmed ack
/// was lost.
async fn consume(bus: Bus, acked: Arc<AtomicU64>, total: Arc<AtomicU64>) -> BTreeSet<u64> {
    let builder = || {
        let consumer = bus.consumer("S", "c").ack_wait(ACK_WAIT);
        consumer.max_unsettled(2000).prefetch(200)
    };
    let (consumer, mut done) = (insist(|| builder().open()).await, BTreeMap::new());
    while (done.len() as u64) < total.load(Ordering::Relaxed) {
        let fetched = insist(|| consumer.fetch(200, Duration::from_millis(200))).await;
        for delivery in &fetched {
            let (sequence, attempt) = (delivery.message().sequence, delivery.attempt());
            let since = done.get(&sequence).map(Instant::elapsed);
            let crossing = since.is_none_or(|since| since < CROSSING);
            assert!(crossing, "{sequence} (attempt {attempt}) came {since:?} after its ack");
        }
        for (sequence, confirmed) in
            futures_util::future::join_all(fetched.into_iter().map(ack)).await
        {
            if confirmed && done.insert(sequence, Instant::now()).is_none() {
                acked.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    let info = insist(|| consumer.info()).await;
    assert_eq!((info.pending, info.unsettled), (0, 0), "acks were lost: {info:?}");
    done.into_keys().collect()
}

/// Acks a delivery; false when that failed, which means that it comes again.
async fn ack(delivery: Delivery) -> (u64, bool) {
    let sequence = delivery.message().sequence;
    match delivery.ack_confirmed().await {
        Ok(()) => (sequence, true),
        Err(failed) => {
            let kind = failed.error.kind();
            let known = failed.error.is_retryable() || kind == ErrorKind::Stale;
            assert!(known, "{kind:?}: {}", failed.error);
            (sequence, false)
        }
    }
}

async fn read_all(stream: &Stream) -> BTreeMap<u64, StoredMessage> {
    let last = insist(|| stream.info()).await.last_sequence;
    let mut reader = insist(|| stream.reader(&[], Start::Beginning)).await;
    let (mut stored, deadline) = (BTreeMap::new(), Instant::now() + PATIENCE);
    while stored.last_key_value().is_none_or(|(sequence, _)| *sequence < last) {
        assert!(Instant::now() < deadline, "read {} up to {last}", stored.len());
        for message in reader.next(1000, Duration::from_secs(1)).await.unwrap() {
            let twin = stored.insert(message.sequence, message);
            assert!(twin.is_none(), "the reader repeats itself");
        }
    }
    stored
}

/// Adds one to the counter, again and again, by compare-and-set.
async fn count(counters: KeyValue, stop: CancellationToken) -> Counted {
    let mut counted = Counted::default();
    while !stop.is_cancelled() {
        let entry = insist(|| counters.get("n")).await.unwrap();
        let next = value(&entry.value) + 1;
        match counters.update("n", next.to_string(), entry.revision).await {
            Ok(_) => counted.written.push(next),
            Err(error) if error.is_conflict() => {}
            Err(error) => {
                assert!(error.is_retryable(), "{:?}: {error}", error.kind());
                counted.unsure += 1;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    counted
}

fn value(text: &[u8]) -> u64 {
    std::str::from_utf8(text).unwrap().parse().unwrap()
}

async fn check_counters(mut counting: JoinSet<Counted>, counters: &KeyValue) {
    let (mut written, mut unsure, mut wins) = (BTreeSet::new(), 0, 0);
    while let Some(counted) = counting.join_next().await {
        let counted = counted.unwrap();
        unsure += counted.unsure;
        wins += counted.written.len() as u64;
        written.extend(counted.written);
    }
    assert_eq!(written.len() as u64, wins, "two won the same step");
    let end = value(&insist(|| counters.get("n")).await.unwrap().value);
    assert!(wins > 0 && (wins..=wins + unsure).contains(&end), "{wins} + {unsure} steps to {end}");
    assert!(written.last().is_none_or(|last| *last <= end), "a step was lost");
}
