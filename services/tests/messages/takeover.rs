//! One process takes over from another.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::support::{Process, Pulled, World};

const NOTHING: [&str; 0] = [];

async fn two() -> (World, Process, Process) {
    let mut world = World::new().await;
    world.publish("dir.user", "zero", 0).await;
    let (one, other) = (world.process().await, world.process().await);
    world.subscribe("people", &["dir.*"], false).await;
    (world, one, other)
}

#[tokio::test(start_paused = true)]
async fn only_one_process_hands_out_and_any_settles() {
    let (world, one, other) = two().await;
    world.publish("dir.user", "a", 1).await;
    world.publish("dir.user", "a", 2).await;
    let first = one.pull("people", 10, "5s").await;
    assert_eq!(first.shown(), ["a=1"]);
    let (status, problem) = other.pull_later("people", 10, "5s").await;
    assert_eq!(
        (status, problem["type"].as_str().unwrap()),
        (503, "https://lockgate.dev/problems/served-elsewhere")
    );

    // The owner learns of a settlement elsewhere and goes on with the key.
    let waiting = tokio::spawn(one.pull_later("people", 10, "20s"));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(other.ack("people", &first.ids()).await, (200, vec!["done".into()]));
    let acked = Instant::now();
    assert_eq!(Pulled(waiting.await.unwrap().1).shown(), ["a=2"]);
    assert!(acked.elapsed() <= Duration::from_secs(1), "{:?}", acked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stopped_process_gives_back_what_no_client_has() {
    let (world, one, other) = two().await;
    for (key, data) in [("a", 1), ("a", 2), ("b", 3)] {
        world.publish("dir.user", key, data).await;
    }
    let first = one.pull("people", 10, "5s").await;
    assert_eq!(first.shown(), ["a=1", "b=3"]);
    one.ack("people", &first.ids()).await;
    let waiting = tokio::spawn(one.pull_later("people", 1, "60s"));
    assert_eq!(Pulled(waiting.await.unwrap().1).shown(), ["a=2"]);
    world.publish("dir.user", "a", 4).await;
    let waiting = tokio::spawn(one.pull_later("people", 1, "60s"));
    sleep(Duration::from_secs(1)).await;

    let stopped = Instant::now();
    one.stop().await;
    assert_eq!(Pulled(waiting.await.unwrap().1).shown(), NOTHING, "ended by the shutdown");
    assert!(stopped.elapsed() < Duration::from_secs(10), "{:?}", stopped.elapsed());
    // a=2 is still with its client, so the next process hands out nothing of this queue yet.
    assert_eq!(other.pull("people", 10, "5s").await.shown(), NOTHING);
    let after = other.pull("people", 10, "60s").await;
    assert_eq!(after.shown(), ["a=2#2"]);
    other.ack("people", &after.ids()).await;
    assert_eq!(other.pull("people", 10, "5s").await.shown(), ["a=4#2"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_nothing_newer_overtakes_what_was_out() {
    let (world, one, other) = two().await;
    world.publish("dir.user", "a", 1).await;
    world.publish("dir.user", "b", 2).await;
    let lost = one.pull("people", 10, "5s").await;
    assert_eq!(lost.shown(), ["a=1", "b=2"]);
    one.crash();
    world.publish("dir.user", "a", 3).await;
    world.publish("dir.user", "c", 4).await;

    assert_eq!(other.pull_later("people", 10, "1s").await.0, 503, "the lease must run out");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(other.pull("people", 10, "10s").await.shown(), NOTHING, "a=1 may come again");
    let got = other.pull("people", 10, "60s").await;
    assert_eq!(got.shown(), ["a=1#2", "b=2#2", "c=4"]);
    other.ack("people", &got.ids()).await;
    assert_eq!(other.pull("people", 10, "5s").await.shown(), ["a=3"]);
}

#[tokio::test(start_paused = true)]
async fn clients_that_settle_what_they_had_shorten_the_wait() {
    let (world, one, other) = two().await;
    world.publish("dir.user", "a", 1).await;
    let had = one.pull("people", 10, "5s").await;
    one.crash();
    world.publish("dir.user", "a", 2).await;
    sleep(Duration::from_secs(6)).await;
    let waiting = tokio::spawn(other.pull_later("people", 10, "60s"));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(other.ack("people", &had.ids()).await, (200, vec!["done".into()]));
    let acked = Instant::now();
    assert_eq!(Pulled(waiting.await.unwrap().1).shown(), ["a=2"]);
    assert!(acked.elapsed() <= Duration::from_secs(1), "{:?}", acked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_crash_in_the_middle_of_a_prefill_keeps_live_events_behind_it() {
    let mut world = World::new().await;
    for key in ["a", "b", "c"] {
        world.publish("dir.user", key, 1).await;
    }
    let (one, other) = (world.process().await, world.process().await);
    world.subscribe("people", &["dir.*"], true).await;
    world.publish("dir.user", "a", 2).await;
    let rows = one.pull("people", 2, "5s").await;
    assert_eq!(rows.shown(), ["a=1", "b=1"]);
    one.ack("people", &rows.ids()[..1]).await;
    one.crash();
    sleep(Duration::from_secs(6)).await;
    let rows = other.pull("people", 10, "60s").await;
    assert_eq!((rows.shown(), rows.phase()), (vec!["b=1#2".into(), "c=1".into()], "prefill"));
    other.ack("people", &rows.ids()).await;
    assert_eq!(other.pull("people", 10, "5s").await.shown(), ["a=2"]);
}
