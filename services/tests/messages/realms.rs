//! A subscription over very many realms, on a bus that takes its time.

use std::collections::BTreeSet;
use std::time::Duration;

use bus::fault::{FaultRates, Faults};
use bus::{Bus, Lease};
use lockgate::messages::{self, Messages, MessagesOptions};
use lockgate::platform::{Entropy, Platform};
use lockgate::store::{Store, StoreOptions};
use tokio_util::sync::CancellationToken;

use super::support::{Process, World};

const REALMS: usize = 400;

/// A process to which every call to the bus takes 5 ms.
async fn slow(bus: &Bus, seed: u64) -> (Process, Faults) {
    let rates = FaultRates { delay: 1000, max_delay: Duration::from_millis(5), ..FaultRates::NONE };
    let faults = Faults::new(seed).with_rates(rates);
    let platform = Platform { entropy: Entropy::seeded(seed), ..Platform::new(faults.wrap(bus)) };
    let store = Store::open(platform, StoreOptions::default()).await.unwrap();
    let stop = CancellationToken::new();
    let messages = Messages::start(store, MessagesOptions::default(), stop.clone()).await.unwrap();
    (Process::new(messages::router(messages.clone()), messages, stop), faults)
}

#[tokio::test(start_paused = true)]
async fn four_hundred_realms_and_two_processes_on_a_slow_bus_are_served_by_one_of_them() {
    let world = World::new().await;
    let topics: Vec<String> = (0..REALMS).map(|at| format!("r{at}.t")).collect();
    for topic in &topics {
        world.publish(topic, "before", 0).await;
    }
    world.register("people", &["*.t"], false).await;
    for (at, topic) in topics.iter().enumerate() {
        world.publish(topic, "a", at as u64).await;
    }
    let bus = world.store.bus().clone();
    let ((one, _), (other, _)) = (slow(&bus, 1).await, slow(&bus, 2).await);

    let (mut came, mut owners) = (BTreeSet::new(), BTreeSet::new());
    for turn in 0..60 {
        let process = if turn % 2 == 0 { &one } else { &other };
        let got = process.pull("people", 50, "10s").await;
        assert_eq!(process.ack("people", &got.ids()).await.0, 200);
        for shown in got.shown() {
            assert!(came.insert(shown.clone()), "{shown} came twice");
        }
        let leases = bus.kv("lockgate-leases").await.unwrap();
        owners.extend(Lease::holder(&leases, "people").await.unwrap());
        if came.len() == REALMS {
            break;
        }
    }
    let expected: BTreeSet<String> = (0..REALMS).map(|at| format!("a={at}")).collect();
    assert_eq!(came, expected);
    assert_eq!(owners.len(), 1, "the lease went to and fro");
}
