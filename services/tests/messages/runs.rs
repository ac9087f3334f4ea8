//! Many events of a key at once, events that are given up, and a key that is busy.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::support::{Process, Pulled, World};

const NOTHING: [&str; 0] = [];

async fn people(max_attempts: Option<u32>) -> (World, Process) {
    let mut world = World::new().await;
    world.publish("dir.user", "zero", 0).await;
    let process = world.process().await;
    match max_attempts {
        Some(max) => world.register_with_attempts("people", &["dir.*"], max).await,
        None => drop(world.subscribe("people", &["dir.*"], false).await),
    }
    (world, process)
}

async fn publish(world: &World, key: &str, data: std::ops::RangeInclusive<u64>) {
    for data in data {
        world.publish("dir.user", key, data).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pull_takes_a_run_of_a_key_and_acks_follow_its_order() {
    let (world, process) = people(None).await;
    publish(&world, "a", 1..=5).await;
    publish(&world, "b", 1..=1).await;
    let run = process.pull_runs("people", 4, "5s").await;
    assert_eq!(run.shown(), ["a=1", "a=2", "a=3", "b=1"], "one of each key, then more");
    assert_eq!(process.pull_runs("people", 10, "1s").await.shown(), NOTHING, "the run is out");
    let ids = run.ids();
    assert_eq!(process.ack("people", &ids[1..2]).await, (409, vec!["early".into()]));
    let both = process.ack("people", &[ids[1].clone(), ids[0].clone()]).await;
    assert_eq!(both, (200, vec!["done".into(), "done".into()]), "in one request, in any order");
    assert_eq!(process.pull_runs("people", 10, "1s").await.shown(), NOTHING, "a=3 is out");
    process.ack("people", &ids[2..]).await;
    assert_eq!(process.pull_runs("people", 10, "5s").await.shown(), ["a=4", "a=5"]);
}

#[tokio::test(start_paused = true)]
async fn a_nack_takes_back_its_event_and_all_after_it() {
    let (world, process) = people(None).await;
    publish(&world, "a", 1..=4).await;
    let ids = process.pull_runs("people", 3, "5s").await.ids();
    let nack = json!({"nack": [{"id": ids[1], "delay": "5s"}]});
    assert_eq!(process.settle("people", nack).await.1, ["done"]);
    assert_eq!(process.ack("people", &ids[2..]).await.1, ["stale"]);
    assert_eq!(process.pull_runs("people", 10, "8s").await.shown(), NOTHING, "a=1 is out");
    assert_eq!(process.ack("people", &ids[..1]).await.1, ["done"]);
    let again = process.pull_runs("people", 10, "20s").await;
    assert_eq!(again.shown(), ["a=2#2", "a=3#2", "a=4"]);
    assert_eq!(process.ack("people", &ids[1..]).await.1, ["stale", "stale"]);
    assert_eq!(process.ack("people", &again.ids()).await.1, ["done", "done", "done"]);
}

#[tokio::test(start_paused = true)]
async fn a_run_is_renewed_as_a_whole_and_ends_as_a_whole() {
    let (world, process) = people(None).await;
    publish(&world, "a", 1..=3).await;
    let ids = process.pull_runs("people", 2, "5s").await.ids();
    for _ in 0..3 {
        sleep(Duration::from_secs(20)).await;
        assert_eq!(process.settle("people", json!({"extend": [ids[1]]})).await.1, ["done"]);
    }
    assert_eq!(process.pull_runs("people", 10, "5s").await.shown(), NOTHING);
    let again = process.pull_runs("people", 1, "60s").await;
    assert_eq!(again.shown(), ["a=1#2"]);
    assert_eq!(process.ack("people", &ids).await.1, ["stale", "stale"]);
    process.ack("people", &again.ids()).await;
    assert_eq!(process.pull_runs("people", 10, "5s").await.shown(), ["a=2#2", "a=3"]);
}

#[tokio::test(start_paused = true)]
async fn two_thousand_events_of_a_key_take_a_few_pulls() {
    let (world, process) = people(None).await;
    publish(&world, "a", 1..=2000).await;
    let (mut came, mut pulls) = (Vec::new(), 0);
    while came.len() < 2000 {
        let got = process.pull_runs("people", 1000, "5s").await;
        let (status, acked) = process.ack("people", &got.ids()).await;
        assert_eq!((status, acked.iter().all(|status| status == "done")), (200, true));
        came.extend(got.shown());
        pulls += 1;
    }
    assert_eq!(came, (1..=2000).map(|data| format!("a={data}")).collect::<Vec<_>>());
    assert!(pulls <= 4, "{pulls} pulls");
}

#[tokio::test(start_paused = true)]
async fn a_busy_key_keeps_no_other_from_being_served() {
    let (world, process) = people(None).await;
    publish(&world, "a", 1..=3000).await;
    publish(&world, "b", 1..=1).await;
    let (mut came, mut pulls) = (Vec::new(), 0);
    while !came.contains(&String::from("b=1")) && pulls < 6 {
        came.extend(process.pull_runs("people", 100, "2s").await.shown());
        pulls += 1;
    }
    assert!(came.contains(&String::from("b=1")), "{came:?}");
    assert_eq!(came.len(), 101, "one run of a, and b");
}

/// The stated bound is twice as much.
#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_events_of_a_key_are_read_past() {
    let (world, process) = people(None).await;
    world.publish_many("dir.user", "a", 100_000).await;
    publish(&world, "b", 1..=1).await;
    let (mut came, mut pulls) = (Vec::new(), 0);
    while !came.contains(&String::from("b=1")) && pulls < 60 {
        came.extend(process.pull_runs("people", 10, "10s").await.shown());
        pulls += 1;
    }
    assert!(came.contains(&String::from("b=1")), "{came:?}");
    assert!(came.len() <= 11 + 10, "the run of a, perhaps once more, and b: {came:?}");
}

async fn letters(process: &Process) -> Vec<Value> {
    let (status, body) = process.get("/v1/subscriptions/people/dead-letters").await;
    assert_eq!(status, 200, "{body}");
    body["dead_letters"].as_array().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn a_rejected_event_is_kept_with_its_reason_and_frees_its_key() {
    let (world, process) = people(None).await;
    publish(&world, "a", 1..=2).await;
    let first = process.pull("people", 10, "5s").await;
    let reject =
        json!({"nack": [{"id": first.ids()[0], "reject": true, "reason": "no such café"}]});
    assert_eq!(process.settle("people", reject.clone()).await.1, ["done"]);
    assert_eq!(process.settle("people", reject).await.1, ["done"], "twice");
    let next = process.pull("people", 10, "5s").await;
    assert_eq!(next.shown(), ["a=2"]);
    let dead = letters(&process).await;
    assert_eq!(dead.len(), 1);
    let letter = &dead[0];
    assert_eq!(
        (letter["reason"].as_str(), letter["attempts"].as_u64()),
        (Some("no such café"), Some(1))
    );
    assert_eq!((letter["event"]["data"].as_u64(), letter["sequence"].as_u64()), (Some(1), Some(2)));
    process.ack("people", &next.ids()).await;

    let path = "/v1/subscriptions/people/dead-letters/redrive";
    let (status, body) = process.post(path, json!({"ids": [letter["id"], "rubbish"]})).await;
    assert_eq!(status, 200);
    let statuses: Vec<_> =
        body["results"].as_array().unwrap().iter().map(|r| &r["status"]).collect();
    assert_eq!(statuses, ["done", "unknown"].map(Value::from).iter().collect::<Vec<_>>());
    publish(&world, "a", 3..=3).await;
    assert!(letters(&process).await.is_empty());
    let again = process.pull("people", 10, "5s").await;
    assert_eq!(again.shown(), ["a=1#2"], "before what was not handed out yet");
    process.ack("people", &again.ids()).await;
    assert_eq!(process.pull("people", 10, "5s").await.shown(), ["a=3"]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_too_often_is_given_up_by_nack_and_by_lease() {
    let (world, process) = people(Some(3)).await;
    publish(&world, "a", 1..=3).await;
    for attempt in 1..=3 {
        let run = process.pull_runs("people", 10, "60s").await;
        assert_eq!(run.ids().len(), 3, "attempt {attempt}: {:?}", run.shown());
        if attempt == 2 {
            continue; // left to its lease
        }
        let nack = json!({"nack": [{"id": run.ids()[0], "reason": "broken"}]});
        assert_eq!(process.settle("people", nack).await.1, ["done"]);
    }
    let dead = letters(&process).await;
    assert_eq!(dead.len(), 1, "only the one that failed: {dead:?}");
    assert_eq!(dead[0]["event"]["data"], 1);
    assert!(dead[0]["reason"].as_str().unwrap().contains("broken"), "{dead:?}");
    // Those behind it never were the first: none of their attempts counts.
    for _ in 0..3 {
        let run = process.pull_runs("people", 10, "60s").await;
        assert_eq!(Pulled(run.0).ids().len(), 2);
    }
    assert_eq!(
        process.pull_runs("people", 10, "60s").await.shown(),
        ["a=3#7"],
        "a=2 by its leases"
    );
    assert_eq!(letters(&process).await.len(), 2);

    let path = "/v1/subscriptions/people/dead-letters/drop";
    assert_eq!(process.post(path, json!({"all": true})).await.0, 200);
    assert!(letters(&process).await.is_empty());
    assert_eq!(process.post(path, json!({})).await.0, 422);
}
