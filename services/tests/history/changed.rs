//! A log that is deleted and made again.

use std::time::Duration;

use super::support::World;
use super::{generation, until};

const TOPICS: &[&str] = &["dir.user"];

async fn delete_log(world: &World) {
    world.store.bus().delete_stream("events-dir").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_is_told_and_gets_the_state_anew() {
    let mut world = World::new().await;
    for data in 1..=9 {
        world.publish("dir.user", "anna", data).await;
    }
    let process = world.process().await;
    world.subscribe("people", TOPICS, true).await;
    let mut stream = process.stream("people", None).await;
    until(&mut stream, "up-to-date").await;

    delete_log(&world).await;
    world.publish("dir.user", "bert", 21).await;
    let shown = until(&mut stream, "up-to-date").await;
    assert_eq!(shown[0], "expired", "{shown:?}");
    assert_eq!(shown[shown.len() - 4..], ["prefill-start", "bert=21", "prefill-end", "up-to-date"]);
    let kept = generation(&world, "people", 2).await;
    assert_eq!(kept.subscription.fence[&super::realm()], 1);
    world.publish("dir.user", "anna", 22).await;
    assert_eq!(stream.take_shown(1).await, ["anna=22"]);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_no_good_although_its_sequence_is_used_again() {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    let process = world.process().await;
    world.subscribe("people", TOPICS, true).await;
    world.publish("dir.user", "anna", 2).await;
    let mut stream = process.stream("people", None).await;
    until(&mut stream, "up-to-date").await;
    let token = stream.id.clone();
    drop(stream);

    delete_log(&world).await;
    for data in 11..=15 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        world.publish("dir.user", &format!("k{data}"), data).await;
    }
    let mut resumed = process.stream("people", Some(&token)).await;
    let shown = until(&mut resumed, "up-to-date").await;
    assert_eq!(shown[0], "expired", "{shown:?}");
    for data in 11..=15 {
        assert!(shown.contains(&format!("k{data}={data}")), "{shown:?}");
    }
    let mut again = process.stream("people", Some(&resumed.id)).await;
    assert_eq!(again.take_shown(1).await, ["up-to-date"]);
}

#[tokio::test(start_paused = true)]
async fn nobody_reads_and_the_subscription_is_prefilled_again_all_the_same() {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    world.subscribe("people", TOPICS, true).await;
    world.subscribe("others", TOPICS, false).await;
    delete_log(&world).await;
    // As long as there is no log it may still be put back.
    tokio::time::sleep(Duration::from_secs(60)).await;
    generation(&world, "people", 1).await;
    world.publish("dir.user", "bert", 2).await;
    let kept = generation(&world, "people", 2).await;
    assert_eq!(kept.subscription.fence[&super::realm()], 1);
    let kept = generation(&world, "others", 2).await;
    assert_eq!(kept.subscription.fence[&super::realm()], 0, "what came since is to come");
    tokio::time::sleep(Duration::from_secs(60)).await;
    generation(&world, "people", 2).await;
    generation(&world, "others", 2).await;
}

#[tokio::test(start_paused = true)]
async fn without_prefill_the_new_log_is_read_from_its_beginning() {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    world.publish("far.user", "x", 1).await;
    let process = world.process().await;
    world.subscribe("people", &["*.user"], false).await;
    world.publish("dir.user", "anna", 2).await;
    let mut stream = process.stream("people", None).await;
    until(&mut stream, "up-to-date").await;

    delete_log(&world).await;
    for data in 11..=14 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        world.publish("dir.user", "bert", data).await;
    }
    let shown = until(&mut stream, "bert=14").await;
    assert_eq!(shown[0], "expired", "{shown:?}");
    for data in 11..=14 {
        assert!(shown.contains(&format!("bert={data}")), "{shown:?}");
    }
    generation(&world, "people", 2).await;
    world.publish("far.user", "x", 2).await;
    assert!(until(&mut stream, "x=2").await.len() < 4);
}

#[tokio::test(start_paused = true)]
async fn another_realm_is_served_while_a_log_is_gone() {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    world.publish("far.user", "x", 1).await;
    let process = world.process().await;
    world.subscribe("all", &["*.user"], true).await;
    delete_log(&world).await;
    let mut stream = process.stream("all", None).await;
    world.publish("far.user", "x", 2).await;
    let shown = until(&mut stream, "x=2").await;
    assert!(!shown.contains(&String::from("expired")), "{shown:?}");
}

#[tokio::test(start_paused = true)]
async fn while_a_log_is_gone_subscriptions_are_registered_and_its_realm_joins_later() {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    delete_log(&world).await;
    let process = world.process().await;
    world.subscribe("people", TOPICS, true).await;
    let mut stream = process.stream("people", None).await;
    world.publish("dir.user", "anna", 2).await;
    let shown = until(&mut stream, "anna=2").await;
    assert!(!shown.contains(&String::from("expired")), "{shown:?}");
}
