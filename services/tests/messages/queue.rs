//! Queue mode in one process.

use std::time::Duration;

use lockgate::messages::{MessagesOptions, RingSize};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::support::{Process, Pulled, World, name};

const NOTHING: [&str; 0] = [];

/// A live subscription `people` on `dir.*`.
async fn people() -> (World, Process) {
    let mut world = World::new().await;
    world.publish("dir.user", "zero", 0).await;
    let process = world.process().await;
    world.subscribe("people", &["dir.*"], false).await;
    (world, process)
}

#[tokio::test(start_paused = true)]
async fn all_rows_are_settled_before_the_first_live_event() {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    world.publish("dir.user", "bert", 2).await;
    let process = world.process().await;
    world.register("people", &["dir.*"], true).await;
    world.publish("dir.user", "anna", 3).await;

    let asked = Instant::now();
    let empty = process.pull("people", 10, "5s").await;
    assert_eq!((empty.shown().len(), empty.phase()), (0, "pending"));
    assert_eq!(asked.elapsed(), Duration::from_secs(5));

    world.finish_prefill("people").await;
    let rows = process.pull("people", 10, "5s").await;
    assert_eq!((rows.shown(), rows.phase()), (vec!["anna=1".into(), "bert=2".into()], "prefill"));
    assert_eq!(rows.0["messages"][1]["sequence"], 2, "the sequence in the log");
    process.ack("people", &rows.ids()[..1]).await;
    assert_eq!(process.pull("people", 10, "5s").await.shown(), NOTHING, "one row is unsettled");
    process.ack("people", &rows.ids()[1..]).await;
    let live = process.pull("people", 10, "5s").await;
    assert_eq!((live.shown(), live.phase()), (vec!["anna=3".into()], "live"));
    assert_eq!(live.0["messages"][0]["phase"], "live");
}

