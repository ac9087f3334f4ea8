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
    assert_eq!(other.pull("people", 10, "5s").await.shown(), NOTHING, "the owner has said so");
    world.publish("dir.user", "b", 1).await;
    let forwarded = other.pull("people", 10, "5s").await;
    assert_eq!(forwarded.shown(), ["b=1"], "handed out by the owner, sent by another");
    assert_eq!(one.ack("people", &forwarded.ids()).await, (200, vec!["done".into()]));

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
    // a=2 is still with its client: its key waits, and no other.
    world.publish("dir.user", "c", 5).await;
    let free = other.pull("people", 10, "5s").await;
    assert_eq!(free.shown(), ["c=5"]);
    other.ack("people", &free.ids()).await;
    let after = other.pull("people", 10, "60s").await;
    assert_eq!(after.shown(), ["a=2#2"]);
    other.ack("people", &after.ids()).await;
    assert_eq!(other.pull("people", 10, "5s").await.shown(), ["a=4"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_nothing_newer_overtakes_what_was_out_and_the_rest_goes_at_once() {
    let (world, one, other) = two().await;
    world.publish("dir.user", "a", 1).await;
    world.publish("dir.user", "b", 2).await;
    let lost = one.pull("people", 10, "5s").await;
    assert_eq!(lost.shown(), ["a=1", "b=2"]);
    one.crash();
    world.publish("dir.user", "a", 3).await;
    world.publish("dir.user", "c", 4).await;

    let crashed = Instant::now();
    let free = other.pull("people", 10, "20s").await;
    assert_eq!(free.shown(), ["c=4"]);
    other.ack("people", &free.ids()).await;
    assert!(crashed.elapsed() < Duration::from_secs(10), "{:?}", crashed.elapsed());
    let got = other.pull("people", 10, "60s").await;
    assert!(crashed.elapsed() >= Duration::from_secs(30), "{:?}", crashed.elapsed());
    assert_eq!(got.shown(), ["a=1#2", "b=2#2"]);
    other.ack("people", &got.ids()).await;
    assert_eq!(other.pull("people", 10, "5s").await.shown(), ["a=3"]);
}

/// What a key had behind when its owner died is found again, in order, however much it is.
#[tokio::test(start_paused = true)]
async fn what_was_passed_over_is_found_again_by_who_takes_over() {
    let (world, one, other) = two().await;
    for data in 1..=30 {
        world.publish("dir.user", "a", data).await;
        world.publish("dir.user", &format!("k{data}"), data).await;
    }
    let mut keys = Vec::new();
    while keys.len() < 31 {
        let got = one.pull("people", 7, "5s").await;
        keys.extend(got.shown());
        if keys.len() > 7 {
            one.ack("people", &got.ids()).await;
        } else {
            one.ack("people", &got.ids()[1..]).await;
        }
    }
    assert_eq!(keys[0], "a=1");
    one.crash();
    let mut came = Vec::new();
    while came.len() < 30 {
        let got = other.pull("people", 10, "60s").await;
        other.ack("people", &got.ids()).await;
        came.extend(got.shown());
    }
    let expected = (2..=30).map(|data| format!("a={data}"));
    assert_eq!(came, std::iter::once("a=1#2".to_owned()).chain(expected).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn clients_that_settle_what_they_had_shorten_the_wait() {
    let (world, one, other) = two().await;
    world.publish("dir.user", "a", 1).await;
    let had = one.pull("people", 10, "5s").await;
    one.crash();
    world.publish("dir.user", "a", 2).await;
    let waiting = tokio::spawn(other.pull_later("people", 10, "60s"));
    sleep(Duration::from_secs(10)).await;
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
    let mut rows = Vec::new();
    while rows.len() < 2 {
        let got = other.pull("people", 10, "60s").await;
        assert_eq!(got.phase(), "prefill");
        other.ack("people", &got.ids()).await;
        rows.extend(got.shown());
    }
    assert_eq!(rows, ["c=1", "b=1#2"]);
    assert_eq!(other.pull("people", 10, "5s").await.shown(), ["a=2"]);
}
