//! A bus that forgets what it has confirmed, as a nats-server that is killed does.

use std::time::Duration;

use bus::ConsumerConfig;
use lockgate::store::Kept;
use tokio::time::sleep;

use super::support::{World, name};

const NOTHING: [&str; 0] = [];

/// Every ack and delivery of the subscription's queue on a stream is forgotten.
async fn forget(world: &World, stream: &str, of: &str) {
    let bus = world.store.bus();
    let consumers = bus.consumers(stream).await.unwrap();
    let is_ours = |config: &ConsumerConfig| config.name.as_str().contains(of);
    let ours: Vec<_> = consumers.into_iter().filter(|info| is_ours(&info.config)).collect();
    assert_eq!(ours.len(), 1, "one queue of {of} on {stream}");
    let config = &ours[0].config;
    bus.delete_consumer(stream, config.name.as_str()).await.unwrap();
    bus.ensure_consumer(stream, config).await.unwrap();
}

async fn live() -> (World, Kept) {
    let mut world = World::new().await;
    world.publish("dir.user", "zero", 0).await;
    let kept = world.subscribe("people", &["dir.*"], false).await;
    for (key, data) in [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5), ("a", 6)] {
        world.publish("dir.user", key, data).await;
    }
    (world, kept)
}

#[tokio::test(start_paused = true)]
async fn what_was_acked_never_comes_again_and_the_rest_does_in_order() {
    let (mut world, _) = live().await;
    let one = world.process().await;
    let first = one.pull("people", 10, "5s").await;
    assert_eq!(first.shown(), ["a=1", "b=2", "c=4"]);
    let acked = [first.ids()[0].clone(), first.ids()[2].clone()];
    assert_eq!(one.ack("people", &acked).await.1, ["done", "done"]);
    assert_eq!(one.pull("people", 10, "5s").await.shown(), ["a=3"]);
    one.crash();
    forget(&world, "events-dir", "people").await;
    sleep(Duration::from_secs(6)).await;

    let other = world.process().await;
    let mut shown = Vec::new();
    for _ in 0..4 {
        let got = other.pull("people", 10, "20s").await;
        shown.extend(got.shown());
        other.ack("people", &got.ids()).await;
    }
    assert_eq!(shown, ["b=2", "a=3", "b=5", "a=6"]);
    // Twice in a row, with everything settled: nothing is left to come.
    forget(&world, "events-dir", "people").await;
    assert_eq!(other.pull("people", 10, "60s").await.shown(), NOTHING);
    world.publish("dir.user", "a", 7).await;
    assert_eq!(other.pull("people", 10, "60s").await.shown(), ["a=7"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_lives_on_neither_repeats_nor_takes_forgotten_leases_for_acks() {
    let (mut world, _) = live().await;
    let one = world.process().await;
    let first = one.pull("people", 10, "5s").await;
    assert_eq!(first.shown(), ["a=1", "b=2", "c=4"]);
    one.ack("people", &first.ids()[1..2]).await;
    forget(&world, "events-dir", "people").await;
    // The bus counts nothing as unsettled now, and yet a=1 is with its client.
    let second = one.pull("people", 10, "5s").await;
    assert_eq!(second.shown(), ["b=5"]);
    assert_eq!(one.pull("people", 10, "5s").await.shown(), NOTHING);
    one.ack("people", &first.ids()[..1]).await;
    assert_eq!(one.pull("people", 10, "5s").await.shown(), ["a=3"]);
}

#[tokio::test(start_paused = true)]
async fn rows_that_were_acked_do_not_come_again_and_the_prefill_ends() {
    let mut world = World::new().await;
    for key in ["a", "b", "c"] {
        world.publish("dir.user", key, 1).await;
    }
    world.subscribe("people", &["dir.*"], true).await;
    world.publish("dir.user", "a", 2).await;
    let one = world.process().await;
    let rows = one.pull("people", 10, "5s").await;
    assert_eq!(rows.shown(), ["a=1", "b=1", "c=1"]);
    one.ack("people", &rows.ids()[..2]).await;
    one.crash();
    forget(&world, "lockgate-prefill", "people").await;
    sleep(Duration::from_secs(6)).await;

    let other = world.process().await;
    let rows = other.pull("people", 10, "60s").await;
    assert_eq!((rows.shown(), rows.phase()), (vec!["c=1".to_owned()], "prefill"));
    other.ack("people", &rows.ids()).await;
    let live = other.pull("people", 10, "60s").await;
    assert_eq!((live.shown(), live.phase()), (vec!["a=2".to_owned()], "live"));
}

#[tokio::test(start_paused = true)]
async fn replicas_that_ack_at_once_lose_nothing() {
    let mut world = World::new().await;
    world.publish("dir.user", "zero", 0).await;
    world.subscribe("people", &["dir.*"], false).await;
    for at in 0..60 {
        world.publish("dir.user", &format!("k{at}"), at).await;
    }
    let (one, other, third) = (world.process().await, world.process().await, world.process().await);
    let mut ids = Vec::new();
    while ids.len() < 60 {
        ids.extend(one.pull("people", 60, "5s").await.ids());
    }
    for ids in ids[..57].chunks(3) {
        let (a, b, c) = tokio::join!(
            one.ack("people", &ids[..1]),
            other.ack("people", &ids[1..2]),
            third.ack("people", &ids[2..]),
        );
        assert_eq!([a.1, b.1, c.1].concat(), ["done", "done", "done"]);
    }
    one.crash();
    forget(&world, "events-dir", "people").await;
    sleep(Duration::from_secs(6)).await;
    let mut left = Vec::new();
    for _ in 0..3 {
        let got = other.pull("people", 60, "20s").await;
        left.extend(got.shown());
        other.ack("people", &got.ids()).await;
    }
    assert_eq!(left, ["k57=57", "k58=58", "k59=59"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_settled_goes_with_the_subscription() {
    let (mut world, _) = live().await;
    let process = world.process().await;
    let first = process.pull("people", 10, "5s").await;
    process.ack("people", &first.ids()).await;
    let bucket = world.store.bus().kv("lockgate-journal").await.unwrap();
    let orphan = "people.00ff.7.live.dir";
    bucket.put(orphan, "of an ack that came too late").await.unwrap();
    assert_eq!(bucket.keys(">").await.unwrap().len(), 2);
    sleep(Duration::from_secs(20)).await;
    let left = bucket.keys(">").await.unwrap();
    assert!(left.len() == 1 && left[0].as_str() != orphan, "{left:?}");
    world.registration.delete(&name("people"), None).await.unwrap();
    assert!(bucket.keys(">").await.unwrap().is_empty());
}
