//! What is particular to `kafka://`: its traps, its limits, a broker that dies.

// The lint knows test functions, but not the functions that these share.
#![allow(clippy::unwrap_used)]

mod child;
mod fallbacks;
mod headers;
mod login;
mod members;
mod open;
mod positions;
mod publish;
mod reading;
mod retries;
mod sizes;
mod units;
mod unreadable;
mod values;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bus::testkit::KafkaBroker;
use bus::{Bus, ErrorKind, Message, Stream, StreamConfig};
use tokio::sync::Mutex;

/// Long enough for anything on a busy machine; never waited for when things work.
const PATIENCE: Duration = Duration::from_secs(120);

/// The broker that the tests running now share; it ends with the last of them.
static SHARED: Mutex<Weak<KafkaBroker>> = Mutex::const_new(Weak::new());

async fn shared() -> (Arc<KafkaBroker>, Bus) {
    let mut shared = SHARED.lock().await;
    let broker = match shared.upgrade() {
        Some(broker) => broker,
        None => Arc::new(KafkaBroker::start().await.unwrap()),
    };
    *shared = Arc::downgrade(&broker);
    let bus = Bus::connect(&broker.url()).await.unwrap();
    (broker, bus)
}

/// A broker that this test may end.
async fn alone() -> (KafkaBroker, Bus) {
    alone_with("").await
}

/// The same with more lines in its properties.
async fn alone_with(properties: &str) -> (KafkaBroker, Bus) {
    let broker = KafkaBroker::start_with(properties).await.unwrap();
    let bus = Bus::connect(&broker.url()).await.unwrap();
    (broker, bus)
}

/// A name that no other test of this binary has.
fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A stream of its own that captures what is below its name.
async fn stream(bus: &Bus, change: impl FnOnce(&mut StreamConfig)) -> Stream {
    let name = unique("s");
    let mut config = StreamConfig::parse(&name, &[&format!("{name}.>")]).unwrap();
    change(&mut config);
    bus.ensure_stream(&config).await.unwrap()
}

fn message(stream: &Stream, rest: &str, payload: impl ToString) -> Message {
    Message::new(format!("{}.{rest}", stream.name()), payload.to_string()).unwrap()
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_named() {
    let error = Bus::connect("kafka://127.0.0.1:1").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.to_string(), "kafka://127.0.0.1:1 did not answer within 5 s");
}

#[tokio::test]
async fn a_closed_bus_says_so() {
    let (_broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    let receipt = stream.submit(message(&stream, "a", 1)).await.unwrap();
    bus.close().await.unwrap();
    assert_eq!(receipt.await.unwrap().sequence, 1);
    let error = stream.publish(message(&stream, "a", 2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(stream.info().await.unwrap_err().kind(), ErrorKind::Closed);
    bus.close().await.unwrap();
}
