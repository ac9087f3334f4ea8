//! What the dispatcher asks the bus for: in proportion to what changes, never to what there is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bus::Bus;
use bus::fault::Faults;
use lockgate::dispatcher;
use lockgate::model::{CloudEvent, SubscriptionName, TopicSet};
use lockgate::platform::{Entropy, Platform};
use lockgate::registration::{Registration, Request};
use lockgate::store::{Store, StoreOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A store, and a dispatcher whose operations are counted.
struct World {
    registration: Registration,
    faults: Faults,
    dispatcher: JoinHandle<Result<(), bus::Error>>,
    stop: CancellationToken,
}

impl World {
    async fn with(subscriptions: usize) -> Self {
        let bus = Bus::connect("embedded:").await.unwrap();
        let faults = Faults::new(1);
        let store_of = store(bus.clone()).await;
        publish(&store_of).await;
        let registration = Registration::new(store_of);
        register(&registration, 0..subscriptions).await;
        let stop = CancellationToken::new();
        let counted = store(faults.wrap(&bus)).await;
        let dispatcher = tokio::spawn(dispatcher::run(counted, stop.clone()));
        let world = Self { registration, faults, dispatcher, stop };
        world.operations(Duration::from_secs(60)).await;
        world
    }

    /// What the dispatcher does in so much time.
    async fn operations(&self, time: Duration) -> u64 {
        let before = self.faults.operations();
        tokio::time::sleep(time).await;
        self.faults.operations() - before
    }

    async fn end(self) {
        self.stop.cancel();
        self.dispatcher.await.unwrap().unwrap();
    }
}

async fn store(bus: Bus) -> Store {
    let platform = Platform { entropy: Entropy::seeded(1), ..Platform::new(bus) };
    Store::open(platform, StoreOptions::default()).await.unwrap()
}

/// One event, so that there is a realm.
async fn publish(store: &Store) {
    let event = br#"{"specversion":"1.0","id":"1","source":"/t","type":"dir.user","subject":"a"}"#;
    let event = CloudEvent::from_json(event).unwrap();
    let log = store.ensure_realm(&event.topic().realm).await.unwrap();
    log.publish(event.to_message().unwrap()).await.unwrap();
}

async fn register(registration: &Registration, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let request = Request {
            max_attempts: None,
            dead_letters: None,
            name: SubscriptionName::new(format!("s-{number}")).unwrap(),
            topics: TopicSet::parse(&["*.*"]).unwrap(),
            prefill: false,
            secret: None,
            ack_wait: Duration::from_secs(30),
        };
        registration.register(request).await.unwrap();
    }
}

/// While nothing changes the logs are looked at now and then, two requests each.
#[tokio::test(start_paused = true)]
async fn an_idle_dispatcher_asks_for_realms_and_not_for_subscriptions() {
    let mut asked = Vec::new();
    for there in [1, 200] {
        let world = World::with(there).await;
        asked.push(world.operations(Duration::from_secs(120)).await);
        world.end().await;
    }
    assert_eq!(asked, [16, 16], "every 15 s");
}

#[tokio::test(start_paused = true)]
async fn a_registration_is_one_change_however_many_there_are() {
    let mut asked = Vec::new();
    for there in [1, 200] {
        let world = World::with(there).await;
        register(&world.registration, there..there + 50).await;
        asked.push(world.operations(Duration::from_secs(60)).await);
        world.end().await;
    }
    assert_eq!(asked, [50 + 8, 50 + 8]);
}
