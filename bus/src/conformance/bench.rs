//! What the behaviours share: a stream of their own, and patience.

use std::future::Future;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use super::Target;
use crate::bus::Bus;
use crate::capability::{Capability, Support};
use crate::config::{ConsumerInfo, StreamConfig};
use crate::consumer::{Consumer, ConsumerBuilder};
use crate::engine::delivery::Delivery;
use crate::error::{ErrorKind, Result};
use crate::message::{Message, StoredMessage};
use crate::stream::{Reader, Stream};

/// What must happen may take this long.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// A lease that is meant to end.
pub(super) const SHORT_LEASE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);
const WAIT: Duration = Duration::from_secs(5);

/// A name that no other test has used on this broker: `prefix`, the process' start, a number.
pub(super) fn unique(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    static START: OnceLock<String> = OnceLock::new();
    let start = START.get_or_init(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!("{:x}-{:x}", std::process::id(), since.as_millis())
    });
    format!("{prefix}-{start}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A connection and a stream that captures every subject below its own name.
pub(super) struct Case {
    pub(super) bus: Bus,
    pub(super) stream: Stream,
    pub(super) name: String,
}

impl Case {
    pub(super) async fn new(target: &dyn Target) -> Self {
        Self::with(target, |_| {}).await
    }

    pub(super) async fn with(target: &dyn Target, change: impl FnOnce(&mut StreamConfig)) -> Self {
        let (bus, name) = (target.bus().await.unwrap(), unique("s"));
        let mut config = StreamConfig::parse(&name, &[&format!("{name}.>")]).unwrap();
        config.replicas = target.replicas();
        change(&mut config);
        let stream = bus.ensure_stream(&config).await.unwrap();
        Self { bus, stream, name }
    }

    /// The same stream through a new connection.
    pub(super) async fn again(&self, target: &dyn Target) -> Self {
        let bus = target.bus().await.unwrap();
        let stream = eventually("open the stream", || bus.stream(&self.name)).await;
        Self { bus, stream, name: self.name.clone() }
    }

    /// A full subject or filter of this stream.
    pub(super) fn subject(&self, rest: &str) -> String {
        format!("{}.{rest}", self.name)
    }

    pub(super) fn message(&self, rest: &str, payload: impl Into<Bytes>) -> Message {
        Message::new(self.subject(rest), payload).unwrap()
    }

    pub(super) async fn publish(&self, rest: &str) -> u64 {
        self.stream.publish(self.message(rest, rest.to_owned())).await.unwrap().sequence
    }

    /// Publishes `count` messages on one subject, their numbers from 0 as bodies.
    pub(super) async fn publish_many(&self, rest: &str, count: usize) {
        let messages = (0..count).map(|n| self.message(rest, n.to_string()));
        for result in self.stream.publish_all(messages).await {
            result.unwrap();
        }
    }

    pub(super) fn consumer(&self, name: &str) -> ConsumerBuilder {
        self.bus.consumer(&self.name, name)
    }

    pub(super) async fn info(&self, consumer: &str) -> ConsumerInfo {
        eventually("consumer info", || self.bus.consumer_info(&self.name, consumer)).await
    }

    /// Waits until the backend counts these pending and unsettled messages. What it does not
    /// filter it counts when it has passed it, which takes a moment.
    pub(super) async fn wait_counts(&self, consumer: &str, counts: (u64, u64)) {
        let deadline = Instant::now() + PATIENCE;
        let native = self.bus.support(Capability::SubjectFilter) == Support::Native;
        loop {
            let info = self.info(consumer).await;
            if (info.pending, info.unsettled) == counts {
                return;
            }
            let over = native || Instant::now() >= deadline;
            assert!(!over, "{counts:?} pending and unsettled expected, is {info:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until the backend counts this many unsettled deliveries.
    pub(super) async fn wait_unsettled(&self, consumer: &str, unsettled: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let info = self.info(consumer).await;
            if info.unsettled == unsettled {
                return;
            }
            assert!(Instant::now() < deadline, "{unsettled} unsettled expected, is {info:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until the stream holds this many messages.
    pub(super) async fn wait_messages(&self, messages: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let info = eventually("stream info", || self.stream.info()).await;
            if info.messages == messages {
                return;
            }
            assert!(Instant::now() < deadline, "{messages} messages expected, is {info:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Proves that `consumer` gets nothing before a message published now: redeliveries that are
    /// due come first, so the new message would not be the first to come.
    pub(super) async fn assert_nothing_before_a_new_message(&self, consumer: &Consumer) {
        let sentinel = self.publish("sentinel").await;
        let next = collect(consumer, 1).await.remove(0);
        assert_eq!(
            (next.message().sequence, next.attempt()),
            (sentinel, 1),
            "a message that was settled or given up was delivered"
        );
        next.ack_confirmed().await.unwrap();
    }
}

/// Repeats an operation that is safe to repeat until the backend is back.
pub(super) async fn eventually<T, F>(what: &str, mut operation: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match operation().await {
            Ok(done) => return done,
            Err(error) if error.is_retryable() && Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => panic!("{what}: {error}: {:?}", error.kind()),
        }
    }
}

/// Exactly `count` deliveries, however many fetches it takes.
pub(super) async fn collect(consumer: &Consumer, count: usize) -> Vec<Delivery> {
    let (deadline, mut deliveries) = (Instant::now() + PATIENCE, Vec::new());
    while deliveries.len() < count {
        let have = deliveries.len();
        assert!(Instant::now() < deadline, "{have} of {count} deliveries in {PATIENCE:?}");
        deliveries.extend(
            eventually("fetch", || async { consumer.fetch(count - have, WAIT).await }).await,
        );
    }
    assert_eq!(deliveries.len(), count, "fetch gave more than it was asked for");
    deliveries
}

/// Exactly `count` messages, however many reads it takes.
pub(super) async fn read(reader: &mut Reader, count: usize) -> Vec<StoredMessage> {
    let (deadline, mut messages) = (Instant::now() + PATIENCE, Vec::new());
    while messages.len() < count {
        let have = messages.len();
        assert!(Instant::now() < deadline, "{have} of {count} messages in {PATIENCE:?}");
        match reader.next(count - have, WAIT).await {
            Ok(more) => messages.extend(more),
            Err(error) if error.is_retryable() => tokio::time::sleep(PAUSE).await,
            Err(error) => panic!("read: {error}"),
        }
    }
    assert_eq!(messages.len(), count, "the reader gave more than it was asked for");
    messages
}

pub(super) async fn ack_all(deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        delivery.ack_confirmed().await.unwrap();
    }
}

pub(super) fn sequences(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.message().sequence).collect()
}

/// Asserts that what a program asks for without naming it as a requirement is refused by type.
pub(super) fn assert_refused<T>(case: &Case, result: Result<T>, capability: Capability) {
    let backend = case.bus.backend();
    let refusal = result.err().expect("what the backend cannot do must not seem to be done");
    assert_eq!(refusal.kind(), ErrorKind::Unsupported { capability, backend }, "{refusal}");
}

/// True when the backend cannot do it, after asserting that it refuses as it must.
pub(super) async fn refuses(case: &Case, capability: Capability) -> bool {
    let name = unique("requires");
    let opened = case.consumer(&name).requires(capability).open().await;
    if case.bus.support(capability) != Support::Unsupported {
        opened.unwrap();
        case.bus.delete_consumer(&case.name, &name).await.unwrap();
        return false;
    }
    let backend = case.bus.backend();
    let refusal = opened.err().expect("an unmet requirement must not open");
    assert_eq!(refusal.kind(), ErrorKind::Unsupported { capability, backend });
    assert!(refusal.to_string().contains(&capability.to_string()), "{refusal}");
    let made = case.bus.consumer_info(&case.name, &name).await;
    assert!(made.unwrap_err().is_not_found(), "a refused consumer was created");
    true
}