#[tokio::test(start_paused = true)]
async fn a_pull_returns_as_soon_as_there_is_something() {
    let (world, process) = people().await;
    let pull = tokio::spawn(process.pull_later("people", 10, "20s"));
    sleep(Duration::from_secs(3)).await;
    let published = Instant::now();
    world.publish("dir.user", "anna", 1).await;
    let (status, body) = pull.await.unwrap();
    assert_eq!((status, Pulled(body).shown()), (200, vec![String::from("anna=1")]));
    assert!(published.elapsed() < Duration::from_millis(10), "{:?}", published.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_key_waits_for_its_unsettled_event_and_other_keys_do_not() {
    let (world, process) = people().await;
    for (key, data) in [("a", 1), ("a", 2), ("b", 3), ("a", 4)] {
        world.publish("dir.user", key, data).await;
    }
    let first = process.pull("people", 10, "5s").await;
    assert_eq!(first.shown(), ["a=1", "b=3"]);
    assert_eq!(process.pull("people", 10, "2s").await.shown(), NOTHING);
    let waiting = tokio::spawn(process.pull_later("people", 10, "60s"));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(process.ack("people", &first.ids()[..1]).await, (200, vec!["done".into()]));
    let second = Pulled(waiting.await.unwrap().1);
    assert_eq!(second.shown(), ["a=2"]);
    // Held for far longer than its lease, a later event keeps its first attempt.
    for _ in 0..3 {
        sleep(Duration::from_secs(25)).await;
        let id = second.ids()[0].clone();
        assert_eq!(process.settle("people", json!({"extend": [id]})).await.1, ["done"]);
    }
    process.ack("people", &second.ids()).await;
    // b=3 was never settled: its lease is over.
    let mut third = process.pull("people", 10, "5s").await.shown();
    third.extend(process.pull("people", 10, "1s").await.shown());
    third.sort();
    assert_eq!(third, ["a=4", "b=3#2"]);
}

#[tokio::test(start_paused = true)]
async fn a_nack_comes_again_after_its_delay_and_blocks_its_key_until_then() {
    let (world, process) = people().await;
    world.publish("dir.user", "a", 1).await;
    world.publish("dir.user", "a", 2).await;
    let first = process.pull("people", 10, "5s").await;
    let id = first.ids()[0].clone();
    let nack = json!({"nack": [{"id": id, "delay": "10s"}]});
    assert_eq!(process.settle("people", nack.clone()).await, (200, vec!["done".into()]));
    assert_eq!(process.settle("people", nack).await, (200, vec!["done".into()]), "twice");
    assert_eq!(process.ack("people", &[id]).await, (409, vec!["stale".into()]));
    let nacked = Instant::now();
    let second = process.pull("people", 10, "60s").await;
    assert_eq!(second.shown(), ["a=1#2"]);
    assert!(nacked.elapsed() >= Duration::from_secs(10), "{:?}", nacked.elapsed());
    process.ack("people", &second.ids()).await;
    assert_eq!(process.pull("people", 10, "5s").await.shown(), ["a=2"]);
}

#[tokio::test(start_paused = true)]
async fn an_ack_is_done_twice_and_one_of_an_earlier_attempt_is_stale() {
    let (world, process) = people().await;
    world.publish("dir.user", "a", 1).await;
    world.publish("dir.user", "b", 2).await;
    let first = process.pull("people", 10, "5s").await;
    let (a, b) = (first.ids()[0].clone(), first.ids()[1].clone());
    assert_eq!(process.ack("people", std::slice::from_ref(&a)).await, (200, vec!["done".into()]));
    sleep(Duration::from_secs(30)).await;
    let again = process.pull("people", 10, "5s").await;
    assert_eq!(again.shown(), ["b=2#2"]);
    let late = process.ack("people", &[a, b.clone(), "rubbish".into()]).await;
    assert_eq!(late, (200, vec!["done".into(), "stale".into(), "unknown".into()]));
    assert_eq!(process.ack("people", std::slice::from_ref(&b)).await, (409, vec!["stale".into()]));
    assert_eq!(process.ack("people", &again.ids()).await, (200, vec!["done".into()]));
    // Settled is settled, whichever attempt did it.
    assert_eq!(process.ack("people", &[b]).await, (200, vec!["done".into()]));
}

/// A lease that ended has cost nothing yet when nobody else was handed the event meanwhile.
#[tokio::test(start_paused = true)]
async fn a_late_ack_counts_while_the_event_is_with_nobody_else() {
    let (world, process) = people().await;
    world.publish("dir.user", "a", 1).await;
    let late = process.pull("people", 10, "5s").await;
    sleep(Duration::from_secs(300)).await;
    assert_eq!(process.ack("people", &late.ids()).await, (200, vec!["done".into()]));
    assert_eq!(process.pull("people", 10, "60s").await.shown(), NOTHING);
}

#[tokio::test(start_paused = true)]
async fn an_extension_renews_the_lease_at_any_replica() {
    let (mut world, process) = people().await;
    world.publish("dir.user", "a", 1).await;
    world.publish("dir.user", "a", 2).await;
    let id = process.pull("people", 10, "5s").await.ids();
    let other = world.process().await;
    for at in 0..6 {
        sleep(Duration::from_secs(20)).await;
        let replica = if at % 2 == 0 { &other } else { &process };
        assert_eq!(replica.settle("people", json!({"extend": id})).await.1, ["done"]);
        assert_eq!(process.pull("people", 10, "1s").await.shown(), NOTHING);
    }
    assert_eq!(other.ack("people", &id).await, (200, vec!["done".into()]));
    assert_eq!(process.pull("people", 10, "40s").await.shown(), ["a=2"]);
}

/// However long it takes, and whatever session serves then.
#[tokio::test(start_paused = true)]
async fn a_long_delay_keeps_the_key_without_any_pull_meanwhile() {
    let (world, process) = people().await;
    world.publish("dir.user", "a", 1).await;
    world.publish("dir.user", "a", 2).await;
    let first = process.pull("people", 10, "5s").await;
    let nack = json!({"nack": [{"id": first.ids()[0], "delay": "3m"}]});
    assert_eq!(process.settle("people", nack).await, (200, vec!["done".into()]));
    sleep(Duration::from_secs(65)).await;
    assert_eq!(process.pull("people", 10, "60s").await.shown(), NOTHING);
    sleep(Duration::from_secs(120)).await;
    let mut shown = Vec::new();
    while shown.len() < 2 {
        let got = process.pull("people", 10, "60s").await;
        process.ack("people", &got.ids()).await;
        shown.extend(got.shown());
    }
    assert_eq!(shown, ["a=1#2", "a=2"]);
}

#[tokio::test(start_paused = true)]
async fn competing_pulls_share_the_queue() {
    let (world, process) = people().await;
    let pulls: Vec<_> =
        (0..3).map(|_| tokio::spawn(process.pull_later("people", 2, "30s"))).collect();
    sleep(Duration::from_secs(1)).await;
    for (at, key) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
        world.publish("dir.user", key, at as u64).await;
    }
    let mut got = Vec::new();
    for pull in pulls {
        let shown = Pulled(pull.await.unwrap().1).shown();
        assert!((1..=2).contains(&shown.len()), "{shown:?}");
        got.extend(shown);
    }
    while got.len() < 6 {
        let more = process.pull("people", 6, "5s").await.shown();
        assert_ne!(more, NOTHING);
        got.extend(more);
    }
    got.sort();
    assert_eq!(got, ["a=0", "b=1", "c=2", "d=3", "e=4", "f=5"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_keeps_nothing() {
    let (world, process) = people().await;
    let gone = tokio::spawn(process.pull_later("people", 10, "60s"));
    sleep(Duration::from_secs(1)).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    world.publish("dir.user", "a", 1).await;
    assert_eq!(process.pull("people", 10, "1s").await.shown(), ["a=1"]);
}

#[tokio::test(start_paused = true)]
async fn another_generation_begins_with_its_prefill_and_old_ids_are_over() {
    let mut world = World::new().await;
    world.publish("dir.user", "a", 1).await;
    let process = world.process().await;
    let kept = world.subscribe("people", &["dir.*"], true).await;
    let old = process.pull("people", 10, "5s").await;
    assert_eq!(old.shown(), ["a=1"]);
    world.publish("dir.user", "a", 2).await;
    world.registration.prefill_again(kept).await.unwrap();
    world.finish_prefill("people").await;
    sleep(Duration::from_secs(1)).await;
    let new = process.pull("people", 10, "5s").await;
    assert_eq!((new.shown(), new.phase()), (vec!["a=2".into()], "prefill"));
    assert_eq!(new.0["generation"], 2);
    let (status, old_status) = process.ack("people", &old.ids()).await;
    assert_eq!((status, old_status), (409, vec!["unknown".into()]));
    assert_eq!(process.ack("people", &new.ids()).await, (200, vec!["done".into()]));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_subscription_ends_waiting_pulls() {
    let (world, process) = people().await;
    let waiting = tokio::spawn(process.pull_later("people", 10, "60s"));
    sleep(Duration::from_secs(1)).await;
    world.registration.delete(&name("people"), None).await.unwrap();
    assert_eq!(waiting.await.unwrap().0, 404);
}

/// What is ready goes at once; what may still come is waited for only while it is under way.
#[tokio::test(start_paused = true)]
async fn a_batch_that_is_not_full_does_not_wait_for_what_may_come() {
    let mut world = World::new().await;
    world.publish("dir.user", "first", 0).await;
    world.subscribe("people", &["dir.user"], false).await;
    // More than the process keeps in memory, so that it is read from the log.
    let size = RingSize { entries: 4, bytes: 1 << 20 };
    let process = world.process_with(MessagesOptions { ring: size, ..Default::default() }).await;
    for data in 0..700 {
        world.publish("dir.user", &format!("k{data}"), data).await;
    }
    let began = tokio::time::Instant::now();
    let mut got = 0;
    while got < 700 {
        let pulled = process.pull("people", 500, "30s").await;
        process.ack("people", &pulled.ids()).await;
        got += pulled.ids().len();
    }
    assert!(began.elapsed() < Duration::from_secs(1), "it took {:?}", began.elapsed());
}
