//! Many orders on each backend, two instances of everything, and roles that are killed at random.
//!
//! `LOCKGATE_ORDERS_TEST_ORDERS=10000` makes them more than the usual thousand (on Kafka
//! two hundred, which take as long).

use std::env;
use std::sync::Arc;
use std::time::Duration;

use bus::Bus;
use bus::fault::{FaultRates, Faults};
use bus::testkit::{KafkaBroker, NatsServer};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::client::{CARD, Client, tea, until};
use crate::truth;
use crate::world::World;

/// Customers at once.
const CUSTOMERS: usize = 100;

/// Members of a group learn of each other twice a second; the default is every five seconds.
const QUICK_GROUPS: &str = "group.consumer.min.heartbeat.interval.ms=500\n\
                            group.consumer.heartbeat.interval.ms=500";

/// When what a killed role had in hand is handed out again.
const KILLED_AGAIN: Duration = Duration::from_secs(5);

fn orders(usual: usize) -> usize {
    env::var("LOCKGATE_ORDERS_TEST_ORDERS").map_or(usual, |orders| orders.parse().unwrap())
}

/// A customer and a courier, in a hurry: each repeats, and every third courier reports the end
/// before the beginning.
async fn live_through(client: &Client, number: usize) -> String {
    let (key, email) = (format!("order-{number}"), format!("c{number}@mail.org"));
    let made = until(&[200, 201], || client.order(&key, &tea(&email))).await;
    let order = made["orderId"].as_str().unwrap().to_owned();
    let twice = async || until(&[200], || client.pay(&order, 1, CARD)).await;
    let (paid, again) = tokio::join!(twice(), twice());
    assert_eq!(paid["paymentId"], again["paymentId"]);
    let reports = match number % 3 {
        0 => ["delivered", "shipped", "shipped"],
        _ => ["shipped", "delivered", "delivered"],
    };
    for report in reports {
        until(&[202], || client.report(&order, report)).await;
    }
    order
}

/// Serves `count` customers while about `kills` roles are killed, then checks everything. Returns how
/// many notices came once more.
async fn survive(mut world: World, count: usize, kills: usize, once: bool) -> usize {
    let client = Arc::new(world.client());
    let (places, mut customers) = (Arc::new(Semaphore::new(CUSTOMERS)), JoinSet::new());
    for number in 0..count {
        let (client, places) = (client.clone(), places.clone());
        customers.spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            live_through(&client, number).await
        });
    }
    // The same victims each time, after the same number of orders; what they had in hand is chance.
    let (mut orders, mut killed, mut victim) = (Vec::new(), 0, 12_345_u64);
    while let Some(order) = customers.join_next().await {
        orders.push(order.unwrap());
        if kills > 0 && orders.len().is_multiple_of((count / kills).max(1)) {
            victim = victim.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            world.kill((victim >> 33) as usize).await;
            killed += 1;
        }
    }
    for order in &orders {
        truth::all_told(&client, order).await;
        let payment = until(&[200], || client.payment(order)).await;
        assert_eq!(payment["status"], "made");
        assert_eq!(payment["attempts"].as_array().unwrap().len(), 1, "{payment}");
    }
    truth::check_streams(&world, &orders, once).await;
    let repeats = truth::check_notices(&world, &orders);
    println!("{count} orders, {killed} roles killed, {repeats} notices came once more");
    world.stop().await;
    repeats
}

/// Without a crash nobody is told anything twice, whoever shares the work.
#[tokio::test(flavor = "multi_thread")]
async fn in_quiet_times() {
    let bus = Bus::connect("embedded:").await.unwrap();
    let ack_wait = Duration::from_secs(60);
    let world = World::new(vec![bus.clone(), bus.clone()], bus, ack_wait).await;
    assert_eq!(survive(world, 100, 0, true).await, 0);
}

/// A twentieth of all operations fails, and of another twentieth the answer is lost.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_bus_that_fails() {
    let bus = Bus::connect("embedded:").await.unwrap();
    let faults = Faults::new(7);
    let faulty = faults.wrap(&bus);
    let mut world = World::new(vec![faulty.clone(), faulty.clone()], faulty, KILLED_AGAIN).await;
    faults.set_rates(FaultRates::ROUGH);
    (world.bus, world.state) = (bus.clone(), bus);
    survive(world, 60, 0, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() {
    let bus = Bus::connect("embedded:").await.unwrap();
    let world = World::new(vec![bus.clone(), bus.clone()], bus, KILLED_AGAIN).await;
    survive(world, orders(1000), 40, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats() {
    let server = NatsServer::start().await.unwrap();
    let mut connections = Vec::new();
    for _ in 0..2 {
        connections.push(Bus::connect(&server.url()).await.unwrap());
    }
    let state = connections[0].clone();
    let world = World::new(connections, state, KILLED_AGAIN).await;
    survive(world, orders(1000), 40, true).await;
}

/// Kafka has no compare-and-set: the state is elsewhere. Nor does it recognise a repeat: the
/// consumers do.
#[tokio::test(flavor = "multi_thread")]
async fn kafka() {
    let broker = KafkaBroker::start_with(QUICK_GROUPS).await.unwrap();
    let mut connections = Vec::new();
    for _ in 0..2 {
        connections.push(Bus::connect(&broker.url()).await.unwrap());
    }
    let state = Bus::connect("embedded:").await.unwrap();
    let world = World::new(connections, state, KILLED_AGAIN).await;
    survive(world, orders(200), 10, false).await;
}
