//! Servers that the tests share, and bridges in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bus::testkit::{KafkaBroker, NatsServer};
use bus::{Bus, Start, StoredMessage, Stream};
use lockgate_bridge::{Bridge, Bridges, Declared, Logs, RouteStatus};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Long enough for anything on a busy machine; never waited for when things work.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(100);

/// The broker that the tests running now share; it ends with the last of them.
static SHARED: Mutex<Weak<KafkaBroker>> = Mutex::const_new(Weak::new());

pub(super) async fn kafka() -> Arc<KafkaBroker> {
    let mut shared = SHARED.lock().await;
    let broker = match shared.upgrade() {
        Some(broker) => broker,
        None => Arc::new(KafkaBroker::start().await.unwrap()),
    };
    *shared = Arc::downgrade(&broker);
    broker
}

pub(super) fn brokers(broker: &KafkaBroker) -> String {
    broker.url().strip_prefix("kafka://").unwrap().to_owned()
}

/// A name that no other test of this binary has.
pub(super) fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A route in the words of the file.
pub(super) fn route(name: &str, from: &str, to: &str, more: &str) -> String {
    format!("[[route]]\nname = \"{name}\"\nfrom = \"{from}\"\nto = \"{to}\"\n{more}\n")
}

/// A bus with logs, and what bridges need to know of Kafka.
pub(super) struct World {
    /// Ends with the last world.
    pub(super) _kafka: Arc<KafkaBroker>,
    pub(super) brokers: String,
    pub(super) logs: Arc<Declared>,
    /// Ends with the world.
    pub(super) nats: Option<NatsServer>,
}

impl World {
    /// Logs in this process' memory.
    pub(super) async fn embedded() -> Self {
        let kafka = kafka().await;
        let logs = Arc::new(Declared(Bus::connect("embedded:").await.unwrap()));
        Self { brokers: brokers(&kafka), _kafka: kafka, logs, nats: None }
    }

    /// Logs on a server of this test's own.
    pub(super) async fn nats() -> Self {
        let (kafka, nats) = (kafka().await, NatsServer::start().await.unwrap());
        let logs = Arc::new(Declared(Bus::connect(&nats.url()).await.unwrap()));
        Self { brokers: brokers(&kafka), _kafka: kafka, logs, nats: Some(nats) }
    }

    pub(super) fn bridges(&self, routes: &str) -> Bridges {
        let brokers = &self.brokers;
        Bridges::parse(&format!("[kafka]\nbrokers = \"{brokers}\"\n{routes}")).unwrap()
    }

    /// Starts a bridge in this process.
    pub(super) fn start(&self, routes: &str) -> Running {
        let (stop, bridges) = (CancellationToken::new(), self.bridges(routes));
        let bridge = Bridge::new(bridges.clone(), self.logs.clone(), unique("test"));
        let task = tokio::spawn(lockgate_bridge::run(bridge, stop.clone()));
        Running { bridges, logs: self.logs.clone(), stop, task }
    }

    pub(super) async fn log(&self, realm: &str) -> Stream {
        self.logs.log(realm).await.unwrap()
    }

    /// The events of a realm, when there are at least so many; all that there are.
    pub(super) async fn events(&self, realm: &str, count: usize) -> Vec<StoredMessage> {
        let deadline = Instant::now() + PATIENCE;
        let log = self.log(realm).await;
        let filter = bus::SubjectFilter::new(format!("events.{realm}.>")).unwrap();
        loop {
            let held = log.count(std::slice::from_ref(&filter), 0).await.unwrap();
            if held >= count as u64 {
                let mut reader =
                    log.reader(std::slice::from_ref(&filter), Start::Beginning).await.unwrap();
                let mut all = Vec::new();
                while (all.len() as u64) < held {
                    all.extend(reader.next(10_000, PATIENCE).await.unwrap());
                }
                return all;
            }
            assert!(Instant::now() < deadline, "{held} of {count} events in {realm}");
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A bridge at work.
pub(super) struct Running {
    pub(super) bridges: Bridges,
    logs: Arc<Declared>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), lockgate_bridge::Failure>>,
}

impl Running {
    /// Asks it to end, and waits until it has.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }

    /// Waits until the first route's status is as asked for.
    pub(super) async fn until(
        &self,
        what: &str,
        holds: impl Fn(&RouteStatus) -> bool,
    ) -> RouteStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told = lockgate_bridge::statuses(self.logs.as_ref(), &self.bridges).await;
            let status = told.as_ref().ok().and_then(|all| all.first());
            if let Some(status) = status.filter(|status| holds(status)) {
                return status.clone();
            }
            assert!(Instant::now() < deadline, "not {what}: {told:?}");
            tokio::time::sleep(LOOK).await;
        }
    }
}

pub(super) fn text(event: &StoredMessage) -> String {
    String::from_utf8(event.payload.clone().unwrap_or_default().to_vec()).unwrap()
}

/// Each number below `count` once, and per key in the order in which they were sent.
pub(super) fn assert_once_in_order(values: impl IntoIterator<Item = (Vec<u8>, u64)>, count: u64) {
    let (mut seen, mut last) = (BTreeSet::new(), BTreeMap::new());
    for (key, number) in values {
        assert!(seen.insert(number), "{number} is there twice");
        let before = last.insert(key.clone(), number);
        assert!(before < Some(number), "{number} of key {key:?} follows {before:?}");
    }
    let missing: Vec<u64> = (0..count).filter(|number| !seen.contains(number)).collect();
    assert!(missing.is_empty(), "missing are {missing:?}");
    assert_eq!(seen.len() as u64, count);
}
