//! Queue mode on a log that is deleted and made again, or purged.

use std::collections::BTreeSet;
use std::time::Duration;

use bus::SubjectFilter;

use super::support::{Process, World};
use super::{generation, realm};

const TOPICS: &[&str] = &["dir.user"];

/// Pulls and acks until everything in `wanted` has come.
async fn pull_all(process: &Process, wanted: &[&str]) -> Vec<String> {
    let mut missing: BTreeSet<&str> = wanted.iter().copied().collect();
    let mut shown = Vec::new();
    for _ in 0..120 {
        let pulled = process.pull("people", 100, "1s").await;
        let ids = pulled.ids();
        shown.extend(pulled.shown());
        missing.retain(|event| !shown.iter().any(|shown| shown == event));
        if !ids.is_empty() {
            process.ack("people", &ids).await;
        }
        if missing.is_empty() {
            return shown;
        }
    }
    panic!("{missing:?} did not come within two minutes: {shown:?}");
}

#[tokio::test(start_paused = true)]
async fn the_queue_of_a_log_made_again_has_everything_that_came_since() {
    for prefill in [true, false] {
        let mut world = World::new().await;
        world.publish("dir.user", "anna", 1).await;
        let process = world.process().await;
        world.subscribe("people", TOPICS, prefill).await;
        for data in 2..=6 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            world.publish("dir.user", "anna", data).await;
        }
        pull_all(&process, &["anna=6"]).await;
        world.store.bus().delete_stream("events-dir").await.unwrap();
        // Past the head of the old log, so that each of its sequences is used again.
        for data in 11..=19 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            world.publish("dir.user", &format!("k{data}"), data).await;
        }
        let wanted: Vec<String> = (11..=19).map(|data| format!("k{data}={data}")).collect();
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        pull_all(&process, &wanted).await;
        generation(&world, "people", 2).await;
        assert_eq!(process.pull("people", 100, "60s").await.shown(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_purged_before_it_was_handed_out_is_left_behind_once() {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    let process = world.process().await;
    world.subscribe("people", TOPICS, false).await;
    world.publish("dir.user", "anna", 2).await;
    world.publish("dir.user", "anna", 3).await;
    world.store.log(&realm()).await.unwrap().purge(&SubjectFilter::all()).await.unwrap();
    world.publish("dir.user", "anna", 4).await;
    pull_all(&process, &["anna=4"]).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    generation(&world, "people", 2).await;
    world.publish("dir.user", "anna", 5).await;
    assert_eq!(pull_all(&process, &["anna=5"]).await, ["anna=5"]);
}
