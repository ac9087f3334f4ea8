//! Buses to run on, roles to run, and what they say.

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use bus::testkit::{KafkaBroker, NatsServer};
use bus::{Bus, Start};
use lockgate_flows::{Context, Failure, Flow, Role, Setting};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinHandle;

/// What a bounded wait ends with at the latest.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Members of a group learn of each other twice a second; the default is every five seconds.
const QUICK_GROUPS: &str = "group.consumer.min.heartbeat.interval.ms=500\n\
                            group.consumer.heartbeat.interval.ms=500";

/// The broker that the tests running now share; it ends with the last of them.
static BROKER: tokio::sync::Mutex<Weak<KafkaBroker>> = tokio::sync::Mutex::const_new(Weak::new());

/// A bus of a test's own, with the server behind it.
pub(crate) struct World {
    pub(crate) bus: Bus,
    pub(crate) state: Bus,
    _nats: Option<NatsServer>,
    _kafka: Option<Arc<KafkaBroker>>,
}

impl World {
    pub(crate) async fn embedded() -> Self {
        let bus = Bus::connect("embedded:").await.unwrap();
        Self { state: bus.clone(), bus, _nats: None, _kafka: None }
    }

    pub(crate) async fn nats() -> Self {
        let server = NatsServer::start().await.unwrap();
        let bus = Bus::connect(&server.url()).await.unwrap();
        Self { state: bus.clone(), bus, _nats: Some(server), _kafka: None }
    }

    /// Its state is elsewhere: Kafka has no compare-and-set.
    pub(crate) async fn kafka() -> Self {
        let mut shared = BROKER.lock().await;
        let broker = match shared.upgrade() {
            Some(broker) => broker,
            None => Arc::new(KafkaBroker::start_with(QUICK_GROUPS).await.unwrap()),
        };
        *shared = Arc::downgrade(&broker);
        let bus = Bus::connect(&broker.url()).await.unwrap();
        let state = Bus::connect("embedded:").await.unwrap();
        Self { bus, state, _nats: None, _kafka: Some(broker) }
    }

    pub(crate) fn context(&self, settings: &[(&'static Setting, &str)]) -> (Context, Told) {
        let mut context = Context::new(self.bus.clone(), self.state.clone());
        for (setting, value) in settings {
            context.settings.set(setting, *value).unwrap();
        }
        let told = Told::default();
        let records = told.clone();
        context.tell = Some(Arc::new(move |_, record: &Value| records.add(record.clone())));
        (context, told)
    }

    /// Every message of a stream that holds at least `least`, as JSON.
    pub(crate) async fn all<T: DeserializeOwned>(&self, stream: &str, least: usize) -> Vec<T> {
        let stream = self.bus.stream(stream).await.unwrap();
        let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
        let (mut all, began) = (Vec::new(), Instant::now());
        loop {
            let read = reader.next(1000, Duration::from_millis(500)).await.unwrap();
            if read.is_empty() && all.len() >= least {
                return all;
            }
            assert!(
                began.elapsed() < LIMIT,
                "{} of {least} messages in {}",
                all.len(),
                stream.name()
            );
            all.extend(read.iter().map(|message| message.json::<T>().unwrap()));
        }
    }
}

/// What roles said, for scripts.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Vec<Value>>>);

impl Told {
    fn add(&self, record: Value) {
        self.0.lock().unwrap().push(record);
    }

    /// The values of this member, of the records that have it.
    pub(crate) fn values(&self, member: &str) -> Vec<Value> {
        self.0.lock().unwrap().iter().filter_map(|record| record.get(member).cloned()).collect()
    }
}

fn roles(flow: &'static Flow, names: &[&str]) -> Vec<&'static Role> {
    names.iter().map(|name| flow.role(name).expect("a role of this name")).collect()
}

/// Runs roles to their end.
pub(crate) async fn run(flow: &'static Flow, names: &[&str], context: Context) {
    let roles = roles(flow, names);
    let ran = lockgate_flows::run(flow, &roles, context);
    tokio::time::timeout(LIMIT, ran).await.expect("they end").unwrap();
}

/// Starts roles that run until the context's shutdown.
pub(crate) fn start(
    flow: &'static Flow,
    names: &[&str],
    context: &Context,
) -> JoinHandle<Result<(), Failure>> {
    let (roles, context) = (roles(flow, names), context.clone());
    tokio::spawn(async move { lockgate_flows::run(flow, &roles, context).await })
}

/// Waits until `holds` is something, within the limit.
pub(crate) async fn until<T>(what: &str, holds: impl AsyncFn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = holds().await {
            return value;
        }
        assert!(began.elapsed() < LIMIT, "not {what} within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Every scenario on every bus. Those of a flow share the broker and the flow's names: one of them
/// runs at a time, and removes the flow's streams.
macro_rules! on_every_bus {
    ([$($stream:ident),+]; $scenarios:tt) => {
        static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        const STREAMS: &[&str] = &[$($stream),+];
        on_every_bus!(@ embedded $scenarios);
        on_every_bus!(@ nats $scenarios);
        on_every_bus!(@ kafka $scenarios);
    };
    (@ $bus:ident ($($scenario:ident),+)) => {
        mod $bus {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $scenario() {
                let _one_of_a_flow = super::ONE_AT_A_TIME.lock().await;
                let world = crate::support::World::$bus().await;
                super::$scenario(&world).await;
                for stream in super::STREAMS {
                    world.bus.delete_stream(stream).await.unwrap();
                }
            })+
        }
    };
}
pub(crate) use on_every_bus;
